"""Dinomaly: a noisy bottleneck and a decoder with linear attention rebuild a frozen transformer's tokens, loosely.

Guo et al. 2025, "Dinomaly: the less is more philosophy in multi-class unsupervised anomaly detection" (arXiv
2405.14325).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.module import Batch
from zoo.nn.losses import gate_gradient, global_cosine
from zoo.nn.vit import MLP, split_heads
from zoo.pretrained._tokens import TokenReconstruction
from zoo.scoring.residual import cosine_map

_EASY, _EASY_STEPS = 0.9, 1000  # share of places that count little, reached after so many steps
_LITTLE = 0.1
_EPS = 1e-8


class Dinomaly(TokenReconstruction):
    """Loose reconstruction of tokens (Dinomaly).

    1 or 3 channels. Features are rebuilt in two groups of layers, not layer by layer; places that are rebuilt well
    already send a tenth of their gradient. The paper's figures need DINOv2's weights.

    Args:
        dropout: in the bottleneck and on what enters it (0.4 for sets of much variety).
        **parent: arguments of :class:`~zoo.pretrained._tokens.TokenReconstruction`.
    """

    reference = {
        "title": "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection",
        "venue": "CVPR",
        "year": 2025,
        "url": "https://arxiv.org/abs/2405.14325",
    }
    tiny = {
        "image_size": 64,
        "backbone": "test_vit",
        "layers": ("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
        "weights": "random",
    }
    prefix = True

    def __init__(self, *, dropout: float = 0.2, **parent: Any) -> None:
        super().__init__(**parent)

    def build(self) -> None:
        """Create extractor, bottleneck and decoder."""
        super().build()
        width, dropout = self.width, self.hparams["dropout"]
        self.bottleneck = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.decoder = nn.ModuleList(_Block(width, self.heads) for _ in self.extractor.layers)
        self.initialise(self.bottleneck, self.decoder)

    def decode(self, mean: Tensor) -> list[Tensor]:
        """See :meth:`~zoo.pretrained._tokens.TokenReconstruction.decode`."""
        x, found = self.bottleneck(mean), []
        for block in self.decoder:
            x = block(x)
            found.append(x)
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean over the groups of 1 - cosine of whole maps, with a weak gradient where places are easy."""
        share = _EASY * min(self.global_step / _EASY_STEPS, 1.0)
        losses = []
        for target, rebuilt in self.pairs(batch["image"]):
            distance = cosine_map(target, rebuilt.detach())
            hard = max(1, int(distance.numel() * (1 - share)))
            least = distance.flatten().topk(hard).values[-1]
            gate_gradient(rebuilt, torch.where(distance < least, _LITTLE, 1.0))
            losses.append(global_cosine(target, rebuilt))
        loss = torch.stack(losses).mean()
        self.log("train/loss", loss)
        return loss


class LinearAttention(nn.Module):
    """Multi-head attention with the kernel ELU + 1 in place of a softmax (Katharopoulos et al. 2020), not scaled.

    Args:
        width: channels.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = F.elu(q.float()) + 1, F.elu(k.float()) + 1, v.float()
            mixed = q @ (k.mT @ v) / (q * k.sum(dim=2, keepdim=True)).sum(dim=3, keepdim=True)
        found: Tensor = self.proj(mixed.transpose(1, 2).flatten(2).to(x.dtype))
        return found


class _Block(nn.Module):
    """Pre-norm transformer block with linear attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attn, self.mlp = LinearAttention(width, heads), MLP(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        found: Tensor = x + self.mlp(self.norm2(x))
        return found
