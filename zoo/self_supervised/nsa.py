"""Natural synthetic anomalies.

Schlüter et al., "Natural synthetic anomalies for self-supervised anomaly detection and localization", ECCV 2022
(arXiv 2109.15222). Rescaled patches of other healthy images, at other places, blended by Poisson editing; the label
says how visible the change is.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.residual import WideResidualSegmenter
from zoo.scoring.pooling import PoolingRule, pool_map
from zoo.synthetic.rectangles import BlendMode, LabelMode, NaturalPatches, add_natural_patches, own_foreground


class NaturalSyntheticAnomalies(AnomalyModule):
    """Natural synthetic anomalies (NSA).

    Constants are those of the paper's chest X-rays. Two deviations: gradients mix per component, as the Poisson-editing
    literature has it (the original uses OpenCV's rule and erodes the mask); and the network is the residual
    encoder-decoder of FPI, so that the family compares tasks and not networks.

    Args:
        image_size: (H, W), multiples of ``2 ** (len(widths) - 1)``.
        in_channels: image channels.
        widths: channels of the residual encoder.
        blend: ``mixed`` (X-rays, textures) or ``source`` gradients (objects), or ``swap`` for a plain paste.
        label: ``logistic`` in the change, or ``binary``.
        same_image: take patches from the image itself, as CutPaste does.
        steepness: of the logistic label, per grey level of 256: 1/2 for X-rays.
        midpoint: change in grey levels that gives 0.5: 4 for X-rays.
        largest: bound of a patch's half-width as a share of the side.
        min_object: share of a patch that must be foreground.
        min_overlap: share of its foreground that must fall on foreground.
        patches: most patches in an image.
        background: grey level (0 to 255) of the background: 0 for X-rays; None: everything is foreground.
        background_tolerance: in grey levels.
        value_range: range of the data's images, mapped to [0, 1]; None: what the DataModule says, (0, 1) without one.
        score: how the map becomes a score; the paper: mean.
        score_fraction: share of pixels for ``top_q``.
        lr: of Adam, falling to 1e-6 along a cosine.
    """

    reference = {
        "title": "Natural Synthetic Anomalies for Self-Supervised Anomaly Detection and Localization",
        "venue": "ECCV",
        "year": 2022,
        "url": "https://arxiv.org/abs/2109.15222",
    }
    tiny = {"image_size": 32, "widths": (8, 16, 16)}

    network: WideResidualSegmenter

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        widths: tuple[int, ...] = (64, 128, 256, 256, 256),
        blend: BlendMode = "mixed",
        label: LabelMode = "logistic",
        same_image: bool = False,
        steepness: float = 0.5,
        midpoint: float = 4.0,
        largest: float = 0.4,
        min_object: float = 0.7,
        min_overlap: float = 0.7,
        patches: int = 3,
        background: float | None = 0.0,
        background_tolerance: float = 20.0,
        value_range: tuple[float, float] | None = None,
        score: PoolingRule = "mean",
        score_fraction: float = 0.25,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the network."""
        self.settle_value_range()
        self.network = WideResidualSegmenter(self.in_channels, self.image_size, tuple(self.hparams["widths"]))

    def make_anomalies(self, image: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Altered images and labels of a batch; sources are the other images of the batch.

        Args:
            image: ``(B, C, H, W)`` in the data's range.
            rng: source of randomness.

        Returns:
            tuple: ``(B, C, H, W)`` in [0, 1] and ``(B, 1, H, W)``.
        """
        h = self.hparams
        law = NaturalPatches(
            largest=h["largest"], min_object=h["min_object"], min_overlap=h["min_overlap"], patches=h["patches"]
        )
        images = self.to_unit_range(image).clamp(0, 1).cpu().numpy()
        masks = [own_foreground(one, h["background"], h["background_tolerance"]) for one in images]
        altered, label = np.empty_like(images), np.empty_like(images[:, :1])
        for number, one in enumerate(rng.spawn(len(images))):
            source = number if h["same_image"] else (number + 1) % len(images)
            altered[number], label[number, 0] = add_natural_patches(
                images[number],
                images[source],
                one,
                law=law,
                foreground=masks[number],
                source_foreground=masks[source],
                **{name: h[name] for name in ("blend", "label", "steepness", "midpoint")},
            )
        return torch.from_numpy(altered).to(image.device), torch.from_numpy(label).to(image.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Binary cross-entropy with the soft label."""
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        altered, label = self.make_anomalies(batch["image"], rng)
        loss = F.binary_cross_entropy_with_logits(self.network(altered).float(), label)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(label))
        return loss

    def configure_optimizers(self) -> Any:
        """Adam with a cosine to 1e-6 over the fit."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.optimise_batches, 1), 1e-6)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def predict_anomaly(self, image: Tensor) -> Prediction:
        """Map: probability; score: its mean by default."""
        anomaly_map = self.network(self.to_unit_range(image)).float().sigmoid()
        return Prediction(pool_map(anomaly_map, self.hparams["score"], self.hparams["score_fraction"]), anomaly_map)
