"""The memory of a training step, measured with a few images before a fit starts, and the batch that fits."""

import contextlib
import copy
import logging
import random
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datamodules.base import AnomalyDataModule
from zoo.errors import UserError
from zoo.module import AnomalyModule

_COUNTS = (2, 4)  # images of the two steps that are measured
_VALUES = 2000  # that a step may keep for one of an image: U-Nets keep about 1,300; fewer are not worth measuring
_HALF, _LARGEST = 0.5, 256  # of ``auto``: share of the free memory, images
_SURE = 1.5  # times the free memory: the system ends such a fit; between 1 and this it is a warning


class Need(NamedTuple):
    """Memory of a training step in bytes.

    Attributes:
        fixed: weights, gradients, the optimiser's state.
        image: of each image of a batch.
    """

    fixed: float
    image: float

    def of(self, batch: int) -> float:
        """Bytes for a batch of so many images."""
        return self.fixed + self.image * batch

    def fits(self, free: float) -> int:
        """How many images fit into so many bytes."""
        return max(int((free - self.fixed) / self.image), 0)


def settle_batch(model: AnomalyModule, data: AnomalyDataModule, trainer: Trainer) -> int | None:
    """Choose ``batch_size: auto``, and refuse a batch that cannot fit before hours or the system do.

    Args:
        model: before its networks are built; not altered.
        data: gets the chosen size.
        trainer: of the fit; its accelerator and precision are used.

    Returns:
        int: the size that was chosen; None where the user's stays.

    Raises:
        UserError: far more memory than there is.
    """
    free = free_memory(trainer.strategy.root_device)
    if free is None or trainer.world_size > 1:
        if data.batch_auto:
            raise UserError("data.batch_size auto: not known for several processes or this accelerator; give a number")
        return None
    values = float(np.prod(data.image_shape)) * 4
    if not data.batch_auto and values * _VALUES * data.batch_size < free:
        return None
    need = measure(model, data, trainer)
    if data.batch_auto:
        most = min(need.fits(free * _HALF), _LARGEST, len(data.dataset("train")))
        if most < 1:
            raise UserError(_told("auto", need.of(1), free, 0))
        data.batch_size = 2 ** int(np.log2(most))
        print(f"batch size: {data.batch_size} (auto: about {_gb(need.of(data.batch_size))} of {_gb(free)} free)")
        return data.batch_size
    wanted, fitting = need.of(data.batch_size), need.fits(free * 0.8)
    if wanted > _SURE * free:
        raise UserError(_told(data.batch_size, wanted, free, fitting))
    if wanted > free:
        warnings.warn(_told(data.batch_size, wanted, free, fitting))
    return None


def _told(batch: int | str, wanted: float, free: float, fitting: int) -> str:
    ways = f"about {fitting} images fit: --data.batch_size {fitting}" if fitting else "not even one image fits"
    return (
        f"data.batch_size {batch}: a training step needs about {_gb(wanted)} of memory, {_gb(free)} are free; {ways}, "
        "or take smaller images: --data.image_size"
    )


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def measure(model: AnomalyModule, data: AnomalyDataModule, trainer: Trainer) -> Need:
    """Memory of a training step, from a step of a copy with two images and one with four.

    What an image adds is told by the forward passes, since a few images take less than the optimiser does; the backward
    pass adds about a fifth. What is fixed is the largest sum of the smaller step.
    """
    (most, forward), (_, larger) = (_peaks(model, data, trainer, count) for count in _COUNTS)
    image = max(1.2 * (larger - forward) / (_COUNTS[1] - _COUNTS[0]), 8 * float(np.prod(data.image_shape)))
    return Need(max(most - image * _COUNTS[0], 0.0), image)


def _peaks(model: AnomalyModule, data: AnomalyDataModule, trainer: Trainer, count: int) -> tuple[float, float]:
    """Bytes at the largest moment of a step, and what its forward pass adds."""
    images = copy.copy(data)
    images.batch_size, images.num_workers = count, 0
    method = copy.deepcopy(model)
    if "compile_network" in method.hparams:
        method.hparams["compile_network"] = False
    device = trainer.strategy.root_device
    live = _LiveOnGpu(device) if device.type == "cuda" else _Live()
    watch = _Forward(live)
    with _aside(), live:
        Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=trainer.precision,
            max_steps=1,
            max_epochs=1,
            limit_train_batches=1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[watch],
        ).fit(method, datamodule=images)
    return max(live.most, watch.most), watch.forward


class _Forward(Callback):
    """Notes what the forward passes of a step take.

    Attributes:
        forward: bytes beyond what lived before the step.
        most: the largest sum until the last backward pass began.
    """

    def __init__(self, live: "_Live | _LiveOnGpu") -> None:
        self.live = live
        self.forward = self.most = self._before = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A new step."""
        self.most = max(self.most, self.live.most)
        self._before = self.live.restart()
        self._backward = False

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """The forward pass is over."""
        self._backward = True
        self.forward = max(self.forward, self.live.most - self._before)

    def on_train_batch_end(self, *arguments: Any) -> None:
        """A step without gradients."""
        if not self._backward:
            self.forward = max(self.forward, self.live.most - self._before)


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make and that still live.

    Attributes:
        most: the largest sum so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                self._add(tensor.untyped_storage())
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, lambda _: self._drop(key)), size
        self._now += size
        self.most = max(self.most, self._now)

    def _drop(self, key: int) -> None:
        self._now -= self._known.pop(key)[1]

    def restart(self) -> float:
        """Forget the largest sum; returns the present one."""
        self.most = self._now
        return float(self._now)


class _LiveOnGpu(contextlib.AbstractContextManager[None]):
    """The same, told by the allocator of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._base = device, torch.cuda.memory_allocated(device)

    def __exit__(self, *error: object) -> None:
        """Nothing to do."""

    @property
    def most(self) -> float:
        """The largest number of bytes so far."""
        return float(torch.cuda.max_memory_allocated(self.device) - self._base)

    def restart(self) -> float:
        """Forget it; returns the present one."""
        torch.cuda.reset_peak_memory_stats(self.device)
        return float(torch.cuda.memory_allocated(self.device) - self._base)


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Leave random states and the reader's eyes alone."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - other libraries' global one
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def free_memory(device: torch.device) -> float | None:
    """Bytes that a process may still take on a device; None where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    with_limit = [_limit(Path("/sys/fs/cgroup"), "memory.max", "memory.current")]
    with_limit += [_limit(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")]
    return min([free, *(one for one in with_limit if one is not None)])


def _limit(place: Path, limit: str, used: str) -> float | None:
    """Of a container, what its limit leaves."""
    try:
        return float((place / limit).read_text()) - float((place / used).read_text())
    except (OSError, ValueError):  # none, or the word "max"
        return None
