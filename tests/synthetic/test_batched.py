"""The batched path makes the samples of the exact path: blends, deformations, intensity, labels, components."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from zoo.synthetic import anomaly_label, poisson_blend, synthesise
from zoo.synthetic.batched import apply_batch, apply_on_device, synthesise_batch
from zoo.synthetic.batched_labels import component_boxes, label_on_device
from zoo.synthetic.labels import logistic_label
from zoo.synthetic.tasks import Anomaly, Context, apply_anomalies, draw_anomalies, five_tasks

SEEDS = st.integers(0, 2**32 - 1)
NAMES = ("intra", "inter", "sink", "source", "intensity")


def textures(seed, shape):
    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(noise, (0, 0, *[2] * (len(shape) - 2)))
    return (3 * smooth + 0.05 * noise).astype(np.float32)


def drawn(seed, images, task, foreground=None):
    generators = [np.random.default_rng([seed, number]) for number in range(len(images))]
    context = Context(images)
    return [draw_anomalies(rng, task, images.shape[1:], context, foreground) for rng in generators], [context] * len(
        images
    )


@pytest.mark.parametrize("shape", [(5, 2, 40, 52), (3, 2, 18, 24, 20)])
@pytest.mark.parametrize("number", range(5), ids=NAMES)
def test_complete_samples_agree(shape, number):
    images = textures(number, shape)
    anomalies, contexts = drawn(1, images, five_tasks(max_push=4)[number])
    anomalies[0] = [*anomalies[0], *anomalies[1]]  # rounds with fewer images, overlapping boxes
    exact = [apply_anomalies(*one) for one in zip(images, anomalies, contexts, strict=True)]
    tensors = torch.from_numpy(images)
    altered, mask = apply_on_device(tensors, anomalies, contexts)
    assert altered.dtype == torch.float32
    assert torch.equal(tensors, torch.from_numpy(images))
    label = label_on_device(altered, tensors, mask, 0.2)
    for place, (image, union) in enumerate(exact):
        assert np.array_equal(mask[place, 0], union)
        assert np.abs(altered[place].numpy() - image).max() <= 1e-5
        assert np.abs(label[place, 0].numpy() - anomaly_label(image, images[place], union)).max() <= 1e-4
    there, where = apply_batch(tensors, anomalies, contexts)
    assert torch.equal(where, mask)
    assert np.array_equal(there.numpy(), np.stack([image for image, _ in exact]))


def test_float64_agrees_to_rounding():
    images = textures(0, (4, 1, 36, 30)).astype(np.float64)
    for task in five_tasks(max_push=4):
        anomalies, contexts = drawn(2, images, task)
        altered, _ = apply_on_device(torch.from_numpy(images), anomalies, contexts)
        for image, own, context, found in zip(images, anomalies, contexts, altered, strict=True):
            assert np.abs(found.numpy() - apply_anomalies(image, own, context)[0]).max() <= 1e-10


@pytest.mark.parametrize("shape", [(4, 2, 40, 52), (2, 1, 18, 24, 20)])
@pytest.mark.parametrize("number", [2, 3], ids=NAMES[2:4])
def test_linear_deformations_differ_by_the_order_only(shape, number):
    images = textures(number, shape)
    anomalies, contexts = drawn(3, images, five_tasks(max_push=4)[number])
    anomalies = [own[:1] for own in anomalies]
    found, _ = apply_batch(torch.from_numpy(images), anomalies, contexts, interpolation="linear")
    from zoo.synthetic.deformation import moved_pixels

    for image, (one,), altered in zip(images, anomalies, found.numpy(), strict=True):
        expected = image.copy()
        box = tuple(slice(c, c + b) for c, b in zip(one.corner, one.shape.mask.shape, strict=True))
        pixels, positions = moved_pixels(one.shape, one.operation.centre, one.operation.factor, number == 2)
        for channel, own in zip(expected, image, strict=True):
            channel[box][tuple(pixels)] = ndimage.map_coordinates(own[box], positions, order=1, mode="nearest")
        assert np.abs(altered - expected).max() <= 1e-5


def test_mixed_tasks_and_sources_in_one_call():
    images = textures(5, (6, 1, 40, 40))
    tensors, tasks = torch.from_numpy(images), [five_tasks()[number % 5] for number in range(6)]
    contexts = [Context(-tensors if number == 1 else tensors) for number in range(6)]
    generators = [np.random.default_rng(number) for number in range(6)]
    altered, mask = synthesise_batch(tensors, tasks, generators, contexts)
    for number in range(6):
        sources = -images if number == 1 else images
        image, union = synthesise(images[number], tasks[number], np.random.default_rng(number), sources=sources)
        assert np.array_equal(altered[number], image)
        assert np.array_equal(mask[number, 0], union)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([(3, 1, 17, 14), (2, 1, 7, 9, 8)]), st.floats(0.2, 0.9))
def test_labels_of_random_masks_agree(seed, shape, share):
    """Nested and touching components of any shape, in boxes that overlap."""
    rng = np.random.default_rng(seed)
    altered, original = rng.random(shape), rng.random(shape)
    mask = rng.random((shape[0], 1, *shape[2:])) < share
    exact = anomaly_label(altered, original, mask)
    tensors = [torch.from_numpy(part) for part in (altered, original, mask)]
    assert np.abs(label_on_device(*tensors, 0.2).numpy() - exact).max() <= 1e-12
    assert np.array_equal(anomaly_label(*tensors).numpy(), exact)
    one = anomaly_label(altered[0], original[0], mask[0, 0])
    assert np.array_equal(exact[0, 0], one)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 3), st.floats(0.1, 0.9))
def test_components_are_scipys(seed, dims, share):
    mask = np.random.default_rng(seed).random((2, 1, *[9] * dims)) < share
    expected = []
    for number, one in enumerate(mask[:, 0]):
        boxes = ndimage.find_objects(ndimage.label(one)[0])
        expected += [(number, [(part.start, part.stop) for part in box]) for box in boxes]
    found = [
        (number, [(int(c), int(c + b)) for c, b in zip(corner, sides, strict=True)])
        for number, corner, sides in component_boxes(torch.from_numpy(mask))
    ]
    assert found == [(number, box) for number, box in expected if any(end - start > 1 for start, end in box)]


def test_blends_at_a_corner_of_each_image():
    rng = np.random.default_rng(0)
    images, sources = rng.random((3, 2, 16, 18)), rng.random((3, 2, 7, 6))
    masks, corners = rng.random((3, 7, 6)) > 0.3, np.array([[0, 0], [9, 12], [4, 5]])
    together = poisson_blend(*map(torch.from_numpy, (images, sources, masks)), torch.from_numpy(corners), True)
    in_turn = poisson_blend(images, sources, masks, corners, True)
    for number in range(3):
        alone = poisson_blend(images[number], sources[number], masks[number], corners[number], True)
        assert np.abs(together[number].numpy() - alone).max() <= 1e-12
        assert np.array_equal(in_turn[number], alone)
    corners[1, 1] = 13
    with pytest.raises(ValueError, match=r"corner \[1\] \(9, 13\) must lie in the image"):
        poisson_blend(images, sources, masks, corners)
    with pytest.raises(ValueError, match="2 corners for the images"):
        poisson_blend(torch.from_numpy(images), torch.from_numpy(sources), torch.from_numpy(masks), corners[:2])
    with pytest.raises(ValueError, match=r"mask \(6, 7\) must have the size of the box \(7, 6\)"):
        poisson_blend(images[0], sources[0], masks[0].T, corners[0])


def test_logistic_labels_of_a_batch():
    rng = np.random.default_rng(0)
    altered, original, mask = rng.random((2, 3, 8, 9)), rng.random((2, 3, 8, 9)), rng.random((2, 1, 8, 9)) > 0.5
    together = logistic_label(*map(torch.from_numpy, (altered, original, mask)), 5.0, 0.3)
    for number in range(2):
        alone = logistic_label(altered[number], original[number], mask[number, 0], 5.0, 0.3)
        assert np.abs(together[number, 0].numpy() - alone).max() <= 1e-12
        assert (alone[~mask[number, 0]] == 0).all()


def test_mistakes_are_told():
    image = torch.zeros(2, 1, 12, 12)
    with pytest.raises(ValueError, match=r"mask \(12, 12\), which must be \(\*S\), or \(B, 1, \*S\)"):
        anomaly_label(image, image, torch.zeros(12, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match="not finite"):
        label_on_device(image / 0, image, torch.ones(2, 1, 12, 12, dtype=torch.bool), 0.2)

    class Own:
        """No operation of the library."""

    (one,), contexts = drawn(0, image[:1].numpy(), five_tasks()[4])
    foreign = [[Anomaly(one[0].shape, one[0].corner, Own())]]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Own has no batched form"):
        apply_on_device(image[:1], foreign, contexts)


def test_no_anomaly_leaves_a_batch_as_it_is():
    images = torch.rand(2, 1, 12, 12)
    for apply in (apply_batch, apply_on_device):
        altered, mask = apply(images, [[], []], [Context(None)] * 2)
        assert torch.equal(altered, images)
        assert not mask.any()
