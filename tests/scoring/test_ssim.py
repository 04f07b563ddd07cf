"""SSIM: equal to the authors' maps; the one-pass gradient is autograd's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.scoring.residual import cosine_map, residual_loss, residual_map
from zoo.scoring.ssim import gaussian_window, ssim_loss, ssim_map

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "fae" / "ssim_golden.npz"))
A, B = torch.from_numpy(GOLDEN["a"]), torch.from_numpy(GOLDEN["b"])


@pytest.mark.parametrize("window", [5, 11])
def test_equals_the_authors(window):
    assert np.abs(gaussian_window(window).numpy() - GOLDEN[f"window{window}"]).max() < 1e-8
    assert np.abs(-ssim_map(A, B, window).numpy() - GOLDEN[f"loss_map_w{window}"]).max() < 5e-6
    assert ssim_loss(A, B, 11).item() == pytest.approx(float(GOLDEN["loss_w11"]), abs=5e-7)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(3, 12), st.sampled_from([3, 5, 11]), st.integers(0, 2**31))
def test_one_pass_gradient_is_autograds(batch, channels, side, window, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, batch, channels, side, side + 1, generator=generator, dtype=torch.float32)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    ssim_loss(x1, y, window).mul(3).backward()
    ssim_map(x2, y, window).mean().mul(-3).backward()
    scale = x2.grad.abs().max()
    assert (x1.grad - x2.grad).abs().max() <= 1e-4 * scale + 1e-8


def test_both_inputs_may_need_gradients():
    x, y = A.clone().requires_grad_(), B.clone().requires_grad_()
    ssim_loss(x, y, 5).backward()
    assert y.grad is not None
    assert x.grad is not None


def test_equal_images_are_most_similar():
    assert torch.allclose(ssim_map(A, A, 5), torch.ones_like(A), atol=1e-4)
    blank = torch.zeros(1, 1, 8, 8)
    assert ssim_loss(blank, blank).item() == -1.0


def test_half_precision_is_computed_in_float32():
    x = A.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ssim_loss(x, B, 5)
    loss.backward()
    assert loss.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(ssim_loss(A.bfloat16().float(), B, 5).item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["l1", "l2", "ssim"])
def test_loss_is_the_mean_of_the_map(kind):
    assert residual_map(A, B, kind).mean().item() == pytest.approx(residual_loss(A, B, kind).item(), abs=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="odd and positive, found 4"):
        ssim_map(A, B, 4)
    with pytest.raises(ValueError, match="of one shape"):
        ssim_loss(A, B[:, :1])
    with pytest.raises(ValueError, match="'l3' is unknown; known: l1, l2, ssim"):
        residual_map(A, B, "l3")


def test_cosine_of_opposites():
    assert torch.allclose(cosine_map(A, A), torch.zeros(2, 1, 20, 20), atol=1e-6)
    assert torch.allclose(cosine_map(A, -A), torch.full((2, 1, 20, 20), 2.0), atol=1e-6)
