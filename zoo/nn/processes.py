"""Statistics that several processes collect, each from its own images, put together as if one had seen them all.

Alone, every function gives back what it is given. All processes must call them in the same order.
"""

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.data.distributed import DistributedSampler


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


def alike(module: nn.Module, statistics: Container[str]) -> None:
    """Give every process the first one's parameters and buffers, but for the statistics: their shares differ."""
    for name, values in (*module.named_parameters(), *module.named_buffers()):
        if name not in statistics:
            distributed.broadcast(values.data, 0)


def without_repeats(batch: dict[str, Any], loader: Any, batch_idx: int) -> dict[str, Any] | None:
    """The batch without the image that the sampler repeats to give every process as many; None if nothing is left.

    Args:
        batch: tensors and lists with an entry an image.
        loader: that it comes from.
        batch_idx: its number.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or batch_idx < len(loader) - 1:
        return batch
    last = (sampler.num_samples - 1) * sampler.num_replicas + sampler.rank
    if last < len(sampler.dataset):  # type: ignore[arg-type]  # Lightning's and ours have a length
        return batch
    shorter = {key: value[:-1] if isinstance(value, (Tensor, list)) else value for key, value in batch.items()}
    return shorter if len(shorter["image"]) else None


def differing(found: dict[str, Tensor]) -> str | None:
    """Name of a tensor whose values are not the same on all processes, to a millionth; None where there is none."""
    if process_count() == 1 or not found:
        return None
    sums = torch.tensor([values.numel() + float(values.double().abs().sum()) for values in found.values()])
    parts: list[Tensor | None] = [None] * process_count()
    distributed.all_gather_object(parts, sums)
    table = torch.stack([part for part in parts if part is not None])
    apart = (table - table[0]).abs().amax(0) > 1e-6 * table[0].abs()
    return next((name for name, flag in zip(found, apart, strict=True) if flag), None)
