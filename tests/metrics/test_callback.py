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
    trainer = SimpleNamespace(global_rank=0, sanity_checking=False)
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


def test_missing_masks_are_nan_and_missing_labels_an_error():
    from types import SimpleNamespace

    from zoo.errors import UserError

    trainer = SimpleNamespace(global_rank=0)
    callback = AnomalyMetrics()
    outputs = Prediction(torch.tensor([0.1, 0.7]), torch.rand(2, 1, 4, 4))
    with pytest.raises(UserError, match="'label'"):
        callback._collect(trainer, outputs, {"id": ["a", "b"]})
    callback._collect(trainer, outputs, {"image": torch.rand(2, 1, 4, 4), "label": torch.tensor([0, 1])})
    results, reasons = callback._compute(callback._items)
    assert results["image_auroc"] == 1.0
    assert np.isnan(results["pixel_ap"])
    assert "masks" in reasons[0]


def test_slices_without_foreground_do_not_count() -> None:
    from types import SimpleNamespace

    rng = np.random.default_rng(0)
    mask = np.zeros((4, 1, 8, 8, 8), bool)
    foreground = mask.copy()
    foreground[:, :, 2:6], mask[:, :, 3, 2:5, 2:5] = True, True
    maps = torch.from_numpy((-200 + rng.standard_normal(mask.shape) + 20 * mask).astype(np.float32))
    batch = {"image": maps, "label": torch.tensor([0, 1, 0, 1]), "mask": torch.from_numpy(mask)}
    callback = AnomalyMetrics(foreground_only=True)
    callback._collect(
        SimpleNamespace(global_rank=0),
        Prediction(maps.mean((1, 2, 3, 4)), maps),
        batch | {"foreground": torch.from_numpy(foreground)},
    )
    results, _ = callback._compute(callback._items)
    assert results["slice_auroc"] == 1
