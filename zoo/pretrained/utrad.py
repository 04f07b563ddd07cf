"""UTRAD: a U-shaped transformer rebuilds a frozen backbone's features, with narrow short cuts at each level.

Chen et al. 2022, "UTRAD: anomaly detection and localization with U-transformer". Written from a description, not
from the authors' code.
"""

import itertools
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import Batch, Prediction
from zoo.nn.attention import Attend, FeedForward
from zoo.nn.features import FeatureExtractor
from zoo.nn.schedules import trained
from zoo.pretrained._frozen import FrozenFeatures
from zoo.scoring.pooling import PoolingRule

_SIDE = 4  # places a side of a group
_NARROW = 128  # channels of the short cuts
_DEVIATION = (512, 256, 128, 64)  # widths of the head that predicts the error
_SHIFT, _DEGREES = 0.1, 10.0  # of the images in training
_EPS = 1e-6


class UTRAD(FrozenFeatures):
    """U-transformer of features (UTRAD).

    1 or 3 channels; 91.7 M parameters with the defaults. Positions are drawn and never trained, as in the original; the
    score is not scaled by the test set's range, as it is there.

    Args:
        layers: layers of the backbone, the finest first; the others are repeated to the first one's grid, a square of
            4, 16 or 64 places a side.
        width: channels of the tokens.
        depth: layers of each level's encoder, and of its decoder.
        heads: attention heads.
        hidden: width of the feed-forward layers.
        dropout: probability, in training.
        score: pooling of the map to the image score.
        score_fraction: share of pixels that ``top_q`` averages.
        lr: learning rate of Adam.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`; ``image_size`` is 256 in the paper.
    """

    reference = {
        "title": "UTRAD: Anomaly detection and localization with U-Transformer",
        "venue": "Neural Networks",
        "year": 2022,
        "url": "https://doi.org/10.1016/j.neunet.2021.12.008",
    }
    tiny = {
        "image_size": 64,
        "layers": ("layer1", "layer2"),
        "weights": "random",
        "width": 16,
        "depth": 1,
        "heads": 2,
        "hidden": 32,
    }
    small = {
        "backbone": "tf_efficientnet_lite0",
        "layers": ("blocks.1", "blocks.2", "blocks.4"),
        "width": 64,
        "depth": 2,
        "hidden": 256,
        "lr": 5e-4,
    }

    extractor: FeatureExtractor
    positions: nn.Parameter

    def __init__(
        self,
        *,
        layers: tuple[str, ...] = ("layer1", "layer2", "layer3"),
        width: int = 512,
        depth: int = 4,
        heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
        score: PoolingRule = "max",
        score_fraction: float = 0.1,
        lr: float = 1e-4,
        **frozen: Any,
    ) -> None:
        super().__init__(**frozen)

    def build(self) -> None:
        """Create the extractor and the transformer.

        Raises:
            UserError: a grid that cannot be divided into groups of 4 x 4 down to one.
        """
        hp = self.hparams
        self.extractor = self.frozen(*hp["layers"])
        grid = tuple(-(-side // self.extractor.strides[0]) for side in self.image_size)
        levels = {_SIDE**level: level for level in range(1, 5)}.get(grid[0])
        if levels is None or grid[0] != grid[1]:
            raise UserError(
                f"image_size {self.image_size}: {hp['layers'][0]} of {hp['backbone']} has {grid[0]} x {grid[1]} "
                f"places; UTRAD needs 4, 16 or 64 a side, for example image_size {16 * self.extractor.strides[0]}"
            )
        channels, width = sum(self.extractor.channels), hp["width"]
        shape = (width, hp["heads"], hp["hidden"], hp["dropout"])
        self.grid = grid[0]
        # a weight that is not trained, no statistic: a fit that starts from others' weights takes it over
        self.positions = nn.Parameter(torch.randn(grid[0] ** 2, width), requires_grad=False)
        self.project_in, self.project_out = nn.Linear(channels, width), nn.Linear(width, channels)
        self.levels = nn.ModuleList(_Level(*shape, hp["depth"]) for _ in range(levels))
        parts: list[nn.Module] = []
        for source, target in itertools.pairwise((width, *_DEVIATION)):
            parts += [nn.Conv2d(source, target, 1), nn.BatchNorm2d(target), nn.LeakyReLU(0.2)]
        self.deviation = nn.Sequential(*parts, nn.Conv2d(_DEVIATION[-1], 1, 1))

    def features(self, image: Tensor) -> Tensor:
        """All layers on the finest grid: float32 ``(B, N, C)``."""
        maps = [values.float() for values in self.extractor(image)]
        return torch.cat([F.interpolate(v, size=maps[0].shape[2:]) for v in maps], dim=1).flatten(2).mT

    def rebuild(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The features as the transformer gives them, and the error that it expects.

        Args:
            features: ``(B, N, C)``.

        Returns:
            ``(B, N, C)``, and ``(B, N)``.
        """
        tokens, side, shortcuts = self.project_in(features) + self.positions, self.grid, []
        levels = cast(list[_Level], list(self.levels))
        for level in levels:
            places, tokens = level.encode(_group(tokens, side))
            side //= _SIDE
            tokens = tokens.view(features.shape[0], side * side, -1)
            shortcuts.append(places)
        for level, places in zip(levels[::-1], shortcuts[::-1], strict=True):
            tokens = _ungroup(level.decode(tokens.flatten(0, 1).unsqueeze(1), places), side)
            side *= _SIDE
        on_grid = tokens.detach().mT.unflatten(2, (side, side))
        expected: Tensor = self.deviation(on_grid).flatten(1)
        return self.project_out(tokens), expected

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Squared error of the features, and of the expected length of their error."""
        features = self.features(_moved(batch["image"]))
        rebuilt, expected = self.rebuild(features)
        error = (rebuilt.float() - features).norm(dim=2).detach()
        reconstruction, deviation = F.mse_loss(rebuilt.float(), features), F.mse_loss(expected.float(), error)
        loss = reconstruction + deviation
        self.log_dict({"train/loss": loss, "train/reconstruction": reconstruction, "train/deviation": deviation})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(trained(self), lr=self.hparams["lr"], betas=(0.5, 0.999))

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Length of the error over the expected one, averaged over the groups of all levels; resized."""
        features = self.features(image)
        rebuilt, expected = self.rebuild(features)
        ratio = (rebuilt.float() - features).norm(dim=2) / expected.float().abs().clamp(min=_EPS)
        small_map = ratio.view(-1, 1, self.grid, self.grid)
        sides = [_SIDE**level for level in range(len(self.levels) + 1)]
        means = [F.interpolate(F.avg_pool2d(small_map, side), size=small_map.shape[2:]) for side in sides]
        averaged = torch.stack(means).mean(dim=0)
        return Prediction(None, F.interpolate(averaged, size=image.shape[2:], mode="bilinear"))


class _Level(nn.Module):
    """Encoder that gives each group of places a code, and decoder that makes places of a code and the short cut."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, depth: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(_Layer(width, heads, hidden, dropout, asks=False) for _ in range(depth))
        self.decoder = nn.ModuleList(_Layer(width, heads, hidden, dropout, asks=True) for _ in range(depth))
        self.shortcut = nn.Sequential(
            nn.Linear(width, _NARROW), nn.LayerNorm(_NARROW), nn.GELU(), nn.Linear(_NARROW, width), nn.LayerNorm(width)
        )
        self.queries = nn.Parameter(torch.randn(_SIDE**2, width))

    def encode(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Groups ``(G, 16, C)`` -> what the decoder gets of them, of the same shape, and their codes ``(G, C)``."""
        x = F.pad(places, (0, 0, 0, 1))  # and a token of zeros
        for layer in self.encoder:
            x = layer(x)
        return self.shortcut(x[:, :-1]), x[:, -1]

    def decode(self, code: Tensor, places: Tensor) -> Tensor:
        """Codes ``(G, 1, C)`` and short cuts ``(G, 16, C)`` -> ``(G, 16, C)``."""
        known = torch.cat([code, places], dim=1)
        x = self.queries.expand(places.shape[0], -1, -1)
        for layer in self.decoder:
            x = layer(x, known)
        return x


class _Layer(nn.Module):
    """Attention among the tokens, to others if it asks them, and two linear layers; norms behind each."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, *, asks: bool) -> None:
        super().__init__()
        self.attend, self.ask = Attend(width, heads, dropout), Attend(width, heads, dropout) if asks else None
        self.feed = FeedForward(width, hidden, dropout, nn.GELU())

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        x = self.attend(x, x)
        if self.ask is not None and known is not None:
            x = self.ask(x, known)
        found: Tensor = self.feed(x)
        return found


def _group(tokens: Tensor, side: int) -> Tensor:
    """Tokens of a square grid ``(B, side^2, C)``, row by row -> groups of 4 x 4 ``(B * (side / 4)^2, 16, C)``."""
    few, channels = side // _SIDE, tokens.shape[2]
    split = tokens.view(-1, few, _SIDE, few, _SIDE, channels).transpose(2, 3)
    return split.reshape(-1, _SIDE**2, channels)


def _ungroup(groups: Tensor, few: int) -> Tensor:
    """Inverse of :func:`_group` for ``few`` groups a side."""
    channels = groups.shape[2]
    split = groups.view(-1, few, few, _SIDE, _SIDE, channels).transpose(2, 3)
    return split.reshape(-1, (few * _SIDE) ** 2, channels)


def _moved(image: Tensor) -> Tensor:
    """Turn each image by up to 10 degrees and shift it by up to a tenth; zeros come in."""
    turn, down, across = 2 * torch.rand(3, len(image)) - 1
    angle = torch.deg2rad(_DEGREES * turn)
    theta = torch.stack(
        [angle.cos(), -angle.sin(), 2 * _SHIFT * across, angle.sin(), angle.cos(), 2 * _SHIFT * down], dim=1
    )
    grid = F.affine_grid(theta.view(-1, 2, 3).to(image.device), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)
