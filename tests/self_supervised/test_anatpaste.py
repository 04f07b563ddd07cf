"""AnatPaste: lungs of a drawn film are found, patches stay in them; the one-stage score."""

import numpy as np
import pytest
import torch

import zoo
from zoo.synthetic.soft_patches import lungs, paste_softly


@pytest.fixture
def film():
    """A bright chest with two dark lungs on a dark background that touches the border."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    image = np.where(np.hypot((y - 64) / 60, (x - 64) / 56) < 1, 0.8, 0.05)
    wanted = np.zeros((128, 128), bool)
    for middle in (42, 86):
        wanted |= np.hypot((y - 60) / 34, (x - middle) / 16) < 1
    image[wanted] = 0.3
    return np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1), wanted


def test_lungs_are_found_and_the_background_is_not(film):
    image, wanted = film
    found = lungs(image)
    assert (found & wanted).sum() > 0.9 * wanted.sum()
    assert (found & ~wanted).sum() < 0.25 * wanted.sum()


def test_an_image_without_lungs_is_used_whole():
    assert lungs(np.full((64, 64), 0.5)).all()
    assert lungs(np.zeros((64, 64))).all()


def test_patches_stay_in_the_region_and_in_range(film):
    image, wanted = film
    changed = np.zeros_like(wanted)
    for seed in range(30):
        pasted = paste_softly(image[None], wanted, np.random.default_rng(seed))
        assert pasted.shape == (1, 128, 128)
        assert pasted.min() >= 0
        assert pasted.max() <= 1
        changed |= pasted[0] != image
    assert not (changed & ~wanted).any()
    assert (changed & wanted).sum() > 0.5 * wanted.sum()


@pytest.mark.parametrize("side", [32, 64, 256])
def test_every_size_of_images_works(side):
    image = np.random.default_rng(0).random((3, side, side))
    region = np.ones((side, side), bool)
    changes = [(paste_softly(image, region, np.random.default_rng(seed)) != image).any() for seed in range(20)]
    assert np.mean(changes) > 0.8


@pytest.mark.parametrize("name", ["cutpaste", "anatpaste"])
def test_one_stage_score_is_the_classifiers(name):
    torch.manual_seed(0)
    model = zoo.create_model(name, image_size=32, backbone="resnet10t", head_dims=(16,), score="classifier").eval()
    assert [stage.kind for stage in model.stages()] == ["optimise"]
    image = torch.rand(4, 1, 32, 32)
    wanted = 1 - model.head(model.trunk(image)).softmax(dim=1)[:, 0]
    assert torch.allclose(model(image).anomaly_score, wanted)
