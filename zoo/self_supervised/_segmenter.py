"""What most of the family shares: a network that marks what a task put into healthy images."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.metrics.functional import average_precision
from zoo.module import AnomalyModule, Batch, Prediction, batch_generator
from zoo.nn.residual import WideResidualSegmenter
from zoo.nn.schedules import cosine, trained
from zoo.nn.unet import UNet
from zoo.scoring.pooling import PoolingRule
from zoo.synthetic.strategy import equalise_histogram

Altered = tuple[Tensor, ...]  # altered images (B, C, *S), labels (B, 1, *S), and what else a method's loss needs


class SyntheticSegmenter(AnomalyModule):
    """A network's logits against the soft label of a task; a subclass writes ``build`` and :meth:`make_anomalies`.

    Training and the method's own validation make anomalies in the same way, from the same prepared images and with the
    same foreground.

    Args:
        image_size: ``(H, W)`` or ``(D, H, W)``, multiples of ``2 **`` the number of the network's halvings.
        in_channels: image channels.
        lr: highest learning rate.
    """

    network: nn.Module

    def __init__(
        self,
        *,
        image_size: int | tuple[int, ...] | None = None,
        in_channels: int | None = None,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Foreign patches: both blends."""
        return ("intra_blend", "inter_blend")

    def prepare(self, image: Tensor) -> Tensor:
        """``(B, C, *S)`` as the task and the network want it; equalised where a method has ``strategy`` on."""
        return equalise_histogram(image.clamp(0, 1)) if self.hparams.get("strategy") else image

    @abstractmethod
    def make_anomalies(self, image: Tensor, rng: np.random.Generator, foreground: Tensor | None = None) -> Altered:
        """Altered images and labels of a batch, and what else the method's loss needs.

        Args:
            image: ``(B, C, *S)``, prepared.
            rng: source of randomness.
            foreground: ``(B, 1, *S)`` bool.

        Returns:
            tuple: ``(B, C, *S)``, ``(B, 1, *S)`` and more.
        """

    def altered(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """:meth:`make_anomalies` of a training batch."""
        return self.make_anomalies(self.prepare(batch["image"]), rng, batch["foreground"])

    def locate(self, prepared: Tensor) -> Tensor:
        """``(B, 1, *S)``, larger where the network sees a change: its logits, the first channel."""
        logits: Tensor = self.network(prepared)[:, :1].float()
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Binary cross-entropy with the label."""
        altered, label = self.altered(batch, batch_generator())[:2]
        loss = F.binary_cross_entropy_with_logits(self.locate(altered), label)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(label))
        return loss

    def configure_optimizers(self) -> Any:
        """Adam with a cosine to 1e-6 over the fit."""
        return cosine(torch.optim.Adam(trained(self), lr=self.hparams["lr"]), self.optimise_batches, 1e-6)

    def log_validation(self, batch: Batch, batch_idx: int) -> None:
        """Log how well the own anomalies are found."""

        def make(image: Tensor, rng: np.random.Generator, foreground: Tensor | None) -> tuple[Tensor, ...]:
            return self.make_anomalies(self.prepare(image), rng, foreground)

        log_task_ap(self, batch, batch_idx, make, self.locate)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Map: probability."""
        return Prediction(None, self.locate(self.prepare(image)).sigmoid())


class UNetSegmenter(SyntheticSegmenter):
    """A :class:`SyntheticSegmenter` whose network is this package's U-Net, in 2-D and 3-D, without positions.

    Args:
        depth: halvings of the U-Net.
        width: channels of its first stage, doubled with each halving.
        max_width: largest number of channels.
        score: how the map becomes a score.
        score_fraction: share of pixels for ``top_q``.
        **segmenter: arguments of :class:`SyntheticSegmenter`.
    """

    network: UNet

    def __init__(
        self,
        *,
        depth: int = 5,
        width: int = 32,
        max_width: int = 320,
        score: PoolingRule = "top_q",
        score_fraction: float = 0.1,
        **segmenter: Any,
    ) -> None:
        super().__init__(**segmenter)

    def build(self) -> None:
        """Create the U-Net."""
        self.network = self.unet()

    def unet(self, **options: Any) -> UNet:
        """A U-Net of the method's sizes.

        Args:
            **options: further ones of :class:`~zoo.nn.unet.UNet`.
        """
        sizes = {name: self.hparams[name] for name in ("depth", "width", "max_width")}
        return UNet(self.image_size, self.in_channels, positions=0, **sizes, **options)


class ResidualSegmenter(SyntheticSegmenter):
    """A :class:`SyntheticSegmenter` whose network is FPI's wide residual encoder-decoder.

    Args:
        widths: channels of the encoder's stages, between which the image is halved.
        score: how the map becomes a score.
        score_fraction: share of pixels for ``top_q``.
        **segmenter: arguments of :class:`SyntheticSegmenter`.
    """

    network: WideResidualSegmenter

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (64, 128, 256, 256, 256),
        score: PoolingRule = "mean",
        score_fraction: float = 0.25,
        **segmenter: Any,
    ) -> None:
        super().__init__(**segmenter)

    def build(self) -> None:
        """Create the network."""
        self.network = WideResidualSegmenter(self.in_channels, self.image_size, tuple(self.hparams["widths"]))


def beside(image: Tensor, *arrays: np.ndarray) -> tuple[Tensor, ...]:
    """Arrays as tensors on the device of ``image``."""
    return tuple(torch.from_numpy(array).to(image.device) for array in arrays)


def log_task_ap(
    module: AnomalyModule,
    batch: Batch,
    batch_idx: int,
    make: Callable[[Tensor, np.random.Generator, Tensor | None], tuple[Tensor, ...]],
    locate: Callable[[Tensor], Tensor],
) -> None:
    """Log ``val/task_pixel_ap``, the mean over batches of the pixel AP on held-out images altered by the own task.

    For equal saturation instead of equal steps (nnOOD), which stops at a moving average of 0.875. Its validation
    anomalies are new in every epoch; here they are the same, so that there is nothing to average over. A pixel is
    anomalous when its label is above 0.1.

    Args:
        module: logs.
        batch: of the validation loader; only its healthy images are used.
        batch_idx: seeds the anomalies.
        make: from images, generator and foreground to altered images and labels (and more).
        locate: from altered images to the map ``(B, 1, H, W)``.
    """
    chosen = batch["label"] == 0
    healthy, inside = batch["image"][chosen], batch.get("foreground")
    inside = None if inside is None else inside[chosen]
    if not len(healthy):
        return
    if len(healthy) == 1:  # tasks take patches from the other images
        healthy = torch.cat([healthy, healthy.flip(-1)])
        inside = None if inside is None else torch.cat([inside, inside.flip(-1)])
    altered, label = make(healthy, np.random.default_rng([42, batch_idx]), inside)[:2]
    found = average_precision(locate(altered).float(), label > 0.1)
    if not np.isnan(found):
        module.log("val/task_pixel_ap", found, batch_size=len(healthy))
