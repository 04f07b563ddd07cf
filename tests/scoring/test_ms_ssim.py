"""Multi-scale SSIM against pytorch-msssim's values and the reference error map."""

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.scoring.ms_ssim import ms_ssim, ms_ssim_error_map, usable_weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mae" / "msssim_golden.npz")
X, Y = (torch.from_numpy(GOLDEN[name]).float() / 255 for name in ("x_u8", "y_u8"))
BATCH_X, BATCH_Y = torch.cat([X, Y, X]), torch.cat([Y, X.flip(-1), X])


def test_index_equals_pytorch_msssim():
    np.testing.assert_allclose(ms_ssim(BATCH_X, BATCH_Y), GOLDEN["pm_ms_ssim"], atol=1e-5)
    centre = slice(16, 240)
    values = ms_ssim(BATCH_X[..., centre, centre], BATCH_Y[..., centre, centre])
    np.testing.assert_allclose(values, GOLDEN["pm_ms_ssim_center224"], atol=1e-5)


def test_floor_keeps_bad_images_apart():
    np.testing.assert_allclose(ms_ssim(BATCH_X, BATCH_Y, floor=1e-12), GOLDEN["igd_ms_ssim_unrelated"], atol=1e-5)


def test_error_map_equals_the_reference():
    error = ms_ssim_error_map(X, Y.unsqueeze(1))
    assert error.shape == (1, 1, 1, 256, 256)
    assert error.mean().item() == pytest.approx(float(GOLDEN["ref_error_map_mean"]), abs=1e-5)
    np.testing.assert_allclose(error[0, 0, 0, ::5, ::5], GOLDEN["ref_error_map_sub"], atol=2e-5)


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (64, 64)])
def test_equal_images_give_exactly_zero(size):
    image = torch.rand(2, 3, *size)
    assert torch.equal(ms_ssim_error_map(image, image.unsqueeze(1)), torch.zeros(2, 1, 1, *size))


def test_candidates_are_independent():
    x, y = torch.rand(2, 1, 40, 40), torch.rand(2, 3, 1, 40, 40)
    together = ms_ssim_error_map(x, y)
    for s in range(3):
        torch.testing.assert_close(ms_ssim_error_map(x, y[:, s : s + 1])[:, 0], together[:, s], atol=1e-5, rtol=0)
    assert together.min() >= 0
    assert together.max() <= 1 + 1e-6


def test_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        error = ms_ssim_error_map(X, Y.unsqueeze(1))
    torch.testing.assert_close(error, ms_ssim_error_map(X, Y.unsqueeze(1)))


def test_scales_that_do_not_fit_are_left_out():
    assert len(usable_weights((256, 256))) == 5
    assert len(usable_weights((64, 200))) == 3
    assert usable_weights((4, 4)) == (1.0,)
    assert sum(usable_weights((64, 64))) == pytest.approx(1.0)
