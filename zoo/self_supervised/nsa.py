"""Natural synthetic anomalies.

Schlüter et al., "Natural synthetic anomalies for self-supervised anomaly detection and localization", ECCV 2022
(arXiv 2109.15222). Rescaled patches of other healthy images, at other places, blended by Poisson editing; the label
says how visible the change is.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.nn.residual import WideResidualSegmenter
from zoo.sample import DataSource
from zoo.scoring.pooling import PoolingRule
from zoo.self_supervised._segmenter import SyntheticSegmenter
from zoo.synthetic.natural import CONSTANTS, DataSet, NaturalConstants, calibrate
from zoo.synthetic.rectangles import BlendMode, LabelMode, add_natural_patches, own_foreground
from zoo.synthetic.strategy import RatedTask, equalise_histogram, rated_batch

_RATED: dict[BlendMode, RatedTask] = {"mixed": "mixed", "source": "replace", "swap": "swap"}
_log = logging.getLogger(__name__)


class NaturalSyntheticAnomalies(SyntheticSegmenter):
    """Natural synthetic anomalies (NSA).

    Deviations: ``mixed`` takes the larger gradient per component, as the Poisson-editing literature has it, where the
    original's OpenCV compares ``|dx - dy|`` of both images per pixel; the mask is not eroded before blending (OpenCV
    keeps the image's own gradient in a rim of 3 pixels); images stay floating; a source patch is drawn inside the image
    instead of being cut at its border; no random turns and crops of the training images; and the network is the
    residual encoder-decoder of FPI, so that the family compares tasks and not networks.

    Args:
        image_size: (H, W), multiples of ``2 ** (len(widths) - 1)``.
        in_channels: image channels.
        widths: channels of the residual encoder.
        constants: data set of the paper whose sizes, logistic, gradients and background are taken (``texture``: all
            textures but wood); ``auto``: calibrated on the training images and their foreground as in nnOOD.
        blend: ``mixed`` or ``source`` gradients, or ``swap`` for a plain paste; None: that of ``constants`` (mixed for
            X-rays and textures, source for objects).
        label: ``logistic`` in the change, or ``binary``.
        same_image: take patches from the image itself, as CutPaste does.
        steepness: of the logistic label, per grey level of 256; this and the following: None: that of ``constants``.
        midpoint: change in grey levels that gives 0.5.
        largest: bound of a patch's half-width as a share of the side.
        min_object: share of a patch that must be foreground.
        min_overlap: share of its foreground that must fall on foreground.
        patches: most patches in an image.
        background: grey level (0 to 255) of the background; below 0: everything is foreground.
        background_tolerance: in grey levels.
        strategy: put the confidence-aware strategy around the task (:mod:`zoo.synthetic.strategy`): histograms
            equalised, gradients scaled up and raters averaged; places, sizes and label are then its own.
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
    small = {"widths": (8, 16, 32, 32)}

    network: WideResidualSegmenter

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        widths: tuple[int, ...] = (64, 128, 256, 256, 256),
        constants: DataSet = "chest_xray",
        blend: BlendMode | None = None,
        label: LabelMode = "logistic",
        same_image: bool = False,
        steepness: float | None = None,
        midpoint: float | None = None,
        largest: float | None = None,
        min_object: float | None = None,
        min_overlap: float | None = None,
        patches: int | None = None,
        background: float | None = None,
        background_tolerance: float | None = None,
        strategy: bool = False,
        score: PoolingRule = "mean",
        score_fraction: float = 0.25,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self._constants: NaturalConstants | None = None

    def build(self) -> None:
        """Create the network."""
        self.network = WideResidualSegmenter(self.in_channels, self.image_size, tuple(self.hparams["widths"]))

    def prepare_fit(self, data: DataSource | None) -> None:
        """Calibrate, if the constants are not those of a known data set."""
        if self.hparams["constants"] != "auto" or self.hparams["strategy"]:
            return
        if data is None or not hasattr(data, "dataset"):
            raise UserError(
                "model.constants auto calibrates on the training set and needs a DataModule; name a data set"
            )
        images = data.dataset("train")
        chosen = np.linspace(0, len(images) - 1, min(len(images), 500)).round().astype(int)
        batch = images.__getitems__(list(chosen))
        self._constants = calibrate(
            self.to_expected(batch["image"]).clamp(0, 1).numpy(),
            batch["foreground"][:, 0].numpy(),
            np.random.default_rng(0),
            self.hparams["blend"] or "mixed",
        )
        _log.info("NSA constants of these data: %s", self._constants)

    def natural_constants(self) -> NaturalConstants:
        """The constants of the data set, with what the user set over them.

        Raises:
            UserError: ``auto`` before a fit.
        """
        found = self._constants or CONSTANTS.get(self.hparams["constants"])
        if found is None:
            raise UserError("model.constants auto is calibrated when a fit starts; name a data set to draw without one")
        given = {key: value for key, value in self.hparams.items() if value is not None}
        law = {key: given[key] for key in ("largest", "min_object", "min_overlap", "patches") if key in given}
        rest = {key: given[key] for key in ("steepness", "midpoint", "blend", "background") if key in given}
        if "background_tolerance" in given:
            rest["tolerance"] = given["background_tolerance"]
        return found._replace(law=found.law._replace(**law), **rest)

    def prepare(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` as it is, or equalised under the strategy."""
        return equalise_histogram(image.clamp(0, 1)) if self.hparams["strategy"] else image

    def make_anomalies(
        self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Altered images and labels of a batch; sources are the other images of the batch.

        Args:
            image: ``(B, C, H, W)``, prepared; cut to [0, 1].
            rng: source of randomness.
            foreground: ``(B, 1, H, W)`` bool, used by ``auto``; the others find it by the background's grey level.

        Returns:
            tuple: ``(B, C, H, W)`` in [0, 1] and ``(B, 1, H, W)``.
        """
        h, c = self.hparams, self.natural_constants()
        image = image.clamp(0, 1)
        if h["strategy"]:
            return rated_batch(image, rng, task=_RATED[c.blend], same_image=h["same_image"])[:2]
        images = image.cpu().numpy()
        background = None if c.background is None or c.background < 0 else c.background
        if h["constants"] == "auto" and background is None and foreground is not None:
            masks = list(foreground[:, 0].cpu().numpy())
        else:
            masks = [own_foreground(one, background, c.tolerance) for one in images]
        altered, label = np.empty_like(images), np.empty_like(images[:, :1])
        for number, one in enumerate(rng.spawn(len(images))):
            source = number if h["same_image"] else (number + 1) % len(images)
            altered[number], label[number, 0] = add_natural_patches(
                images[number],
                images[source],
                one,
                law=c.law,
                foreground=masks[number],
                source_foreground=masks[source],
                blend=c.blend,
                label=h["label"],
                steepness=c.steepness,
                midpoint=c.midpoint,
            )
        return torch.from_numpy(altered).to(image.device), torch.from_numpy(label).to(image.device)

    def configure_optimizers(self) -> Any:
        """Adam with a cosine to 1e-6 over the fit."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.optimise_batches, 1), 1e-6)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
