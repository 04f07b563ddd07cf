"""Vision-transformer parts of masked autoencoders: patches, positions, random masking and the pre-norm block.

Dosovitskiy et al. 2021 (ViT) and He et al. 2022 (MAE); parameter names follow MAE's checkpoints. Attention may carry
learnt memory slots (Tian et al. 2023, eq. 1).
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Masking(NamedTuple):
    """Which patches the encoder sees.

    Attributes:
        keep: int64 ``(B, K)``, kept patches in the (shuffled) order in which the encoder sees them.
        restore: int64 ``(B, N)``, position of every patch in the shuffled order.
        mask: bool ``(B, N)``, True where the patch is removed.
    """

    keep: Tensor
    restore: Tensor
    mask: Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut ``(B, C, H, W)`` into ``(B, N, patch * patch * C)``: patches row by row, pixels row, column, channel."""
    b, c, h, w = images.shape
    tokens = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return tokens.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Inverse of :func:`patchify`: ``(B, N, patch * patch * C)`` to ``(B, C, H, W)`` for a ``(rows, columns)`` grid."""
    rows, columns = grid
    images = tokens.reshape(tokens.shape[0], rows, columns, patch, patch, -1)
    return images.permute(0, 5, 1, 3, 2, 4).reshape(tokens.shape[0], -1, rows * patch, columns * patch)


def sincos_positions(width: int, grid: tuple[int, int], cls_token: bool = True) -> Tensor:
    """Fixed sine-cosine positions of MAE: first half of the channels encodes the column, second half the row.

    Args:
        width: channels, divisible by 4.
        grid: patches as (rows, columns).
        cls_token: put a row of zeros first.

    Returns:
        float32 ``(N (+ 1), width)``, computed in float64.

    Raises:
        ValueError: width not divisible by 4.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, found {width}")
    rows, columns = np.meshgrid(np.arange(grid[0], dtype=np.float64), np.arange(grid[1]), indexing="ij")
    frequency = 10000.0 ** -(np.arange(width // 4, dtype=np.float64) / (width / 4))
    angles = [np.outer(axis.ravel(), frequency) for axis in (columns, rows)]
    table = np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
    if cls_token:
        table = np.concatenate([np.zeros((1, width)), table])
    return torch.from_numpy(table).float()


def random_masking(noise: Tensor, ratio: float) -> Masking:
    """Keep the ``int(N * (1 - ratio))`` patches of smallest noise.

    Args:
        noise: ``(B, N)``, from the caller's generator.
        ratio: share of removed patches, in [0, 1).
    """
    kept = int(noise.shape[1] * (1 - ratio))
    exporting = torch.compiler.is_exporting()  # ONNX has no stable sort
    shuffle = noise.argsort(dim=1) if exporting else noise.argsort(dim=1, stable=True)
    restore = shuffle.argsort(dim=1)
    return Masking(shuffle[:, :kept], restore, restore >= kept)


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens ``(B, N, C)`` at ``index`` ``(B, K)``: ``(B, K, C)``."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(B, N, C)`` to ``(B, heads, N, C / heads)``."""
    split: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split


class Attention(nn.Module):
    """Multi-head self-attention, optionally with learnt memory rows appended to the projected keys and values.

    Args:
        width: channels C.
        heads: number of heads.
        num_memory: memory slots m; every head owns its own m rows. They never query, have no position and bypass the
            projections. Keys are drawn from N(0, 1/d) with d = C / heads, values from N(0, 1/m) (variances): the
            effective scale of the Meshed-Memory transformer without its run-time factors.
    """

    def __init__(self, width: int, heads: int, num_memory: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.memory_key: nn.Parameter | None = None
        self.memory_value: nn.Parameter | None = None
        if num_memory:
            self.memory_key = nn.Parameter(torch.randn(1, num_memory, width) * (width // heads) ** -0.5)
            self.memory_value = nn.Parameter(torch.randn(1, num_memory, width) * num_memory**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.memory_key is not None and self.memory_value is not None:
            k = torch.cat([k, self.memory_key.to(k.dtype).expand(k.shape[0], -1, -1)], dim=1)
            v = torch.cat([v, self.memory_value.to(v.dtype).expand(v.shape[0], -1, -1)], dim=1)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return mixed


class MLP(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., C)``."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: ``x += attention(norm(x)); x += mlp(norm(x))``.

    Args:
        width: channels.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over ``width``.
        num_memory: memory slots of the attention.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, num_memory: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, num_memory)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbedding(nn.Module):
    """Linear map of every patch, stored as the convolution ``proj`` of MAE's checkpoints."""

    def __init__(self, in_channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, N, width)``."""
        tokens: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return tokens


def init_transformer(module: nn.Module) -> None:
    """MAE's initialisation: Xavier-uniform matrices (the patch embedding as a matrix), zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.view(len(part.weight), -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
