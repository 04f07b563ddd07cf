"""Every writer's file works in every command, and predicts the same."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.checkpoints.saving import save_checkpoint
from zoo.cli import main

SIZE = ["--data.image_size", "32"]


@pytest.fixture(scope="module")
def place(image_folder, tmp_path_factory):
    """A finished run and its weights from every writer; images to predict."""
    folder = tmp_path_factory.mktemp("writers")
    model = ["--model", "autoencoder", "--model.hidden_dims", "[4, 8]", "--model.latent_dim", "4"]
    data = ["--data", "Folder", "--data.root", str(image_folder), *SIZE]
    arguments = [*model, *data, "--trainer.accelerator", "cpu", "--panels.count", "0"]
    assert main(["fit", *arguments, "--trainer.max_steps", "2", "--trainer.default_root_dir", str(folder / "r")]) == 0
    (run,) = (folder / "r").iterdir()
    last = run / "checkpoints" / "last.ckpt"
    stripped = torch.load(last, weights_only=True)
    for key in ("loops", "optimizer_states", "lr_schedulers", "callbacks"):
        stripped.pop(key, None)
    torch.save(stripped, folder / "stripped.ckpt")
    save_checkpoint(zoo.load_pretrained(last), folder / "imported.ckpt")
    assert main(["push", str(run), "--out", str(folder / "pushed")]) == 0
    assert main(["export", str(last), "--format", "safetensors", "--out", str(folder / "exported")]) == 0
    files = {
        "last": last,
        "run": run,
        "stripped": folder / "stripped.ckpt",
        "imported": folder / "imported.ckpt",
        "pushed": folder / "pushed",
        "exported": folder / "exported" / "model.safetensors",
    }
    rng = np.random.default_rng(0)
    (folder / "new").mkdir()
    for number in range(2):
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(folder / "new" / f"{number}.png")
    return folder, files, arguments


WRITERS = ("last", "run", "stripped", "imported", "pushed", "exported")


@pytest.mark.parametrize("writer", WRITERS)
def test_every_command_takes_the_file(writer, place, tmp_path, monkeypatch, capsys):
    folder, files, arguments = place
    monkeypatch.chdir(tmp_path)
    source = str(files[writer])
    assert main(["test", *arguments, "--ckpt_path", source]) == 0, capsys.readouterr().err
    (tested,) = Path("runs").iterdir()
    found = json.loads((tested / "metrics.json").read_text())["metrics"]["image_auroc"]
    assert main(["test", *arguments, "--ckpt_path", str(files["last"])]) == 0
    (other,) = (path for path in Path("runs").iterdir() if path != tested)
    assert json.loads((other / "metrics.json").read_text())["metrics"]["image_auroc"] == found
    assert main(["validate", *arguments, "--ckpt_path", source]) == 0
    out = ["--predictions.folder", "scored", "--predictions.formats", "[]"]
    assert main(["predict", "--ckpt_path", source, "--input", str(folder / "new"), *out]) == 0
    own = zoo.load_pretrained(source)
    rows = list(csv.DictReader(Path("scored/scores.csv").read_text().splitlines()))
    images = [np.asarray(Image.open(folder / "new" / row["id"]), np.float32) / 255 for row in rows]
    expected = own(torch.from_numpy(np.stack(images))[:, None]).anomaly_score
    assert [float(row["anomaly_score"]) for row in rows] == pytest.approx(expected.tolist(), rel=1e-5)
    assert main(["export", source, "--format", "safetensors", "--out", "again"]) == 0
    assert main(["push", source, "--out", "shared"]) == 0
    start = [*arguments, "--trainer.max_steps", "1", "--init_from", source, "--init_from.strict", "true"]
    assert main(["fit", *start]) == 0
    assert " 0 new, 0 ignored" in capsys.readouterr().out


@pytest.mark.parametrize("writer", ["stripped", "imported", "pushed", "exported"])
def test_weights_alone_are_not_continued(writer, place, tmp_path, monkeypatch, capsys):
    _, files, arguments = place
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *arguments, "--trainer.max_steps", "3", "--ckpt_path", str(files[writer])]) == 2
    assert f"--init_from {files[writer]} starts a new fit" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_whole_checkpoint_is_continued(place, tmp_path, monkeypatch):
    _, files, arguments = place
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *arguments, "--trainer.max_steps", "3", "--ckpt_path", str(files["run"])]) == 0
    (run,) = Path("runs").iterdir()
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_a_pushed_folder_as_a_run_tells_all_but_the_data(place, tmp_path, monkeypatch, capsys):
    folder, files, arguments = place
    monkeypatch.chdir(tmp_path)
    root = arguments[arguments.index("--data.root") + 1]
    assert main(["test", "--run", str(files["pushed"])]) == 2
    assert "no data set given" in capsys.readouterr().err
    assert not Path("runs").exists()
    assert main(["test", "--run", str(files["pushed"]), "--data.root", root]) == 0
    assert main(["predict", "--run", str(files["pushed"]), "--input", str(folder / "new")]) == 0


def test_another_configuration_is_told_in_a_sentence(place, tmp_path, monkeypatch, capsys):
    _, files, arguments = place
    monkeypatch.chdir(tmp_path)
    other = [word.replace("[4, 8]", "[4, 16]") for word in arguments]
    assert main(["test", *other, "--ckpt_path", str(files["last"])]) == 2
    told = capsys.readouterr().err
    assert "the checkpoint does not fit the configuration" in told
    assert "Traceback" not in told
