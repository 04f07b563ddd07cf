"""Anomalies of the MOOD 2022 winner: shares, weights, edges, range; 2-D and 3-D."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import zoo
from zoo.synthetic.shapes import soft_weight


def smooth(*shape):
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(shape), (0, 0, *[3] * (len(shape) - 2)))
    return torch.from_numpy((noise - noise.min()) / np.ptp(noise)).float()


@pytest.mark.parametrize("shape", [(12, 1, 64, 64), (6, 2, 32, 32, 32)], ids=["2-D", "3-D"])
def test_samples(shape):
    images = smooth(*shape)
    model = zoo.create_model("mood22", image_size=shape[2:], in_channels=shape[1], depth=3, width=4)
    altered, label = model.make_anomalies(images, np.random.default_rng(0))
    again = model.make_anomalies(images, np.random.default_rng(0))
    assert torch.equal(altered, again[0])
    assert torch.equal(label, again[1])
    unchanged = (altered == images).all(1, keepdim=True)
    assert not label[unchanged].any()
    # a Poisson blend bends its surroundings a little
    change = (altered - images).abs().mean(1, keepdim=True)
    assert change[label > 0].mean() > 3 * change[(label == 0) & ~unchanged].mean()
    assert label.flatten(1).any(1).float().mean() > 0.6
    assert 0.3 < float(label.max()) <= 1
    assert float(images.min()) <= float(altered.min()) <= float(altered.max()) <= float(images.max())


def test_a_tenth_stays_clean_and_anomalies_lie_on_the_object():
    images = smooth(100, 1, 32, 32)
    foreground = torch.zeros(100, 1, 32, 32, dtype=torch.bool)
    foreground[..., 4:28, 4:28] = True
    model = zoo.create_model("mood22", image_size=32, depth=3, width=4)
    _, label = model.make_anomalies(images, np.random.default_rng(0), foreground)
    assert 0.8 <= label.flatten(1).any(1).float().mean() <= 0.97
    found = label > 0
    inside = (found & foreground).flatten(1).sum(1) / found.flatten(1).sum(1).clamp(min=1)
    assert (inside[found.flatten(1).any(1)] >= 0.4).all()


def test_edges_are_smoothed_and_sharp_ones_kept():
    mask = np.zeros((20, 20), bool)
    mask[4:16, 4:16] = True
    rng = np.random.default_rng(1)  # its first draw keeps the shape whole
    sharp, soft = soft_weight(rng, mask, 1), soft_weight(np.random.default_rng(1), mask, 5)
    assert set(np.unique(sharp)) == {0, 1}
    assert soft.shape == (24, 24)
    steps = np.abs(np.diff(soft, axis=1)).max()
    assert steps <= 0.21
    assert soft.sum() == pytest.approx(mask.sum(), rel=1e-4)
