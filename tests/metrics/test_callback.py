"""AnomalyMetrics inside a trainer."""

import json
from pathlib import Path

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
