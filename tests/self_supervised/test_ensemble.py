"""Ensembles average their members, and live without the members' files."""

import pytest
import torch

import zoo
from zoo.errors import UserError
from zoo.self_supervised.ensemble import Ensemble


@pytest.fixture
def members(tmp_path):
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = zoo.create_model("multi_task", image_size=32, depth=3, width=4, positions=2).eval()
        path = tmp_path / f"{seed}.ckpt"
        checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
        model.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, path)
        made.append((model, str(path)))
    return made


def test_mean_of_raw_outputs_is_clipped_afterwards(members):
    ensemble = zoo.create_model("ensemble", image_size=32, checkpoints=tuple(path for _, path in members)).eval()
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        raw = torch.stack([model.raw_output(image) for model, _ in members]).mean(0)
    found = ensemble(image)
    assert torch.allclose(found.anomaly_map, raw.clamp(0, 1), atol=1e-6)
    assert torch.allclose(found.anomaly_score, raw.clamp(0, 1).mean((1, 2, 3)), atol=1e-6)


def test_checkpoint_needs_no_member_files(members, tmp_path):
    from pathlib import Path

    ensemble = zoo.create_model("ensemble", image_size=32, checkpoints=tuple(path for _, path in members)).eval()
    checkpoint = {"state_dict": ensemble.state_dict(), "hyper_parameters": dict(ensemble.hparams)}
    ensemble.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "ensemble.ckpt")
    for _, path in members:
        Path(path).unlink()
    image = torch.rand(1, 1, 32, 32)
    loaded = zoo.load_pretrained(tmp_path / "ensemble.ckpt")
    assert torch.equal(loaded(image).anomaly_map, ensemble(image).anomaly_map)


def test_mistakes_are_told(members):
    with pytest.raises(UserError, match="needs members"):
        zoo.create_model("ensemble", image_size=32)
    with pytest.raises(UserError, match=r"0\.ckpt: made for images 1 x \(32, 32\)"):
        zoo.create_model("ensemble", image_size=64, checkpoints=(members[0][1],))
    assert Ensemble.fitting == "single_pass"
