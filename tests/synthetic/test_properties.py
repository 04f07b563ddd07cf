"""What must hold for any image: labels, blends, deformations, determinism, placement."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.synthetic import anomaly_label, poisson_blend, sink_map, source_map, synthesise
from zoo.synthetic.shapes import draw_shape, exit_distance, place
from zoo.synthetic.tasks import five_tasks

SEEDS = st.integers(0, 2**32 - 1)


def smooth(rng, shape):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(rng.standard_normal(shape), (0, *[1.5] * (len(shape) - 1)))


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
