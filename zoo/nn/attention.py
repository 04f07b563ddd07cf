"""Attention between two sets of tokens and learned positions on a grid, for methods that rebuild feature tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.vit import split_heads


class CrossAttention(nn.Module):
    """Multi-head attention of queries to keys and values that may differ, as in Vaswani et al. 2017.

    Args:
        width: channels of all tokens.
        heads: number of heads, a divisor of ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` twice -> ``(B, N, C)``; ``allowed`` bool ``(N, M)``: who sees whom."""
        parts = (self.query(query), self.key(key), self.value(value))
        q, k, v = (split_heads(part, self.heads) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        found: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return found


class Attend(nn.Module):
    """Attention with residual and the norm behind it; positions go to queries and keys alone.

    Args:
        width: channels of all tokens.
        heads: number of heads.
        dropout: probability, on what is added.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.dropout, self.norm = CrossAttention(width, heads), nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(
        self, x: Tensor, source: Tensor, positions: Tensor | None = None, allowed: Tensor | None = None
    ) -> Tensor:
        """``(B, N, C)`` and ``(B, M, C)`` -> ``(B, N, C)``; positions ``(N, C)`` where both have the same places."""
        query, key = (x, source) if positions is None else (x + positions, source + positions)
        found: Tensor = self.norm(x + self.dropout(self.attention(query, key, source, allowed)))
        return found


class FeedForward(nn.Module):
    """Two linear layers with residual and the norm behind it.

    Args:
        width: channels.
        hidden: between the layers.
        dropout: probability, behind each.
        activation: between them; by default a ReLU.
    """

    def __init__(self, width: int, hidden: int, dropout: float, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU() if activation is None else activation,
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., C)``."""
        found: Tensor = self.norm(x + self.layers(x))
        return found


class GridPositions(nn.Module):
    """Learned codes of rows and columns, half of the channels each, uniform in [0, 1) at first (DETR's).

    Args:
        grid: (rows, columns).
        width: channels, even.
    """

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(grid[0], width // 2))
        self.columns = nn.Parameter(torch.rand(grid[1], width // 2))

    def forward(self) -> Tensor:
        """``(rows * columns, width)``: first the column's code, then the row's."""
        rows, columns = len(self.rows), len(self.columns)
        across, down = self.columns.expand(rows, -1, -1), self.rows[:, None].expand(-1, columns, -1)
        return torch.cat([across, down], dim=2).flatten(0, 1)


def neighbourhood(grid: tuple[int, int], side: int) -> Tensor:
    """Which places of a grid lie in each other's square neighbourhood.

    Args:
        grid: (rows, columns).
        side: of the square around a place, odd, in places.

    Returns:
        bool ``(N, N)`` for ``N = rows * columns``, True on the diagonal and within ``side // 2`` rows and columns.
    """
    rows, columns = (torch.arange(length) for length in grid)
    place = torch.cartesian_prod(rows, columns)
    distance = (place[:, None] - place[None]).abs().amax(dim=2)
    return distance <= side // 2
