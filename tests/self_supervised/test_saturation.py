"""Stopping at equal saturation on the own task."""

import csv

import numpy as np
import pytest
import torch
import yaml
from scipy.ndimage import gaussian_filter

import zoo
from zoo.cli import main
from zoo.configs import shipped_configs
from zoo.self_supervised._segmenter import log_task_ap

SMALL = {
    "fpi": {"widths": (8, 16)},
    "pii": {"widths": (8, 16)},
    "nsa": {"widths": (8, 16)},
    "draem": {"reconstruction_width": 4, "width": 4, "depth": 3, "smoothing": 5},
    "confidence_aware": {"depth": 3, "width": 4, "samples": 2},
    "mood22": {"depth": 3, "width": 4},
}


@pytest.mark.parametrize("name", SMALL)
def test_methods_log_how_well_they_find_their_own_anomalies(name):
    model = zoo.create_model(name, image_size=32, **SMALL[name]).eval()
    logged = {}
    model.log = lambda key, value, **_: logged.update({key: value})
    smooth = gaussian_filter(np.random.default_rng(0).random((8, 1, 32, 32)), (0, 0, 2, 2))
    images = torch.from_numpy((smooth - smooth.min()) / np.ptp(smooth)).float()
    batch = {"image": images, "label": torch.tensor([0] * 6 + [1] * 2)}
    with torch.no_grad():
        first = model.validation_step(batch, 0), dict(logged)
        model.validation_step(batch, 0)
    assert 0 < logged["val/task_pixel_ap"] <= 1
    assert logged == first[1]  # the same anomalies in every validation
    assert first[0].anomaly_score.shape == (8,)


def test_a_perfect_and_a_blind_locator():
    model = zoo.create_model("fpi", image_size=32, widths=(8, 16))
    logged = {}
    model.log = lambda key, value, **_: logged.update({key: value})
    batch = {"image": torch.rand(4, 1, 32, 32), "label": torch.zeros(4, dtype=torch.long)}

    def make(image, rng, foreground=None):
        return image, (torch.from_numpy(rng.random(image.shape)) > 0.9).float()

    truth = make(batch["image"], np.random.default_rng([42, 0]))[1]
    log_task_ap(model, batch, 0, make, lambda altered: truth)
    assert logged["val/task_pixel_ap"] == 1
    log_task_ap(model, batch, 0, make, torch.zeros_like)
    assert logged["val/task_pixel_ap"] == pytest.approx(float(truth.mean()), abs=1e-6)
    log_task_ap(model, {**batch, "label": torch.ones(4)}, 0, make, torch.zeros_like)  # nothing healthy, nothing logged


def test_a_fit_stops_at_saturation(image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(shipped_configs()["trainer/saturation"].read_text())
    (stop,) = content["trainer"]["callbacks"]
    assert stop["init_args"]["stopping_threshold"] == 0.875
    stop["init_args"]["stopping_threshold"] = 0.0001
    content["trainer"]["val_check_interval"] = 2
    (tmp_path / "early.yaml").write_text(yaml.safe_dump(content))
    data = ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32", "--data.batch_size", "3"]
    command = ["fit", "--config", "models/fpi", *data, "--config", "early.yaml", "--model.widths", "[8, 16]"]
    assert main([*command, "--trainer.max_steps", "40", "--trainer.accelerator", "cpu"]) == 0
    (table,) = (tmp_path / "runs").glob("*/logs/*/metrics.csv")
    rows = list(csv.DictReader(table.open()))
    assert max(int(row["step"]) for row in rows) < 10
