"""Textures of DRAEM: every operation stays in range and does something; three are drawn; images are turned."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from zoo.synthetic.perlin import paste_textures
from zoo.synthetic.textures import ALTERATIONS, alter_texture, turned


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("number", range(len(ALTERATIONS)))
def test_each_alteration_changes_a_texture_and_keeps_its_shape(number, channels):
    texture = np.random.default_rng(0).random((channels, 24, 32)).astype(np.float32) * 0.9 + 0.05
    found = [ALTERATIONS[number](texture, np.random.default_rng(seed)) for seed in range(12)]
    assert all(one.shape == texture.shape and np.isfinite(one).all() for one in found)
    changed = any(np.abs(one - texture).max() > 1e-3 for one in found)
    assert changed == (channels == 3 or ALTERATIONS[number].__name__ != "_hue_and_saturation"), "greys have no hue"
    assert (ALTERATIONS[number](texture, np.random.default_rng(3)) == found[3]).all()


def test_three_of_ten_in_range():
    assert len(ALTERATIONS) == 10
    texture = np.random.default_rng(1).random((3, 16, 16)).astype(np.float32)
    altered = [alter_texture(texture, np.random.default_rng(seed)) for seed in range(30)]
    assert min(one.min() for one in altered) >= 0
    assert max(one.max() for one in altered) <= 1
    assert len({one.tobytes() for one in altered}) == 30


def test_pasted_textures_are_altered_only_where_asked():
    images = np.random.default_rng(2).random((8, 1, 32, 32)).astype(np.float32)
    textures = np.full((1, 1, 32, 32), 0.25, np.float32)
    for alter in (False, True):
        altered, mask = paste_textures(images, np.random.default_rng(0), textures, alter)
        assert (altered[~mask] == images[~mask]).all()
        again, _ = paste_textures(images, np.random.default_rng(0), textures, alter)
        assert (altered == again).all()
    plain, _ = paste_textures(images, np.random.default_rng(0), textures)
    assert (plain != altered).any()


def test_turned_images_are_turned_about_their_middle():
    size = (40, 60)
    image = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(3).random((64, 1, *size)), (0, 0, 2, 2)))
    found = turned(image.float(), np.random.default_rng(0), 0.3)
    moved = (found != image.float()).flatten(1).any(1)
    assert 10 <= int(moved.sum()) <= 28, "about 30 % of 64"
    assert torch.equal(turned(image, np.random.default_rng(0), 0.0), image)
    rng = np.random.default_rng(0)
    chosen, angles = rng.random(64) < 0.3, rng.uniform(-90, 90, 64)
    assert moved.tolist() == chosen.tolist()
    for number in np.flatnonzero(chosen)[:4]:
        wanted = [
            ndimage.rotate(image[number, 0].numpy(), sign * angles[number], reshape=False, order=1) for sign in (1, -1)
        ]
        inner = (slice(12, 28), slice(22, 38))
        assert min(np.abs(found[number, 0].numpy() - one)[inner].max() for one in wanted) < 0.02
