"""``zoo import``, ``export`` and ``push`` as a user types them."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.cli import main
from zoo.errors import UserError
from zoo.registry import methods

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def filled(entries):
    tensors = {}
    for key, shape, dtype in entries:
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
        values = torch.from_numpy(np.asarray(0.05 * rng.standard_normal(shape), np.float32))
        if key.endswith("running_var"):
            values = values.abs() + 1
        kind = {"bool": torch.bool, "int64": torch.int64}.get(dtype)
        tensors[key] = values.reshape(tuple(shape)) if kind is None else torch.ones(shape, dtype=kind)
    return tensors


def test_authors_format_through_the_command(capsys):
    entries = json.loads((GOLDEN / "multitask" / "unet_keys_3d.json").read_text())
    torch.save({"net": filled(entries)}, "theirs.pt")
    command = ["import", "theirs.pt", "--format", "many_tasks", "--image_size", "32", "48", "32", "--out", "ours.ckpt"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "76 tensors filled, 0 new, 0 ignored" in told.out + told.err
    model = zoo.load_pretrained("ours.ckpt")
    assert model.image_size == (32, 48, 32)
    assert model(torch.randn(1, 1, 32, 48, 32)).anomaly_map.shape == (1, 1, 32, 48, 32)
    assert main(command) == 2  # nothing is overwritten
    assert "nothing is overwritten" in capsys.readouterr().err


def saved_run(image_folder, name="autoencoder", *more):
    arguments = ["--config", f"models/{name}", "--data", "Folder", "--data.root", str(image_folder)]
    arguments += ["--data.image_size", "32", "--trainer.max_steps", "2", "--test_after_fit", "true", *more]
    assert main(["fit", *arguments]) == 0
    (run,) = Path("runs").iterdir()
    return run


def test_pushed_folder_loads_and_says_what_it_is(image_folder):
    run = saved_run(image_folder, "autoencoder", "--model.hidden_dims", "[8,16]", "--model.latent_dim", "4")
    assert main(["push", str(run), "--out", "hub", "--licence", "cc-by-4.0"]) == 0
    card = Path("hub/README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "| image_auroc |" in card
    assert "Not a medical device" in card
    image = torch.rand(3, 1, 32, 32)
    expected = zoo.load_pretrained(run)(image)
    for source in ("hub", "hub/model.safetensors"):
        assert torch.equal(zoo.load_pretrained(source)(image).anomaly_map, expected.anomaly_map)
    Path("hub/config.yaml").unlink()
    with pytest.raises(UserError, match=r"no config\.yaml"):
        zoo.load_pretrained("hub")


@pytest.mark.parametrize("command", ["import", "export", "push"])
def test_help_is_light(command):
    code = (
        "import sys\nfrom zoo.cli import main\n"
        f"code = main(['{command}', '--help'])\nsys.exit(code or 'torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.DEVNULL).returncode == 0


def test_fuzzed_checkpoints_are_errors_never_models(image_folder):
    from zoo.checkpoints.saving import save_checkpoint

    model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny)
    save_checkpoint(model, Path("good.ckpt"))
    content = Path("good.ckpt").read_bytes()
    image = torch.rand(2, 1, 32, 32)
    expected = zoo.load_pretrained("good.ckpt")(image).anomaly_score
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(60):
        damaged = bytearray(content)
        if number % 2:
            damaged = damaged[: int(rng.integers(1, len(content)))]
        else:
            for place in rng.integers(0, len(content), 20):
                damaged[place] ^= int(rng.integers(1, 256))
        Path("bad.ckpt").write_bytes(damaged)
        try:
            found = zoo.load_pretrained("bad.ckpt")(image).anomaly_score
        except UserError:
            refused += 1
        else:  # flips that hit nothing but padding
            assert torch.equal(found, expected)
    assert refused >= 55


@pytest.mark.parametrize("spoil", ["nan", "shape", "dtype", "missing", "later format", "no header"])
def test_spoilt_checkpoints(spoil):
    from zoo.checkpoints.saving import save_checkpoint

    model = zoo.create_model("autoencoder", **methods()["autoencoder"].tiny)
    save_checkpoint(model, Path("a.ckpt"))
    checkpoint = torch.load("a.ckpt", weights_only=True)
    key = next(iter(checkpoint["state_dict"]))
    tensor = checkpoint["state_dict"][key]
    if spoil == "nan":
        checkpoint["state_dict"][key] = torch.full_like(tensor, float("nan"))
    elif spoil == "shape":
        checkpoint["state_dict"][key] = torch.zeros(3, 3)
    elif spoil == "dtype":
        checkpoint["state_dict"][key] = "text"
    elif spoil == "missing":
        del checkpoint["state_dict"][key]
    elif spoil == "later format":
        checkpoint["uad_zoo"]["format"] = 99
    else:
        del checkpoint["uad_zoo"]
    torch.save(checkpoint, "a.ckpt")
    with pytest.raises(UserError):
        zoo.load_pretrained("a.ckpt")
