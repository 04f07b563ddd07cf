"""CRADL's region, equal to the arrays of the multi-task authors' script."""

import json
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from datamodules.brain.preparing import in_cradl_region, prepare_volume
from datamodules.records import Record
from zoo.metrics.cradl import cradl_region, to_original_grid

GOLDEN = Path(__file__).parents[1] / "golden" / "multitask" / "cradl.npz"


LAYOUTS = {"brats": "padded", "isles": "turned"}  # the collections of the golden figures


def volume(name: str, shape: tuple[int, int, int]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    small = generator.random(tuple(-(-side // 8) for side in shape))
    return np.clip(ndimage.zoom(small, 8, order=1)[tuple(slice(side) for side in shape)], 0, 1)


@pytest.mark.parametrize(("collection", "shape"), [("brats", (30, 240, 240)), ("isles", (26, 230, 230))])
def test_region_is_the_authors(collection: str, shape: tuple[int, int, int]) -> None:
    one = volume(f"cradl_{collection}", shape)
    with np.load(GOLDEN) as file:
        expected, bits = file[f"{collection}_pred_sub"], file[f"{collection}_label_bits"]
    found = cradl_region(one, LAYOUTS[collection])
    assert found[:, ::4, ::4] == pytest.approx(expected, abs=1e-6)
    truth = np.unpackbits(bits)[: found.size].reshape(found.shape).astype(bool)
    assert (cradl_region(one > 0.7, LAYOUTS[collection]) == truth).all()


@pytest.mark.parametrize("collection", ["brats", pytest.param("isles", marks=pytest.mark.slow)])
def test_original_grid_is_the_authors(collection: str) -> None:
    with np.load(GOLDEN) as file:
        record, expected = json.loads(str(file["reverse_info"])), file[f"reverse_{collection}_sub"]
    shapes = {
        "original": record["orig_shape"],
        "box": record["orig_brain_bbox"],
        "full": record["full_res_shape"],
        "low": record["low_res_shape"],
    }
    found = to_original_grid(volume("cradl_rev", (80, 112, 80)), LAYOUTS[collection], **shapes)
    assert found[::6, ::6, ::6] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="not of one brain"):
        to_original_grid(np.zeros((80, 112, 80)), LAYOUTS[collection], **shapes | {"low": [72, 93, 70]})


def test_small_volumes_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 20 slices"):
        cradl_region(np.zeros((20, 240, 240)), "padded")


def test_maps_of_prepared_volumes_come_to_the_slices_of_the_files(tmp_path: Path) -> None:
    """A file in BraTS' own axes: its stored outline is what CRADL's region cuts, and the outline as a map finds it."""
    shape, affine = (240, 240, 34), np.diag([-1.0, -1.0, 1.0, 1.0])
    x, y, z = np.meshgrid(*(np.arange(side) for side in shape), indexing="ij")
    head = ((x - 118) / 60) ** 2 + ((y - 125) / 80) ** 2 + ((z - 17) / 16) ** 2 < 1
    lesion = ((x - 90) / 14) ** 2 + ((y - 90) / 20) ** 2 + ((z - 19) / 7) ** 2 < 1
    values = np.random.default_rng(0).uniform(50, 100, shape).astype(np.float32) * head
    for name, array in (("t2", values), ("t1", values), ("seg", lesion.astype(np.int16))):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii")
    files = [str(tmp_path / f"{name}.nii") for name in ("t2", "seg", "t1")]
    record = Record("case", files[0], "test", 1, "brats17:case", files[1], companions=(files[2],))
    prepared = prepare_volume(record, size=(80, 112, 80), unstripped="refuse")
    assert prepared.mask is not None
    found, truth = in_cradl_region(record, prepared.mask[0].astype(np.float32), "refuse")
    assert (truth == cradl_region(lesion.transpose(2, 1, 0), "padded")).all()
    assert truth.shape == (14, 128, 128)
    called = found > 0.5
    assert 2 * (called & truth).sum() / (called.sum() + truth.sum()) > 0.93
