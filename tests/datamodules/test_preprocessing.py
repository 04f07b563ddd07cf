"""Preprocessing against outputs of the original code."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from datamodules.preprocessing import (
    body,
    box_mask,
    crop_to_view,
    equalise,
    fae_equalise,
    fae_labels,
    fae_slices,
    field_of_view,
    multi_task_brain,
    multi_task_film,
    pad_evenly,
    resize_image,
    resize_mask,
    to_atlas_grid,
)
from datamodules.reading import Dicom

GOLDEN = Path(__file__).parents[1] / "golden" / "data"


def test_fae_equals_the_original() -> None:
    golden = np.load(GOLDEN / "fae_preproc.npz")
    slab = golden["volume"][:, :, 5:30]
    resized = fae_slices(slab, (32, 32))
    np.testing.assert_allclose(resized, golden["resized_32"][:, 0], atol=1e-3)
    np.testing.assert_allclose(fae_equalise(resized), golden["equalized_32"][:, 0], atol=1e-5)
    assert (fae_labels(golden["segmentation"][:, :, 5:30], (32, 32)) == golden["seg_32"][:, 0]).all()
    turned = fae_equalise(fae_slices(slab.transpose(1, 0, 2), (32, 32)))
    np.testing.assert_allclose(turned[::4], golden["transposed_equalized_32_sub"][:, 0], atol=1e-5)
    odd = fae_slices(golden["volume"][:39, 1:, 5:30], (32, 32))
    np.testing.assert_allclose(odd[::4], golden["odd_resized_32_sub"][:, 0], atol=1e-3)
    full = fae_equalise(fae_slices(golden["volume"], (64, 64)))
    np.testing.assert_allclose(full[::4, ::2, ::2], golden["equalized_64_sub"][:, 0], atol=1e-5)


@pytest.mark.parametrize(("name", "spacing"), [("hcp", 0.7), ("brats17", 1.0), ("isles2015", 1.0)])
def test_multi_task_brain_equals_the_original(name: str, spacing: float) -> None:
    golden = np.load(GOLDEN / "preproc_brain.npz")
    flip = slice(None, None, -1 if name == "brats17" else 1)  # a file's header says so
    sequences = np.stack([golden["t1"], golden["t2"]])[:, :, flip]
    low, labels, _ = multi_task_brain(sequences, golden["seg"][:, flip], spacing)
    assert labels is not None
    np.testing.assert_allclose(low, golden[f"{name}_low"][:2], atol=1e-9)
    target = tuple(golden[f"{name}_target"])
    np.testing.assert_allclose(pad_evenly(low[1], target), golden[f"{name}_sample"][0], atol=1e-9)
    assert ((pad_evenly(labels, target) != 0) == (golden[f"{name}_lesion"] != 0)).all()


def _film(golden: np.lib.npyio.NpzFile, case: str) -> Dicom:
    if f"{case}_raw" in golden:
        raw = golden[f"{case}_raw"]
    else:
        height, width = (int(side) for side in golden[f"{case}_raw_shape"])
        rows, columns = np.mgrid[:height, :width]
        squares = (2 * rows - height) ** 2 // 4 + (2 * columns - width) ** 2 // 4
        noise = np.random.Generator(np.random.PCG64(zlib.crc32(b"cxr_d"))).integers(0, 60, (height, width))
        raw = (4000 - (3000 * squares) // (height * height // 4 + width * width // 4) + noise).astype(np.uint16)
        assert raw.sum() == golden[f"{case}_raw_sum"]
    window = golden[f"{case}_window"].astype(float)
    known = None if np.isnan(window).any() else (window[0], window[1])
    return Dicom(raw, 1.0, 0.0, known, str(golden[f"{case}_photometric"]) == "MONOCHROME1", None)


@pytest.mark.parametrize("case", ["a", "b", "c", "d"])
def test_multi_task_film_equals_the_original(case: str) -> None:
    golden = np.load(GOLDEN / "preproc_vindr.npz")
    film = _film(golden, case)
    np.testing.assert_allclose(multi_task_film(film, (512, 512))[::8, ::8], golden[f"{case}_full_sub8"], atol=1e-9)
    np.testing.assert_allclose(multi_task_film(film)[::4, ::4], golden[f"{case}_low_sub4"], atol=1e-9)
    height, width = film.pixels.shape
    boxes = tuple(tuple(box) for box in golden[f"{case}_boxes"])
    expected = np.unpackbits(golden[f"{case}_mask"]).reshape(256, 256).astype(bool)
    assert (box_mask(boxes, (height, width), (256, 256)) == expected).all()


def test_equalise_is_monotonous_and_ends_at_one() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    result = equalise(values)
    assert (np.diff(result[np.argsort(values)]) >= 0).all()
    assert result.max() == pytest.approx(1)


def test_atlas_grid_honours_the_header() -> None:
    volume = np.zeros((60, 60, 39), np.float32)
    volume[10:50, 8:52, 4:34] = 1
    volume[20, 30, 20] = 5  # voxels of 4 mm
    slab = to_atlas_grid(volume, np.diag([4.0, 4, 4, 1]), volume > 0)
    assert slab.shape == (240, 240, 80)
    # middle of the brain: voxel (29.5, 29.5, 18.5) at (119.5, 119.5, 77)
    peak = np.argwhere(slab == slab.max()).mean(0) + np.array([0, 0, 55])
    np.testing.assert_allclose(peak, np.array([-9.5, 0.5, 1.5]) * 4 + [119.5, 119.5, 77], atol=1)
    official = np.random.default_rng(0).random((240, 240, 155), np.float32)
    assert (to_atlas_grid(official, np.eye(4), official > 0) == official[:, :, 55:135]).all()


def test_field_of_view_ignores_the_black_surround() -> None:
    frame = np.zeros((60, 80, 3), np.float32)
    frame[10:50, 20:70] = 0.6
    frame[20:24, 30:40] = 0.0  # a dark lumen belongs to the view
    frame[55:58, 2:6] = 0.9  # a text panel does not
    view = field_of_view(frame)
    assert view.sum() == 40 * 50
    assert crop_to_view(frame, view) == (slice(10, 50), slice(20, 70))
    assert field_of_view(np.zeros((8, 8, 3), np.float32)).all()
    assert body(np.pad(np.full((6, 6), 100.0), 2))[2:8, 2:8].all()


def test_resizing_keeps_level_and_area() -> None:
    image = np.full((37, 53, 3), 0.25, np.float32)
    np.testing.assert_allclose(resize_image(image, (16, 24)), 0.25, atol=1e-6)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 8:40] = True
    assert resize_mask(mask, (32, 32)).sum() == 16 * 16
