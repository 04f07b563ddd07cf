"""The memory of a training step, the batch that fits, and ``auto``."""

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from datamodules import Folder
from zoo.cli import main, memory
from zoo.cli.memory import Need, free_memory, measure, settle_batch
from zoo.errors import UserError
from zoo.reconstruction.autoencoder import Autoencoder


def _parts(tmp_path, batch):
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=1
    )
    data = Folder(image_size=64, batch_size=batch, cache_dir=str(tmp_path))
    return Autoencoder(hidden_dims=(8, 16), latent_dim=8), data, trainer


def test_an_image_takes_what_the_network_keeps(tmp_path):
    model, data, trainer = _parts(tmp_path, 8)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    need = measure(model, data, trainer)
    assert torch.equal(torch.rand(1), expected), "the fit's random numbers are left alone"
    # at 32 and 16 pixels 8 and 16 channels, each kept by convolution, norm and activation, down and up
    kept = 4 * (8 * 32**2 + 16 * 16**2)
    assert 2 * kept < need.image < 20 * kept
    assert need.of(9) - need.of(8) == pytest.approx(need.image)
    assert need.fits(need.of(7) + 1) == 7
    assert data.batch_size == 8
    assert data.trainer is None


def test_what_cannot_fit_is_refused_before_the_first_step(tmp_path, monkeypatch):
    model, data, trainer = _parts(tmp_path, 1000)
    monkeypatch.setattr(memory, "measure", lambda *parts: Need(2e9, 1e8))
    for free, outcome in ((1e9, "not even one image fits"), (60e9, r"about 460 images fit: --data\.batch_size 460")):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        monkeypatch.setattr(memory, "_VALUES", 1e6)
        with pytest.raises(UserError, match=rf"batch_size 1000: a training step needs about 102\.0 GB.*{outcome}"):
            settle_batch(model, data, trainer)
    monkeypatch.setattr(memory, "free_memory", lambda device: 90e9)
    with pytest.warns(UserWarning, match="needs about 102.0 GB of memory, 90.0 GB are free"):
        assert settle_batch(model, data, trainer) is None
    monkeypatch.setattr(memory, "free_memory", lambda device: 200e9)
    assert settle_batch(model, data, trainer) is None


def test_small_batches_are_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "measure", None)
    assert settle_batch(*_parts(tmp_path, 4)) is None
    assert free_memory(torch.device("cpu")) > 1e8


def test_auto_is_settled_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["fit", "--config", "models/autoencoder", "--model.hidden_dims", "[8,16]", "--model.latent_dim", "8"]
    command += [
        "--data",
        "Folder",
        "--data.image_size",
        "32",
        "--data.batch_size",
        "auto",
        "--data.num_workers",
        "auto",
    ]
    command += ["--trainer.accelerator", "cpu", "--trainer.max_steps", "1", "--panels.count", "0"]
    assert main([*command, "--data.cache_dir", "c"]) == 0
    told = capsys.readouterr().out
    (run,) = Path("runs").iterdir()
    chosen = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["batch_size"]
    assert f"batch size: {chosen} (auto: " in told
    assert chosen in (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert main(["test", "--run", str(run)]) == 0
    assert Folder(batch_size="auto", num_workers="auto").batch_size == 32
