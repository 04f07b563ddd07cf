"""What methods share that rebuild a vision transformer's tokens: two groups of layers, their maps, training."""

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import Prediction
from zoo.nn.features import FeatureExtractor
from zoo.nn.schedules import each_step, trained
from zoo.nn.stable_adamw import StableAdamW
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import pool_map
from zoo.scoring.residual import cosine_error

_BLOCKS = tuple(f"blocks.{number}" for number in range(2, 10))
_WARM_UP = 100  # steps
_MAP_SIDE = 256  # at which maps are smoothed and scored
_TAPS = 5  # of the Gaussian of 4 pixels: it ends far within the deviation
_SIGMA = 4.0
_HIGHEST = 0.01  # share of the map that is the score


class TokenReconstruction(FrozenFeatures):
    """Frozen tokens of two groups of layers against what a decoder makes of their mean.

    1 or 3 channels.

    Args:
        backbone: a vision transformer of timm.
        layers: its blocks, an even number: the first half is one group, the second the other.
        lr: learning rate of StableAdamW; it rises in 100 steps and falls along a cosine.
        final_lr: at the end of the training.
        weight_decay: of StableAdamW.
        clip: largest norm of the gradient, unless the trainer has a limit of its own.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`.

    Class attributes:
        prefix: the decoder gets the class and register tokens too.
    """

    prefix: ClassVar[bool] = False

    extractor: FeatureExtractor

    def __init__(
        self,
        *,
        backbone: str = "vit_base_patch14_reg4_dinov2",
        layers: tuple[str, ...] = _BLOCKS,
        lr: float = 2e-3,
        final_lr: float = 2e-4,
        weight_decay: float = 1e-4,
        clip: float = 0.1,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create the extractor; a subclass goes on with its bottleneck and decoder.

        Raises:
            UserError: a backbone that has no tokens, or an odd number of layers.
        """
        hp = self.hparams
        self.extractor = self.frozen(*hp["layers"])
        if not hasattr(self.extractor.backbone, "patch_embed") or len(hp["layers"]) % 2:
            raise UserError(
                f"backbone {hp['backbone']}, layers {hp['layers']}: an even number of blocks of a vision "
                "transformer is needed, for example blocks.2 to blocks.9 of vit_base_patch14_reg4_dinov2"
            )
        self.width = self.extractor.channels[0]
        self.heads = int(self.extractor.backbone.blocks[0].attn.num_heads)  # type: ignore[index, union-attr]

    @abstractmethod
    def decode(self, mean: Tensor) -> list[Tensor]:
        """What the decoder's blocks make of the mean of all layers' tokens.

        Args:
            mean: ``(B, prefix + N, K)``, or ``(B, N, K)`` where :attr:`prefix` is False.

        Returns:
            Of each block, the first one first, tokens of the same shape.
        """

    def pairs(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of both groups of layers the mean of the frozen tokens, and of the rebuilt ones: ``(B, K, rows, columns)``.

        The first half of the layers is compared with the decoder's last blocks.
        """
        tokens, grid = self.extractor.tokens(image)
        places = grid[0] * grid[1]
        tokens = [values.float() for values in tokens]
        given = tokens if self.prefix else [values[:, values.shape[1] - places :] for values in tokens]
        rebuilt = self.decode(torch.stack(given).mean(dim=0))[::-1]
        half = len(tokens) // 2

        def as_map(values: list[Tensor]) -> Tensor:
            mean = torch.stack([one.float() for one in values]).mean(dim=0)
            found: Tensor = mean[:, mean.shape[1] - places :].mT.unflatten(2, grid)
            return found

        return [(as_map(tokens[part]), as_map(rebuilt[part])) for part in (slice(half), slice(half, None))]

    def initialise(self, *modules: nn.Module) -> None:
        """Linear layers from N(0, 0.01) cut at three deviations, biases 0."""
        for module in modules:
            for part in module.modules():
                if isinstance(part, nn.Linear):
                    nn.init.trunc_normal_(part.weight, std=0.01, a=-0.03, b=0.03)
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """StableAdamW with amsgrad; the rate rises for 100 steps and falls along a cosine to ``final_lr``."""
        hp, total = self.hparams, max(1, self.optimise_batches)
        optimizer = StableAdamW(trained(self), hp["lr"], eps=1e-10, weight_decay=hp["weight_decay"], amsgrad=True)
        warm_up, lowest = min(_WARM_UP, total // 2), float(hp["final_lr"] / hp["lr"])

        def rate(step: int) -> float:
            if step < warm_up:
                return step / warm_up
            share = (step - warm_up) / max(1, total - warm_up)
            return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

        return each_step(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate))

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Mean over the groups of 1 - cosine, smoothed at 256 pixels; the score is the highest hundredth's mean."""
        pairs, size = self.pairs(image), image.shape[2:]
        error = cosine_error(pairs, size) / len(pairs)
        smooth = _blurred(F.interpolate(error, size=(_MAP_SIDE, _MAP_SIDE), mode="bilinear"))
        return Prediction(pool_map(smooth, "top_q", _HIGHEST), F.interpolate(smooth, size=size, mode="bilinear"))


def _blurred(maps: Tensor) -> Tensor:
    """Gaussian of 4 pixels with 5 taps, mirrored borders: nearly a box."""
    place = torch.arange(_TAPS, device=maps.device) - _TAPS // 2
    taps = (-0.5 * (place / _SIGMA).square()).exp()
    taps = taps / taps.sum()
    padded = F.pad(maps, (_TAPS // 2,) * 4, mode="reflect")
    with torch.autocast(maps.device.type, enabled=False):
        return F.conv2d(F.conv2d(padded, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
