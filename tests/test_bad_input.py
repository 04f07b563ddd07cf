"""Mistakes through the command line: exit code 2, at most six lines, the right words, nothing left behind."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.cli import main

FIT = ["fit", "--config", "models/autoencoder", "--model.hidden_dims", "[8,16]", "--model.latent_dim", "8"]
FIT += ["--trainer.max_steps", "2", "--config", "data/folder", "--data.image_size", "32", "--data.batch_size", "4"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(image_folder, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(image_folder, tmp_path / "images"))


@pytest.fixture
def refused(capsys):
    def check(arguments, *words):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert "Traceback" not in told
        assert len(told.strip().splitlines()) <= 6, told
        for word in words:
            assert word in told, told

    return check


def test_missing_root(refused):
    refused([*FIT, "--data.root", "/nowhere/images"], "data.root", "/nowhere/images")


def test_empty_class_folder(refused, root):
    shutil.rmtree(root / "train/normal")
    (root / "train/normal").mkdir()
    refused([*FIT, "--data.root", str(root)], "train/normal", "png")


def test_missing_class_folder(refused, root):
    (root / "train/normal").rename(root / "train/healthy")
    refused([*FIT, "--data.root", str(root)], "train/normal", str(root))


def test_folder_above_the_data(refused, root, tmp_path):
    refused([*FIT, "--data.root", str(tmp_path)], f"pass {root} instead")


def test_truncated_png(refused, root):
    file = root / "train/normal/train_normal3.png"
    file.write_bytes(file.read_bytes()[:200])
    refused([*FIT, "--data.root", str(root)], file.name)


def test_html_saved_as_jpg(refused, root):
    (root / "train/normal/page.jpg").write_text("<!DOCTYPE html><html>404</html>")
    refused([*FIT, "--data.root", str(root)], "page.jpg")


def test_empty_file(refused, root):
    (root / "train/normal/nothing.png").touch()
    refused([*FIT, "--data.root", str(root)], "nothing.png")


def test_lenient_reading_goes_on_and_lists(root, capsys):
    (root / "train/normal/page.jpg").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.warns(UserWarning, match=r"page\.jpg"):
        assert main([*FIT, "--data.root", str(root), "--data.bad_files", "lenient"]) == 0


def test_wrong_npz_keys(refused, tmp_path):
    np.savez(tmp_path / "pneumoniamnist.npz", images=np.zeros((4, 28, 28), np.uint8))
    command = ["fit", "--config", "models/autoencoder", "--config", "data/medmnist", "--data.root", str(tmp_path)]
    refused(command, "pneumoniamnist.npz", "train_images", "images")


def test_mask_of_another_size(refused, root):
    Image.fromarray(np.zeros((17, 19), np.uint8)).save(root / "masks/a1.png")
    refused([*FIT, "--data.root", str(root)], "a1.png", "19", "40")


def test_unknown_method(refused, root):
    refused(["fit", "--model", "autoencodr", "--data", "Folder"], "autoencodr", "nearest", "autoencoder")


def test_unknown_data_set(refused):
    refused(["fit", "--model", "fae", "--data", "CovidY"], "CovidY", "CovidX")


def test_unknown_configuration(refused):
    refused(["fit", "--config", "models/autoencodr"], "models/autoencodr", "models/autoencoder")


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("--trainer.max_step", "--trainer.max_steps"),
        ("--model.latent_dims", "--model.latent_dim"),
        ("--data.bach_size", "--data.batch_size"),
        ("--seed_everthing", "--seed_everything"),
    ],
)
def test_unknown_key(refused, root, option, nearest):
    refused([*FIT, "--data.root", str(root), option, "3"], option, nearest)


def test_unknown_key_in_a_file(refused, root):
    Path("mine.yaml").write_text("# mine\nmodel:\n  class_path: autoencoder\n  init_args:\n    latentdim: 3\n")
    refused(["fit", "--config", "mine.yaml", "--data", "Folder"], "mine.yaml, line 5", "latent_dim")


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--trainer.max_steps", "many", "int"),
        ("--model.lr", "fast", "float"),
        ("--model.loss", "l7", "ssim"),
        ("--data.bad_files", "maybe", "lenient"),
        ("--data.batch_size", "0", "at least 1"),
    ],
)
def test_wrong_type_or_value(refused, root, option, value, word):
    refused([*FIT, "--data.root", str(root), option, value], option.removeprefix("--"), value, word)


def test_image_smaller_than_the_methods_minimum(refused, root):
    command = ["fit", "--config", "models/fae", "--model.weights", "random", "--config", "data/folder"]
    refused([*command, "--data.root", str(root), "--data.image_size", "16"], "16", "64")


def test_image_size_set_and_different(refused, root):
    refused([*FIT, "--data.root", str(root), "--model.image_size", "64"], "model.image_size", "(32, 32)")


def test_checkpoint_of_another_method(refused, root):
    assert main([*FIT, "--data.root", str(root)]) == 0
    (checkpoint,) = Path("runs").glob("*/checkpoints/last.ckpt")
    command = ["test", "--config", "models/vae", "--config", "data/folder", "--data.root", str(root)]
    refused([*command, "--data.image_size", "32", "--ckpt_path", str(checkpoint)], "Autoencoder", "VariationalAuto")


def test_missing_checkpoint(refused, root):
    refused(["test", *FIT[1:], "--data.root", str(root), "--ckpt_path", "no.ckpt"], "no.ckpt")


def test_hostile_checkpoint(refused, root):
    import pickle

    class Hostile:
        def __reduce__(self):
            return os.mkdir, ("executed",)

    Path("evil.ckpt").write_bytes(pickle.dumps({"state_dict": Hostile()}))
    refused(["test", *FIT[1:], "--data.root", str(root), "--ckpt_path", "evil.ckpt"], "evil.ckpt")
    assert not Path("executed").exists()


def test_missing_run(refused):
    (Path("runs/fae-folder-001")).mkdir(parents=True)
    (Path("runs/fae-folder-001/config.yaml")).write_text("")
    refused(["test", "--run", "runs/fae-folder-002"], "runs/fae-folder-002", "fae-folder-001")


def test_unwritable_output(refused, root):
    Path("taken").write_text("a file")
    refused([*FIT, "--data.root", str(root), "--trainer.default_root_dir", "taken"], "taken", "default_root_dir")


def test_broken_yaml(refused):
    Path("broken.yaml").write_text("model: {a: [1\n")
    refused(["fit", "--config", "broken.yaml"], "broken.yaml", "line", "YAML")


def test_nothing_given(refused):
    refused(["fit"], "--model", "--data", "zoo models", "zoo data list")


def test_absent_accelerator(refused, root):
    refused([*FIT, "--data.root", str(root), "--trainer.accelerator", "tpu"], "trainer")


def test_nothing_to_predict(refused, root):
    assert main([*FIT, "--data.root", str(root)]) == 0
    Path("empty").mkdir()
    (run,) = Path("runs").iterdir()
    refused(["predict", "--run", str(run), "--input", "empty"], "empty", "no image")
