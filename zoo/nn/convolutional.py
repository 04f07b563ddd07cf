"""Convolutional encoders and decoders of two-dimensional autoencoders, and the sizes that they accept."""

import itertools
import math
from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError

Norm = Literal["batch", "instance", "none"]


def check_divisible(image_size: tuple[int, ...], multiple: int, reason: str, minimum: int = 1) -> None:
    """Refuse images whose sides a network cannot halve as often as it does.

    Raises:
        UserError: a side that is no multiple of ``multiple`` or is below ``minimum``.
    """
    if all(side % multiple == 0 and side >= minimum for side in image_size):
        return
    found = " x ".join(map(str, image_size))
    nearest = " x ".join(str(math.ceil(max(side, minimum) / multiple) * multiple) for side in image_size)
    raise UserError(
        f"image_size {found} does not fit: {reason} needs sides that are multiples of {multiple} and at least "
        f"{max(minimum, multiple)}, for example {nearest}; change data.image_size or give fewer hidden_dims"
    )


def conv_block(
    conv: nn.Module, channels: int, *, norm: Norm = "batch", dropout: float = 0.0, activation: nn.Module | None = None
) -> nn.Sequential:
    """Convolution, norm, activation and dropout of whole channels, named ``conv``, ``norm``, ``act``, ``drop``.

    Args:
        conv: the convolution.
        channels: its output channels.
        norm: ``batch``; ``instance`` without parameters or running statistics; ``none``.
        dropout: probability of dropping a channel; 0 = no such layer.
        activation: by default a leaky ReLU of slope 0.01.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if norm != "none":
        layers["norm"] = nn.BatchNorm2d(channels) if norm == "batch" else nn.InstanceNorm2d(channels)
    layers["act"] = nn.LeakyReLU(0.01) if activation is None else activation
    if dropout > 0:
        layers["drop"] = nn.Dropout2d(dropout)
    return nn.Sequential(layers)


def conv_encoder(
    in_channels: int,
    widths: tuple[int, ...],
    *,
    kernel: int = 3,
    norm: Norm = "batch",
    dropout: float = 0.0,
    max_pool: bool = False,
) -> nn.Sequential:
    """One block a width, each halving the sides by a strided convolution without bias.

    Args:
        in_channels: channels of the input ``(B, C, H, W)``.
        widths: channels after each block.
        kernel: odd side of the convolutions.
        norm: see :func:`conv_block`.
        dropout: see :func:`conv_block`.
        max_pool: halve by max-pooling after each block instead.
    """
    stride = 1 if max_pool else 2
    blocks = [
        conv_block(
            nn.Conv2d(source, width, kernel, stride=stride, padding=kernel // 2, bias=False),
            width,
            norm=norm,
            dropout=dropout,
        )
        for source, width in itertools.pairwise((in_channels, *widths))
    ]
    if max_pool:
        for block in blocks:
            block.add_module("pool", nn.MaxPool2d(2))
    return nn.Sequential(*blocks)


def conv_decoder(
    widths: tuple[int, ...], *, kernel: int = 4, norm: Norm = "batch", dropout: float = 0.0
) -> nn.Sequential:
    """Mirror of :func:`conv_encoder`: blocks from each of ``widths`` to the next, each doubling the sides exactly.

    Args:
        widths: channels before the first block and after each.
        kernel: even side of the transposed convolutions.
        norm: see :func:`conv_block`.
        dropout: see :func:`conv_block`.
    """
    return nn.Sequential(
        *(
            conv_block(
                nn.ConvTranspose2d(source, width, kernel, stride=2, padding=kernel // 2 - 1, bias=False),
                width,
                norm=norm,
                dropout=dropout,
            )
            for source, width in itertools.pairwise(widths)
        )
    )


def pooled_autoencoder(in_channels: int, image_size: tuple[int, ...], width: int) -> nn.Sequential:
    """Autoencoder of four max-poolings without skips, two 3x3 convolutions with batch norm and ReLU at each level.

    Args:
        in_channels: image channels.
        image_size: ``(H, W)``, multiples of 16.
        width: channels of the first level; the next ones have 2, 4, 8 and 8 times as many.

    Raises:
        UserError: an image size that does not divide.
    """
    check_divisible(image_size, 16, "an autoencoder of four halvings")
    falling = [width * multiple for multiple in (1, 2, 4, 8, 8)]
    layers: list[nn.Module] = []

    def level(source: int, target: int) -> None:
        for before in (source, target):
            layers.extend([nn.Conv2d(before, target, 3, padding=1), nn.BatchNorm2d(target), nn.ReLU()])

    level(in_channels, width)
    for source, target in itertools.pairwise(falling):
        layers.append(nn.MaxPool2d(2))
        level(source, target)
    for source, target in itertools.pairwise(falling[::-1]):
        layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
        level(source, target)
    return nn.Sequential(*layers, nn.Conv2d(width, in_channels, 3, padding=1))


class DenseAutoencoder(nn.Module):
    """Convolutional autoencoder with a dense bottleneck, the image baseline of Meissen et al. 2022 (after Baur 2021).

    Encoder blocks of 3x3 strided convolutions, a linear code, decoder blocks of 4x4 transposed convolutions and a last
    one without norm or activation; no biases.

    Args:
        in_channels: image channels.
        image_size: ``(H, W)``, multiples of ``2 ** len(hidden_dims)``.
        hidden_dims: channels after each encoder block.
        latent_dim: length of the code.
        code_dim: length of what the encoder puts out, for a variational code; by default ``latent_dim``.
        out_channels: channels of the output; by default ``in_channels``.
        norm: see :func:`conv_block`.
        dropout: see :func:`conv_block`.
        activated: a leaky ReLU on what the code becomes before the first decoder block.

    Raises:
        UserError: an image size that does not divide, or whose smallest map is one pixel under instance norm.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, ...],
        *,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 128, 256),
        latent_dim: int = 256,
        code_dim: int | None = None,
        out_channels: int | None = None,
        norm: Norm = "instance",
        dropout: float = 0.0,
        activated: bool = False,
    ) -> None:
        super().__init__()
        factor = 2 ** len(hidden_dims)
        minimum = 2 * factor if norm == "instance" else factor  # one pixel has no variance to normalise by
        check_divisible(image_size, factor, f"an autoencoder of {len(hidden_dims)} levels", minimum)
        self.grid = (hidden_dims[-1], *(side // factor for side in image_size))
        length = math.prod(self.grid)
        self.encoder = conv_encoder(in_channels, hidden_dims, norm=norm, dropout=dropout)
        self.to_code = nn.Linear(length, code_dim or latent_dim, bias=False)
        self.from_code = nn.Linear(latent_dim, length, bias=False)
        self.activated = activated
        self.decoder = conv_decoder(hidden_dims[::-1], norm=norm, dropout=dropout)
        self.to_image = nn.ConvTranspose2d(
            hidden_dims[0], out_channels or in_channels, 4, stride=2, padding=1, bias=False
        )

    def encode(self, image: Tensor) -> Tensor:
        """Code ``(B, code_dim)`` of an image ``(B, C, H, W)``."""
        code: Tensor = self.to_code(self.encoder(image).flatten(1))
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Image ``(B, C, H, W)`` of a code ``(B, latent_dim)``."""
        start = self.from_code(code).unflatten(1, self.grid)
        image: Tensor = self.to_image(self.decoder(F.leaky_relu(start) if self.activated else start))
        return image

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruction of an image ``(B, C, H, W)``, unbounded."""
        return self.decode(self.encode(image))


class SpatialAutoencoder(nn.Module):
    """Convolutional autoencoder whose code is a map: it keeps where things are and so brings back more detail.

    Blocks as in :class:`DenseAutoencoder`; 1x1 convolutions lead to the code and from it.

    Args:
        in_channels: image channels.
        image_size: ``(H, W)``, multiples of ``2 ** len(hidden_dims)``.
        hidden_dims: channels after each encoder block.
        latent_dim: channels of the code.
        norm: see :func:`conv_block`.
        max_pool: see :func:`conv_encoder`.

    Raises:
        UserError: an image size that does not divide, or whose smallest map is one pixel under instance norm.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, ...],
        *,
        hidden_dims: tuple[int, ...],
        latent_dim: int,
        norm: Norm = "batch",
        max_pool: bool = False,
    ) -> None:
        super().__init__()
        factor = 2 ** len(hidden_dims)
        minimum = 2 * factor if norm == "instance" else factor
        check_divisible(image_size, factor, f"an autoencoder of {len(hidden_dims)} levels", minimum)
        self.encoder = conv_encoder(in_channels, hidden_dims, norm=norm, max_pool=max_pool)
        self.to_code = nn.Conv2d(hidden_dims[-1], latent_dim, 1)
        self.from_code = nn.Conv2d(latent_dim, hidden_dims[-1], 1)
        self.decoder = conv_decoder(hidden_dims[::-1], norm=norm)
        self.to_image = nn.ConvTranspose2d(hidden_dims[0], in_channels, 4, stride=2, padding=1, bias=False)

    def encode(self, image: Tensor) -> Tensor:
        """Code ``(B, latent_dim, H / factor, W / factor)`` of an image ``(B, C, H, W)``."""
        code: Tensor = self.to_code(self.encoder(image))
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Image ``(B, C, H, W)`` of a code."""
        image: Tensor = self.to_image(self.decoder(self.from_code(code)))
        return image

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruction of an image ``(B, C, H, W)``, unbounded."""
        return self.decode(self.encode(image))
