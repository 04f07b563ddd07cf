"""The commands as a user types them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml

from zoo.cli import main
from zoo.configs import config_path, shipped_configs
from zoo.registry import methods

TINY = ["--config", "models/autoencoder", "--model.hidden_dims", "[8,16]", "--model.latent_dim", "8"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(image_folder):
    return ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32", "--data.batch_size", "4"]


def only_run():
    (folder,) = Path("runs").iterdir()
    return folder


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def program(*arguments, **options):
    return [sys.executable, "-m", "zoo", *arguments]


@pytest.mark.parametrize(
    "arguments",
    ["--help", "fit --help", "--version", "models", "models fae", "models fea", "data list --names", "fitt"],
)
def test_light_commands_do_not_import_torch(arguments):
    code = f"import sys; from zoo.cli import main; main({arguments.split()}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


def test_quick_start(capsys):
    assert main(["fit", "--config", "quickstart", "--trainer.max_steps", "4", "--trainer.accelerator", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25
    folder = only_run()
    told = json.loads((folder / "metrics.json").read_text())
    assert told["phantom"] is True
    assert told["method"] == "fae"
    for name, value in told["metrics"].items():
        assert f"{name:14s} {value:.4f}" in lines
    assert any("PHANTOM" in line and str(folder) in line for line in lines)
    assert lines[-1].split(None, 1)[1] == f"lightning fit --config {folder}/config.yaml"
    for name in ("most_anomalous.png", "least_anomalous.png"):
        assert (folder / "panels" / name).read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_run_and_every_run_its_own_folder(data):
    command = ["fit", *TINY, *data, "--trainer.max_steps", "5", "--test_after_fit", "true"]
    for seed in ("3", "3", "4"):
        assert main([*command, "--seed_everything", seed]) == 0
    runs = sorted(Path("runs").iterdir())
    assert [run.name for run in runs] == [f"autoencoder-folder-00{n}" for n in (1, 2, 3)]
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in runs]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert read_metrics(runs[0]) == read_metrics(runs[1]) != read_metrics(runs[2])


def test_run_is_tested_predicted_and_repeated(data, image_folder, capsys):
    assert main(["fit", *TINY, *data, "--trainer.max_steps", "5"]) == 0
    folder = only_run()
    assert main(["test", "--run", str(folder)]) == 0
    first = read_metrics(folder)
    assert main(["test", "--run", str(folder)]) == 0
    assert read_metrics(folder / "test-001") == first
    assert main(["validate", "--run", str(folder)]) == 0
    capsys.readouterr()
    assert main(["predict", "--run", str(folder), "--input", str(image_folder / "test" / "anomalous")]) == 0
    shown = capsys.readouterr().out
    rows = list(csv.DictReader((folder / "predictions-001" / "scores.csv").open()))
    assert [row["id"] for row in rows] == [f"a{n}.png" for n in range(4)]
    for row in rows:
        anomaly_map = np.load(folder / "predictions-001" / row["map"])
        assert anomaly_map.shape == (32, 32)
        assert float(anomaly_map.max()) == float(row["map_max"])
        assert row["id"] in shown
    assert main(["fit", "--config", str(folder / "config.yaml"), "--test_after_fit", "true"]) == 0
    assert read_metrics(folder.with_name("autoencoder-folder-002")) == first


def test_run_refuses_other_options(data, capsys):
    assert main(["fit", *TINY, *data, "--trainer.max_steps", "2"]) == 0
    folder = str(only_run())
    for option, value in (("model.lr", "0.5"), ("data.batch_size", "2"), ("trainer.max_steps", "9")):
        assert main(["fit", "--run", folder, f"--{option}", value]) == 2
        assert f"--{option} {value}" in capsys.readouterr().err
    assert main(["test", "--run", folder, "--data.batch_size", "4"]) == 0  # the run's own value


def test_volumes_are_predicted_as_volumes(data, tmp_path):
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 1], [0, 0, 0, 1]])
    volume = np.random.default_rng(0).normal(100, 20, (48, 36, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "scan.nii.gz")
    assert main(["fit", *TINY, *data, "--trainer.max_steps", "2"]) == 0
    folder = only_run()
    assert main(["predict", "--run", str(folder), "--input", str(tmp_path / "scan.nii.gz")]) == 0
    found = nibabel.load(folder / "predictions-001" / "maps" / "scan.nii.gz")
    assert found.shape == volume.shape
    assert np.allclose(found.affine, affine)
    rows = list(csv.DictReader((folder / "predictions-001" / "scores.csv").open()))
    assert [row["id"] for row in rows] == [f"scan.nii.gz#{n:03d}" for n in range(5)]
    assert np.isfinite(found.get_fdata()).all()
    assert found.get_fdata().std() > 0


def test_names_and_overrides(data, capsys):
    command = ["fit", "--model", "FAE", "--model.dropout", "0.2", "--model.weights", "random", *data]
    assert main([*command, "--print_config", "--trainer.max_steps", "3"]) == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert told["model"]["class_path"] == methods()["fae"].class_path
    assert told["model"]["init_args"]["dropout"] == 0.2
    assert told["trainer"]["max_steps"] == 3


def test_later_files_win_and_may_use_short_names(data, tmp_path, capsys):
    Path("mine.yaml").write_text("model:\n  class_path: vae\ntrainer:\n  max_steps: 7\n")
    assert main(["fit", "--config", "models/fae", "--config", "mine.yaml", *data, "--print_config"]) == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert told["model"]["class_path"] == methods()["vae"].class_path
    assert told["trainer"]["max_steps"] == 7


def test_every_shipped_configuration_parses(capsys):
    for name, path in shipped_configs().items():
        content = yaml.safe_load(path.read_text())
        if name.startswith("benchmarks/"):
            continue
        rest = [] if "model" in content else ["--model", "autoencoder"]
        rest += [] if "data" in content else ["--data", "Folder"]
        assert main(["fit", "--config", name, *rest, "--print_config"]) == 0, (name, capsys.readouterr().err)
    assert config_path("fae") == config_path("models/fae") == config_path("configs/models/fae.yaml")


def test_killed_run_resumes_and_ends_like_an_uninterrupted_one(data):
    command = ["fit", *TINY, *data, "--trainer.max_steps", "300", "--test_after_fit", "true"]
    command += ["--trainer.check_val_every_n_epoch", "1000", "--last_checkpoint.minutes", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        program(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    for line in process.stdout:
        if line.startswith("fit 90/"):
            process.send_signal(signal.SIGKILL)
    process.wait()
    killed = only_run()
    assert not (killed / "metrics.json").exists()
    saved = torch.load(killed / "checkpoints/last.ckpt", weights_only=True)
    assert 80 <= saved["global_step"] < 300
    assert main(["fit", "--run", str(killed)]) == 0
    assert main(command) == 0
    assert read_metrics(killed) == read_metrics(killed.with_name("autoencoder-folder-002"))


def test_interrupted_run_saves_and_resumes(data):
    command = ["fit", *TINY, *data, "--trainer.max_steps", "100000", "--trainer.check_val_every_n_epoch", "100000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(program(*command), stdout=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while not list(Path("runs").glob("*/logs/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert torch.load(only_run() / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 0


def test_finished_run_is_not_run_again(data, capsys):
    assert main(["fit", *TINY, *data, "--trainer.max_steps", "3", "--test_after_fit", "true"]) == 0
    folder = only_run()
    before = {path: path.read_bytes() for path in (folder / "metrics.json", folder / "config.yaml")}
    step = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert main(["fit", "--run", str(folder)]) == 0
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == step == 3
    assert {path: path.read_bytes() for path in before} == before
    assert not list(folder.glob("test-*"))


def test_other_loggers_write_into_the_run_folder(data):
    Path("log.yaml").write_text(
        "trainer:\n  logger:\n    class_path: lightning.pytorch.loggers.CSVLogger\n"
        "    init_args: {save_dir: ., name: mine}\n"
    )
    assert main(["fit", *TINY, *data, "--trainer.max_steps", "12", "--config", "log.yaml"]) == 0
    assert (only_run() / "mine" / "version_0" / "metrics.csv").is_file()
    assert not Path("mine").exists()


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        (["--trainer.logger", "csv"], "lightning_logs"),
        (["--trainer.logger=CSVLogger", "--trainer.logger.name", "mine"], "mine"),
        (["--trainer.logger.class_path", "CSVLogger", "--trainer.logger.init_args.name", "mine"], "mine"),
        (["--trainer.logger", '{"class_path": "CSVLogger", "init_args": {"name": "mine"}}'], "mine"),
        (["--trainer.logger", "[csv]"], "lightning_logs"),
        (["--config", "log.yaml"], "mine"),
    ],
)
def test_loggers_by_name_write_into_the_run_folder(data, options, folder):
    Path("log.yaml").write_text("trainer:\n  logger: [{class_path: CSVLogger, init_args: {name: mine}}]\n")
    assert main(["fit", "--config", "models/statistical", *data, *options]) == 0
    assert (only_run() / folder / "version_0").is_dir()


def test_a_logger_that_cannot_be_had_is_one_sentence(data, capsys, monkeypatch):
    import importlib.util

    there = importlib.util.find_spec
    absent = ("tensorboard", "tensorboardX", "mlflow", "mlflow_skinny")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else there(name, *more))
    for value, told in (
        ("tensorboard", "TensorBoardLogger: the package tensorboard is not installed; pip install tensorboard"),
        ("[csv, MLFlowLogger]", "MLFlowLogger: the package mlflow is not installed; pip install mlflow"),
        ("tensorbord", "no logger 'tensorbord'; nearest: tensorboard"),
    ):
        assert main(["fit", "--config", "models/statistical", *data, "--trainer.logger", value]) == 2
        assert told in capsys.readouterr().err
    assert not Path("runs").exists()
    Path("log.yaml").write_text("trainer:\n  logger: tensorboard\n")
    if there("tensorboard") is None and there("tensorboardX") is None:
        assert main(["fit", "--config", "models/statistical", *data, "--config", "log.yaml"]) == 2
        assert "tensorboard" in capsys.readouterr().err
    assert (
        main(["fit", "--config", "models/statistical", *data, "--config", "log.yaml", "--trainer.logger", "csv"]) == 0
    )


def test_what_an_optimiser_refuses_is_one_sentence(data, capsys):
    assert main(["fit", *TINY, *data, "--model.lr", "-1", "--trainer.max_steps", "1"]) == 2
    assert "the optimiser refuses a setting: Invalid learning rate: -1.0" in capsys.readouterr().err


def test_best_checkpoint_is_the_one_that_is_tested(data):
    Path("best.yaml").write_text(
        "trainer:\n  callbacks:\n  - class_path: ModelCheckpoint\n"
        "    init_args: {monitor: val/synthetic_pixel_ap, mode: max}\n"
    )
    assert main(["fit", *TINY, *data, "--trainer.max_steps", "6", "--config", "best.yaml"]) == 0
    assert {path.name for path in (only_run() / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert main(["test", "--run", str(only_run())]) == 0
