"""After an import nothing has changed: tensors and predictions equal those of the authors' file by bits."""

import argparse
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.checkpoints.initialising import initialise
from zoo.cli import main
from zoo.registry import load_class

GOLDEN = Path(__file__).parents[1] / "golden"


def fill(key, shape, dtype="float32"):
    """The golden files' weights: a normal stream for each key, scaled by its kind."""
    if dtype in ("bool", "int64"):
        return torch.ones(shape, dtype=torch.bool) if dtype == "bool" else torch.zeros(shape, dtype=torch.int64)
    n = np.asarray(np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape), np.float32)
    if key.endswith("running_var"):
        n = np.float32(1) + np.float32(0.1) * np.abs(n)
    elif len(shape) >= 2:
        n = n * np.float32(1.0 / math.sqrt(math.prod(shape[1:])))
    elif len(shape) == 1 and key.endswith("weight"):
        n = np.float32(1) + np.float32(0.1) * n
    else:
        n = np.float32(0.05) * n
    return torch.from_numpy(n).reshape(tuple(shape))


def fae():
    entry = json.loads((GOLDEN / "fae" / "state_dict_keys.json").read_text())
    tensors = {key: fill(*rest) for key, *rest in ((one[0], *one) for one in entry["state_dict"])}
    return {"model_state_dict": tensors, "config": argparse.Namespace(**entry["config"])}, tensors


def mae():
    entries = json.loads((GOLDEN / "mae" / "state_dict_keys_small.json").read_text())["tensors"]
    tensors = {key: fill(key, shape, dtype) for key, shape, dtype in entries}
    return {"model": tensors}, tensors


def many_tasks():
    entries = json.loads((GOLDEN / "multitask" / "unet_keys_3d.json").read_text())
    tensors = {key: fill(key, shape, dtype) for key, shape, dtype in entries}
    return {"net": tensors}, tensors


def timm_file():
    import timm

    torch.manual_seed(0)
    tensors = timm.create_model("resnet18", pretrained=False).state_dict()
    return {"state_dict": tensors}, tensors


HEADS = ["--set", "heads=4", "--set", "decoder_heads=4"]
CASES = {
    "fae": (fae, [], {}),
    "mae": (mae, ["--model", "memmc_mae", *HEADS], {"model": "memmc_mae", "heads": 4, "decoder_heads": 4}),
    "many_tasks": (many_tasks, ["--image_size", "32", "48", "32"], {"image_size": (32, 48, 32)}),
    "timm": (
        timm_file,
        ["--model", "padim", "--set", "backbone=resnet18", "--image_size", "32"],
        {"model": "padim", "backbone": "resnet18", "image_size": 32},
    ),
}


def values(tensors):
    """Each float tensor of some size by its bytes."""
    return {one.numpy().tobytes() for one in tensors.values() if one.is_floating_point() and one.numel() > 3}


@pytest.mark.parametrize("form", list(CASES))
def test_files_and_their_copies_equal_the_authors_by_bits(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, options, arguments = CASES[form]
    content, theirs = write()
    torch.save(content, "theirs.pt")
    assert main(["import", "theirs.pt", "--format", form, *options, "--out", "ours.ckpt"]) == 0
    assert main(["push", "ours.ckpt", "--out", "pushed"]) == 0
    torch.manual_seed(0)
    direct = zoo.import_checkpoint("theirs.pt", form, **arguments).eval()
    loaded, pushed = zoo.load_pretrained("ours.ckpt"), zoo.load_pretrained("pushed")
    own = values(loaded.state_dict())
    kept = own & values(theirs)
    assert len(kept) >= 0.5 * len(own)  # the others are fixed positions, memory, statistics
    assert kept == values(direct.state_dict()) & values(theirs)
    for (name, one), two in zip(loaded.state_dict().items(), pushed.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    if form == "timm":  # still to be fitted
        return
    image = torch.rand(2, loaded.in_channels, *loaded.image_size, generator=torch.Generator().manual_seed(0))
    expected = loaded(image)
    found = pushed(image)
    assert torch.equal(found.anomaly_score, expected.anomaly_score)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)
    if form != "mae":  # memory is drawn anew by every import
        assert torch.equal(direct(image).anomaly_map, expected.anomaly_map)
    fresh = load_class(type(loaded).__name__).from_hparams(loaded.hparams)
    fresh.configure_model()
    initialise(fresh.eval(), "pushed", strict=True)
    assert torch.equal(fresh(image).anomaly_score, expected.anomaly_score)


def test_an_imported_file_equals_the_authors_outputs(tmp_path, monkeypatch):
    """The golden figures were computed by the authors' code; through import, file and push they stay."""
    monkeypatch.chdir(tmp_path)
    torch.save(mae()[0], "theirs.pt")
    assert main(["import", "theirs.pt", "--format", "mae", "--model", "mae", *HEADS, "--out", "ours.ckpt"]) == 0
    assert main(["push", "ours.ckpt", "--out", "pushed"]) == 0
    from zoo.nn.vit import random_masking

    golden = np.load(GOLDEN / "mae" / "golden.npz")
    images = torch.from_numpy(golden["small_imgs_f16"]).float()
    masking = random_masking(torch.from_numpy(golden["small_noise"]), 0.75)
    for source in ("ours.ckpt", "pushed"):
        network = zoo.load_pretrained(source).network
        with torch.no_grad():
            np.testing.assert_allclose(network(images, masking), golden["small_pred"], atol=1e-5)


def test_the_recipe_of_the_documentation(image_folder, tmp_path, monkeypatch, capsys):
    """MAE's file into MemMC-MAE, fine-tuned on own images, tested, and on again from the result."""
    monkeypatch.chdir(tmp_path)
    source = zoo.create_model("mae", image_size=32, in_channels=3, patch_size=8, width=64, depth=2, heads=1)
    torch.save({"model": source.network.state_dict()}, "mae.pth")
    model = ["--model", "memmc_mae", "--model.patch_size", "8", "--model.width", "64", "--model.depth", "2"]
    model += ["--model.heads", "1", "--model.num_memory", "3"]
    data = ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32", "--data.batch_size", "5"]
    steps = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--panels.count", "0"]
    assert main(["fit", *model, *data, *steps, "--init_from", "mae.pth", "--test_after_fit", "true"]) == 0
    assert "initialised from mae.pth: " in capsys.readouterr().out
    (run,) = Path("runs").iterdir()
    (start,) = zoo.load_pretrained(run).marks.started_from
    assert start["origin"] == {"format": "mae", "file": "mae.pth"}
    assert start["licence"] == "cc-by-nc-4.0"
    assert main(["fit", "--config", str(run / "config.yaml")]) == 0  # "repeat" starts from the file too
    assert "initialised from mae.pth: " in capsys.readouterr().out
