"""Thousands of ways to damage a file: an error in one line, or the whole undamaged model; never anything between."""

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import zoo
from zoo.checkpoints.saving import save_safetensors
from zoo.errors import UserError
from zoo.registry import methods

GOLDEN = Path(__file__).parents[1] / "golden"
BYTES, CONTENTS = 40, 24  # cases of a kind in the default suite
DEEP = 600


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tensor_of(key, shape, dtype="float32"):
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    values = torch.from_numpy(np.asarray(0.05 * rng.standard_normal(shape), np.float32)).reshape(tuple(shape))
    if key.endswith("running_var"):
        values = values.abs() + 1
    return torch.ones(shape, dtype=getattr(torch, dtype)) if dtype in ("bool", "int64") else values


def many_tasks_file():
    """The authors' names at a sixteenth of their widths (positions stay)."""
    entries = json.loads((GOLDEN / "multitask" / "unet_keys_2d.json").read_text())
    narrow = [(key, [side // 16 if side % 32 == 0 else side for side in shape], kind) for key, shape, kind in entries]
    return {"net": {key: tensor_of(key, shape, kind) for key, shape, kind in narrow}, "epoch": 3}


def mae_file():
    entries = json.loads((GOLDEN / "mae" / "state_dict_keys_small.json").read_text())["tensors"]
    model = {key: tensor_of(key, shape, kind) for key, shape, kind in entries}
    return {"model": model, "epoch": 1, "args": argparse.Namespace(lr=1e-3, mask_ratio=0.75)}


def fae_file():
    """The authors' names with two backbone layers and one level."""
    golden = json.loads((GOLDEN / "fae" / "state_dict_keys.json").read_text())
    parts = ("extractor.backbone.layer0", "extractor.backbone.layer1")
    tensors = {key: tensor_of(key, shape, kind) for key, shape, kind in golden["state_dict"] if key.startswith(parts)}
    tensors["extractor.feature_mask"] = torch.ones(128, dtype=torch.bool)
    shapes = {"enc.encoder_layer_0.encoder": (8, 128, 5), "enc.encoder": (8, 8, 5)}
    shapes |= {"dec.decoder_layer_1.decoder": (8, 128, 6), "dec.decoder": (128, 128, 1)}
    for stem, (out, into, side) in shapes.items():
        number = {"enc.encoder_layer_0.encoder": "conv_0", "dec.decoder_layer_1.decoder": "tconv_1"}.get(
            stem, "conv_final"
        )
        key = f"ae.{stem}_{number}.weight"
        tensors[key] = tensor_of(key, (out, into, side, side))
    for stem, width in (("enc.encoder_layer_0.encoder_norm_0", 8), ("dec.decoder_layer_1.decoder_norm_1", 128)):
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"ae.{stem}.{name}"] = tensor_of(name, (width,))
        tensors[f"ae.{stem}.num_batches_tracked"] = torch.tensor(1)
    config = golden["config"] | {"image_size": 32, "hidden_dims": [8], "extractor_cnn_layers": ["layer0", "layer1"]}
    return {"model_state_dict": tensors, "config": argparse.Namespace(**config)}


FILES = {"many_tasks": many_tasks_file, "mae": mae_file, "fae": fae_file}
SIZES = {"many_tasks": {"image_size": 128}, "mae": {"heads": 4, "decoder_heads": 4}, "fae": {}}


def damaged_bytes(content, rng, number):
    """Cut short, or with flipped bytes anywhere."""
    damaged = bytearray(content)
    if number % 2:
        return bytes(damaged[: int(rng.integers(0, len(content)))])
    for place in rng.integers(0, len(content), int(rng.integers(1, 30))):
        damaged[place] ^= int(rng.integers(1, 256))
    return bytes(damaged)


ODD = (None, -1, 0, 10**9, "text", [], {}, (1, 2, 3), 1e30, float("nan"), True, [[1]], b"x")


def damaged_content(content, rng):
    """One entry of a file's content exchanged or dropped."""
    content = dict(content)
    nest = next(key for key in ("net", "model", "model_state_dict", "state_dict") if key in content)
    tensors = content[nest] = dict(content[nest])
    key = list(tensors)[int(rng.integers(len(tensors)))]
    old = tensors[key]
    kind = rng.choice(["drop", "shape", "type", "nan", "dtype", "whole", "option"])
    if kind == "drop":
        del tensors[key]
    elif kind == "shape":
        tensors[key] = torch.zeros([max(0, side + int(rng.integers(-1, 3))) for side in old.shape] + [1])
    elif kind == "type":
        tensors[key] = ODD[int(rng.integers(len(ODD)))]
    elif kind == "nan":
        tensors[key] = torch.full_like(old.float(), float("inf"))
    elif kind == "dtype":
        tensors[key] = old.to(torch.complex64) if old.is_floating_point() else old.double()
    elif kind == "whole":
        content[nest] = ODD[int(rng.integers(len(ODD)))]
    else:
        options = content.get("config", content.get("args"))
        if options is not None:
            names = list(vars(options))
            odd = ODD[int(rng.integers(len(ODD)))]
            changed = vars(options) | {names[int(rng.integers(len(names)))]: odd}
            content["config" if "config" in content else "args"] = argparse.Namespace(**changed)
    return content


def outcome(read, expected):
    """True where the file was refused in one line; otherwise the model must be whole: all names, all finite."""
    message = None
    try:
        model = read()
    except UserError as error:
        message = str(error)
    if message is not None:
        assert "\n" not in message
        assert len(message) < 900
        return True
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.isfinite(value).all() for value in found.values() if value.is_floating_point())
    return False


def fuzz_originals(kind, cases, seed=0):
    """Refused, whole: bytes and contents of one of the authors' formats."""
    rng, content = np.random.default_rng(seed), FILES[kind]()
    torch.save(content, "good.pt")
    good = Path("good.pt").read_bytes()

    def read():
        return zoo.import_checkpoint("bad.pt", format=kind, **SIZES[kind])

    expected = zoo.import_checkpoint("good.pt", **SIZES[kind]).state_dict()
    refused = 0
    for number in range(cases):
        Path("bad.pt").write_bytes(damaged_bytes(good, rng, number))
        refused += outcome(read, expected)
    assert refused >= 0.9 * cases  # flips in padding change nothing
    for _ in range(cases // 2):
        torch.save(damaged_content(content, rng), "bad.pt")
        outcome(read, expected)
    return refused


@pytest.mark.parametrize("kind", FILES)
def test_authors_formats(kind):
    fuzz_originals(kind, CONTENTS)


def shared_folder():
    model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny)
    save_safetensors(model, Path("shared"))
    return model.state_dict()


def fuzz_safetensors(cases, seed=0):
    expected = shared_folder()
    path, rng = Path("shared/model.safetensors"), np.random.default_rng(seed)
    good = path.read_bytes()
    for number in range(cases):
        content = damaged_bytes(good, rng, number)
        if number % 4 == 0:  # in the header, where the structure is
            content = bytearray(good)
            for place in rng.integers(0, 600, 5):
                content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        assert outcome(lambda: zoo.load_pretrained("shared"), expected), "the checksum tells any change"
    config = Path("shared/config.yaml")
    content = yaml.safe_load(config.read_text())
    del content["sha256"]  # as other tools may write it: the structure alone must do
    config.write_text(yaml.safe_dump(content))
    for number in range(cases):
        path.write_bytes(damaged_bytes(good, rng, number | 1))
        assert outcome(lambda: zoo.load_pretrained("shared"), expected)


def fuzz_config(cases, seed=0):
    expected = shared_folder()
    config, rng = Path("shared/config.yaml"), np.random.default_rng(seed)
    good, plain = config.read_bytes(), yaml.safe_load(config.read_text())
    refused = 0
    for number in range(cases):
        if number % 2:
            content = json.loads(json.dumps(plain))
            part = content[("uad_zoo", "hyper_parameters")[int(rng.integers(2))]]
            part[list(part)[int(rng.integers(len(part)))]] = ODD[int(rng.integers(len(ODD)))]
            config.write_text(yaml.dump(content))
        else:
            config.write_bytes(damaged_bytes(good, rng, number))
        refused += outcome(lambda: zoo.load_pretrained("shared"), expected)
    assert refused >= cases / 3  # others change what is free, like the learning rate


def test_safetensors():
    fuzz_safetensors(BYTES)


def test_configurations():
    fuzz_config(BYTES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FILES, "safetensors", "config"])
def test_many_more(kind):
    if kind == "safetensors":
        fuzz_safetensors(DEEP, seed=1)
    elif kind == "config":
        fuzz_config(DEEP, seed=1)
    else:
        fuzz_originals(kind, DEEP // 2, seed=1)
