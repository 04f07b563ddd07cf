"""The small dense autoencoder of Cai et al.'s comparisons (DDAD, MedIAnomaly)."""

import itertools
import math

from torch import Tensor, nn

from zoo.nn.convolutional import check_divisible, conv_block


class CompactAutoencoder(nn.Module):
    """4x4 strided convolutions, a hidden linear layer before and after the code, transposed convolutions.

    Batch norm and ReLU after all but the code, the map that the decoder starts from, and the output; 2.35 million
    parameters with a hidden layer of 1024 on grey images of 64 pixels.

    Args:
        in_channels: image channels.
        image_size: ``(H, W)``, multiples of ``2 ** len(hidden_dims)``.
        hidden_dims: channels after each halving.
        hidden: length of the hidden layers.
        latent_dim: length of the code.
        out_channels: channels of the output; by default ``in_channels``.

    Raises:
        UserError: an image size that does not divide.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, ...],
        *,
        hidden_dims: tuple[int, ...] = (16, 32, 64, 64),
        hidden: int = 2048,
        latent_dim: int = 16,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        factor = 2 ** len(hidden_dims)
        check_divisible(image_size, factor, f"an autoencoder of {len(hidden_dims)} levels")
        grid = (hidden_dims[-1], *(side // factor for side in image_size))
        length = math.prod(grid)
        downs = [
            conv_block(nn.Conv2d(source, width, 4, 2, 1, bias=False), width, activation=nn.ReLU())
            for source, width in itertools.pairwise((in_channels, *hidden_dims))
        ]
        ups = [
            conv_block(nn.ConvTranspose2d(source, width, 4, 2, 1, bias=False), width, activation=nn.ReLU())
            for source, width in itertools.pairwise(hidden_dims[::-1])
        ]
        self.encoder = nn.Sequential(*downs, nn.Flatten(), *_dense(length, hidden), nn.Linear(hidden, latent_dim))
        self.decoder = nn.Sequential(
            *_dense(latent_dim, hidden),
            nn.Linear(hidden, length),
            nn.Unflatten(1, grid),
            *ups,
            nn.ConvTranspose2d(hidden_dims[0], out_channels or in_channels, 4, 2, 1, bias=False),
        )

    def encode(self, image: Tensor) -> Tensor:
        """Code ``(B, latent_dim)`` of an image ``(B, C, H, W)``."""
        code: Tensor = self.encoder(image)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Image ``(B, C, H, W)`` of a code ``(B, latent_dim)``, unbounded."""
        image: Tensor = self.decoder(code)
        return image

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruction of an image ``(B, C, H, W)``, unbounded."""
        return self.decode(self.encode(image))


def _dense(source: int, target: int) -> tuple[nn.Module, ...]:
    return nn.Linear(source, target), nn.BatchNorm1d(target), nn.ReLU()
