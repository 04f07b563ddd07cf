"""Checkpoints across versions: of this package's format, and of torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from zoo.checkpoints.saving import save_checkpoint, save_safetensors
from zoo.errors import UserError
from zoo.registry import methods

HERE = Path(__file__).parent
OTHER = os.environ.get("UAD_ZOO_OTHER_PYTHON")


@pytest.mark.slow
@pytest.mark.skipif(
    OTHER is None, reason="UAD_ZOO_OTHER_PYTHON names no Python with another torch (docs/checkpoints.md)"
)
@pytest.mark.parametrize("writer", ["here", "there"])
def test_every_method_predicts_the_same_under_another_torch(tmp_path, image_folder, writer):
    pythons = (sys.executable, OTHER) if writer == "here" else (OTHER, sys.executable)
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}

    def run(python, *arguments):
        command = [python, str(HERE / "round_trip.py"), *map(str, arguments)]
        found = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr[-2000:]
        return found.stdout

    run(pythons[0], "save", tmp_path, image_folder)
    told = json.loads(run(pythons[1], "check", tmp_path).splitlines()[-1])
    assert set(told["differences"]) == set(methods())
    print(told["torch"], max(told["differences"].items(), key=lambda item: item[1]))
    assert {name: value for name, value in told["differences"].items() if not value <= 1e-6} == {}


def test_file_of_format_1_is_read_for_ever(tmp_path):
    """Written by uad-zoo 0.1.0; the prediction was stored with it."""
    for source in (HERE / "format_1" / "model.ckpt", HERE / "format_1"):
        model = zoo.load_pretrained(source)
        stored = torch.load(HERE / "format_1" / "prediction.pt", weights_only=True)
        prediction = model(stored["image"])
        torch.testing.assert_close(prediction.anomaly_score, stored["anomaly_score"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(prediction.anomaly_map, stored["anomaly_map"], rtol=1e-5, atol=1e-7)


@pytest.fixture
def saved(tmp_path):
    """A changed checkpoint, loaded."""

    def load(**header):
        model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny)
        save_checkpoint(model, tmp_path / "model.ckpt")
        content = torch.load(tmp_path / "model.ckpt", weights_only=True)
        content["hyper_parameters"] |= header.pop("arguments", {})
        for name in header.pop("unset", ()):
            del content["hyper_parameters"][name]
        content["uad_zoo"] |= header
        torch.save(content, tmp_path / "model.ckpt")
        return zoo.load_pretrained(tmp_path / "model.ckpt")

    return load


def test_later_formats_say_what_to_do(saved):
    with pytest.raises(
        UserError, match=r"has checkpoint format 7, written by uad-zoo 3\.1\.0; this uad-zoo .* update it"
    ):
        saved(format=7, version="3.1.0", method="not_yet_invented")


def test_arguments_that_were_added_since_take_their_defaults(saved):
    assert saved(unset=["lr"], version="0.0.9").hparams["lr"] > 0


def test_arguments_that_are_gone_say_what_to_do(saved):
    with pytest.raises(UserError, match=r"0\.0\.9, this is .*load it with that version, or train it again: .*'old'"):
        saved(arguments={"old": 1}, version="0.0.9")
    with pytest.raises(UserError, match=r"arguments are not those of Autoencoder: .*'old'"):
        saved(arguments={"old": 1})


def test_methods_that_are_gone_are_named(saved):
    with pytest.raises(UserError, match=r"unknown method 'Autoencodre'; nearest: autoencoder"):
        saved(method="Autoencodre")


def test_shared_folder_without_checksum_is_read(tmp_path):
    """As before checksums were written."""
    model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny)
    save_safetensors(model, tmp_path / "shared")
    config = tmp_path / "shared" / "config.yaml"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "sha256" not in line))
    assert zoo.load_pretrained(tmp_path / "shared").image_size == model.image_size
    shutil.rmtree(tmp_path / "shared")
