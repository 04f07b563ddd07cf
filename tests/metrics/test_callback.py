"""AnomalyMetrics inside a trainer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.module import Prediction


class _Oracle(LightningModule):
    def test_step(self, batch: dict, batch_idx: int) -> Prediction:
        return Prediction(batch["image"].amax((1, 2, 3)) + 100, batch["image"] + 100)


@pytest.mark.filterwarnings("ignore")
def test_perfect_scores_outside_the_unit_interval(tmp_path: Path) -> None:
    image = torch.rand(6, 1, 8, 8) * 0.1
    image[3:, :, 2:4, 2:4] += 1
    rows = [{"image": image[i], "mask": image[i] > 0.5, "label": int(i > 2), "id": str(i)} for i in range(6)]
    callback = AnomalyMetrics(output=str(tmp_path / "metrics.json"))
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False)
    trainer.test(_Oracle(), torch.utils.data.DataLoader(rows, batch_size=4), verbose=False)
    assert all(abs(value - 1) < 1e-12 for key, value in callback.results.items() if "5fpr" not in key)
    assert len(callback.results) == 9
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["image_auroc"] == 1
    assert len(callback.records) == 6


def test_beyond_max_pixels_metrics_are_streamed_within_certified_bounds():
    from types import SimpleNamespace

    from zoo.metrics.functional import binary_summary

    rng = np.random.default_rng(0)
    trainer = SimpleNamespace(global_rank=0, world_size=1, sanity_checking=False)
    callback = AnomalyMetrics(max_pixels=3 * 256)
    maps, masks = rng.standard_normal((8, 1, 16, 16)).astype(np.float32), rng.random((8, 1, 16, 16)) < 0.2
    for part in (slice(0, 2), slice(2, 4), slice(4, 8)):
        outputs = Prediction(torch.from_numpy(maps[part].mean((1, 2, 3))), torch.from_numpy(maps[part]))
        labels = torch.tensor([0, 1] * (len(maps[part]) // 2))
        batch = {"image": torch.from_numpy(maps[part]), "label": labels, "mask": torch.from_numpy(masks[part])}
        callback._collect(trainer, outputs, batch)
    results, reasons = callback._compute(callback._items)
    exact = binary_summary(maps, masks)
    for name, value in (("pixel_auroc", exact.auroc), ("pixel_ap", exact.average_precision)):
        low, high = callback.intervals[name]
        assert low <= value <= high
        assert abs(results[name] - value) < 1e-3
    assert np.isnan(results["pixel_aupro"])
    assert "max_pixels" in reasons[0]


def test_shortcuts_of_a_test_are_recorded(tmp_path: Path) -> None:
    """File shape and nearest training image come from the DataModule."""
    from types import SimpleNamespace

    from PIL import Image

    paths = []
    for number in range(4):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("L", (20 + number, 10)).save(paths[-1])
    train = [{"image": torch.rand(1, 16, 16)} for _ in range(6)]
    image = torch.stack([2 * train[0]["image"], *torch.rand(3, 1, 16, 16)])
    trainer = SimpleNamespace(
        global_rank=0, world_size=1, sanity_checking=False, datamodule=SimpleNamespace(dataset=lambda split: train)
    )
    callback = AnomalyMetrics()
    callback.on_test_epoch_start(trainer, None)  # type: ignore[arg-type]
    batch = {"image": image, "label": torch.tensor([0, 0, 1, 1]), "source": paths}
    callback._collect(trainer, Prediction(torch.rand(4)), batch)
    callback._finish(SimpleNamespace(log=lambda *_, **__: None), "")  # type: ignore[arg-type]
    assert [record["aspect"] for record in callback.records] == [2.0, 2.1, 2.2, 2.3]
    assert callback.records[0]["neighbour"] < 1e-5 < callback.records[1]["neighbour"]


def test_missing_masks_are_nan_and_missing_labels_an_error():
    from types import SimpleNamespace

    from zoo.errors import UserError

    trainer = SimpleNamespace(global_rank=0, world_size=1)
    callback = AnomalyMetrics()
    outputs = Prediction(torch.tensor([0.1, 0.7]), torch.rand(2, 1, 4, 4))
    with pytest.raises(UserError, match="'label'"):
        callback._collect(trainer, outputs, {"id": ["a", "b"]})
    callback._collect(trainer, outputs, {"image": torch.rand(2, 1, 4, 4), "label": torch.tensor([0, 1])})
    results, reasons = callback._compute(callback._items)
    assert results["image_auroc"] == 1.0
    assert np.isnan(results["pixel_ap"])
    assert "masks" in reasons[0]


@pytest.mark.parametrize("max_pixels", [10_000, 100])
def test_slices_without_foreground_do_not_count(max_pixels: int) -> None:
    from types import SimpleNamespace

    rng = np.random.default_rng(0)
    mask = np.zeros((4, 1, 8, 8, 8), bool)
    foreground = mask.copy()
    foreground[:, :, 2:6], mask[:, :, 3, 2:5, 2:5] = True, True
    maps = torch.from_numpy((-200 + rng.standard_normal(mask.shape) + 20 * mask).astype(np.float32))
    batch = {"image": maps, "label": torch.tensor([0, 1, 0, 1]), "mask": torch.from_numpy(mask)}
    callback = AnomalyMetrics(foreground_only=True, max_pixels=max_pixels)
    callback._collect(
        SimpleNamespace(global_rank=0, world_size=1),
        Prediction(maps.mean((1, 2, 3, 4)), maps),
        batch | {"foreground": torch.from_numpy(foreground)},
    )
    results, _ = callback._compute(callback._items)
    assert results["slice_auroc"] == 1
    assert results["pixel_auroc"] > 0.99
    assert bool(callback.intervals) == (max_pixels == 100)


def _two_processes(rank: int, port: int, max_pixels: int, folder: str) -> None:
    from types import SimpleNamespace

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    callback = AnomalyMetrics(max_pixels=max_pixels)
    maps, masks = _seven()
    mine = [[0, 2, 4, 6], [1, 3, 5, 0]][rank]  # image 0 evens out the processes
    for part in (mine[:2], mine[2:]):
        outputs = Prediction(maps[part].mean((1, 2, 3)), maps[part])
        batch = {"image": maps[part], "mask": masks[part], "id": [str(number) for number in part]}
        labels = masks[part].any(3).any(2).any(1).long()
        callback._collect(SimpleNamespace(global_rank=rank, world_size=2), outputs, batch | {"label": labels})
    items, reasons = callback._gather()
    results, more = callback._compute(items)
    found = {"images": len(items), "results": results, "intervals": callback.intervals, "reasons": reasons + more}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


def _seven() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    masks = torch.zeros(7, 1, 12, 12, dtype=torch.bool)
    masks[::2, :, 2:7, 3:9] = True
    return torch.from_numpy(rng.standard_normal(masks.shape).astype(np.float32)) + masks, masks


@pytest.mark.parametrize("max_pixels", [10_000, 200])
def test_repeated_images_count_once_over_processes(max_pixels: int, tmp_path: Path) -> None:
    import socket

    from torch import multiprocessing

    from zoo.metrics.functional import pixel_summary

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (port, max_pixels, str(tmp_path))
    multiprocessing.start_processes(_two_processes, arguments, nprocs=2, start_method="fork")
    maps, masks = _seven()
    binary, overlap = pixel_summary(maps, masks)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0]["images"] == found[1]["images"] == 7
    for one in found:
        if max_pixels == 10_000:
            assert one["results"]["pixel_auroc"] == pytest.approx(binary.auroc, abs=1e-12)
            assert one["results"]["pixel_aupro"] == pytest.approx(overlap, abs=1e-12)
            assert not one["reasons"]
        else:
            low, high = one["intervals"]["best_dice"]
            assert low <= binary.best_dice <= high
            assert one["results"]["pixel_auroc"] == pytest.approx(binary.auroc, abs=1e-4)
