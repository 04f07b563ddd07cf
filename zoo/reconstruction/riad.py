"""RIAD: parts of the image are removed and painted in again from what is left; what cannot be guessed is anomalous.

Zavrtanik et al. 2021, "Reconstruction by inpainting for visual anomaly detection". The authors' code is not public;
written from a description, the network with the layers of a public port.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import AnomalyModule, Batch, Prediction
from zoo.nn.convolutional import check_divisible
from zoo.nn.schedules import drops
from zoo.scoring.pooling import PoolingRule
from zoo.scoring.ssim import ssim_loss

_SETS = 3  # disjoint sets of squares, removed in turn
_HALVINGS = 4
_GMS = 0.0026
_SCALES = 4


class RIAD(AnomalyModule):
    """Reconstruction by inpainting (RIAD).

    Twelve passes an image in prediction. The map weighs all sizes of squares alike.

    Args:
        image_size: (H, W) in pixels, multiples of 16 and of the largest square.
        in_channels: image channels.
        squares: sides of the squares that are removed, in pixels.
        width: channels of the finest level; 8 times as many in the coarsest two.
        window: side in pixels of the mean filter on the map.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam, a tenth of it in the last sixth of the training.
        weight_decay: of Adam.
    """

    reference = {
        "title": "Reconstruction by Inpainting for Visual Anomaly Detection",
        "venue": "Pattern Recognition",
        "year": 2021,
        "url": "https://doi.org/10.1016/j.patcog.2020.107706",
    }
    expects = (-1.0, 1.0)
    tiny = {"image_size": 32, "squares": (2, 4), "width": 4}
    small = {"width": 16, "squares": (2, 4, 8), "window": 5, "lr": 1e-3}

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        squares: tuple[int, ...] = (2, 4, 8, 16),
        width: int = 64,
        window: int = 21,
        score: PoolingRule = "max",
        score_fraction: float = 0.1,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
    ) -> None:
        super().__init__()

    def build(self) -> None:
        """Create the network, and fixed sets of squares for predictions.

        Raises:
            UserError: sides that squares or halvings do not fit.
        """
        hp = self.hparams
        check_divisible(self.image_size, 2**_HALVINGS, "RIAD's U-Net")
        generator = torch.Generator().manual_seed(0)
        for side in hp["squares"]:
            check_divisible(self.image_size, side, f"RIAD with squares of {side} pixels")
            masks = disjoint_masks(self.image_size, side, generator)
            self.register_buffer(f"masks_{side}", masks, persistent=False)
        self.network = _InpaintingUNet(self.in_channels, hp["width"])

    def inpaint(self, image: Tensor, removed: Tensor) -> Tensor:
        """Paint each set of squares from the rest, and put the paintings together.

        Args:
            image: ``(B, C, H, W)``.
            removed: bool ``(3, 1, H, W)``, each pixel in one set.

        Returns:
            float32 ``(B, C, H, W)``.
        """
        painted = [self.network(image.masked_fill(one, 0.0)).float().masked_fill(~one, 0.0) for one in removed]
        return torch.stack(painted).sum(dim=0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Squared error, similarity of gradients and structural similarity of one size of squares, drawn by batch."""
        image, squares = batch["image"], self.hparams["squares"]
        side = squares[int(torch.randint(len(squares), ()))]
        painted = self.inpaint(image, disjoint_masks(self.image_size, side).to(image.device))
        error = F.mse_loss(painted, image.float())
        gradients = torch.stack([1 - one.mean() for one in gradient_similarities(painted, image)]).mean()
        structure = 1 + ssim_loss(0.5 * (painted + 1), 0.5 * (image + 1))
        loss = error + gradients + structure
        self.log_dict({"train/loss": loss, "train/error": error, "train/gradients": gradients})
        return loss

    def configure_optimizers(self) -> Any:
        """Adam, a tenth of the rate after 250 of 300 epochs."""
        hp = self.hparams
        optimizer = torch.optim.Adam(self.network.parameters(), lr=hp["lr"], weight_decay=hp["weight_decay"])
        return drops(optimizer, self.optimise_batches, (250 / 300,), 0.1)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """1 - similarity of gradients over scales and sizes of squares, averaged over a window."""
        maps, paintings = [], []
        for side in self.hparams["squares"]:
            painted = self.inpaint(image, getattr(self, f"masks_{side}"))
            resized = [
                F.interpolate(one, size=image.shape[2:], mode="bilinear")
                for one in gradient_similarities(painted, image)
            ]
            maps.append(1 - torch.stack(resized).mean(dim=0))
            paintings.append(painted)
        window = self.hparams["window"]
        anomaly_map = F.avg_pool2d(
            torch.stack(maps).mean(dim=0), window, stride=1, padding=window // 2, count_include_pad=False
        )
        return Prediction(None, anomaly_map, torch.stack(paintings).mean(dim=0))


def disjoint_masks(size: tuple[int, ...], side: int, generator: torch.Generator | None = None) -> Tensor:
    """Divide an image's squares at random into three sets.

    Args:
        size: ``(H, W)``, multiples of ``side``.
        side: of the squares.
        generator: source of randomness; None: torch's global one.

    Returns:
        bool ``(3, 1, H, W)``: every pixel is True in exactly one.
    """
    grid = (size[0] // side, size[1] // side)
    order = torch.randperm(grid[0] * grid[1], generator=generator) % _SETS
    squares = order.view(grid).repeat_interleave(side, 0).repeat_interleave(side, 1)
    return (squares == torch.arange(_SETS)[:, None, None]).unsqueeze(1)


def gradient_similarities(first: Tensor, second: Tensor) -> list[Tensor]:
    """Similarity of gradient magnitudes at four scales (Xue et al. 2014), after a median filter.

    Args:
        first: ``(B, C, H, W)``.
        second: of the same shape.

    Returns:
        float32 ``(B, 1, h, w)`` each, at most 1, the finest first.
    """
    found = []
    one, other = first.float(), second.float()
    for scale in range(_SCALES):
        if scale:
            one, other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
        a, b = _magnitude(one), _magnitude(other)
        found.append((2 * a * b + _GMS) / (a.square() + b.square() + _GMS))
    return found


def _magnitude(image: Tensor) -> Tensor:
    grey = F.pad(image.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    around = F.unfold(grey, 3).median(dim=1, keepdim=True).values.unflatten(2, image.shape[2:])
    slope = torch.tensor([1.0, 0.0, -1.0], device=image.device).expand(3, 3) / 3
    kernel = torch.stack([slope, slope.T]).unsqueeze(1)
    with torch.autocast(image.device.type, enabled=False):
        across = F.conv2d(F.pad(around, (1, 1, 1, 1), mode="replicate"), kernel)
    return (across.square().sum(dim=1, keepdim=True) + 1e-12).sqrt()


class _InpaintingUNet(nn.Module):
    """U-Net with strided convolutions down, transposed ones up, hyperbolic tangent at the end."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.first = _twice(channels, widths[0])
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(*_unit(nn.Conv2d(a, b, 4, 2, 1)), *_unit(nn.Conv2d(b, b, 3, padding=1))) for a, b in pairs
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 4, 2, 1) for a, b in pairs[::-1])
        self.join = nn.ModuleList(_twice(2 * a, a) for a, _ in pairs[::-1])
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        found = [self.first(image)]
        for down in self.down:
            found.append(down(found[-1]))
        x = found.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), found.pop()], dim=1))
        return torch.tanh(self.last(x))


def _twice(source: int, target: int) -> nn.Sequential:
    first, second = (nn.Conv2d(before, target, 3, padding=1) for before in (source, target))
    return nn.Sequential(*_unit(first), *_unit(second))


def _unit(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]
