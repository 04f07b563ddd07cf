"""Prediction needs the run folder or a checkpoint, and the new images, nothing else."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from zoo.cli import main
from zoo.cli.words import tidy
from zoo.files import OutputNames, plain_cell


def _scores(folder):
    return [row["id"] for row in csv.DictReader((folder / "scores.csv").open())]


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A run whose data are gone and whose configuration asks for another machine, and four new images."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(12):
        Path("own/train/normal").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(f"own/train/normal/{number}.png")
    command = ["fit", "--config", "models/statistical", "--config", "data/folder", "--data.root", "own"]
    command += ["--data.cache_dir", "cache", "--trainer.accelerator", "cpu", "--panels.count", "0"]
    assert main([*command, "--data.image_size", "32"]) == 0
    (run,) = Path("runs").iterdir()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("accelerator: cpu", "accelerator: gpu"))
    shutil.rmtree("own")
    shutil.rmtree("cache")
    for name in ("new/a.png", "new/deep/b#1.png", "=sum.png", "x1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(name)
    return run


def test_data_and_machine_may_be_gone(away, capsys):
    command = ["predict", "--run", str(away), "--predictions.formats", "[]"]
    assert main([*command, "--input", "new", "x*.png", "=sum.png", "--data.batch_size", "1"]) == 0, (
        capsys.readouterr().err
    )
    found = away / "predictions-001"
    assert sorted(_scores(found)) == sorted(["a.png", "deep/b#1.png", "x1.png", "'=sum.png"])
    Path("new/bad.png").write_bytes(b"junk")
    assert main([*command, "--input", "new"]) == 1
    assert "not scored: " in capsys.readouterr().err
    assert len(_scores(away / "predictions-002")) == 2
    assert main([*command, "--input", "new", "--data.bad_files", "strict"]) == 2
    assert main([*command, "--input", "nothing*.png"]) == 2
    assert main([*command, "--input", "new", "--data.intensity_range", "[0, 9]"]) == 2
    assert "--input new" in capsys.readouterr().err.splitlines()[-1], "the advised command keeps the caller's options"


def test_an_older_run_goes_on(tmp_path, monkeypatch):
    """As of November 2026: the range of values was an argument of some methods, the multi-task rule one of metrics."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = Path("own", *("train/normal", "test/normal", "test/anomalous")[number // 6 + number // 9].split("/"))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(folder / f"{number}.png")
    command = ["fit", "--config", "models/cutpaste", "--data", "Folder", "--data.root", "own", "--data.cache_dir", "c"]
    command += ["--data.image_size", "32", "--trainer.accelerator", "cpu", "--trainer.max_steps", "1"]
    assert main([*command, "--panels.count", "0"]) == 0
    (run,) = Path("runs").iterdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"]["value_range"] = [0.0, 1.0]
    del config["metrics"]["protocol"]
    config["metrics"]["pixel_ap_group"] = 20
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.warns(UserWarning, match=r"metrics\.protocol multi_task has no figures"):  # there are no masks
        assert main(["test", "--run", str(run)]) == 0
    assert main(["predict", "--run", str(run), "--input", "own/test", "--predictions.formats", "[]"]) == 0
    assert main(["fit", "--run", str(run)]) == 0


def test_scores_are_kept_where_maps_cannot_be_written(away, capsys):
    """As on a full disk: the file that failed is named, the tables are there."""
    Path("out").mkdir()
    Path("out/maps").write_text("no folder")
    command = ["predict", "--run", str(away), "--predictions.formats", "[]", "--predictions.folder", "out"]
    assert main([*command, "--input", "new"]) == 2
    assert "out/maps" in capsys.readouterr().err
    assert sorted(_scores(Path("out"))) == ["a.png", "deep/b#1.png"]


def test_a_checkpoint_alone_predicts(away, tmp_path):
    shutil.copy(next((away / "checkpoints").glob("*.ckpt")), tmp_path / "x.ckpt")
    shutil.rmtree("runs")
    assert main(["predict", "--ckpt_path", "x.ckpt", "--input", "new", "--predictions.formats", "[]"]) == 0
    (run,) = Path("runs").iterdir()
    assert len(_scores(run / "predictions-001")) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--a", "(0, 4095)"], ["--a=[0, 4095]"]),
        (["--a", "-10,255", "--b", "-1e-3"], ["--a=[-10,255]", "--b=-1e-3"]),
        (["--a=0,1", "x"], ["--a=[0,1]", "x"]),
        (["--a", "1", "--config", "f", "--b", "2"], ["--config", "f", "--a", "1", "--b", "2"]),
        (["--a", "scan-1.png", "--flag"], ["--a", "scan-1.png", "--flag"]),
    ],
)
def test_words_are_taken_as_they_are_meant(words, expected):
    assert tidy(words) == expected


def test_output_names_are_portable_and_never_the_same():
    names = OutputNames()
    ids = ["a/x", "a/x", "A/X", "n" * 300, "n" * 301, "c:d?.png", "con", "../up", "", "case#3/y"]
    found = [names.name(one, ".nii.gz").as_posix() for one in ids]
    assert len({one.casefold() for one in found}) == len(ids)
    assert all(len(os.fsencode(part)) <= 220 for one in found for part in one.split("/"))
    assert not any(bad in one for one in found for bad in ("..", "?", ":", "#"))


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@x", "\t=1", " =1"])
def test_formulas_in_cells_are_defused(text):
    assert plain_cell(text) == "'" + text
    assert plain_cell("-1.5e-3") == "-1.5e-3"
    assert plain_cell("plain") == "plain"
