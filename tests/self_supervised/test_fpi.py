"""Foreign patches: the network's size, and partners from the same slice of other volumes."""

import numpy as np
import pytest
import torch
import yaml

import zoo
from datamodules import BrainMRI
from zoo.cli import main
from zoo.nn.residual import WideResidualSegmenter
from zoo.self_supervised.fpi import ForeignPatchInterpolation


def test_the_network_has_the_originals_parameters():
    """4.16 million by a tally over the authors' layers (Tan et al.: widths 64, 128, 256, 256, 256, factor 4)."""
    count = sum(parameter.numel() for parameter in WideResidualSegmenter(1, (64, 64), layout="original").parameters())
    assert count == 4_164_763


@pytest.mark.parametrize("layout", ["original", "headed"])
def test_layouts_mark_every_pixel(layout):
    network = WideResidualSegmenter(2, (32, 48), (8, 16, 16), layout=layout).eval()
    assert network(torch.rand(3, 2, 32, 48)).shape == (3, 1, 32, 48)


def test_older_files_keep_their_layout(tmp_path):
    from zoo.checkpoints.saving import save_checkpoint

    old = zoo.create_model("fpi", image_size=32, widths=(8, 16, 16), layout="headed").eval()
    del old.hparams["layout"]
    save_checkpoint(old, tmp_path / "old.ckpt")
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(zoo.load_pretrained(tmp_path / "old.ckpt")(image).anomaly_map, old(image).anomaly_map)


@pytest.mark.parametrize("store", ["off", "float16"])
def test_training_batches_of_slices_get_partners(store, own_cache, quiet_trainer, monkeypatch):
    found = []
    partners = ForeignPatchInterpolation._partners

    def watched(self, batch, image, rng):
        found.append(partners(self, batch, image, rng))
        return found[-1]

    monkeypatch.setattr(ForeignPatchInterpolation, "_partners", watched)
    data = BrainMRI(train="hcp", test="brats17", sequence="t2", image_size=32, batch_size=6, device_store=store)
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(ForeignPatchInterpolation(widths=(8, 16, 16)), data)
    assert found
    assert all(one is not None and one.shape == (6, 1, 32, 32) for one in found)


def test_partners_are_the_same_slice_of_another_volume(own_cache):
    data = BrainMRI(train="hcp", test="brats17", sequence="t2", image_size=32, batch_size=6)
    model = zoo.create_model("fpi", image_size=32, widths=(8, 16, 16))
    model.prepare_fit(data)
    images = data.dataset("train")
    assert len(set(images.volumes)) > 1
    batch = images.__getitems__([0, len(images) // 2, len(images) - 1])
    found = model._partners(batch, batch["image"], np.random.default_rng(0))
    everything = images.__getitems__(list(range(len(images))))
    for number, partner in enumerate(found):
        same = [k for k in range(len(images)) if torch.equal(everything["image"][k], partner)]
        assert any(
            everything["slice"][k] == batch["slice"][number] and everything["volume"][k] != batch["volume"][number]
            for k in same
        )


def test_a_run_from_before_the_option_keeps_its_layout(image_folder, tmp_path):
    arguments = ["--model", "fpi", "--model.widths", "[8, 16, 16]", "--model.layout", "headed", "--data", "Folder"]
    arguments += ["--data.root", str(image_folder), "--data.image_size", "32", "--data.batch_size", "3"]
    arguments += ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--panels.count", "0"]
    assert main(["fit", *arguments, "--trainer.default_root_dir", str(tmp_path)]) == 0
    (run,) = tmp_path.iterdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["model"]["init_args"]["layout"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "--run", str(run)]) == 0
