"""A new fit from the weights of another model."""

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

import zoo
from datamodules import Folder
from zoo.checkpoints.initialising import initialise
from zoo.checkpoints.saving import save_checkpoint, save_safetensors
from zoo.cli import main
from zoo.errors import UserError

SMALL = {"image_size": 32, "hidden_dims": (4, 8), "weights": "random"}


def new_fae(**changes):
    return zoo.create_model("fae", **{**SMALL, **changes})


def trainer(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", enable_checkpointing=False, num_sanity_val_steps=0, **quiet, **options)


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    torch.manual_seed(5)
    model = new_fae()
    path = tmp_path_factory.mktemp("donor") / "fae.ckpt"
    save_checkpoint(model, path)
    return model, path


def test_every_weight_is_filled(donor, tmp_path):
    model, path = donor
    save_safetensors(model, tmp_path / "pushed")
    for source in (path, tmp_path / "pushed" / "model.safetensors", tmp_path / "pushed"):
        other = new_fae()
        report = initialise(other, source, strict=True)
        assert (report.new, report.ignored) == ((), ())
        for (name, one), two in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(one, two), name


def test_what_fits_is_filled_and_the_rest_is_told(donor):
    model, path = donor
    other = new_fae(hidden_dims=(4, 16))
    report = initialise(other, path)
    assert report.filled
    assert report.new
    assert report.ignored
    own, theirs = other.state_dict(), model.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in report.filled)
    with pytest.raises(UserError, match=r"init_from.*missing"):
        initialise(new_fae(hidden_dims=(4, 16)), path, strict=True)
    with pytest.raises(UserError, match="no weight of"):
        initialise(zoo.create_model("mae", image_size=32, patch_size=8, width=16, depth=1, heads=2), path)


def test_statistics_are_collected_anew_and_training_is_training(image_folder, tmp_path):
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    padim = zoo.create_model("padim", image_size=32, in_channels=data.channels, weights="random", feature_channels=4)
    trainer(max_epochs=1).fit(padim, data)
    once, mean = int(padim.gaussian.count), padim.gaussian.mean.clone()
    save_checkpoint(padim, tmp_path / "padim.ckpt")
    again = zoo.load_pretrained(tmp_path / "padim.ckpt")
    assert not again.training
    trainer(max_epochs=1).fit(again, data)
    assert int(again.gaussian.count) == once
    assert torch.allclose(again.gaussian.mean, mean, atol=1e-5)


def test_a_loaded_model_trains_as_a_new_one_does(donor, image_folder):
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    modes = []

    def watch(model):
        step = model.training_step

        def watched(batch, batch_idx):
            modes.append({name: module.training for name, module in model.named_modules()})
            return step(batch, batch_idx)

        model.training_step = watched
        return model

    fresh, loaded = new_fae(in_channels=data.channels), new_fae(in_channels=data.channels).eval()
    for model in (fresh, loaded):
        trainer(max_steps=1).fit(watch(model), data)
    assert modes[0] == modes[1]
    assert any(modes[1].values())


def write_mae(path):
    """A file with the names of the original MAE's, tiny."""
    source = zoo.create_model("mae", image_size=32, in_channels=3, patch_size=8, width=64, depth=2, heads=1)
    torch.save({"model": source.network.state_dict()}, path)
    return source


def test_the_authors_file_starts_the_lineage(tmp_path):
    arguments = {"patch_size": 8, "width": 64, "depth": 2, "heads": 1}
    source = write_mae(tmp_path / "mae.pth")
    model = zoo.create_model("memmc_mae", image_size=32, in_channels=1, num_memory=3, **arguments)
    report = initialise(model, tmp_path / "mae.pth")
    name = "network.blocks.1.mlp.fc1.weight"
    assert name in report.filled
    assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_on_the_command_line(donor, image_folder, tmp_path, capsys):
    _, path = donor
    base = ["fit", "--model", "fae", "--model.weights", "random", "--model.hidden_dims", "[4,8]", "--data", "Folder"]
    base += ["--data.root", str(image_folder), "--data.image_size", "32", "--trainer.max_steps", "1"]
    base += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path / "runs")]
    assert main([*base, "--init_from", str(path)]) == 0
    assert f"initialised from {path}: " in capsys.readouterr().out
    (run,) = (tmp_path / "runs").iterdir()
    assert yaml.safe_load((run / "config.yaml").read_text())["init_from"] == {"source": str(path), "strict": False}
    for options, told in (
        (["--ckpt_path", str(path)], f"--init_from {path} starts a new fit"),
        (["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--init_from", str(path)], "give one"),
        (["--init_from", str(tmp_path / "none.ckpt")], "none.ckpt"),
    ):
        assert main([*base, *options]) == 2, options
        assert told in capsys.readouterr().err
    assert len(list((tmp_path / "runs").iterdir())) == 1, "a refusal leaves no run folder"
