"""CS-Flow: one flow over three scales of a frozen backbone's maps, which inform each other.

Rudolph et al. 2022, "Fully convolutional cross-scale-flows for image-based defect detection" (arXiv 2110.02855).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import Batch, Prediction
from zoo.nn.features import FeatureExtractor
from zoo.pretrained._frozen import FrozenFeatures

_SCALES = 3
_ATAN = 0.636  # 2 / pi: the logarithm of a scale stays within the clamp


class CSFlow(FrozenFeatures):
    """Cross-scale flow (CS-Flow).

    1 or 3 channels. The features of the image, of its half and of its quarter pass couplings whose subnets exchange
    hidden maps between the scales. Memory: 275 M parameters with the defaults; ``hidden`` bounds it.

    Args:
        layer: layer of the backbone; features are taken as they are.
        hidden: channels inside the subnets.
        kernels: side of the subnets' convolutions, one a coupling.
        clamp: bound of the logarithm of a scale.
        lr: learning rate of Adam.
        weight_decay: of Adam.
        clip: largest norm of the gradient, unless the trainer has a limit of its own.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`; ``image_size`` in
            multiples of four times the layer's stride (768 in the paper).
    """

    reference = {
        "title": "Fully Convolutional Cross-Scale-Flows for Image-based Defect Detection",
        "venue": "WACV",
        "year": 2022,
        "url": "https://arxiv.org/abs/2110.02855",
    }
    tiny = {
        "image_size": 32,
        "backbone": "resnet18",
        "layer": "layer2",
        "weights": "random",
        "hidden": 8,
        "kernels": (3, 3),
    }
    small = {"backbone": "tf_efficientnet_lite0", "layer": "blocks.2", "hidden": 64}

    extractor: FeatureExtractor

    def __init__(
        self,
        *,
        backbone: str = "efficientnet_b5",
        layer: str = "blocks.5",
        hidden: int = 1024,
        kernels: tuple[int, ...] = (3, 3, 3, 5),
        clamp: float = 3.0,
        lr: float = 2e-4,
        weight_decay: float = 1e-5,
        clip: float = 1.0,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create the extractor and the couplings.

        Raises:
            UserError: sides that three scales do not fit.
        """
        hp = self.hparams
        self.extractor = self.frozen(hp["layer"])
        multiple = self.extractor.strides[0] * 2 ** (_SCALES - 1)
        if any(side % multiple for side in self.image_size):
            raise UserError(f"image_size {self.image_size}: CS-Flow needs sides that are multiples of {multiple}")
        channels = self.extractor.channels[0]
        self.couplings = nn.ModuleList(
            _CrossCoupling(channels, hp["hidden"], kernel, hp["clamp"], seed=number)
            for number, kernel in enumerate(hp["kernels"])
        )

    def latents(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Latents of the three scales ``(B, C, h, w)``, the finest first, and the log determinant ``(B,)``."""
        sizes = [tuple(side // 2**level for side in image.shape[2:]) for level in range(_SCALES)]
        with torch.no_grad():
            maps = [self.extractor(F.interpolate(image, size=size))[0].float() for size in sizes]
        determinant = maps[0].new_zeros(image.shape[0])
        for coupling in self.couplings:
            maps, added = coupling(maps)
            determinant = determinant + added
        return maps, determinant

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Negative log likelihood without its constant, divided by the number of elements."""
        latents, determinant = self.latents(batch["image"])
        squares = torch.stack([z.square().sum(dim=(1, 2, 3)) for z in latents]).sum(dim=0)
        loss = (0.5 * squares - determinant).mean() / sum(z[0].numel() for z in latents)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate over the couplings."""
        hp = self.hparams
        return torch.optim.Adam(self.couplings.parameters(), lr=hp["lr"], eps=1e-4, weight_decay=hp["weight_decay"])

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Half the mean square of all latents; the map is the mean square over the channels of the finest scale."""
        latents, _ = self.latents(image)
        count = sum(z[0].numel() for z in latents)
        score = 0.5 * torch.stack([z.square().sum(dim=(1, 2, 3)) for z in latents]).sum(dim=0) / count
        small_map = latents[0].square().mean(dim=1, keepdim=True)
        return Prediction(score, F.interpolate(small_map, size=image.shape[2:], mode="bilinear"))


class _CrossCoupling(nn.Module):
    """A permutation of the channels, then both halves in turn, each scaled and shifted by a function of the other."""

    def __init__(self, channels: int, hidden: int, kernel: int, clamp: float, seed: int) -> None:
        super().__init__()
        self.halves, self.clamp = (channels // 2, channels - channels // 2), clamp
        generator = torch.Generator().manual_seed(seed)
        orders = torch.stack([torch.randperm(channels, generator=generator, device="cpu") for _ in range(_SCALES)])
        self.register_buffer("orders", orders)
        self.of_second = _CrossConvolutions(self.halves[1], hidden, 2 * self.halves[0], kernel)
        self.of_first = _CrossConvolutions(self.halves[0], hidden, 2 * self.halves[1], kernel)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Maps and the log determinant ``(B,)``."""
        assert isinstance(self.orders, Tensor)
        mixed = [values.index_select(1, order) for values, order in zip(maps, self.orders, strict=True)]
        first, second = ([values.split(self.halves, dim=1)[half] for values in mixed] for half in (0, 1))
        first, of_first = self._affine(first, self.of_second(second))
        second, of_second = self._affine(second, self.of_first(first))
        return [torch.cat(pair, dim=1) for pair in zip(first, second, strict=True)], of_first + of_second

    def _affine(self, values: list[Tensor], found: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        moved, determinants = [], []
        for x, output in zip(values, found, strict=True):
            scale, shift = output.float().split(x.shape[1], dim=1)
            log_scale = self.clamp * _ATAN * torch.atan(scale / self.clamp)
            moved.append(x * log_scale.exp() + shift)
            determinants.append(log_scale.sum(dim=(1, 2, 3)))
        return moved, torch.stack(determinants).sum(dim=0)


class _CrossConvolutions(nn.Module):
    """Two convolutions at each scale; hidden maps reach the next scales up and down. Zero at first."""

    def __init__(self, source: int, hidden: int, target: int, kernel: int) -> None:
        super().__init__()
        padding = kernel // 2
        self.first, self.last = nn.ModuleList(), nn.ModuleList()
        for _ in range(_SCALES):
            self.first.append(nn.Conv2d(source, hidden, kernel, padding=padding))
            self.last.append(nn.Conv2d(hidden, target, kernel, padding=padding))
        steps = range(_SCALES - 1)
        self.up = nn.ModuleList(nn.Conv2d(hidden, target, kernel, padding=padding) for _ in steps)
        self.down = nn.ModuleList(nn.Conv2d(hidden, target, kernel, stride=2, padding=padding) for _ in steps)
        self.gain = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(_SCALES))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        hidden = [F.leaky_relu(layer(values), 0.1) for layer, values in zip(self.first, maps, strict=True)]
        found = [layer(values) for layer, values in zip(self.last, hidden, strict=True)]
        for level in range(_SCALES - 1):  # between a scale and the next coarser one
            size = hidden[level].shape[2:]
            found[level] = found[level] + self.up[level](F.interpolate(hidden[level + 1], size=size, mode="bilinear"))
            found[level + 1] = found[level + 1] + self.down[level](hidden[level])
        return [values * gain for values, gain in zip(found, self.gain, strict=True)]
