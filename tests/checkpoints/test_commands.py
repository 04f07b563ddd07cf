"""``zoo import``, ``export`` and ``push`` as a user types them."""

import argparse
import dataclasses
import json
import re
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


def imported(capsys, *command):
    """The model that ``zoo import`` made, and what it told."""
    code = main(["import", *command, "--out", "ours.ckpt"])
    told = capsys.readouterr()
    assert code == 0, told.err
    return zoo.load_pretrained("ours.ckpt"), told.out + told.err


@pytest.mark.parametrize(
    ("dims", "size", "count"),
    [pytest.param(2, (128, 64), 110, marks=pytest.mark.slow), (3, (32, 48, 32), 76)],
)
def test_many_tasks_files(capsys, dims, size, count):
    entries = json.loads((GOLDEN / "multitask" / f"unet_keys_{dims}d.json").read_text())
    tensors = filled(entries)
    torch.save({"net": tensors}, "theirs.pt")
    model, told = imported(capsys, "theirs.pt", "--image_size", *map(str, size))
    assert f"{count} tensors filled, 0 new, 0 ignored" in told
    assert model.image_size == size
    key = "conv_blocks_context.0.blocks.0.conv.weight"
    assert torch.equal(model.state_dict()["network.encoder.0.0.conv.weight"], tensors[key])
    if dims == 3:
        assert model(torch.randn(1, 1, *size)).anomaly_map.shape == (1, 1, *size)
    assert main(["import", "theirs.pt", "--out", "ours.ckpt"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_fae_file(capsys):
    golden = json.loads((GOLDEN / "fae" / "state_dict_keys.json").read_text())
    tensors = filled(golden["state_dict"])
    torch.save({"model_state_dict": tensors, "config": argparse.Namespace(**golden["config"])}, "last.pt")
    model, told = imported(capsys, "last.pt", "--format", "auto")
    own = model.state_dict()
    assert f"{len(own)} tensors filled, 0 new, {len(tensors) - len(own)} ignored (extractor.backbone.layer3" in told
    assert torch.equal(own["decoder.4.weight"], tensors["ae.dec.decoder_conv_final.weight"])
    assert model(torch.rand(1, 1, 128, 128)).anomaly_map.shape == (1, 1, 128, 128)


SMALL_MAE = ["--set", "heads=4", "--set", "decoder_heads=4"]


@pytest.mark.parametrize("name", ["mae", "memmc_mae"])
def test_mae_file(capsys, name):
    entries = json.loads((GOLDEN / "mae" / "state_dict_keys_small.json").read_text())["tensors"]
    torch.save({"model": filled(entries), "epoch": 1, "args": argparse.Namespace(lr=1e-3)}, "mae.pth")
    model, told = imported(capsys, "mae.pth", "--format", "mae", "--model", name, *SMALL_MAE)
    count = len(entries) - 2  # the fixed positions are recomputed
    assert f"{count} tensors filled, {len(model.network.state_dict()) - count} new" in told
    assert type(model).method().name == name
    assert model(torch.rand(2, 3, 64, 64)).anomaly_score.shape == (2,)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretrain_full", "encoder_only_release (mae_pretrain_vit_base.pth)"])
def test_published_mae_files(capsys, kind):
    """254 and 150 tensors of ViT-B, under the names and shapes of the files that are offered for download."""
    entries = json.loads((GOLDEN / "mae" / "state_dict_keys.json").read_text())[kind]["tensors"]
    torch.save({"model": filled(entries)}, "mae.pth")
    model, told = imported(capsys, "mae.pth")
    fixed = sum(key.endswith("pos_embed") for key, _, _ in entries)
    assert f"{len(entries) - fixed} tensors filled" in told
    assert model.image_size == (224, 224)
    weight = filled([["blocks.11.mlp.fc2.weight", [768, 3072], "float32"]])["blocks.11.mlp.fc2.weight"]
    assert torch.equal(model.network.blocks[11].mlp.fc2.weight, weight)


def test_backbones_of_timm_and_torchvision(capsys):
    import timm
    import torchvision.models

    torch.save({"state_dict": timm.create_model("resnet18").state_dict()}, "resnet.pth")
    command = ["resnet.pth", "--format", "timm", "--model", "padim", "--image_size", "64", "--set", "backbone=resnet18"]
    model, told = imported(capsys, *command)
    assert "tensors filled, 0 new, " in told
    assert "ignored" in told
    assert "to fit the method: lightning fit ... --model.weights resnet.pth" in told
    assert model.image_size == (64, 64)
    assert main(["export", "ours.ckpt", "--format", "pt2", "--out", "x.pt2"]) == 2
    assert (
        capsys.readouterr().err.strip()
        == "error: PaDiM has no statistics yet: run fit, or load a checkpoint of a finished fit"
    )
    vit = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768
    )
    torch.save(vit.state_dict(), "vit.pth")
    Path("ours.ckpt").unlink()
    model, told = imported(capsys, "vit.pth", "--format", "timm", "--model", "mae", "--set", "decoder_depth=1")
    assert "ignored (heads.head.weight" in told
    layer = vit.encoder.layers.encoder_layer_1.mlp[0].weight
    assert torch.equal(model.network.blocks[1].mlp.fc1.weight, layer)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--format", "timm"], "name it (--model padim"),
        (["--format", "timm", "--model", "multi_task"], "cannot take a backbone's weights"),
        (["--format", "timm", "--model", "mae"], "takes a vision transformer"),
        (["--format", "tim"], "unknown checkpoint format 'tim'; nearest: timm"),
        (["--format", "mae", "--model", "fae"], "fae does not read format mae; methods that do: mae, memmc_mae"),
        (["--set", "heads"], "expected NAME=VALUE"),
        ([], "needs --format timm"),
    ],
)
def test_import_mistakes_are_one_line(capsys, command, message):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "theirs.pth")
    assert main(["import", "theirs.pth", "--out", "x.ckpt", *command]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert len(told.splitlines()) == 1
    assert not Path("x.ckpt").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["heads=abc"], "heads"),
        (["heds=4"], "mae has no argument 'heds'; nearest: heads"),
        (["image_size=[64,abc]"], "image_size"),
        (["heads=5", "decoder_heads=4"], "the model cannot be run with these arguments"),
    ],
)
def test_arguments_of_an_import_are_checked_before_a_file_is_written(capsys, settings, message):
    entries = json.loads((GOLDEN / "mae" / "state_dict_keys_small.json").read_text())["tensors"]
    torch.save({"model": filled(entries)}, "mae.pth")
    options = [word for one in settings for word in ("--set", one)]
    assert main(["import", "mae.pth", "--model", "mae", "--out", "x.ckpt", *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not Path("x.ckpt").exists()


def test_guessed_heads_are_told(capsys):
    entries = json.loads((GOLDEN / "mae" / "state_dict_keys_small.json").read_text())["tensors"]
    torch.save({"model": filled(entries)}, "mae.pth")
    model, told = imported(capsys, "mae.pth", "--model", "mae")
    assert f"guessed heads={model.hparams['heads']}" in told
    assert "guessed decoder_heads=" in told
    Path("ours.ckpt").unlink()
    assert "guessed" not in imported(capsys, "mae.pth", "--model", "mae", *SMALL_MAE)[1]


def test_what_the_user_gives_need_not_be_in_the_file(capsys):
    """FAE's image size and layers stand in a configuration that a bare state dict lacks."""
    golden = json.loads((GOLDEN / "fae" / "state_dict_keys.json").read_text())
    torch.save({"model_state_dict": filled(golden["state_dict"])}, "last.pt")
    assert main(["import", "last.pt", "--format", "fae", "--out", "x.ckpt"]) == 2
    assert "image_size" in capsys.readouterr().err
    layers = f"layers={list(golden['config']['extractor_cnn_layers'])}"
    model, _ = imported(capsys, "last.pt", "--format", "fae", "--image_size", "128", "--set", layers)
    assert model.image_size == (128, 128)


def test_conflicting_shapes_are_named(capsys):
    entries = json.loads((GOLDEN / "mae" / "state_dict_keys_small.json").read_text())["tensors"]
    torch.save({"model": filled(entries)}, "mae.pth")
    assert main(["import", "mae.pth", "--out", "x.ckpt", "--set", "width=64", *SMALL_MAE]) == 2
    told = capsys.readouterr().err
    assert "cls_token is (1, 1, 96), the model needs (1, 1, 64); " in told
    assert " more; give the arguments" in told


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
    assert re.search(r"\| image_auroc \| [01]\.\d{4} \| [01]\.\d{4} to [01]\.\d{4} \|", card)
    assert "PHANTOM" not in card
    assert "Not a medical device" in card
    assert 'zoo.load_pretrained("hf://OWNER/NAME")' in card
    image = torch.rand(3, 1, 32, 32)
    expected = zoo.load_pretrained(run)(image)
    for source in ("hub", "hub/model.safetensors"):
        assert torch.equal(zoo.load_pretrained(source)(image).anomaly_map, expected.anomaly_map)
    Path("hub/config.yaml").unlink()
    with pytest.raises(UserError, match=r"no config\.yaml"):
        zoo.load_pretrained("hub")


def test_card_tells_phantoms_imports_and_backbones():
    from zoo.checkpoints.card import model_card
    from zoo.checkpoints.marks import Marks, of_import

    model = zoo.create_model("fae", **methods()["fae"].tiny)
    assert "No test results are known." in model_card(model)
    assert "Not known." in model_card(model)
    model.hparams["weights"] = "imagenet"
    result = {"dataset": "brain_mri", "phantom": True, "seed": 3, "data_fingerprint": "ab"}
    result |= {"metrics": {"image_auroc": 0.75, "pixel_ap": 0.5}, "intervals": {"pixel_ap": [0.49, 0.51]}}
    start = of_import("mae", "mae.pth").as_start("mae.pth")
    model.marks = dataclasses.replace(start, dataset="brain_mri", phantom=True, data_fingerprint="ab").tested(result)
    card = model_card(model, repository="me/my-model")
    assert "tags: [anomaly-detection, medical-imaging, phantom-data]" in card
    assert "Tested on **PHANTOM data** (generated; no statement on real images) `brain_mri`, seed 3" in card
    assert "Trained on **PHANTOM data**" in card
    assert "| pixel_ap | 0.5000 | 0.4900 to 0.5100 |" in card
    assert "| image_auroc | 0.7500 |  |" in card
    assert 'zoo.load_pretrained("hf://me/my-model")' in card
    assert "license: unknown" in card
    assert "Training started from `mae.pth`, licence of these weights: cc-by-nc-4.0" in card
    assert "Backbone: timm/resnet18" in card
    assert "licence as timm states it: apache-2.0" in card
    assert "Generated images took part" in card
    assert "Without a calibration" in card
    model.marks = of_import("mae", "mae.pth")
    card = model_card(model)
    assert "license: cc-by-nc-4.0" in card
    assert "Imported from `mae.pth` (format mae; github.com/facebookresearch/mae" in card
    model.marks = Marks(dataset="brain_mri", phantom=False)
    assert "PHANTOM" not in model_card(model)


def test_origin_of_an_import_travels_with_the_file(capsys):
    entries = json.loads((GOLDEN / "mae" / "state_dict_keys_small.json").read_text())["tensors"]
    torch.save({"model": filled(entries)}, "mae.pth")
    imported(capsys, "mae.pth", *SMALL_MAE)
    assert main(["push", "ours.ckpt", "--out", "hub"]) == 0
    assert main(["push", "hub", "--out", "again"]) == 0
    for folder in ("hub", "again"):
        assert "Imported from `mae.pth` (format mae" in Path(folder, "README.md").read_text()


def test_push_without_network_keeps_the_folder(capsys, monkeypatch):
    from zoo.checkpoints.saving import save_checkpoint

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    save_checkpoint(zoo.create_model("autoencoder", **methods()["autoencoder"].tiny), Path("a.ckpt"))
    assert main(["push", "a.ckpt", "--out", "hub", "--repo", "me/model"]) == 2
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0
    assert "does not answer; the folder hub is complete: upload it later" in told
    assert 'zoo.load_pretrained("hf://me/model")' in Path("hub/README.md").read_text()


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
