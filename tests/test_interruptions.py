"""Commands that are stopped: exit codes, who holds a folder, and a final test that goes on as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from zoo.cli import main

ROOT = Path(__file__).parents[1]
METHOD = ["--model", "Autoencoder", "--model.hidden_dims", "[8,16]", "--model.latent_dim", "8"]


@pytest.fixture
def fit(image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32"]
    return ["fit", *METHOD, *data, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def start(arguments, before=""):
    """The program in a process of its own, with something done to it first."""
    script = f"import sys\n{textwrap.dedent(before)}\nfrom zoo.cli import main\nsys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(pattern, process):
    deadline = time.monotonic() + 180
    while not list(Path().glob(pattern)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_exit_codes_and_who_holds_a_run(fit, capsys):
    options = ["--trainer.max_steps", "1000000", "--trainer.check_val_every_n_epoch", "1000000"]
    process = start([*fit, *options, "--last_checkpoint.minutes", "0"])
    wait_for("runs/*/checkpoints/last.ckpt", process)
    (run,) = Path("runs").iterdir()
    for command in ("fit", "test"):
        assert main([command, "--run", str(run)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"in use by process {process.pid} on " in line
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=180)
    assert process.returncode == 143
    assert f"interrupted; resume with: lightning fit --run {run}" in told
    assert "Traceback" not in told
    saved = (run / "checkpoints/last.ckpt").stat().st_mtime_ns
    process = start(["fit", "--run", str(run)])
    deadline = time.monotonic() + 180
    while (run / "checkpoints/last.ckpt").stat().st_mtime_ns == saved and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=180)
    assert process.returncode == 130
    assert f"interrupted; resume with: lightning fit --run {run}" in told
    assert not (run / ".held-by").exists()


PLACES = {
    "in the middle": ("SIGTERM", "zoo.callbacks.anomaly_metrics", "AnomalyMetrics", "on_test_batch_end"),
    "before the scores": ("SIGKILL", "zoo.callbacks.anomaly_metrics", "AnomalyMetrics", "on_test_epoch_end"),
    "before the panels": ("SIGKILL", "zoo.callbacks.panels", "Panels", "on_test_epoch_end"),
    "before the metrics": ("SIGKILL", "zoo.callbacks.anomaly_metrics", "AnomalyMetrics", "on_test_end"),
}


@pytest.mark.slow
def test_a_final_test_that_was_stopped_is_done_again(fit):
    """Killed at every place where an output is still to come, one after another."""
    command = [*fit, "--trainer.max_steps", "3", "--test_after_fit", "true"]
    assert main(command) == 0
    whole, stopped = Path("runs/autoencoder-folder-001"), Path("runs/autoencoder-folder-002")
    for signal_name, module, owner, hook in PLACES.values():
        process = start(
            ["fit", "--run", str(stopped)] if stopped.exists() else command,
            f"""
            import os, signal
            from {module} import {owner} as owner
            def stop(*_): os.kill(os.getpid(), signal.{signal_name})
            owner.{hook} = stop
            """,
        )
        _, told = process.communicate(timeout=300)
        assert process.returncode == (-9 if signal_name == "SIGKILL" else 143), told
        assert not (stopped / "metrics.json").exists()
    assert main(["fit", "--run", str(stopped)]) == 0
    (wanted, found) = (json.loads((run / "metrics.json").read_text()) for run in (whole, stopped))
    changing = ("fit_seconds", "images_per_second", "peak_memory_bytes", "decision")
    for key in wanted.keys() - set(changing):
        assert found[key] == wanted[key], key
    for name in ("scores.csv", "panels/most_anomalous.png", "panels/least_anomalous.png"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    assert not [path for path in stopped.rglob("*") if "partial" in path.name]


BROKEN = {"WandbLogger": ["wandb"], "TensorBoardLogger": ["tensorboard", "tensorboardX"], "NoSuchLogger": []}


def broken(packages):
    """What makes packages raise when they are imported, as half-installed ones do."""
    for package in packages:
        Path("broken", package).mkdir(parents=True)
        Path("broken", package, "__init__.py").write_text("raise ImportError('half installed')\n")
    return "sys.path.insert(0, 'broken')\n"


@pytest.mark.parametrize("logger", BROKEN)
def test_a_logger_whose_package_is_broken_or_missing(logger, fit):
    """One sentence, and no run folder."""
    logger_path = f"lightning.pytorch.loggers.{logger}"
    process = start([*fit, "--trainer.max_steps", "1", "--trainer.logger", logger_path], broken(BROKEN[logger]))
    _, told = process.communicate(timeout=300)
    lines = [line for line in told.splitlines() if "Warning" not in line and line.strip()]
    assert process.returncode == 2, told
    assert "Traceback" not in told
    assert len(lines) <= 6
    assert not list(Path().glob("runs/*"))


def test_a_package_that_is_broken(fit):
    process = start([*fit, "--trainer.max_steps", "1"], broken(["torchmetrics"]))
    _, told = process.communicate(timeout=300)
    assert process.returncode == 2, told
    assert "Traceback" not in told
    assert "half installed" in told
    assert not list(Path().glob("runs/*"))
