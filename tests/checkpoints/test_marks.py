"""What is known of weights travels with them: headers, cards, pushed folders, exports, trackers."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch
import yaml

import zoo
from zoo.checkpoints.marks import Marks, of_import, read_marks
from zoo.cli import main
from zoo.errors import UserError

MODEL = ["--model", "autoencoder", "--model.hidden_dims", "[4,8]", "--model.latent_dim", "4"]
CPU = ["--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a phantom, tested, with two trackers."""
    folder = tmp_path_factory.mktemp("marks")
    loggers = [
        {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"save_dir": ".", "offline": True}},
        {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "."}},
    ]
    (folder / "loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    data = ["--data", "MedMNIST", "--data.image_size", "32", "--config", str(folder / "loggers.yaml")]
    options = [*MODEL, *data, *CPU, "--panels.count", "1", "--trainer.max_steps", "2", "--test_after_fit", "true"]
    assert main(["fit", *options, "--trainer.default_root_dir", str(folder / "runs")]) == 0
    return next((folder / "runs").iterdir())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def header(path):
    return torch.load(path, weights_only=True)["uad_zoo"]


def test_the_checkpoint_knows_its_data_and_its_test(run):
    told = json.loads((run / "metrics.json").read_text())
    marks = read_marks(header(run / "checkpoints" / "last.ckpt"), "x")
    assert (marks.dataset, marks.phantom, marks.data_licence) == ("pneumoniamnist", True, "")
    assert marks.data_fingerprint == told["data_fingerprint"]
    (result,) = marks.results
    assert result["phantom"]
    assert result["metrics"]["image_auroc"] == told["metrics"]["image_auroc"]
    low, high = result["intervals"]["image_auroc"]
    assert low <= told["metrics"]["image_auroc"] <= high
    assert zoo.load_pretrained(run).marks == marks


def test_a_second_test_replaces_the_first_and_going_on_loses_nothing(run):
    before = header(run / "checkpoints" / "last.ckpt")["marks"]
    assert main(["test", "--run", str(run), *CPU, "--trainer.logger", "false"]) == 0
    assert main(["fit", "--run", str(run)]) == 0  # finished already
    assert header(run / "checkpoints" / "last.ckpt")["marks"] == before


def test_a_pushed_folder_of_a_pushed_folder_says_the_same(run):
    assert main(["push", str(run), "--out", "one", "--licence", "cc-by-4.0"]) == 0
    assert main(["push", "one", "--out", "two"]) == 0
    first, last = zoo.load_pretrained(run), zoo.load_pretrained("two")
    assert last.marks == dataclasses.replace(first.marks, licence="cc-by-4.0")
    assert last.calibration == first.calibration
    assert Path("one/README.md").read_text() == Path("two/README.md").read_text()
    card = Path("two/README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "Trained on **PHANTOM data**" in card
    assert first.marks.data_fingerprint in card
    assert f"| image_auroc | {first.marks.results[0]['metrics']['image_auroc']:.4f} | 0." in card
    assert first.calibration.digest() in card
    for text in ("## Limits", "Not tested on real images", "## Licences", "## Citation"):
        assert text in card
    assert main(["push", str(run), "--out", "three", "--licence", "[evil]"]) == 2


@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_exports_carry_marks_and_a_card(run, form):
    out = {"onnx": "m.onnx", "pt2": "m.pt2", "safetensors": "m"}[form]
    assert main(["export", str(run), "--format", form, "--out", out]) == 0
    expected = zoo.load_pretrained(run).marks.plain()
    if form == "onnx":
        import onnx

        found = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
        assert json.loads(found["uad_zoo.marks"]) == expected
    elif form == "pt2":
        extra = {"uad_zoo.json": ""}
        torch.export.load(out, extra_files=extra)
        assert json.loads(extra["uad_zoo.json"])["marks"] == expected
    else:
        assert zoo.load_pretrained("m").marks.plain() == expected
    card = Path("m/README.md" if form == "safetensors" else f"{out}.md").read_text()
    assert "**PHANTOM data**" in card
    assert "| image_auroc |" in card


def test_a_fit_from_these_weights_says_where_it_started(run, image_folder):
    data = ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32"]
    assert main(["fit", *data, *CPU, "--init_from", str(run), "--trainer.max_steps", "1"]) == 0  # its method too
    (fitted,) = Path("runs").iterdir()
    marks = zoo.load_pretrained(fitted).marks
    assert (marks.dataset, marks.phantom, marks.results) == ("folder", False, ())
    (start,) = marks.started_from
    assert (start["dataset"], start["phantom"], start["file"]) == ("pneumoniamnist", True, run.name)
    assert main(["push", str(fitted), "--out", "pushed"]) == 0
    card = Path("pushed/README.md").read_text()
    assert f"Training started from `{run.name}`, trained on **PHANTOM data**" in card
    assert "phantom-data" in card


def test_trackers_get_settings_marks_intervals_and_panels(run):
    import wandb
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wandb.finish()  # its file is written
    offline = min(run.glob("wandb/offline-run-*"))
    texts = (b"datamodules.MedMNIST", b"max_steps", b"data_fingerprint", b"image_auroc_low", b"phantom")
    for _ in range(300):  # another process writes it
        logged = b"".join(path.read_bytes() for path in offline.glob("*.wandb"))
        if all(text in logged for text in texts):
            break
        time.sleep(0.1)
    assert all(text in logged for text in texts)
    assert len(list(offline.glob("files/media/images/panels*.png"))) == 2
    events = min(path.parent for path in run.rglob("events.out.tfevents*"))
    board = EventAccumulator(str(events)).Reload()
    assert {"panels/most_anomalous", "panels/least_anomalous"} <= set(board.Tags()["images"])
    assert {"image_auroc", "image_auroc_low", "image_auroc_high"} <= set(board.Tags()["scalars"])
    settings = (events / "hparams.yaml").read_text()
    assert "datamodules.MedMNIST" in settings
    (text,) = board.Tensors("marks/text_summary")
    assert b"data_fingerprint" in text.tensor_proto.string_val[0]


def test_mlflow_as_shipped():
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    data = ["--data", "MedMNIST", "--data.image_size", "32", "--config", "trainer/mlflow"]
    options = [*MODEL, *data, *CPU, "--panels.count", "1", "--trainer.max_steps", "1", "--test_after_fit", "true"]
    assert main(["fit", *options]) == 0
    assert len(list(Path("mlruns").rglob("panels/*.png"))) == 2
    content = Path("mlflow.db").read_bytes()
    for text in (b"datamodules.MedMNIST", b"image_auroc_low", b"marks/data_fingerprint"):
        assert text in content
    (run,) = Path("runs").iterdir()
    assert main(["test", "--run", str(run), *CPU]) == 0


def test_options_that_would_go_unheard_are_refused(run, capsys):
    last = str(run / "checkpoints" / "last.ckpt")
    data = ["--data", "MedMNIST", "--data.image_size", "32"]
    call = ["fit", *MODEL, *data, *CPU, "--trainer.max_steps", "3", "--ckpt_path", last]
    for option, value in (("--model.lr", "0.5"), ("--seed_everything", "7"), ("--model.latent_dim", "8")):
        assert main([*call, option, value]) == 2
        told = capsys.readouterr().err
        assert f"{option} {value}: --ckpt_path continues a run" in told
        assert f"--init_from {last}" in told
    assert not Path("runs").exists()
    assert main(call) == 0
    assert f"config.yaml --ckpt_path {last}" in capsys.readouterr().out  # how to repeat it
    (continued,) = Path("runs").iterdir()
    assert (continued / "config.yaml").read_text().startswith(f'# of a call with --ckpt_path "{last}"')


GOOD = {
    "dataset": "a",
    "phantom": True,
    "results": [{"dataset": "a", "metrics": {"m": 0.5}, "intervals": {"m": [0, 1]}}],
}


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"other": 1},
        {"dataset": "a\n# evil"},
        {"dataset": 3},
        {"licence": "mit\nevil: true"},
        {"phantom": "no"},
        {"origin": {"file": ["x"]}},
        {"origin": {"file": "[x](http://evil)"}},
        {"started_from": [{"started_from": [{}]}]},
        {"started_from": [{}] * 17},
        {"results": [{"metrics": {"m": float("nan")}}]},
        {"results": [{"metrics": {"m|": 0.5}}]},
        {"results": [{"metrics": {"m": 0.5}, "intervals": {"m": [0.1]}}]},
        {"results": [{"metrics": {"m": 0.5}, "intervals": {"m": "ab"}}]},
        {"results": ["x"]},
    ],
)
def test_marks_of_strangers_are_plain_words_and_numbers(wrong):
    marks = read_marks({"marks": GOOD}, "file")
    assert read_marks({"marks": marks.plain()}, "file") == marks
    with pytest.raises(UserError, match="file: damaged: its marks should"):
        read_marks({"marks": wrong}, "file")


def test_files_from_before_have_their_origin():
    assert read_marks({}, "x") == Marks()
    old = read_marks({"origin": {"format": "mae", "file": "mae|.pth"}}, "x")
    assert old == of_import("mae", "mae_.pth")
    assert old.licence == "cc-by-nc-4.0"
