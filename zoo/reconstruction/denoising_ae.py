"""Denoising U-Net: coarse noise is removed, and so are lesions.

Kascenas et al. 2022, "Denoising autoencoders for unsupervised anomaly detection in brain MRI" (MIDL). The noise is
drawn on a coarse grid: pixelwise noise would be averaged away through the skips without any idea of anatomy.
"""

import math

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.schedules import cosine
from zoo.nn.weight_standardised_unet import WeightStandardisedUNet
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.residual import residual_map


class DenoisingAutoencoder(AnomalyModule):
    """Denoising autoencoder with coarse noise (DAE, Kascenas).

    The loss is the squared error in the
    foreground against the clean image; the map is the absolute error, no noise added, inside the eroded foreground
    and median-filtered. The published removal of small 3-D components is left to the evaluation.

    Args:
        image_size: (H, W) in pixels, multiples of ``2 ** depth``.
        in_channels: image channels.
        depth: halvings of the U-Net (4 in the paper, 5 in MedIAnomaly).
        width: channels of its first stage, a multiple of 8, doubled with each halving.
        noise_grid: side of the grid on which the noise is drawn; 16 for 128 pixels in the paper.
        noise_std: its standard deviation in units of the images; its mean is 0.
        foreground_only: add noise, train and score inside the foreground alone.
        erosion: side in pixels, odd, by which the foreground shrinks for the map; 1 = none.
        median: side of the median filter, odd; 1 = none.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of AdamW with AMSGrad, cosine schedule over the fit (the paper restarts it every 100 of its
            epochs).
        weight_decay: of AdamW.
    """

    reference = {
        "title": "Denoising Autoencoders for Unsupervised Anomaly Detection in Brain MRI",
        "venue": "MIDL",
        "year": 2022,
        "url": "https://proceedings.mlr.press/v172/kascenas22a.html",
    }
    tiny = {"image_size": 32, "depth": 2, "width": 8, "noise_grid": 4}
    small = {"width": 8, "noise_grid": 8, "lr": 0.001}

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        depth: int = 4,
        width: int = 64,
        noise_grid: int = 16,
        noise_std: float = 0.2,
        foreground_only: bool = True,
        erosion: int = 5,
        median: int = 5,
        score: PoolingRule = "mean",
        score_fraction: float = 0.1,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
    ) -> None:
        super().__init__()

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Coarse noise is a smooth change of intensity."""
        return ("smooth_intensity",)

    def build(self) -> None:
        """Create the network."""
        self.network = WeightStandardisedUNet(
            self.in_channels, self.image_size, depth=self.hparams["depth"], width=self.hparams["width"]
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Squared error of the denoised image in the foreground."""
        image = batch["image"]
        foreground = self._weight(batch["foreground"])
        noise = coarse_noise(image, self.hparams["noise_grid"], self.hparams["noise_std"])
        error = residual_map(self.network(image + noise * foreground), image, "l2")
        loss = (error * foreground).sum() / foreground.sum().clamp(min=1)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with AMSGrad and a cosine over the fit."""
        hp = self.hparams
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=hp["lr"], weight_decay=hp["weight_decay"], amsgrad=True
        )
        return cosine(optimizer, math.ceil(self.optimise_batches / self.trainer.accumulate_grad_batches))

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Filtered absolute error inside the eroded foreground."""
        hp = self.hparams
        reconstruction = self.network(image).float()
        anomaly_map = residual_map(reconstruction, image, "l1") * _erode(self._weight(foreground), hp["erosion"])
        return Prediction(None, _median(anomaly_map, hp["median"]), reconstruction)

    def _weight(self, foreground: Tensor) -> Tensor:
        """1 where pixels count and 0 elsewhere, ``(B, 1, H, W)`` float32."""
        return foreground.float() if self.hparams["foreground_only"] else torch.ones_like(foreground, dtype=torch.float)


def coarse_noise(image: Tensor, grid: int, std: float) -> Tensor:
    """Gaussian noise on a coarse grid, enlarged to the image and rolled by one random offset.

    Args:
        image: ``(B, C, H, W)``; gives shape and device.
        grid: side of the grid.
        std: standard deviation at the grid's points (interpolation lowers it between them); the mean is 0.
    """
    coarse = std * torch.randn(*image.shape[:2], grid, grid, device=image.device)
    noise = F.interpolate(coarse, size=image.shape[2:], mode="bilinear", align_corners=False)
    offsets = [int(torch.randint(side, ()).item()) for side in image.shape[2:]]
    return noise.roll(offsets, dims=(2, 3))


def _erode(foreground: Tensor, side: int) -> Tensor:
    """Erosion by a square; the image's border does not erode."""
    return 1 - F.max_pool2d(1 - foreground, side, stride=1, padding=side // 2)


def _median(values: Tensor, side: int) -> Tensor:
    """Median filter of a map ``(B, 1, H, W)``, borders reflected."""
    if side == 1:
        return values
    padded = F.pad(values, (side // 2,) * 4, mode="reflect")
    windows = padded.unfold(2, side, 1).unfold(3, side, 1).flatten(4)
    if torch.compiler.is_exporting():  # ONNX has no median
        return windows.sort(dim=-1).values[..., side * side // 2]
    return windows.median(dim=-1).values
