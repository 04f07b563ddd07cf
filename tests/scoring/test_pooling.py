"""Pooling: the definitions by brute force; images do not influence each other; blank and constant images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.scoring.pooling import pool_map


def brute_force(values, q):
    return values[values > torch.quantile(values.double(), 1 - q)].mean()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.02, 0.9), st.floats(0.1, 1.0))
def test_top_q_is_the_mean_above_the_quantile(seed, q, share):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(3, 1, 9, 11, generator=generator)
    foreground = torch.rand(3, 1, 9, 11, generator=generator) < share
    foreground[:, :, 0, :2] = True
    scores = pool_map(maps, "top_q", q, foreground)
    for score, image, mask in zip(scores, maps, foreground, strict=True):
        assert score.item() == pytest.approx(brute_force(image[mask], q).item(), abs=1e-5)


@pytest.mark.parametrize("rule", ["mean", "max", "top_q"])
def test_each_image_by_itself(rule):
    maps, foreground = torch.randn(4, 1, 8, 8), torch.rand(4, 1, 8, 8) > 0.5
    together = pool_map(maps, rule, 0.1, foreground)
    apart = torch.cat([pool_map(maps[i : i + 1], rule, 0.1, foreground[i : i + 1]) for i in range(4)])
    assert torch.equal(together, apart)


@pytest.mark.parametrize("rule", ["mean", "max", "top_q"])
def test_blank_foreground_pools_everything_and_constants_are_finite(rule):
    maps = torch.randn(2, 1, 6, 6)
    nothing = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    assert torch.equal(pool_map(maps, rule, foreground=nothing), pool_map(maps, rule))
    assert torch.allclose(pool_map(torch.full((1, 1, 6, 6), 0.3), rule), torch.tensor([0.3]))


def test_background_does_not_count():
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 0, 0] = 100.0
    foreground = torch.ones_like(maps, dtype=torch.bool)
    foreground[0, 0, 0, 0] = False
    assert pool_map(maps, "max", foreground=foreground).item() == 0.0


def test_volumes_work_and_mistakes_are_named():
    assert pool_map(torch.randn(2, 1, 4, 5, 6), "top_q").shape == (2,)
    with pytest.raises(ValueError, match="'median' is unknown; known: mean, max, top_q"):
        pool_map(torch.zeros(1, 1, 2, 2), "median")
    with pytest.raises(ValueError, match=r"between 0 and 1, found 10"):
        pool_map(torch.zeros(1, 1, 2, 2), "top_q", 10)
    with pytest.raises(ValueError, match="must have the map's shape"):
        pool_map(torch.zeros(1, 1, 2, 2), foreground=torch.ones(1, 1, 3, 3, dtype=torch.bool))
