"""The stateful exact metrics: equal to the functions on the whole set, from memory, from files, over processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing

from zoo.metrics import counting
from zoo.metrics.exact import ExactPixelMetrics
from zoo.metrics.functional import PixelSummary, pixel_summary


@pytest.fixture(autouse=True, params=["sorted", "counted"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of :mod:`zoo.metrics.counting`, whatever is faster here."""
    if request.param == "counted":
        monkeypatch.setattr(counting, "_SMALL", 0)
        monkeypatch.setattr(counting, "sorts_fast", lambda: False)


def images(kind: str, count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    masks = np.zeros((count, 1, 24, 20), bool)
    for number in range(0, count, 2):
        top, left = rng.integers(0, 14, 2)
        masks[number, 0, top : top + 7, left : left + 4] = True
        masks[number, 0, 23, 19] = True
    maps = rng.standard_normal(masks.shape) + masks
    maps = {"normal": maps, "ties": np.round(maps), "negative": maps - 200, "half zero": np.maximum(maps, 0)}[kind]
    return torch.from_numpy(maps.astype(np.float32)), torch.from_numpy(masks)


def whole(maps: torch.Tensor, masks: torch.Tensor, foreground: torch.Tensor | None = None) -> tuple[float, ...]:
    return flat(pixel_summary(maps, masks, foreground=foreground))


def flat(found: PixelSummary) -> tuple[float, ...]:
    return (*found.binary, found.aupro)


@pytest.mark.parametrize("kind", ["normal", "ties", "negative", "half zero"])
@pytest.mark.parametrize("memory", [1 << 30, 4000, 0])
def test_batches_equal_the_whole(kind: str, memory: int, tmp_path: Path) -> None:
    maps, masks = images(kind)
    metric = ExactPixelMetrics(memory=memory, folder=str(tmp_path))
    for start in range(0, 12, 3):
        metric(maps[start : start + 3], masks[start : start + 3])
    np.testing.assert_allclose(flat(metric.compute()), whole(maps, masks), atol=1e-12)
    assert not list(tmp_path.iterdir())  # files without a name
    metric.reset()
    foreground = maps > maps.median()
    metric.update(maps, masks, foreground)
    np.testing.assert_allclose(flat(metric.compute()), whole(maps, masks, foreground), atol=1e-12)


def test_memory_goes_to_files() -> None:
    maps, masks = images("normal")
    metric = ExactPixelMetrics(memory=8000)
    for one, mask in zip(maps, masks, strict=True):
        metric.update(one[None], mask[None])
    metric.compute()
    in_memory = [part for part in metric.parts if type(part) is torch.Tensor]
    assert len(in_memory) < len(metric.parts)
    assert sum(part.numel() * 4 for part in in_memory) <= 4000
    assert metric.to("meta") is metric  # stays on the CPU


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_missing_class_and_bad_scores() -> None:
    maps, masks = images("normal")
    metric = ExactPixelMetrics()
    assert np.isnan(flat(metric.compute())).all()
    metric.update(maps[1::2], masks[1::2])
    assert np.isnan(flat(metric.compute())).all()
    maps[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 5760 scores"):
        metric.update(maps, masks)


def _process(rank: int, kind: str, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    maps, masks = images(kind)
    metric = ExactPixelMetrics(memory=4000)
    mine = slice(0, 3) if rank == 0 else slice(3, None)
    for one, mask in zip(maps[mine], masks[mine], strict=True):
        metric.update(one[None], mask[None])
    np.save(Path(folder) / f"{rank}.npy", np.array(flat(metric.compute())))


def test_two_processes_equal_one(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_process, ("ties", port, str(tmp_path)), nprocs=2, start_method="fork")
    for rank in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), whole(*images("ties")), atol=1e-12)
