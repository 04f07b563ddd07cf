"""The generic U-Net (nnU-Net, Isensee et al. 2021) as the multi-task paper uses it, in 2-D and 3-D, with positions.

Encoder stages of two units each, strided convolutions instead of pooling; a bottleneck; decoder stages that upsample,
concatenate the skip and apply two units. Unit = convolution 3, instance norm, GELU.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError


class Unit(nn.Module):
    """Convolution, instance norm, GELU.

    Args:
        dims: 2 or 3.
        in_channels: channels in.
        out_channels: channels out.
        stride: of the convolution.
    """

    def __init__(self, dims: int, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        self.conv = conv(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm = norm(out_channels, affine=True)
        nn.init.kaiming_normal_(self.conv.weight, a=0.01)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *S)``."""
        return F.gelu(self.norm(self.conv(x)))

    def with_constant(self, x: Tensor, constant: Tensor) -> Tensor:
        """The unit on ``cat(x, constant)`` where ``constant`` ``(E, *S)`` is the same for the whole batch.

        The convolution of the constant channels is computed once for the batch instead of once an image; the result is
        the same up to rounding.
        """
        channels = x.shape[1]
        convolve = F.conv2d if constant.dim() == 3 else F.conv3d
        weight, stride = self.conv.weight, self.conv.stride
        own = convolve(x, weight[:, :channels], None, stride, 1)
        shared = convolve(constant[None], weight[:, channels:], self.conv.bias, stride, 1)
        return F.gelu(self.norm(own + shared))


class UNet(nn.Module):
    """U-Net with one output channel.

    Args:
        image_size: ``(*S)``, multiples of ``2 ** depth`` with more than one pixel left at the bottom.
        patch_size: ``(*S)`` of the parts that images are shown in (:func:`in_patches`); then these must be divisible.
        in_channels: image channels.
        depth: number of halvings, P in the paper: 6 for films, 4 for brains.
        width: channels of the first stage; doubled with each halving.
        max_width: largest number of channels: 512 for films, 320 for brains.
        positions: number of random Fourier features of the pixel's position; 0 leaves the coordinates out too.
        out_channels: channels of the output.
        dropout: channel dropout after the two deepest encoder stages.

    Raises:
        UserError: less than two halvings, or an image size that cannot be halved so often.
    """

    positions: Tensor

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        *,
        patch_size: Sequence[int] | None = None,
        depth: int = 6,
        width: int = 32,
        max_width: int = 512,
        positions: int = 32,
        out_channels: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        dims = len(image_size)
        if depth < 2:
            raise UserError(f"model.depth {depth}: a U-Net needs at least 2 halvings")
        check_size(tuple(image_size if patch_size is None else patch_size), depth)
        widths = [min(width * 2**level, max_width) for level in range(depth + 1)]
        encoding = torch.from_numpy(position_encoding(image_size, positions)).float() if positions else torch.empty(0)
        self.register_buffer("positions", encoding, persistent=False)
        first = in_channels + (len(encoding) if positions else 0)
        self.encoder = nn.ModuleList(
            nn.ModuleList([Unit(dims, first if k == 0 else widths[k - 1], widths[k], 1 if k == 0 else 2)])
            for k in range(depth + 1)
        )
        for k, stage in enumerate(self.encoder):
            stage.append(Unit(dims, widths[k], widths[k] if k < depth else widths[depth - 1]))  # type: ignore[operator]
        self.decoder = nn.ModuleList(
            nn.ModuleList([Unit(dims, 2 * widths[k], widths[k]), Unit(dims, widths[k], widths[max(k - 1, 0)])])
            for k in reversed(range(depth))
        )
        head = nn.Conv2d if dims == 2 else nn.Conv3d
        self.heads = nn.ModuleList(
            head(widths[max(k - 1, 0)], out_channels, 1, bias=False) for k in reversed(range(depth))
        )
        for module in self.heads:
            nn.init.kaiming_normal_(module.weight, a=0.01)  # type: ignore[arg-type]
        # the published network has an output at each level and trains the last one only
        self.heads[:-1].requires_grad_(False)
        self.dropout = dropout
        self.mode = "bilinear" if dims == 2 else "trilinear"

    def forward(self, x: Tensor, corner: Sequence[int] | None = None) -> Tensor:
        """``(B, C, *S)`` to the unbounded ``(B, out_channels, *S)``; drops channels of each image in training.

        Args:
            x: images, or patches of them.
            corner: where in the image the patches begin; None: whole images.

        Raises:
            UserError: a size that cannot be halved so often, or another one than the positions were made for.
        """
        return self.deep(self.shallow(x, corner))

    def shallow(self, x: Tensor, corner: Sequence[int] | None = None) -> list[Tensor]:
        """The encoder without its two deepest stages, where nothing is dropped; arguments as of :meth:`forward`."""
        check_size(tuple(x.shape[2:]), len(self.encoder) - 1)
        positions = self._positions_of(x, corner)
        maps: list[Tensor] = []
        for k, stage in enumerate(self.encoder[:-2]):
            first, second = stage.children()
            x = second(first(x) if k or positions is None else first.with_constant(x, positions))  # type: ignore[operator]
            maps.append(x)
        return maps

    def deep(self, shallow: Sequence[Tensor], kept: Sequence[Tensor] | None = None) -> Tensor:
        """The two deepest stages and the decoder.

        Args:
            shallow: what :meth:`shallow` gave.
            kept: factors ``(channels,)`` of the two stages, one row of :meth:`draw_kept` each.
        """
        skips = list(shallow)
        x = skips[-1]
        for k, stage in enumerate(self.encoder[-2:]):
            first, second = stage.children()
            x = second(first(x))
            if kept is not None:
                x = x * kept[k].to(x.dtype).view(-1, *[1] * (x.dim() - 2))
            elif self.dropout and self.training:
                x = x * self._factors((*x.shape[:2], *[1] * (x.dim() - 2)), device=x.device).to(x.dtype)
            skips.append(x)
        x = skips.pop()
        for stage in self.decoder:
            first, second = stage.children()
            x = F.interpolate(x, scale_factor=2, mode=self.mode, align_corners=False)
            x = second(first(torch.cat([x, skips.pop()], dim=1)))
        out: Tensor = self.heads[-1](x)
        return out

    def fix_dropout(self, samples: int) -> None:
        """Draw the channels that :meth:`monte_carlo` drops, once for all images and calls; no part of a state dict.

        Args:
            samples: number of passes.
        """
        kept = self.draw_kept(samples, torch.Generator().manual_seed(0))
        self.kept_above, self.kept_below = (nn.Buffer(factors, persistent=False) for factors in kept)

    def monte_carlo(self, x: Tensor) -> Tensor:
        """Passes ``(n, B, out_channels, *S)`` under the fixed dropout; one pass without, where none was fixed."""
        shallow = self.shallow(x)
        if not hasattr(self, "kept_above"):
            return self.deep(shallow)[None]
        passes = zip(self.kept_above, self.kept_below, strict=True)
        return torch.stack([self.deep(shallow, kept) for kept in passes])

    def draw_kept(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Dropout drawn ahead: ``(count, channels)`` factors, 0 or ``1 / (1 - dropout)``, of each of the two stages."""
        widths = [stage[-1].conv.out_channels for stage in self.encoder[-2:]]  # type: ignore[index]
        return [self._factors((count, width), generator=generator) for width in widths]

    def _factors(self, shape: tuple[int, ...], **drawing: Any) -> Tensor:
        return (torch.rand(shape, **drawing) >= self.dropout) / (1 - self.dropout)

    def _positions_of(self, x: Tensor, corner: Sequence[int] | None) -> Tensor | None:
        if not self.positions.numel():
            return None
        whole, size = tuple(self.positions.shape[1:]), tuple(x.shape[2:])
        start = (0,) * len(size) if corner is None else tuple(corner)
        fits = all(a >= 0 and a + n <= m for a, n, m in zip(start, size, whole, strict=True))
        if not fits or (corner is None and size != whole):
            raise UserError(f"image size {size}: this U-Net knows the positions of images of {whole}; give that size")
        inside = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        return self.positions[(slice(None), *inside)].to(x.dtype)


def check_size(size: tuple[int, ...], depth: int) -> None:
    """Refuse sizes that a U-Net cannot work on.

    Raises:
        UserError: a side that cannot be halved ``depth`` times, or a single pixel at the bottom, which instance norm
            cannot normalise.
    """
    unit = 2**depth
    if any(side % unit for side in size) or all(side == unit for side in size):
        raise UserError(
            f"image size {size}: a U-Net of depth {depth} needs multiples of {unit}, one of them larger; set "
            "data.image_size or model.depth"
        )


def in_patches(network: UNet, image: Tensor, patch_size: Sequence[int]) -> Tensor:
    """The network's output where images are too large for one pass: mean over patches that overlap by half at least.

    Args:
        network: made with ``patch_size``.
        image: ``(B, C, *S)``.
        patch_size: ``(*S)``, no side larger than the image's.

    Returns:
        Tensor: float32 ``(B, out_channels, *S)``.
    """
    axes = []
    for side, patch in zip(image.shape[2:], patch_size, strict=True):
        count = 1 if side == patch else 1 + -(-2 * (side - patch) // patch)
        axes.append([round(start) for start in np.linspace(0, side - patch, count).tolist()])
    total: Tensor | None = None
    hits = torch.zeros(image.shape[2:], device=image.device)
    for corner in itertools.product(*axes):
        box: tuple[Any, ...] = (..., *(slice(a, a + n) for a, n in zip(corner, patch_size, strict=True)))
        output = network(image[box], corner).float()
        if total is None:
            total = output.new_zeros(*output.shape[:2], *image.shape[2:])
        total[box] += output
        hits[box] += 1
    assert total is not None
    return total / hits


def position_encoding(image_size: Sequence[int], features: int = 32, scale: float = 12.0) -> np.ndarray:
    """Coordinates in [-1, 1] and random Fourier features of the position.

    Args:
        image_size: ``(*S)``.
        features: number of frequencies.
        scale: standard deviation of the frequencies; they are drawn with the published seed 42.

    Returns:
        array: float64 ``(D + 2 features, *S)``: coordinates, sines, cosines.
    """
    dims = len(image_size)
    frequencies = scale * np.random.default_rng(42).standard_normal((features, dims))
    coordinates = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in image_size], indexing="ij"))
    places = np.stack(np.meshgrid(*[np.arange(n) / n for n in image_size], indexing="ij"))
    phase = 2 * np.pi * np.tensordot(frequencies, places, 1)
    return np.concatenate([coordinates, np.sin(phase), np.cos(phase)])
