"""UniAD: a transformer that rebuilds a frozen backbone's features without seeing a place or its neighbours.

You et al. 2022, "A unified model for multi-class anomaly detection" (arXiv 2206.03687): one model for several kinds of
images; a mixed folder is such a set.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.module import Batch, Prediction
from zoo.nn.attention import Attend, FeedForward, GridPositions, neighbourhood
from zoo.nn.features import FeatureExtractor
from zoo.nn.schedules import drops, trained
from zoo.pretrained._frozen import FrozenFeatures


class UniAD(FrozenFeatures):
    """Unified reconstruction of features with neighbour-masked attention and layer-wise queries (UniAD).

    1 or 3 channels. The learned queries and positions tie a model to its image size.

    Args:
        layers: layers of the backbone; all are resized to the grid of the last one.
        width: channels of the transformer.
        depth: layers of its encoder, and as many of its decoder.
        heads: attention heads.
        hidden: width of the feed-forward layers.
        dropout: probability, in training.
        hidden_places: side in places of the square around a place that it does not see; odd.
        jitter: scale of the noise on the features in training, over each place's length divided by the channels.
        lr: learning rate of AdamW, a tenth of it in the last fifth of the training.
        weight_decay: of AdamW.
        clip: largest norm of the gradient, unless the trainer has a limit of its own.
        **frozen: arguments of :class:`~zoo.pretrained._frozen.FrozenFeatures`; the last layer's grid must be
            larger than the neighbourhood.
    """

    reference = {
        "title": "A Unified Model for Multi-class Anomaly Detection",
        "venue": "NeurIPS",
        "year": 2022,
        "url": "https://arxiv.org/abs/2206.03687",
    }
    tiny = {
        "image_size": 32,
        "backbone": "resnet18",
        "layers": ("layer1", "layer2"),
        "weights": "random",
        "width": 16,
        "depth": 2,
        "heads": 2,
        "hidden": 32,
        "hidden_places": 3,
    }
    small = {
        "backbone": "tf_efficientnet_lite0",
        "layers": ("blocks.0", "blocks.1", "blocks.2"),
        "width": 64,
        "hidden": 256,
        "hidden_places": 5,
        "lr": 1e-3,
    }

    extractor: FeatureExtractor
    seen: Tensor

    def __init__(
        self,
        *,
        backbone: str = "efficientnet_b4",
        layers: tuple[str, ...] = ("blocks.0", "blocks.1", "blocks.2", "blocks.4"),
        width: int = 256,
        depth: int = 4,
        heads: int = 8,
        hidden: int = 1024,
        dropout: float = 0.1,
        hidden_places: int = 7,
        jitter: float = 20.0,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        clip: float = 0.1,
        **frozen: Any,
    ) -> None:
        super().__init__(backbone=backbone, **frozen)

    def build(self) -> None:
        """Create the extractor and the transformer.

        Raises:
            UserError: a grid that the neighbourhood covers, or a neighbourhood without a middle.
        """
        hp = self.hparams
        self.extractor = self.frozen(*hp["layers"])
        rows, columns = (-(-side // self.extractor.strides[-1]) for side in self.image_size)
        self.grid, side = (rows, columns), hp["hidden_places"]
        if side % 2 != 1 or max(self.grid) <= side:
            raise UserError(
                f"hidden_places is {side} and the features have {rows} x {columns} places: an odd number below "
                f"{max(self.grid)} is needed, or a larger image_size, or a layer before {hp['layers'][-1]}"
            )
        self.register_buffer("seen", ~neighbourhood(self.grid, side), persistent=False)
        channels, width = sum(self.extractor.channels), hp["width"]
        shape = (width, hp["heads"], hp["hidden"], hp["dropout"])
        self.project_in, self.project_out = nn.Linear(channels, width), nn.Linear(width, channels)
        self.positions = GridPositions(self.grid, width)
        self.encoder = nn.ModuleList(_EncoderLayer(*shape) for _ in range(hp["depth"]))
        self.decoder = nn.ModuleList(_DecoderLayer(rows * columns, *shape) for _ in range(hp["depth"]))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and not name.startswith(("extractor.", "positions.")):
                nn.init.xavier_uniform_(parameter)

    def features(self, image: Tensor) -> Tensor:
        """All layers on one grid: float32 tokens ``(B, N, C)``."""
        maps = self.extractor(image)
        resized = [F.interpolate(v.float(), size=self.grid, mode="bilinear", align_corners=True) for v in maps]
        return torch.cat(resized, dim=1).flatten(2).mT

    def rebuild(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, N, C)`` as the transformer rebuilds them from other places."""
        memory, positions = self.project_in(tokens), self.positions()
        for layer in self.encoder:
            memory = layer(memory, positions, self.seen)
        found = memory
        for layer in self.decoder:
            found = layer(found, memory, positions, self.seen)
        rebuilt: Tensor = self.project_out(self.norm(found))
        return rebuilt

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of the features rebuilt from jittered ones."""
        tokens = self.features(batch["image"])
        scale = self.hparams["jitter"] * tokens.norm(dim=2, keepdim=True) / tokens.shape[2]
        loss = F.mse_loss(self.rebuild(tokens + torch.randn_like(tokens) * scale).float(), tokens)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW, a tenth of the rate in the last fifth (800 of 1,000 epochs in the paper)."""
        hp = self.hparams
        optimizer = torch.optim.AdamW(trained(self), lr=hp["lr"], weight_decay=hp["weight_decay"])
        return drops(optimizer, self.optimise_batches, (0.8,), 0.1)

    def detect(self, image: Tensor, foreground: Tensor) -> Prediction:
        """Length of the features' error, resized; the score is its largest mean over a square of a place's size."""
        tokens = self.features(image)
        error = (self.rebuild(tokens).float() - tokens).norm(dim=2).unflatten(1, self.grid).unsqueeze(1)
        anomaly_map = F.interpolate(error, size=image.shape[2:], mode="bilinear", align_corners=True)
        score = F.avg_pool2d(anomaly_map, self.extractor.strides[-1], stride=1).flatten(1).amax(dim=1)
        return Prediction(score, anomaly_map)


class _EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attend, self.feed = Attend(width, heads, dropout), FeedForward(width, hidden, dropout)

    def forward(self, x: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
        found: Tensor = self.feed(self.attend(x, x, positions, seen))
        return found


class _DecoderLayer(nn.Module):
    """Learned queries look at the encoder's output, then at what the layer before found."""

    def __init__(self, places: int, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(places, width))
        self.ask, self.follow = Attend(width, heads, dropout), Attend(width, heads, dropout)
        self.feed = FeedForward(width, hidden, dropout)

    def forward(self, before: Tensor, memory: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
        queries = self.queries.expand(memory.shape[0], -1, -1)
        asked = self.ask(queries, memory, positions, seen)
        found: Tensor = self.feed(self.follow(asked, before, positions, seen))
        return found
