"""Statistics that several processes collect, each from its own images, put together as if one had seen them all.

Alone, every function gives back what it is given. All processes must call them in the same order.
"""

import torch
from torch import Tensor, distributed


def process_count() -> int:
    """Processes that collect together; 1 alone."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """Sum over the processes; the same on each, a new tensor."""
    if process_count() == 1:
        return values
    summed = values.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(summed)
    return summed


def gathered(rows: Tensor, together: int = 1) -> Tensor:
    """The rows of all processes in the order in which one alone would have met them.

    Images are dealt out to the processes in turn (:class:`datamodules.loading.EpochOrder`), and so they are taken back.

    Args:
        rows: ``(n * together, ...)``; ``n`` may differ between processes.
        together: rows of one image.
    """
    count = process_count()
    if count == 1:
        return rows
    lengths = torch.zeros(count, dtype=torch.int64, device=rows.device)
    lengths[distributed.get_rank()] = len(rows) // together
    distributed.all_reduce(lengths)
    padded = rows.new_zeros(int(lengths.max()) * together, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(count)]
    distributed.all_gather(parts, padded)
    taken = torch.stack([part.unflatten(0, (-1, together)) for part in parts], dim=1)  # (n, processes, together, ...)
    real = torch.arange(len(taken), device=rows.device)[:, None] < lengths
    return taken[real].flatten(0, 1)


def merged_moments(count: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Joint number and mean, and by how far this process's own mean lies from it (Chan et al. 1983).

    The joint sum of squared deviations is the total of each process's own plus ``count * offset ** 2``.

    Args:
        count: images of this process, int64 ``()``.
        mean: over them, any shape.
    """
    if process_count() == 1:
        return count, mean, torch.zeros_like(mean)
    everything = total(count)
    joint = (total(mean.double() * count) / everything).to(mean.dtype)
    return everything, joint, mean - joint
