"""CRADL's region, equal to the arrays of the multi-task authors' script."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from zoo.metrics.cradl import cradl_region, to_original_grid

GOLDEN = Path(__file__).parents[1] / "golden" / "multitask" / "cradl.npz"


def volume(name: str, shape: tuple[int, int, int]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    small = generator.random(tuple(-(-side // 8) for side in shape))
    return np.clip(ndimage.zoom(small, 8, order=1)[tuple(slice(side) for side in shape)], 0, 1)


@pytest.mark.parametrize(("collection", "shape"), [("brats", (30, 240, 240)), ("isles", (26, 230, 230))])
def test_region_is_the_authors(collection: str, shape: tuple[int, int, int]) -> None:
    one = volume(f"cradl_{collection}", shape)
    with np.load(GOLDEN) as file:
        expected, bits = file[f"{collection}_pred_sub"], file[f"{collection}_label_bits"]
    found = cradl_region(one, collection)
    assert found[:, ::4, ::4] == pytest.approx(expected, abs=1e-6)
    truth = np.unpackbits(bits)[: found.size].reshape(found.shape).astype(bool)
    assert (cradl_region(one > 0.7, collection) == truth).all()


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
    found = to_original_grid(volume("cradl_rev", (80, 112, 80)), collection, **shapes)
    assert found[::6, ::6, ::6] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="not of one brain"):
        to_original_grid(np.zeros((80, 112, 80)), collection, **shapes | {"low": [72, 93, 70]})


def test_small_volumes_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 20 slices"):
        cradl_region(np.zeros((20, 240, 240)), "brats")
