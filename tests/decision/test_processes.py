"""Decisions do not depend on how the work is divided: processes, batches, order of the files."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.cli import main
from zoo.decision import calibration as files
from zoo.decision.calibration import from_plain

ROOT = Path(__file__).parents[2]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]


def zoo_in_a_process(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "zoo", *words], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Patients with two or three pictures."""
    root = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(1)
    for part, count in (("train/normal", 60), ("test/normal", 5), ("test/anomalous", 4)):
        for patient in range(count):
            for number in range(2 + patient % 2):
                picture = rng.integers(60, 160, (16, 16))
                picture[4:9, 4:9] += 90 * (part == "test/anomalous")
                path = root / part / f"{part.replace('/', '-')}{patient:02d}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """A run that two processes have fitted, calibrated and tested."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = ["--model", "Statistical", "--data", "Folder", "--data.root", str(root), "--data.image_size", "16"]
    arguments += ["--data.case_pattern", "([^/]+)_[0-9]", "--trainer.default_root_dir", str(runs)]
    told = zoo_in_a_process("fit", *arguments, "--test_after_fit", "true", *TWO)
    assert told.count("calibrated on 20 healthy cases (held out)") == 1
    return next(runs.iterdir())


def test_two_processes_calibrate_as_one(run):
    header = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["uad_zoo"]
    found = from_plain(header["calibration"], "the checkpoint")
    assert main(["calibrate", "--run", str(run)]) == 0
    alone = files.load(run / "calibrations" / "001.json")
    assert (alone.scores, alone.images, alone.maps) == (found.scores, found.images, found.maps)
    assert alone.weights == found.weights
    decision = json.loads((run / "metrics.json").read_text())["decision"]
    assert (decision["cases"], decision["n"]) == (9, 20)


def test_batches_order_and_processes_give_one_table(run, root, tmp_path):
    pictures = sorted(str(path) for path in (root / "test").rglob("*.png"))
    shuffled = np.random.default_rng(3).permutation(pictures).tolist()
    tables = []
    for name, given, batch, more in (
        ("one", pictures, "1", ["--trainer.devices", "1", "--trainer.strategy", "auto"]),
        ("many", shuffled, "32", ["--trainer.devices", "1", "--trainer.strategy", "auto"]),
    ):
        out = tmp_path / name
        options = ["--input", *given, "--predictions.folder", str(out), "--data.batch_size", batch, *more]
        assert main(["predict", "--run", str(run), *options, "--trainer.accelerator", "cpu"]) == 0
        tables.append((out / "cases.csv").read_text())
    out = tmp_path / "two"
    options = ["--input", *shuffled, "--predictions.folder", str(out), "--data.batch_size", "2", *TWO]
    zoo_in_a_process("predict", "--run", str(run), *options)
    tables.append((out / "cases.csv").read_text())
    assert tables[0] == tables[1] == tables[2]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert [row["images"] for row in rows] == ["2", "3", "2", "3", "2", "3", "2", "3", "2"]
    assert [row["decision"] for row in rows if "anomalous" in row["case"]] == ["flagged"] * 4
    alone = tmp_path / "alone"  # a case alone is decided as in the list
    own = [path for path in pictures if "test-normal01" in path]
    options = ["--input", *own, "--predictions.folder", str(alone), "--trainer.devices", "1"]
    assert main(["predict", "--run", str(run), *options, "--trainer.strategy", "auto"]) == 0
    listed = next(row for row in rows if row["case"] == "test-normal01")
    one = next(iter(csv.DictReader((alone / "cases.csv").open())))
    kept = ("case", "images", "anomaly_score", "percentile", "p_value", "decision", "components")
    assert {key: one[key] for key in kept} == {key: listed[key] for key in kept}
