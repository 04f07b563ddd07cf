"""Patches, positions and masking against MAE's own values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.nn.vit import patchify, random_masking, sincos_positions, unpatchify

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mae" / "golden.npz")


@pytest.mark.parametrize(("width", "side", "cls"), [(96, 8, True), (64, 8, True), (16, 3, False)])
def test_positions(width, side, cls):
    expected = GOLDEN[f"pos_d{width}_g{side}" + ("_cls" if cls else "")]
    np.testing.assert_allclose(sincos_positions(width, (side, side), cls), expected, atol=1e-6)


@pytest.mark.parametrize("width", [768, 512])
def test_positions_of_the_base_model(width):
    table = sincos_positions(width, (14, 14))
    np.testing.assert_allclose(table[::7, ::16], GOLDEN[f"pos_d{width}_g14_cls_sub"], atol=1e-6)


def test_positions_need_a_width_divisible_by_four():
    with pytest.raises(ValueError, match="divisible by 4, found 6"):
        sincos_positions(6, (2, 2))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_patches_are_undone(channels, rows, columns, patch):
    images = torch.rand(2, channels, rows * patch, columns * patch)
    tokens = patchify(images, patch)
    assert tokens.shape == (2, rows * columns, patch * patch * channels)
    assert torch.equal(unpatchify(tokens, patch, (rows, columns)), images)


def test_kept_tokens_follow_the_original_rounding():
    for ratio, kept64, kept196 in zip(GOLDEN["mask_ratio"], GOLDEN["len_keep_64"], GOLDEN["len_keep_196"], strict=True):
        assert random_masking(torch.rand(1, 64), float(ratio)).keep.shape[1] == kept64
        assert random_masking(torch.rand(1, 196), float(ratio)).keep.shape[1] == kept196
