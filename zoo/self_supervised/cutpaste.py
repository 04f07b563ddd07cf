"""CutPaste.

Li et al., "CutPaste: self-supervised learning for anomaly detection and localization", CVPR 2021 (arXiv 2104.04015). A
classifier tells clean images from such with a pasted patch or scar of themselves; the density of its features on
healthy images is the score. It does not localise; `cutpaste_dense` (a configuration of NSA) does.
"""

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import AnomalyModule, Batch, Prediction, Stage, batch_generator
from zoo.nn.fitted import FittedStatistics
from zoo.nn.processes import total
from zoo.nn.schedules import cosine


class CutPaste(AnomalyModule):
    """CutPaste, 3-way: clean, patch, scar; Gaussian density with Ledoit-Wolf shrinkage.

    Args:
        image_size: (H, W) in pixels, at least 32.
        in_channels: image channels.
        backbone: untrained timm classifier, the paper: ResNet-18.
        head_dims: hidden layers of the projection head.
        score: ``gaussian``, the distance to the density of the trunk's features (two stages), or ``classifier``, 1 less
            the probability of a clean image (one stage).
        lr: of SGD with momentum 0.9, falling to 0 along a cosine.
        weight_decay: of SGD.
    """

    reference = {
        "title": "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization",
        "venue": "CVPR",
        "year": 2021,
        "url": "https://arxiv.org/abs/2104.04015",
    }
    tiny = {"image_size": 32, "backbone": "resnet10t", "head_dims": (16,)}
    small = {"backbone": "resnet10t"}
    kinds: ClassVar[int] = 2  # of anomalies, each a class beside the clean images

    trunk: nn.Module
    head: nn.Sequential
    gaussian: FittedStatistics
    count: Tensor
    total: Tensor
    scatter: Tensor
    cubic: Tensor
    fourth: Tensor

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        backbone: str = "resnet18",
        head_dims: tuple[int, ...] = (512, 128),
        score: Literal["gaussian", "classifier"] = "gaussian",
        lr: float = 0.03,
        weight_decay: float = 3e-5,
    ) -> None:
        super().__init__()

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Pasted patches: both blends."""
        return ("intra_blend", "inter_blend")

    def build(self) -> None:
        """Create trunk, head and the empty Gaussian."""
        import timm

        self.trunk = timm.create_model(
            self.hparams["backbone"], pretrained=False, num_classes=0, in_chans=self.in_channels
        )
        layers: list[nn.Module] = []
        before = int(self.trunk.num_features)  # type: ignore[arg-type]
        for name, shape in (("count", ()), ("total", (before,)), ("scatter", (before, before))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        for name, shape in (("cubic", (before,)), ("fourth", ())):  # sums of |x|^2 x and |x|^4, for the shrinkage
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        for now in self.hparams["head_dims"]:
            layers += [nn.Linear(before, now), nn.BatchNorm1d(now), nn.ReLU()]
            before = now
        self.head = nn.Sequential(*layers, nn.Linear(before, 1 + self.kinds))
        self.gaussian = FittedStatistics("mean", "precision")

    def stages(self) -> tuple[Stage, ...]:
        """Classify, then fit the density, if it is the score."""
        density = Stage("collect", self._collect, self._fit)
        return (Stage("optimise", self._classify), *([density] if self.hparams["score"] == "gaussian" else []))

    def alter(self, batch: Batch, rng: np.random.Generator) -> list[Tensor]:
        """Of each kind of anomaly a batch ``(B, C, H, W)``."""
        return [cut_and_paste(batch["image"], rng, scar=scar) for scar in (False, True)]

    def _classify(self, batch: Batch, batch_idx: int) -> Tensor:
        image = batch["image"]
        views = torch.cat([image, *self.alter(batch, batch_generator())])
        target = torch.arange(1 + self.kinds, device=image.device).repeat_interleave(len(image))
        loss = F.cross_entropy(self.head(self.trunk(views)).float(), target)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        return loss

    def _features(self, image: Tensor) -> Tensor:
        features: Tensor = self.trunk(image).double()
        return features

    def _collect(self, batch: Batch, batch_idx: int) -> None:
        features = self._features(batch["image"])
        self.count += len(features)
        self.total += features.sum(0)
        self.scatter += features.T @ features
        squares = (features**2).sum(1)
        self.cubic += squares @ features
        self.fourth += squares.square().sum()

    def _fit(self) -> None:
        """Ledoit-Wolf: shrink the covariance towards a multiple of the identity (2004), from the sums."""
        for name in ("count", "total", "scatter", "cubic", "fourth"):
            setattr(self, name, total(getattr(self, name)))
        n, size = float(self.count), len(self.total)
        mean = self.total / n
        covariance = self.scatter / n - torch.outer(mean, mean)
        level = covariance.trace() / size
        spread = (covariance**2).sum() - size * level**2
        m = mean @ mean
        centred_fourth = (
            self.fourth + 4 * mean @ self.scatter @ mean + n * m**2
            - 4 * mean @ self.cubic + 2 * m * self.scatter.trace() - 4 * m * mean @ self.total
        )  # fmt: skip
        noise = ((centred_fourth / n - (covariance**2).sum()) / n).clamp(min=0)
        shrinkage = float((noise / spread).clamp(0, 1)) if float(spread) > 0 else 1.0
        identity = torch.eye(size, dtype=torch.float64, device=mean.device)
        shrunk = (1 - shrinkage) * covariance + (shrinkage * level + 1e-9) * identity
        self.gaussian.mean, self.gaussian.precision = mean, torch.linalg.inv(shrunk)

    def configure_optimizers(self) -> Any:
        """SGD with momentum and a cosine."""
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.hparams["lr"], momentum=0.9, weight_decay=self.hparams["weight_decay"]
        )
        return cosine(optimizer, self.optimise_batches)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mahalanobis distance of the trunk's features, or the classifier's opinion; no map.

        The distance is zero until the density is fitted, at the end.
        """
        if self.hparams["score"] == "classifier":
            return Prediction(1 - self.head(self.trunk(image)).float().softmax(dim=1)[:, 0])
        if not self.gaussian.fitted:
            return Prediction(image.new_zeros(len(image), dtype=torch.float32))
        offset = self._features(image) - self.gaussian.mean
        return Prediction(((offset @ self.gaussian.precision) * offset).sum(1).clamp(min=0).sqrt().float())


def cut_and_paste(image: Tensor, rng: np.random.Generator, *, scar: bool) -> Tensor:
    """Paste a jittered patch (or a turned strip) of each image at another place of it.

    Args:
        image: ``(B, C, H, W)`` in [0, 1].
        rng: source of randomness.
        scar: a strip of 2-16 x 10-25 pixels (of 256) turned by up to 45 degrees, not a patch of 2-15 % of the area.

    Returns:
        Tensor: a new batch.
    """
    pasted = image.clone()
    height, width = image.shape[2:]
    for one in pasted:
        if scar:
            sides = rng.integers((10, 2), (26, 17)) * np.array([height, width]) / 256
        else:
            area, aspect = rng.uniform(0.02, 0.15) * height * width, np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
            sides = np.array([np.sqrt(area * aspect), np.sqrt(area / aspect)])
        h, w = (int(np.clip(round(s), 2, n - 1)) for s, n in zip(sides, (height, width), strict=True))
        (top, left), (y, x) = (rng.integers(0, (height - h + 1, width - w + 1)) for _ in range(2))
        patch = (one[:, top : top + h, left : left + w] * rng.uniform(0.9, 1.1) + rng.uniform(-0.1, 0.1)).clamp(0, 1)
        if scar:
            _paste_turned(one, patch, y, x, np.deg2rad(rng.uniform(-45, 45)))
        else:
            one[:, y : y + h, x : x + w] = patch
    return pasted


def _paste_turned(image: Tensor, patch: Tensor, y: int, x: int, angle: float) -> None:
    """Paste in place a patch ``(C, h, w)`` that lies at (y, x), turned about its middle, by the nearest pixel."""
    h, w = patch.shape[1:]
    reach = math.ceil(math.hypot(h, w) / 2)
    middle = (y + (h - 1) / 2, x + (w - 1) / 2)
    ys, xs = (
        np.arange(max(math.floor(c) - reach, 0), min(math.ceil(c) + reach + 1, side))
        for c, side in zip(middle, image.shape[1:], strict=True)
    )
    dy, dx = (ys - middle[0])[:, None], (xs - middle[1])[None]
    rows = np.rint(np.cos(angle) * dy + np.sin(angle) * dx + (h - 1) / 2).astype(int)
    columns = np.rint(-np.sin(angle) * dy + np.cos(angle) * dx + (w - 1) / 2).astype(int)
    down, right = np.nonzero((rows >= 0) & (rows < h) & (columns >= 0) & (columns < w))
    image[:, ys[down], xs[right]] = patch[:, rows[down, right], columns[down, right]]
