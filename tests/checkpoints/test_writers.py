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


def test_benchmarks_start_from_any_of_them(place, tmp_path, monkeypatch):
    _, files, arguments = place
    monkeypatch.chdir(tmp_path)
    root = arguments[arguments.index("--data.root") + 1]
    own = {"class_path": "autoencoder", "init_args": {"hidden_dims": [4, 8], "latent_dim": 4}}
    suite = {
        "models": {writer: {**own, "init_from": str(files[writer])} for writer in WRITERS},
        "data": {"own": {"class_path": "Folder", "init_args": {"root": root, "image_size": 32}}},
        "budget": "equal_steps",
        "trainer": {"max_steps": 1, "accelerator": "cpu"},
    }
    Path("suite.yaml").write_text(json.dumps(suite))
    assert main(["benchmark", "suite.yaml", "--out", "bench"]) == 0
    scores = {(Path("bench/cells") / f"{writer}--own--0" / "scores.csv").read_text() for writer in WRITERS}
    assert len(scores) == 1  # all started from the same weights


def test_the_hub_in_every_command(place, server, cache, tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    folder, files, arguments = place
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "model.safetensors"):
        server.files[f"/me/model/resolve/main/{name}"] = (files["pushed"] / name).read_bytes()
    server.files["/"] = b"hub"
    server.headers["X-Repo-Commit"] = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = "hf://me/model"
    data = arguments[arguments.index("--data") :]
    assert main(["validate", *data, "--ckpt_path", source]) == 0  # its method too
    assert main(["test", *data, "--ckpt_path", source]) == 0
    new = ["--input", str(folder / "new"), "--predictions.folder", "scored", "--predictions.formats", "[]"]
    assert main(["predict", "--ckpt_path", source, *new]) == 0
    assert main(["export", source, "--format", "safetensors", "--out", "again"]) == 0
    assert main(["push", source, "--out", "shared"]) == 0
    capsys.readouterr()
    assert main(["fit", *data, "--trainer.max_steps", "1", "--init_from", source]) == 0
    assert " 0 new, 0 ignored" in capsys.readouterr().out
    assert main(["fit", *data, "--trainer.max_steps", "3", "--ckpt_path", source]) == 2
    assert "--init_from hf://me/model starts a new fit" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", server.address)  # a benchmark's cells are processes of their own
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    own = {"class_path": "autoencoder", "init_args": {"hidden_dims": [4, 8], "latent_dim": 4}, "init_from": source}
    root = arguments[arguments.index("--data.root") + 1]
    suite = {
        "models": {"own": own},
        "data": {"own": {"class_path": "Folder", "init_args": {"root": root, "image_size": 32}}},
        "budget": "equal_steps",
        "trainer": {"max_steps": 1, "accelerator": "cpu"},
    }
    Path("suite.yaml").write_text(json.dumps(suite))
    assert main(["benchmark", "suite.yaml", "--out", "bench"]) == 0
    assert Path("bench/cells/own--own--0/metrics.json").exists()


CRASHES = """
from lightning.pytorch import Callback

class Crash(Callback):
    def on_fit_start(self, *_): raise ZeroDivisionError("by design")
    on_validation_start = on_test_start = on_predict_start = on_fit_start
"""


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_crashes_and_late_refusals_leave_no_run_folder(command, place, tmp_path, monkeypatch, capsys):
    folder, files, arguments = place
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("crashes_of_a_test.py").write_text(CRASHES)
    source = ["--ckpt_path", str(files["pushed"])] if command != "fit" else ["--trainer.max_steps", "1"]
    files_of_it = ["--input", str(folder / "new")] if command == "predict" else []
    call = [command, *arguments, *source, *files_of_it]
    assert main([*call, "--trainer.callbacks", "[{class_path: crashes_of_a_test.Crash}]"]) == 1
    assert "by design" in capsys.readouterr().err
    Path("empty").mkdir()
    root = call.index("--data.root") + 1
    late = [*call[:root], "empty", *call[root + 1 :]]
    if command == "predict":
        late[late.index("--input") + 1] = "empty"
    assert main(late) == 2
    wrong = [word.replace("[4, 8]", "[4, 16]") for word in call]
    if command == "fit":
        wrong += ["--init_from", str(files["last"]), "--init_from.strict", "true"]
    assert main(wrong) == 2
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize("command", ["export", "push", "import"])
def test_refusals_leave_no_files(command, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("no.ckpt").write_bytes(b"nothing")
    form = ["--format", "onnx"] if command == "export" else []
    assert main([command, "no.ckpt", *form, "--out", "made"]) == 2
    assert [path.name for path in Path().iterdir()] == ["no.ckpt"]
