"""One entry of the table is all that a metric needs: callback, leaderboard, page and documents follow."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from benchmarks.summary import write_report
from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.metrics.functional import evaluate, pixel_summary
from zoo.metrics.table import HALF, LEVELS, TABLE, Metric, in_order, metrics_of, renewed
from zoo.module import Prediction

ROOT = Path(__file__).parents[2]
CONTRACT = (
    *("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_aupro", "dice_at_5fpr", "iou_at_5fpr"),
    *("best_dice", "best_iou", "slice_auroc", "slice_ap"),
)


def test_names_of_the_contract_and_documents_are_the_table():
    assert set(CONTRACT) <= set(TABLE)
    for document in ("README.md", "docs/metrics.md"):
        text = (ROOT / document).read_text()
        assert renewed(text) == text, "run `python -m zoo.metrics.table docs/metrics.md README.md`"
    assert "`pixel_aupro`" in (ROOT / "docs" / "metrics.md").read_text()
    assert "`pixel_aupro`" in (ROOT / "README.md").read_text()
    assert {metric.level for metric in TABLE.values()} <= set(LEVELS)


def test_table_is_read_without_torch_and_numpy():
    code = "import sys, zoo.metrics.table; print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("prevalence", [0.02, 0.3])
def test_chance_levels_are_those_of_scores_that_know_nothing(prevalence):
    rng = np.random.default_rng(0)
    masks = rng.random((12, 256, 256)) < prevalence
    maps = rng.standard_normal(masks.shape).astype(np.float32)
    binary, overlap = pixel_summary(maps, masks)
    found = evaluate(maps, masks)._replace(aupro=overlap)
    assert found.binary == binary
    for metric in TABLE.values():
        if metric.compute is not None:
            chance = metric.chance.at(masks.mean())
            assert metric.value(found) == pytest.approx(chance, rel=0.02, abs=6e-3), metric.name
            assert metric.bounds[0] <= chance <= metric.bounds[1]


def test_one_class_and_streamed_scores_give_nan():
    healthy = evaluate(np.arange(4.0), np.zeros(4))
    assert all(np.isnan(metric.value(healthy)) for metric in TABLE.values())
    streamed = evaluate(np.arange(4.0), np.array([0, 0, 1, 1]))._replace(ranks=None, aupro=0.5)
    assert [m.name for m in metrics_of("pixel") if np.isnan(m.value(streamed))] == ["pixel_aupro"]
    assert in_order(["zz", "slice_ap", "image_ap", "aa"]) == ["image_ap", "slice_ap", "aa", "zz"]


class _Brightest(LightningModule):
    def test_step(self, batch: dict, batch_idx: int) -> Prediction:
        return Prediction(batch["image"].amax((1, 2, 3)), batch["image"])


@pytest.mark.filterwarnings("ignore")
def test_a_throw_away_metric_appears_everywhere(tmp_path, monkeypatch, capsys):
    """Entries alone, of images, of pixels by their ranks, and one where less is better."""
    entries = [
        Metric("image_youden", "Youden's J", "image", "TPR - FPR", lambda one: 2 * one.binary.auroc - 1, HALF),
        Metric(
            *("pixel_false", "healthy above all", "pixel", "share", lambda one: float(one.ranks.above[0]), HALF),
            higher=False,
            needs=("masks", "every pixel"),
        ),
    ]
    for entry in entries:
        monkeypatch.setitem(TABLE, entry.name, entry)
    image = torch.rand(6, 1, 8, 8) * 0.1
    image[3:, :, 2:4, 2:4] += 1
    rows = [{"image": image[i], "mask": image[i] > 0.5, "label": int(i > 2), "id": str(i)} for i in range(6)]
    for seed in (0, 1):
        cell = tmp_path / "cells" / f"brightest--mine--{seed}"
        callback = AnomalyMetrics(output=str(cell / "metrics.json"))
        trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False)
        trainer.test(_Brightest(), torch.utils.data.DataLoader(rows, batch_size=4), verbose=False)
        (cell / "status.json").write_text('{"status": "done"}')
        (cell / "config.yaml").write_text("data: {init_args: {}}\nmodel: {init_args: {}}\n")
    assert "image_youden" in capsys.readouterr().out
    content = json.loads((cell / "metrics.json").read_text())
    assert content["metrics"]["image_youden"] == 1
    assert content["metrics"]["pixel_false"] == 0
    assert content["units"]["pixel"] == {"units": 384, "anomalous": 12}
    assert write_report([tmp_path], tmp_path, {}) == set()
    (row,) = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert float(row["image_youden"]) == 1
    assert float(row["pixel_false"]) == 0
    for name in ("leaderboard.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "Youden" in text, name
        assert "healthy above all" in text, name
    assert "`image_youden`" in renewed((ROOT / "docs" / "metrics.md").read_text())
