"""Files from before an option load with what it meant then, and predict the same."""

import pytest
import torch

import zoo
from zoo.checkpoints.saving import save_checkpoint
from zoo.registry import load_class

OLD = {
    "patchcore": {"dimensions": None},
    "ce_vae": {"network": "dense"},
    "draem": {"alter_textures": False, "turned": 0.0},
    "fpi": {"layout": "headed"},
}


@pytest.mark.parametrize("name", sorted(OLD))
def test_a_file_without_the_option_predicts_as_it_did(name, tmp_path):
    cls = load_class(name)
    assert OLD[name].items() <= cls.before.items()
    old = zoo.create_model(name, **{**cls.tiny, **OLD[name]}).eval()
    image = torch.rand(2, old.in_channels, 32, 32)
    if name == "patchcore":
        old.collect({"image": image.flip(-1)}, 0)
        old.finish()
    for option in OLD[name]:
        del old.hparams[option]
    save_checkpoint(old, tmp_path / "old.ckpt")
    loaded = zoo.load_pretrained(tmp_path / "old.ckpt")
    assert {option: loaded.hparams[option] for option in OLD[name]} == OLD[name]
    old.hparams.update(OLD[name])
    assert torch.equal(loaded(image).anomaly_map, old(image).anomaly_map)
