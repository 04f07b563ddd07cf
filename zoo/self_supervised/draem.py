"""DRAEM.

Zavrtanik et al., "DRAEM: a discriminatively trained reconstruction embedding for surface anomaly detection", ICCV 2021
(arXiv 2108.07610). An autoencoder removes pasted textures; a U-Net sees the image and its reconstruction and marks
where they were.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import Batch, Prediction, batch_generator
from zoo.nn.convolutional import check_divisible
from zoo.nn.losses import focal_loss
from zoo.nn.unet import UNet
from zoo.sample import DataSource
from zoo.scoring.ssim import ssim_loss
from zoo.self_supervised._segmenter import SyntheticSegmenter
from zoo.synthetic.perlin import perlin_mask, perlin_noise
from zoo.synthetic.sources import read_sources
from zoo.synthetic.strategy import equalise_histogram, rated_batch


class Draem(SyntheticSegmenter):
    """Discriminatively trained reconstruction embedding (DRAEM).

    Half of the training images stay clean. The segmentation network is this package's U-Net (instance norm, GELU)
    instead of the original's (batch norm, ReLU). Without a texture set, which medical data do not have at hand, the
    texture is Perlin noise over another image of the batch.

    Args:
        image_size: (H, W), multiples of 16 and of ``2 ** depth``.
        in_channels: image channels.
        reconstruction_width: channels of the autoencoder's first stage; the paper: 128.
        width: channels of the U-Net's first stage; the paper: 64.
        depth: halvings of the U-Net; the paper: 5.
        textures: folder of texture images, the paper: DTD; None: see above.
        strategy: put the confidence-aware strategy around the task (:mod:`zoo.synthetic.strategy`): histograms
            equalised; instead of textures the raters' discs of other images, anomalous above a label of 0.1.
        smoothing: side of the average whose largest value is the score; the paper: 21.
        lr: of Adam; times 0.2 after 80 % and 90 % of the fit.
    """

    reference = {
        "title": "DRAEM: A Discriminatively Trained Reconstruction Embedding for Surface Anomaly Detection",
        "venue": "ICCV",
        "year": 2021,
        "url": "https://arxiv.org/abs/2108.07610",
    }
    tiny = {"image_size": 32, "reconstruction_width": 4, "width": 4, "depth": 3, "smoothing": 5}
    small = {"reconstruction_width": 8, "width": 8, "depth": 3, "smoothing": 5, "lr": 0.001}

    reconstruction: nn.Sequential
    segmentation: UNet

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        reconstruction_width: int = 128,
        width: int = 64,
        depth: int = 5,
        textures: str | None = None,
        strategy: bool = False,
        smoothing: int = 21,
        lr: float = 1e-4,
    ) -> None:
        super().__init__()
        self._textures: np.ndarray | None = None

    def build(self) -> None:
        """Create both networks."""
        check_divisible(self.image_size, 16, "DRAEM's autoencoder")
        self.reconstruction = _autoencoder(self.in_channels, self.hparams["reconstruction_width"])
        self.segmentation = UNet(
            self.image_size,
            2 * self.in_channels,
            depth=self.hparams["depth"],
            width=self.hparams["width"],
            max_width=8 * self.hparams["width"],
            positions=0,
            out_channels=2,
        )

    def prepare_fit(self, data: DataSource | None) -> None:
        """Read the textures."""
        if self.hparams["textures"] is not None:
            self._textures = read_sources(Path(self.hparams["textures"]), self.image_size, self.in_channels) / 2 + 0.5

    def prepare(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` as it is, or equalised under the strategy."""
        return equalise_histogram(image.clamp(0, 1)) if self.hparams["strategy"] else image

    def make_anomalies(
        self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Corrupted images and bool masks, wherever the foreground is; images are cut to [0, 1]."""
        image = image.clamp(0, 1)
        if self.hparams["strategy"]:
            altered_batch, label, _ = rated_batch(image, rng, task="linear", clean=0.5)
            return altered_batch, label > 0.1
        images = image.cpu().numpy()
        altered, masks = images.copy(), np.zeros(images[:, :1].shape, bool)
        for number, one in enumerate(rng.spawn(len(images))):
            if one.random() < 0.5:
                continue
            mask, opacity = perlin_mask(one, images.shape[2:]), one.uniform(0, 0.8)
            texture = self._texture(images[(number + 1) % len(images)], one)
            altered[number] = np.where(mask, opacity * images[number] + (1 - opacity) * texture, images[number])
            masks[number, 0] = (altered[number] != images[number]).any(0)
        return torch.from_numpy(altered).to(image.device), torch.from_numpy(masks).to(image.device)

    def _texture(self, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self._textures is not None:
            texture: np.ndarray = self._textures[rng.integers(len(self._textures))]
            return texture
        noise = perlin_noise(rng, other.shape[1:], (8, 8)) / 2 + 0.5
        moved = np.roll(other, rng.integers(0, other.shape[1], 2), (1, 2))
        return np.clip(0.5 * moved + rng.uniform(0, 1) * noise, 0, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Squared error and SSIM of the reconstruction, focal loss of the segmentation."""
        image = self.prepare(batch["image"]).clamp(0, 1)
        altered, mask = self.make_anomalies(image, batch_generator())
        restored = self.reconstruction(altered)
        logits = self.segmentation(torch.cat([restored, altered], dim=1)).float()
        restored = restored.float()
        loss = F.mse_loss(restored, image) + ssim_loss(restored, image) + focal_loss(logits, mask[:, 0].long())
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        return loss

    def locate(self, prepared: Tensor) -> Tensor:
        """Probability of the anomalous class."""
        return self._segment(prepared)[1][:, 1:]

    def _segment(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and the probabilities of both classes."""
        restored = self.reconstruction(unit)
        logits = self.segmentation(torch.cat([restored, unit], dim=1)).float()
        return restored.float(), logits.softmax(dim=1)

    def configure_optimizers(self) -> Any:
        """Adam, times 0.2 at 80 % and 90 % of the fit."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.hparams["lr"])
        steps = self.optimise_batches
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(0.8 * steps), int(0.9 * steps)], 0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Map: probability of the anomalous class; score: largest value of its average over ``smoothing`` pixels."""
        restored, probability = self._segment(self.prepare(image))
        anomaly_map = probability[:, 1:]
        side = self.hparams["smoothing"]
        smooth = F.avg_pool2d(anomaly_map, side, stride=1, padding=side // 2)
        return Prediction(smooth.amax(dim=(1, 2, 3)), anomaly_map, restored)


def _autoencoder(channels: int, width: int) -> nn.Sequential:
    """Four halvings without skips, two convolutions at each level."""
    widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
    layers: list[nn.Module] = []
    before = channels
    for number, now in enumerate(widths):
        layers += [nn.MaxPool2d(2)] if number else []
        layers += [*_unit(before, now), *_unit(now, now)]
        before = now
    for now in (8 * width, 4 * width, 2 * width, width):
        layers += [nn.Upsample(scale_factor=2, mode="bilinear"), *_unit(before, now), *_unit(now, now)]
        before = now
    return nn.Sequential(*layers, nn.Conv2d(before, channels, 3, padding=1))


def _unit(before: int, now: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, now, 3, padding=1), nn.BatchNorm2d(now), nn.ReLU()
