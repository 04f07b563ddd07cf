"""Every command on a disk that is full: the file that did not fit is named, and nothing half-written stays."""

import subprocess
from pathlib import Path

import pytest

from zoo.cli import main

METHOD = ["--model", "Autoencoder", "--model.hidden_dims", "[8,16]", "--model.latent_dim", "8"]
TRAINER = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
BENCHMARK = """
name: full
models: {{histogram_threshold: }}
data: {{mine: {{config: folder, init_args: {{root: {root}, image_size: 32}}}}}}
seeds: [0]
trainer: {{accelerator: cpu}}
"""


@pytest.fixture
def disk(tmp_path):
    """A function that gives a folder with so many KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    sizes = []

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small file system cannot be mounted here")
        sizes.append(size)
        return place

    yield mount
    for _ in sizes:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def run(image_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    data = ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32"]
    assert (
        main(["fit", *METHOD, *data, *TRAINER, "--test_after_fit", "true", "--trainer.default_root_dir", str(root)])
        == 0
    )
    return next(root.iterdir())


def files(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def told(capsys, place, name):
    """One line that names the file, what is wrong and the room that there is."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {place / name}")
    assert "No space left on device" in line
    assert not [name for name in files(place) if "partial" in name or ".part" in name or ".gathered" in name]


def test_fit(disk, image_folder, capsys):
    place = disk(40)
    data = ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32"]
    assert main(["fit", *METHOD, *data, *TRAINER, "--trainer.default_root_dir", str(place)]) == 2
    told(capsys, place, "autoencoder-folder-001/checkpoints/last.ckpt")
    assert files(place) == []  # no checkpoint, nothing to go on from


def test_test(disk, run, capsys):
    """The run folder has no room for the panels: no metrics.json says that it is finished."""
    place = disk(64)
    new = place / "run"
    new.mkdir()
    (new / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    assert main(["test", "--run", str(new), "--ckpt_path", checkpoint]) == 2
    told(capsys, place, "run/panels/")
    assert not (new / "metrics.json").exists()


@pytest.mark.parametrize(("size", "kept"), [(4, 1), (40, 2), (80, 1)])
def test_predict_keeps_the_scores(size, kept, disk, run, image_folder, capsys):
    place = disk(size)
    command = ["predict", "--run", str(run), "--input", str(image_folder / "test")]
    assert main([*command, "--predictions.folder", str(place / "p")]) == 2
    told(capsys, place, "p/")
    scores = (place / "p" / "scores.csv").read_text().splitlines()
    assert len(scores) == 1 + len(list((image_folder / "test").rglob("*.png")))
    assert len([name for name in files(place) if name.endswith(".csv")]) >= kept


@pytest.mark.parametrize("form", ["safetensors", "onnx", "pt2"])
def test_export(form, disk, run, capsys):
    if form == "onnx":
        pytest.importorskip("onnx")
    place = disk(20)
    name = "model.pt2" if form == "pt2" else "model"
    assert main(["export", str(run), "--format", form, "--out", str(place / name)]) == 2
    told(capsys, place, name)
    assert files(place) == []


@pytest.mark.parametrize("size", [20, 60])
def test_push(size, disk, run, capsys):
    place = disk(size)
    assert main(["push", str(run), "--out", str(place / "shared")]) == 2
    told(capsys, place, "shared/")
    assert not (place / "shared").exists()


def test_cache(disk, image_folder, tmp_path, capsys):
    place = disk(16)
    data = ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32"]
    command = ["fit", *METHOD, *data, *TRAINER, "--trainer.default_root_dir", str(tmp_path / "runs")]
    assert main([*command, "--data.cache_dir", str(place)]) == 2
    told(capsys, place, "")
    assert not [name for name in files(place) if name.endswith((".bin", ".npz"))]
    assert not list((tmp_path / "runs").iterdir())


def test_phantom_in_the_cache(disk, tmp_path, capsys):
    place = disk(40)
    command = ["fit", *METHOD, "--data", "MedMNIST", *TRAINER, "--trainer.default_root_dir", str(tmp_path / "runs")]
    assert main([*command, "--data.cache_dir", str(place)]) == 2
    told(capsys, place, "phantoms/")
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("name", ["medmnist", "brats21", "hyper_kvasir"])
def test_phantom(name, disk, capsys):
    place = disk(20)
    assert main(["data", "phantom", name, "--root", str(place / "phantom"), "--preset", "smoke"]) == 2
    told(capsys, place, "phantom")
    assert files(place) == []


def test_benchmark(disk, image_folder, tmp_path, capsys):
    (tmp_path / "b.yaml").write_text(BENCHMARK.format(root=image_folder))
    place = disk(40)
    command = ["benchmark", str(tmp_path / "b.yaml"), "--out", str(place / "b")]
    assert main(command) == 1
    (line,) = {line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")}
    assert str(place / "b" / "cells" / "histogram_threshold--mine--0") in line
    assert "No space left on device" in line
    subprocess.run(["mount", "-o", "remount,size=4096k", str(place)], check=True)
    assert main([*command, "--retry-failed"]) == 0


def test_where_a_file_of_no_name_did_not_fit():
    from zoo.cli.running import _full_place

    assert _full_place(Path("/dev/shm")) == Path("/dev/shm")
