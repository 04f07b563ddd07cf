"""Exact nearest neighbours by blocked products or faiss, and the greedy coreset."""

from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import UserError

Search = Literal["blocked", "faiss"]
_CELLS_AT_ONCE = 2**24  # entries of a block of the distance table: 64 MiB


def nearest_neighbours(queries: Tensor, bank: Tensor, k: int = 1, search: Search = "blocked") -> tuple[Tensor, Tensor]:
    """The ``k`` nearest rows of ``bank`` to each query, exact and with bounded memory.

    Args:
        queries: float ``(N, d)``.
        bank: float ``(M, d)``.
        k: neighbours, at most ``M`` are returned.
        search: ``blocked`` products, or ``faiss``, whose exhaustive index on the CPU is made anew from the bank (a
            hundredth of the time of a search). Exported graphs always hold the products.

    Returns:
        Euclidean distances ``(N, k)``, nearest first and computed from differences, and indices int64 ``(N, k)``.

    Raises:
        UserError: faiss is asked for and not installed.
    """
    k = min(k, len(bank))
    index = None
    if search == "faiss" and not torch.compiler.is_exporting():
        index = require_faiss().IndexFlatL2(bank.shape[1])
        index.add(bank.float().cpu().numpy())
    squares = bank.square().sum(dim=1)
    distances, indices = [], []
    with torch.autocast(queries.device.type, enabled=False):
        at_once = max(1, _CELLS_AT_ONCE // len(bank))
        # the number of blocks would fix the batch of an exported graph
        for block in (queries,) if torch.compiler.is_exporting() else queries.split(at_once):
            if index is None:
                order = torch.addmm(squares, block, bank.T, alpha=-2).topk(k, dim=1, largest=False).indices
            else:
                order = torch.from_numpy(index.search(block.detach().float().cpu().numpy(), k)[1]).to(bank.device)
            exact = torch.stack([(block - bank[column]).norm(dim=1) for column in order.T], dim=1)
            exact, rank = exact.sort(dim=1)
            distances.append(exact)
            indices.append(order.gather(1, rank))
    return torch.cat(distances), torch.cat(indices)


def require_faiss() -> Any:
    """The module faiss.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError("search=faiss needs faiss: pip install faiss-cpu, or set search=blocked") from error
    return faiss


def greedy_coreset(features: Tensor, count: int, block: int = 4096) -> Tensor:
    """Greedy k-centre selection: starting with row 0, always the row farthest from all picked before.

    Distances to the picked rows only fall, so the ``block`` farthest rows hold the next picks as long as one of them is
    farther than every row outside; only then are the new centres applied to all rows, in one product. Beside a copy of
    the features the memory is bounded.

    Args:
        features: float ``(N, d)``.
        count: rows to pick, at most ``N``.
        block: rows looked at between two passes over all.

    Returns:
        int64 ``(count,)``, in the order of picking.
    """
    features = features - features.mean(dim=0)  # smaller squares, so that near ties fall as the exact distances tell
    squares = features.square().sum(dim=1)
    nearest = torch.full_like(squares, torch.inf)
    new, picks = [0], [0]
    count = min(count, len(features))
    while len(picks) < count:
        _approach(nearest, features, squares, torch.tensor(new, device=features.device))
        new = [int(nearest.argmax())]
        top = nearest.topk(min(block + 1, len(nearest)))
        outside = float(top.values[-1]) if len(top.values) > block else -torch.inf
        pool = top.indices[:block].sort().values
        rows, row_squares, distance = features[pool], squares[pool], nearest[pool]
        while len(picks) + len(new) < count:
            centre = new[-1]
            to_centre = torch.addmv(row_squares + squares[centre], rows, features[centre], alpha=-2)
            distance = torch.minimum(distance, to_centre.clamp_(min=0))
            distance = distance.masked_fill(pool == centre, -1.0)
            best = int(distance.argmax())
            if float(distance[best]) <= outside:
                break
            new.append(int(pool[best]))
        picks += new
    return torch.tensor(picks, device=features.device)


def _approach(nearest: Tensor, features: Tensor, squares: Tensor, centres: Tensor) -> None:
    """Lower ``nearest`` to the squared distances to new centres; picked rows get -1."""
    picked = features[centres]
    rows = max(1, _CELLS_AT_ONCE // len(centres))
    for low in range(0, len(features), rows):
        part = slice(low, low + rows)
        lowest = torch.addmm(squares[centres], features[part], picked.T, alpha=-2).amin(dim=1)
        torch.minimum(nearest[part], (lowest + squares[part]).clamp_(min=0), out=nearest[part])
    nearest[centres] = -1.0
