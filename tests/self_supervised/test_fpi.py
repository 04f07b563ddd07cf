"""Foreign patches: the network's size, and partners from the same slice of other volumes."""

import numpy as np
import pytest
import torch

import zoo
from datamodules import BrainMRI
from zoo.nn.residual import WideResidualSegmenter


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
