"""What must hold for any image: labels, blends, deformations, determinism, placement."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from zoo.synthetic import anomaly_label, poisson_blend, sink_map, source_map, synthesise
from zoo.synthetic.deformation import moved_pixels, warp
from zoo.synthetic.intensity import capped_depth
from zoo.synthetic.labels import close, fill_holes, islands
from zoo.synthetic.shapes import Shape, draw_shape, exit_distance, place
from zoo.synthetic.tasks import five_tasks

SEEDS = st.integers(0, 2**32 - 1)


def smooth(rng, shape):
    return ndimage.gaussian_filter(rng.standard_normal(shape), (0, *[1.5] * (len(shape) - 1)))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([(20, 24), (9, 11, 8)]), st.integers(0, 4))
def test_a_sample(seed, size, number):
    rng = np.random.default_rng(seed)
    image, sources = smooth(rng, (2, *size)), smooth(rng, (3 * 2, *size)).reshape(3, 2, *size)
    before = image.copy(), sources.copy()
    task = five_tasks()[number]
    altered, mask = synthesise(image, task, np.random.default_rng(seed), sources=sources)
    assert np.array_equal(image, before[0])
    assert np.array_equal(sources, before[1])
    assert altered.shape == image.shape
    assert mask.shape == size
    assert np.isfinite(altered).all()
    changed = np.abs(altered - image).max(0)
    assert changed[~mask].max(initial=0) <= 0.002  # the blend's mask holds what changed by more than 0.001 on average
    if number in (0, 1, 4):
        for channel in range(2):
            assert altered[channel].min() >= image[channel].min()
            assert altered[channel].max() <= image[channel].max()
    label = anomaly_label(altered, image, mask)
    assert label.min() >= 0
    assert label.max() < 1
    again = synthesise(image, task, np.random.default_rng(seed), sources=sources)
    assert np.array_equal(again[0], altered)
    assert np.array_equal(again[1], mask)
    assert anomaly_label(image, image, mask).max() == 0


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 3), st.booleans())
def test_blending_an_image_into_itself_changes_nothing(seed, dims, mixed):
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((2, *rng.integers(8, 14, dims)))
    sides = rng.integers(3, 8, dims)
    corner = [int(rng.integers(0, n - b + 1)) for n, b in zip(image.shape[1:], sides, strict=True)]
    box = (slice(None), *[slice(c, c + b) for c, b in zip(corner, sides, strict=True)])
    mask = rng.random(sides) > 0.3
    assert np.abs(poisson_blend(image, image[box], mask, corner, mixed) - image).max() < 1e-12
    shifted = poisson_blend(image, image[box] + 7.0, mask, corner, mixed)  # only gradients count
    assert np.abs(shifted - image).max() < 1e-11


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_blends_of_a_batch_are_those_of_its_images(seed):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.standard_normal((3, 2, 16, 18)))
    sources, masks = torch.from_numpy(rng.standard_normal((3, 2, 9, 7))), torch.from_numpy(rng.random((3, 9, 7)) > 0.4)
    together = poisson_blend(images, sources, masks, (2, 5), True)
    for number in range(3):
        alone = poisson_blend(images[number].numpy(), sources[number].numpy(), masks[number].numpy(), (2, 5), True)
        assert np.abs(together[number].numpy() - alone).max() < 1e-12


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 3), st.floats(1.0, 4.0))
def test_sink_and_source_along_a_ray(seed, dims, factor):
    rng = np.random.default_rng(seed)
    shape = draw_shape(rng, (24,) * dims)
    inside = np.argwhere(shape.mask)
    centre = inside[rng.integers(len(inside))]
    still = np.stack(np.meshgrid(*[np.arange(b) for b in shape.mask.shape], indexing="ij"))
    assert np.abs(sink_map(shape, centre, 1.0) - still).max() < 1e-9
    sink, source = sink_map(shape, centre, factor), source_map(shape, centre, factor)
    radius = [np.sqrt(((m - centre.reshape(-1, *[1] * dims)) ** 2).sum(0)) for m in (still, sink, source)]
    assert (radius[1] >= radius[0] - 1e-9).all()  # a sink samples from further out
    assert (radius[2] <= radius[0] + 1e-9).all()
    assert np.array_equal(sink[:, ~shape.mask], still[:, ~shape.mask])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 3), st.floats(1.1, 4.0))
def test_sink_and_source_undo_and_mirror_each_other(seed, dims, factor):
    rng = np.random.default_rng(seed)
    shape = draw_shape(rng, (24,) * dims)
    inside = np.argwhere(shape.mask)
    centre = inside[rng.integers(len(inside))]
    source, inverse, sink = (
        make(shape, centre, exponent)
        for make, exponent in ((source_map, factor), (source_map, 1 / factor), (sink_map, factor))
    )
    pixels = np.argwhere(np.abs(source - np.indices(shape.mask.shape)).max(0) > 1e-6)
    for pixel in pixels[:: max(len(pixels) // 20, 1)]:
        r = np.linalg.norm(pixel - centre)
        middle = centre - (np.array(shape.mask.shape) - 1) / 2
        reach = max(exit_distance(shape, middle, (pixel - centre)[None] / r)[0], r)
        radius = [np.linalg.norm(mapping[:, *pixel] - centre) for mapping in (source, inverse, sink)]
        assert radius[1] ** factor / reach ** (factor - 1) == pytest.approx(r, abs=1e-6)
        assert reach - radius[2] == pytest.approx((reach - r) ** factor / reach ** (factor - 1), abs=1e-6)
        assert radius[0] == pytest.approx(r**factor / reach ** (factor - 1), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([(20, 24), (9, 11, 8)]), st.integers(0, 4))
def test_labels_vanish_outside_the_boxes_of_the_components(seed, size, number):
    rng = np.random.default_rng(seed)
    image, sources = smooth(rng, (2, *size)), smooth(rng, (6, *size)).reshape(3, 2, *size)
    altered, mask = synthesise(image, five_tasks()[number], rng, sources=sources)
    before = mask.copy()
    label = anomaly_label(altered, image, mask)
    assert np.array_equal(mask, before)
    near = np.zeros_like(mask)
    for box in ndimage.find_objects(ndimage.label(mask)[0]):
        near[box] = True
    assert not label[~near].any()
    assert (label[mask & (np.abs(altered - image).mean(0) > 1e-6)] > 0).all()  # closing and filling only raise
    held = np.zeros_like(mask)
    for island in islands(mask):
        assert not held[island].any()
        held[island] = True
    assert not mask[~held].any()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 3), st.integers(1, 6))
def test_holes_are_filled_as_scikit_image_does(seed, dims, levels):
    from skimage.morphology import reconstruction

    rng = np.random.default_rng(seed)
    values = rng.integers(0, levels + 1, rng.integers(1, 14, dims)) / levels  # ties and plateaus
    footprint = ndimage.generate_binary_structure(dims, 2)
    start = np.full_like(values, values.max())
    inner = np.zeros(values.shape, bool)
    inner[(slice(1, -1),) * dims] = True
    start[~inner] = values[~inner]
    assert np.array_equal(fill_holes(values), reconstruction(start, values, "erosion", footprint=footprint))
    assert np.array_equal(close(values), ndimage.grey_closing(values, footprint=footprint))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 3), st.floats(0.5, 12))
def test_depths_are_scipys_up_to_the_cap(seed, dims, cap):
    mask = draw_shape(np.random.default_rng(seed), (28,) * dims).mask
    expected = np.minimum(ndimage.distance_transform_edt(np.pad(mask, 0)), cap)
    if not mask.all():
        assert np.abs(capped_depth(mask, cap) - expected).max() <= 1e-12
    assert (capped_depth(np.ones_like(mask), cap) == cap).all()  # no edge at all: an even change


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(1.1, 4.0), st.booleans())
def test_planes_and_volumes_agree_where_both_are_defined(seed, factor, inward):
    """The middle plane of an upright volume: deformation, spline, depth, closing and label."""
    rng = np.random.default_rng(seed)
    flat = draw_shape(rng, (30, 26))
    tall = np.eye(3)
    tall[1:, 1:] = flat.matrix
    deep = Shape(flat.kind, np.array([9, *flat.size]), tall, np.repeat(flat.mask[None], 9, 0))
    inside = np.argwhere(flat.mask)
    centre = inside[rng.integers(len(inside))]
    pixels, positions = moved_pixels(flat, centre, factor, inward)
    there, where = moved_pixels(deep, np.array([4, *centre]), factor, inward)
    middle = there[0] == 4
    assert np.array_equal(there[1:, middle], pixels)
    assert np.abs(where[1:, middle] - positions).max(initial=0) <= 1e-9
    assert np.abs(where[0, middle] - 4).max(initial=0) <= 1e-9
    plane = smooth(rng, (1, *flat.mask.shape))
    volume = np.repeat(plane[:, None], 9, 1)
    assert np.abs(warp(volume, there, where)[0, 4] - warp(plane, pixels, positions)[0]).max() <= 1e-9
    assert np.abs(capped_depth(deep.mask, 5.5)[4] - capped_depth(flat.mask, 5.5)).max() <= 1e-12
    values = rng.random(flat.mask.shape)
    assert np.array_equal(close(np.repeat(values[None], 5, 0))[2], close(values))


class Samples(Dataset):
    """Each with a generator of its seed and place."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return 5 * len(self.images)

    def __getitem__(self, place):
        number, task = place % len(self.images), five_tasks()[place // len(self.images)]
        return synthesise(self.images[number], task, np.random.default_rng([5, place]), sources=self.images)


@pytest.mark.parametrize(("workers", "batch"), [(0, 7), (1, 4), (2, 2)])
def test_a_sample_depends_on_its_generator_only(workers, batch):
    """Whichever worker makes a sample, after whatever else, it is the same."""
    samples = Samples(smooth(np.random.default_rng(0), (4, 30, 28)).reshape(4, 1, 30, 28))
    loaded = list(DataLoader(samples, batch, num_workers=workers))
    altered, masks = (torch.cat(parts).numpy() for parts in zip(*loaded, strict=True))
    for number in reversed(range(len(samples))):
        image, mask = samples[number]
        assert np.array_equal(altered[number], image)
        assert np.array_equal(masks[number], mask)


def test_impossible_placements_end():
    rng = np.random.default_rng(0)
    shape = draw_shape(rng, (32, 32))
    assert place(rng, shape.mask, (32, 32), np.zeros((32, 32), bool)) is None
    assert place(rng, shape.mask, (2, 32), None) is None
    altered, mask = synthesise(np.ones((1, 32, 32)), five_tasks()[4], rng, foreground=np.zeros((32, 32), bool))
    assert not mask.any()
    assert (altered == 1).all()


def test_placements_respect_the_foreground():
    rng = np.random.default_rng(0)
    foreground = np.zeros((40, 40), bool)
    foreground[:, 20:] = True
    for _ in range(30):
        shape = draw_shape(rng, (40, 40))
        corner = place(rng, shape.mask, (40, 40), foreground)
        if corner is not None:
            box = tuple(slice(c, c + b) for c, b in zip(corner, shape.mask.shape, strict=True))
            assert foreground[box][shape.mask].mean() >= 0.5


def test_mistakes_are_told():
    image = np.zeros((1, 8, 8))
    with pytest.raises(ValueError, match="floating"):
        poisson_blend(image.astype(np.uint8), image[:, :4, :4].astype(np.uint8), np.ones((4, 4), bool), (0, 0))
    with pytest.raises(ValueError, match="must lie in the image"):
        poisson_blend(image, image[:, :4, :4], np.ones((4, 4), bool), (6, 0))
    with pytest.raises(ValueError, match="must lie in the image"):
        poisson_blend(image, image[:, :4, :4], np.ones((4, 4), bool), (-5, 0))
    with pytest.raises(ValueError, match="needs sources"):
        synthesise(image, five_tasks()[0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="not finite"):
        anomaly_label(np.full_like(image, np.nan), image, np.ones((8, 8), bool))
