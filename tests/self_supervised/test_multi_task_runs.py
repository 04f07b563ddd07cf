"""The multi-task paper's configurations from the command line, and its fold sweep with ensemble."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from zoo.cli import main
from zoo.configs import shipped_configs
from zoo.self_supervised.multi_task import MultiTaskUNet
from zoo.synthetic.folds import task_folds

NAMES = [(data, number) for data in ("vindr", "brain") for number in range(1, 5)]
SMALL = ["--model.depth", "2", "--model.width", "4", "--model.positions", "2", "--trainer.accelerator", "cpu"]
SIZES = {"vindr": "32", "brain": "[16, 24, 16]"}


def test_benchmarks_train_one_to_four_tasks_by_one_configuration():
    for data, benchmark in (("vindr", "multi_task_table1"), ("brain", "multi_task_brain")):
        content = yaml.safe_load(shipped_configs()[f"papers/multi_task_{data}"].read_text())
        entries = yaml.safe_load(shipped_configs()[f"benchmarks/{benchmark}"].read_text())["models"]
        for number in range(1, 5):
            entry = entries[f"T{number}"]
            assert entry["config"] == f"papers/multi_task_{data}"
            assert entry["folds"] == list(range(len(task_folds(number))))
            assert entry["init_args"] == {"num_train_tasks": number}
            MultiTaskUNet(**content["model"]["init_args"] | entry["init_args"])
        callbacks = {one["class_path"].rpartition(".")[2]: one["init_args"] for one in content["trainer"]["callbacks"]}
        assert callbacks["ModelCheckpoint"] == {"monitor": "val/loss", "mode": "min"}
        assert callbacks["StepPatience"] == {"monitor": "val/loss", "steps": 5000}


@pytest.mark.parametrize(
    ("name", "number"),
    [pytest.param(*one, marks=[] if one == ("vindr", 1) else pytest.mark.slow) for one in NAMES],
)
def test_papers_configurations_run_on_a_phantom(name, number, tmp_path):
    options = ["--data.image_size", SIZES[name], "--data.batch_size", "4"]
    options += [
        "--model.num_train_tasks",
        str(number),
        "--trainer.max_steps",
        "2",
        "--trainer.limit_train_batches",
        "1",
        "--test_after_fit",
        "true",
    ]
    assert (
        main(
            [
                "fit",
                "--config",
                f"papers/multi_task_{name}",
                *SMALL,
                *options,
                "--trainer.default_root_dir",
                str(tmp_path),
            ]
        )
        == 0
    )
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    states = {key: value for key, value in best["callbacks"].items() if "StepPatience" in key}
    assert [state["best_step"] for state in states.values()] == [best["global_step"]], (
        "the best is the one validated best"
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["phantom"] is True
    assert metrics["metrics"]["pixel_ap_in_groups"] is not None
    assert metrics["metrics"]["multi_task_auroc"] is not None
    assert ("slice_ap" in metrics["metrics"]) == ("brain" in name)
    assert main(["test", "--run", str(folder)]) == 0
    (again,) = folder.glob("test-*/metrics.json")
    tested = json.loads(again.read_text())["metrics"]
    assert tested["pixel_ap"] == pytest.approx(metrics["metrics"]["pixel_ap"], abs=1e-6), "both test best.ckpt"


@pytest.mark.slow
def test_fold_sweep_ends_with_the_ensemble_of_the_best_models(tmp_path):
    folds = list(range(len(task_folds(1))))
    config = f"""\
name: tiny sweep
models:
  T1:
    config: papers/multi_task_brain
    folds: {folds}
    ensemble: true
    init_args: {{depth: 2, width: 4, max_width: 16, positions: 2}}
    trainer: {{max_steps: 2, limit_train_batches: 1}}
data:
  brats17_3d: {{init_args: {{image_size: [16, 24, 16], batch_size: 2}}}}
seeds: [0]
trainer: {{accelerator: cpu}}
budget: paper
published: [multi_task]
"""
    (tmp_path / "sweep.yaml").write_text(config)
    assert main(["benchmark", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out")]) == 0
    cells = {path.name.split("--")[0]: path for path in (tmp_path / "out" / "cells").iterdir()}
    assert set(cells) == {*(f"T1_fold{fold}" for fold in folds), "T1_ensemble"}
    key = "network.encoder.0.0.conv.weight"
    ensemble = torch.load(cells["T1_ensemble"] / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for fold in folds:
        best = torch.load(cells[f"T1_fold{fold}"] / "checkpoints/best.ckpt", weights_only=True)
        assert torch.equal(ensemble[f"members.{fold}.{key}"], best["state_dict"][key])
        assert best["hyper_parameters"]["fold"] == fold
    assert "slice_ap" in json.loads((cells["T1_ensemble"] / "metrics.json").read_text())["metrics"]
    assert "T1_ensemble" in Path(tmp_path / "out" / "leaderboard.md").read_text()
