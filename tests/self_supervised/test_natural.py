"""NSA's constants: the paper's by name, nnOOD's calibration for unknown data."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import zoo
from datamodules import Folder
from zoo.errors import UserError
from zoo.synthetic.natural import CONSTANTS, calibrate
from zoo.synthetic.rectangles import NaturalPatches, _natural_patch, add_natural_patches


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_of_the_paper(name):
    constants = CONSTANTS[name]
    label = 1 / (1 + np.exp(constants.steepness * constants.midpoint))  # of a change just above nothing
    floors = {"toothbrush": 0.076, "transistor": 0.076, "zipper": 0.076, "wood": 0.076, "screw": 0.047}
    floors |= dict.fromkeys(("metal_nut", "pill", "texture"), 0.088)
    assert label == pytest.approx(floors.get(name, 0.119), abs=1e-3)
    rng = np.random.default_rng(0)
    full, source = np.ones((256, 256), bool), np.zeros((1, 256, 256), np.float32)
    drawn = [_natural_patch(rng, source, full, full, constants.law) for _ in range(60)]
    sides = np.array([(one[2].height, one[2].width) for one in drawn if one is not None])
    assert (sides.max(0) <= 2 * np.array(constants.law.largest) * 256 + 1).all()
    assert sides.min() >= 2 * constants.law.smallest * 256 - 1


def scene(rng, objects):
    smooth = gaussian_filter(rng.standard_normal((8, 1, 64, 64)), (0, 0, 4, 4))
    images = (0.5 + 0.4 * smooth / np.abs(smooth).max()).astype(np.float32)
    mask = np.zeros((8, 64, 64), bool)
    mask[:, objects[0], objects[1]] = True
    return images * mask[:, None], mask


@pytest.mark.parametrize(
    ("rows", "columns", "largest", "patches", "min_object"),
    [
        (slice(0, 64), slice(0, 64), 0.4, 4, 0.7),  # no background
        (slice(22, 38), slice(10, 58), (1 / 6, 0.4), 3, 0.5),  # long and thin: 4/3 of 1/4 high
        (slice(4, 60), slice(2, 62), (0.4, 0.4), 4, 0.7),  # four fifths of the image
        (slice(30, 34), slice(30, 34), (0.125, 0.125), 3, 0.5),  # tiny: at least a quarter
    ],
)
def test_sizes_follow_the_objects(rows, columns, largest, patches, min_object):
    images, mask = scene(np.random.default_rng(0), (rows, columns))
    found = calibrate(images, mask, np.random.default_rng(1))
    assert np.allclose(found.law.largest, largest, atol=1e-6)
    assert (found.law.patches, found.law.min_object) == (patches, min_object)


def test_label_runs_from_a_tenth_to_0_99_at_the_40th_percentile():
    images, mask = scene(np.random.default_rng(0), (slice(0, 64), slice(0, 64)))
    found = calibrate(images, mask, np.random.default_rng(1))
    half = calibrate(0.5 * images, mask, np.random.default_rng(1))

    def label(change):
        return 1 / (1 + np.exp(-found.steepness * (change - found.midpoint)))

    level = np.log(891) / found.steepness
    assert label(0) == pytest.approx(0.1)
    assert label(level) == pytest.approx(0.99)
    assert 1 < level < 255
    assert half.steepness > 1.3 * found.steepness  # half the contrast: smaller changes count as much


def test_a_fit_calibrates_on_the_training_images(image_folder, quiet_trainer):
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    model = zoo.create_model("nsa", image_size=32, in_channels=1, widths=(8, 16), constants="auto", patches=2)
    with pytest.raises(UserError, match="auto"):
        model.make_anomalies(torch.rand(2, 1, 32, 32), np.random.default_rng(0))
    quiet_trainer(max_steps=2, limit_val_batches=1).fit(model, data)
    constants = model.natural_constants()
    assert constants.law.patches == 2  # the user's word stands
    assert constants.steepness not in [one.steepness for one in CONSTANTS.values()]
    assert np.isfinite(constants.midpoint)


def test_named_constants_and_the_users_own(image_folder):
    model = zoo.create_model("nsa", image_size=64, widths=(8, 16), constants="screw", midpoint=5.0, background=-1.0)
    found = model.natural_constants()
    assert (found.steepness, found.midpoint, found.blend, found.law.largest) == (1, 5.0, "source", 0.12)
    altered, label = model.make_anomalies(torch.rand(3, 1, 64, 64), np.random.default_rng(0))
    assert altered.shape == (3, 1, 64, 64)
    assert label.any()


def test_labels_are_the_papers_medians():
    from skimage.filters import median
    from skimage.morphology import disk

    smooth = gaussian_filter(np.random.default_rng(0).standard_normal((2, 1, 96, 96)), (0, 0, 3, 3))
    image, source = (0.5 + 0.4 * smooth / np.abs(smooth).max()).astype(np.float32)
    everything = np.ones((96, 96), bool)
    for seed in range(4):
        options = {"law": NaturalPatches(), "foreground": everything, "source_foreground": everything}
        altered, label = add_natural_patches(image, source, np.random.default_rng(seed), **options)
        support = add_natural_patches(image, source, np.random.default_rng(seed), label="binary", **options)[1] > 0
        change = median(255 * np.abs(altered - image)[0], disk(5))
        expected = np.where(support, 1 / (1 + np.exp(-(change - 4) / 2)), 0)
        inner = (slice(6, -6), slice(6, -6))  # discs that leave the image are cut, not continued
        assert np.abs(label - expected)[inner].max() < 0.02
        assert ((label > 0) == support).all()
        assert not support[(altered == image).all(0)].any()
