"""INP-Former: a decoder that sees a frozen transformer's tokens only through few prototypes of the same image.

Luo et al. 2025, "Exploring intrinsic normal prototypes within a single image for universal anomaly detection" (arXiv
2503.02424).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import Batch
from zoo.nn.attention import CrossAttention
from zoo.nn.losses import gate_gradient, global_cosine
from zoo.nn.vit import MLP, split_heads
from zoo.pretrained._tokens import TokenReconstruction
from zoo.scoring.residual import cosine_map

_COHERENCE = 0.2
_EPS = 1e-8


class INPFormer(TokenReconstruction):
    """Reconstruction of tokens from intrinsic normal prototypes (INP-Former).

    1 or 3 channels. The paper's figures need DINOv2's weights.

    Args:
        prototypes: learned queries, each of which becomes a prototype of the image.
        power: of a place's distance over the mean one, which its gradient is multiplied by.
        lr: learning rate of StableAdamW.
        final_lr: at the end of the training.
        **parent: arguments of :class:`~zoo.pretrained._tokens.TokenReconstruction`.
    """

    reference = {
        "title": "Exploring Intrinsic Normal Prototypes within a Single Image for Universal Anomaly Detection",
        "venue": "CVPR",
        "year": 2025,
        "url": "https://arxiv.org/abs/2503.02424",
    }
    tiny = {
        "image_size": 64,
        "backbone": "test_vit",
        "layers": ("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
        "weights": "random",
        "prototypes": 3,
    }

    def __init__(
        self, *, prototypes: int = 6, power: float = 3.0, lr: float = 1e-3, final_lr: float = 1e-4, **parent: Any
    ) -> None:
        super().__init__(lr=lr, final_lr=final_lr, **parent)

    def build(self) -> None:
        """Create extractor, prototype extractor, bottleneck and decoder."""
        super().build()
        width = self.width
        self.queries = nn.Parameter(torch.randn(self.hparams["prototypes"], width))
        self.gather = _Gather(width, self.heads)
        self.bottleneck = MLP(width, 4 * width)
        self.decoder = nn.ModuleList(_Block(width, self.heads) for _ in self.extractor.layers)
        self.initialise(self.gather, self.bottleneck, self.decoder)

    def prototypes(self, mean: Tensor) -> Tensor:
        """Prototypes ``(B, M, K)`` of the tokens ``(B, N, K)``."""
        found: Tensor = self.gather(self.queries.expand(mean.shape[0], -1, -1), mean)
        return found

    def decode(self, mean: Tensor) -> list[Tensor]:
        """See :meth:`~zoo.pretrained._tokens.TokenReconstruction.decode`."""
        prototypes = self.prototypes(mean)
        if self.training:
            self._coherence = (1 - _cosines(mean, prototypes)).amin(dim=2).mean()
        x, found = self.bottleneck(mean), []
        for block in self.decoder:
            x = block(x, prototypes)
            found.append(x)
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """1 - cosine of whole maps, places weighted by their distance, plus how far tokens lie from the prototypes."""
        losses = []
        for target, rebuilt in self.pairs(batch["image"]):
            distance = cosine_map(target, rebuilt.detach())
            gate_gradient(rebuilt, (distance / distance.mean().clamp(min=_EPS)) ** self.hparams["power"])
            losses.append(global_cosine(target, rebuilt))
        loss = torch.stack(losses).mean() + _COHERENCE * self._coherence
        self.log_dict({"train/loss": loss, "train/coherence": self._coherence})
        return loss


def _cosines(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """``(B, N, K)`` and ``(B, M, K)`` -> ``(B, N, M)``."""
    return F.normalize(tokens.float(), dim=2) @ F.normalize(prototypes.float(), dim=2).mT


class _Gather(nn.Module):
    """Pre-norm cross-attention: prototypes ask, tokens answer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attn, self.mlp = CrossAttention(width, heads), MLP(width, 4 * width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        known = self.norm1(tokens)
        x = queries + self.attn(self.norm1(queries), known, known)
        found: Tensor = x + self.mlp(self.norm2(x))
        return found


class PrototypeAttention(nn.Module):
    """Attention to prototypes by the positive part of scaled cosines, without a softmax.

    Args:
        width: channels.
        heads: number of heads, each with a learned scale.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor, prototypes: Tensor) -> Tensor:
        """``(B, N, C)`` and ``(B, M, C)`` -> ``(B, N, C)``."""
        given = (self.query(x), self.key(prototypes), self.value(prototypes))
        q, k, v = (split_heads(part, self.heads) for part in given)
        weights = F.relu(F.normalize(q, dim=3) @ F.normalize(k, dim=3).mT * self.scale)
        found: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return found


class _Block(nn.Module):
    """No residual around the attention: whatever passes, passes through the prototypes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attn, self.mlp = PrototypeAttention(width, heads), MLP(width, 4 * width)

    def forward(self, x: Tensor, prototypes: Tensor) -> Tensor:
        x = self.attn(self.norm1(x), self.norm1(prototypes))
        found: Tensor = x + self.mlp(self.norm2(x))
        return found
