"""Checkpoints: nothing in a file is ever run; damage and foreign files are named; ours load without downloads."""

import argparse
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

import zoo
from zoo.checkpoints.reading import read_checkpoint, state_dict_of
from zoo.checkpoints.sources import fetch
from zoo.errors import UserError


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_raw_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


def write_bare_zip(content, path):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickle.dumps(content, 2) if name.endswith("data.pkl") else source.read(name))


@pytest.mark.parametrize("write", [torch.save, write_raw_pickle, write_bare_zip])
@pytest.mark.parametrize("nested", [False, True])
def test_malicious_checkpoint_runs_nothing(tmp_path, write, nested):
    trap, path = tmp_path / "trap", tmp_path / "evil.pt"
    bomb = Bomb(trap)
    content = {"model_state_dict": {"w": torch.zeros(2)}, "config": argparse.Namespace(x=bomb) if nested else bomb}
    if write is write_raw_pickle:
        content = {"config": content["config"]}
    if write is write_bare_zip:
        content = {"config": content["config"]}
    write(content, path)
    for read in (read_checkpoint, zoo.import_checkpoint, zoo.load_pretrained):
        with pytest.raises(UserError, match=r"evil\.pt: (refused, nothing was run|damaged)"):
            read(path)
    assert not trap.exists()
    with pytest.raises(FileNotFoundError):  # the trap itself works
        pickle.loads(pickle.dumps(Bomb(tmp_path / "missing" / "trap")))


def test_refusal_names_what_was_asked_for(tmp_path):
    torch.save({"config": Bomb(tmp_path / "trap")}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"refused, nothing was run: .*mkdir.*only tensors and plain values") as caught:
        read_checkpoint(tmp_path / "evil.pt")
    assert "\n" not in str(caught.value)


def test_namespaces_are_read(tmp_path):
    torch.save({"w": torch.ones(2), "config": argparse.Namespace(lr=0.1)}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt")["config"].lr == 0.1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"PK\x03\x04 cut off", "truncated or damaged"),
        (b"", "damaged checkpoint"),
        (b"not a checkpoint at all", "refused|damaged"),
    ],
)
def test_damage_is_named(tmp_path, content, message):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_checkpoint(path)


def test_truncated_real_checkpoint(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="truncated or damaged"):
        read_checkpoint(path)


def test_foreign_files(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"model_state_dict": {"w": torch.zeros(1)}}, path)
    assert list(state_dict_of(read_checkpoint(path))) == ["w"]
    with pytest.raises(UserError, match=r"not recognised as fae.*first entries are model_state_dict"):
        zoo.import_checkpoint(path)
    with pytest.raises(UserError, match="unknown checkpoint format 'fea'; nearest: fae"):
        zoo.import_checkpoint(path, format="fea")
    with pytest.raises(UserError, match="no such file"):
        zoo.import_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(UserError, match="not a checkpoint of this package"):
        zoo.load_pretrained(path)
    with pytest.raises(UserError, match="unknown source s3://"):
        fetch("s3://bucket/file")


def test_our_checkpoint_loads_without_backbone_weights(tmp_path):
    model = zoo.create_model("fae", image_size=32, weights="random", layers=("layer0",), hidden_dims=(8,)).eval()
    model.hparams["weights"] = "imagenet"  # as if trained from downloaded weights
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "model.ckpt")
    loaded = zoo.load_pretrained(tmp_path / "model.ckpt")
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(loaded(image).anomaly_map, model(image).anomaly_map)
    with pytest.raises(UserError, match=r"zoo\.load_pretrained"):
        zoo.import_checkpoint(Path(tmp_path / "model.ckpt"))
