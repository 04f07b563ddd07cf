"""Exact pixel metrics of a set that comes in batches, in bounded memory, on one process or many."""

import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from zoo.metrics.counting import Array
from zoo.metrics.functional import PixelSummary, evaluate_parts, region_sizes
from zoo.metrics.ranking import ALONE, Evaluated, Processes, divide, refuse_infinite


class ExactPixelMetrics(Metric):
    """AUROC, AP, AUPRO, Dice and IoU over all pixels, equal to those of all maps at once.

    Kept are the scores alone: 4 bytes for a healthy pixel, 8 for an anomalous one. Healthy ones beyond ``memory`` lie
    in temporary files that vanish with the metric or its process. The state is on the CPU.

    Over processes only the anomalous pixels are gathered; each process counts its own healthy ones below them, and the
    counts are summed. All processes must call ``compute``. A sampler that repeats images to even out processes makes
    them count twice: the caller has to leave them out.

    Args:
        fpr: false-positive rate of ``dice_at_fpr`` and ``iou_at_fpr``.
        fpr_limit: of the per-region overlap.
        memory: bytes of healthy pixels in memory.
        folder: of the temporary files; the system's if None.
    """

    full_state_update = True
    hits: list[Tensor]
    sizes: list[Tensor]
    recent: list[Tensor]
    parts: list[Tensor]
    regions: Tensor

    def __init__(
        self, fpr: float = 0.05, fpr_limit: float = 0.3, memory: int = 1 << 30, folder: str | None = None
    ) -> None:
        super().__init__(sync_on_compute=False)  # compute talks to the other processes itself
        self.fpr, self.fpr_limit, self.memory, self.folder = fpr, fpr_limit, memory, folder
        for name in ("hits", "sizes", "recent", "parts"):
            self.add_state(name, [], dist_reduce_fx=None)
        self.add_state("regions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _apply(self, fn: Any, exclude_state: Any = ()) -> "ExactPixelMetrics":
        return self  # the state stays where it is

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """:meth:`update`; there is no value of a single batch, which would copy the state."""
        self.update(*args, **kwargs)

    def update(self, maps: Tensor, masks: Tensor, foreground: Tensor | None = None) -> None:
        """Add images.

        Args:
            maps: ``(B, *S)`` or ``(B, 1, *S)``, finite; converted to float32.
            masks: same shape, bool; regions are the fully connected components within each image.
            foreground: same shape, bool; pixels outside are ignored.

        Raises:
            ValueError: scores that are not finite, with their number.
        """
        scores, truth = maps.detach().float().cpu().numpy(), masks.detach().bool().cpu().numpy()
        inside = None if foreground is None else foreground.detach().bool().cpu().numpy()
        hits, negatives = divide(scores.ravel(), truth.ravel(), None if inside is None else inside.ravel())
        refuse_infinite(hits, negatives)
        sizes, regions = region_sizes(truth if inside is None else truth & inside)
        self.regions += regions
        for state, array in ((self.hits, hits), (self.sizes, sizes), (self.recent, negatives)):
            state.append(torch.from_numpy(array))
        if _bytes(self.recent) >= self.memory // 4:  # a quarter here, one to join it, one or two joined
            self._join_recent()

    def _join_recent(self) -> None:
        if not self.recent:
            return
        part = torch.cat(self.recent).numpy()
        self.recent.clear()
        kept = [one for one in self.parts if not isinstance(one, _Filed)]
        if _bytes(kept) + part.nbytes > self.memory // 2:
            self.parts.append(_filed(part, self.folder))
        else:
            self.parts.append(torch.from_numpy(part))

    def negatives(self) -> list[Tensor]:
        """The scores of the healthy pixels, in any order."""
        return [*self.parts, *self.recent]

    def compute(self) -> PixelSummary:
        """Over all images of all processes; nan where a class is missing."""
        found = self.evaluate()
        return PixelSummary(found.binary, found.aupro)

    def evaluate(self) -> Evaluated:
        """What all pixel metrics are computed from, over all images of all processes."""
        self._join_recent()
        hits, sizes = _joined(self.hits, torch.float32), _joined(self.sizes, torch.int32)
        regions, processes = int(self.regions), ALONE
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            processes = all_processes()
            gathered: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(gathered, (hits, sizes, regions))
            hits, sizes = (np.concatenate([one[k] for one in gathered]) for k in range(2))
            regions = sum(one[2] for one in gathered)
        parts = [part.numpy() for part in self.parts]
        return evaluate_parts(hits, sizes, regions, parts, self.fpr, self.fpr_limit, processes)


class _Filed(Tensor):
    """Scores that lie in a file."""


def _filed(part: Array, folder: str | None) -> Tensor:
    with tempfile.TemporaryFile(dir=folder) as file:  # its name is gone at once, its content with the mapping
        mapped = np.memmap(file, part.dtype, "w+", shape=part.shape)
        mapped[:] = part
        mapped.flush()
    return torch.from_numpy(mapped).as_subclass(_Filed)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def _joined(tensors: list[Tensor], dtype: torch.dtype) -> Array:
    joined: Array = torch.cat([torch.zeros(0, dtype=dtype), *tensors]).numpy()
    return joined


def all_processes() -> Processes:
    """Sums and minima over the processes of ``torch.distributed``."""
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"

    def total(values: Array) -> Array:
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(device)
        distributed.all_reduce(tensor)
        summed: Array = tensor.cpu().numpy()
        return summed

    def lowest(value: float) -> float:
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(tensor, distributed.ReduceOp.MIN)
        return float(tensor)

    return Processes(total, lowest)
