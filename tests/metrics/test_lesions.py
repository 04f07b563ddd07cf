"""Lesion detection on maps made by hand."""

import math

import numpy as np
import pytest

from zoo.metrics.lesions import by_size, candidates, froc


def _image(lesions, found):
    """Boxes ``(row, column, height, width)`` of the truth, and ``(box, score)`` of the map, on 20 x 20."""
    mask, anomaly_map = np.zeros((20, 20), bool), np.zeros((20, 20))
    for row, column, height, width in lesions:
        mask[row : row + height, column : column + width] = True
    for (row, column, height, width), score in found:
        anomaly_map[row : row + height, column : column + width] = score
    return anomaly_map, mask


def _candidates(lesions, found, **options):
    return candidates(*_image(lesions, found), 0.5, **options)


@pytest.mark.parametrize(
    ("lesions", "found", "hits"),
    [
        ([], [], []),
        ([], [((1, 1, 2, 2), 1)], [-1]),
        ([(1, 1, 3, 3)], [], []),
        ([(1, 1, 3, 3)], [((3, 3, 3, 3), 1)], [0]),  # one common pixel
        ([(1, 1, 3, 3)], [((4, 4, 3, 3), 1)], [-1]),  # touching by a corner is no overlap
        ([(1, 1, 8, 3)], [((1, 1, 2, 2), 1), ((6, 1, 2, 2), 2)], [0, 0]),  # split
        ([(1, 1, 3, 3), (1, 8, 5, 5)], [((1, 1, 5, 12), 1)], [1]),  # merged: the lesion with most common pixels
        ([(1, 1, 3, 3), (10, 10, 3, 3)], [((1, 1, 3, 3), 1), ((15, 1, 2, 2), 3)], [0, -1]),
    ],
)
def test_matches_by_overlap(lesions, found, hits):
    assert _candidates(lesions, found).hits == hits


def test_matches_by_iou_are_one_to_one():
    one = _candidates([(1, 1, 8, 3)], [((1, 1, 4, 3), 1), ((6, 1, 3, 3), 2)], match="iou")
    assert one.hits == [0, -1]
    far = _candidates([(1, 1, 8, 8)], [((1, 1, 2, 2), 1)], match="iou")
    assert far.hits == [-1]  # 4 of 64


def test_matches_by_centre():
    assert _candidates([(1, 1, 3, 3)], [((1, 1, 3, 3), 1)], match="centre").hits == [0]
    assert _candidates([(1, 1, 3, 3)], [((3, 3, 9, 9), 1)], match="centre").hits == [-1]


def test_froc_by_hand():
    images = [
        _candidates([(1, 1, 3, 3), (10, 10, 3, 3)], [((1, 1, 2, 2), 5), ((10, 10, 2, 2), 2), ((17, 1, 2, 2), 4)]),
        _candidates([], [((1, 1, 2, 2), 3)]),
        _candidates([(1, 1, 3, 3)], []),
        _candidates([], []),
    ]
    found = froc(images, ["a", "b", "c", "d"], (0.1, 0.25, 0.5, 8))
    # false positives 4 and 3; lesions found at 5, 2 and never
    assert found.sensitivity == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    # on the two healthy cases one false positive, at 3
    assert found.healthy == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert found.lesions == 3
    assert all(math.isnan(one) for one in froc([images[1]], ["b"]).sensitivity)


def test_by_size():
    images = [
        _candidates([(1, 1, 2, 2), (10, 10, 6, 6)], [((10, 10, 2, 2), 2)], spacing=(0.5, 2.0)),
        _candidates([(1, 1, 2, 2)], [((1, 1, 2, 2), 1)], spacing=(0.5, 2.0)),
    ]
    small, large = by_size(images, (10.0,))
    assert (small.lesions, small.sensitivity.value) == (2, 0.5)
    assert (large.low, large.lesions, large.sensitivity.value) == (10.0, 1, 1.0)
    assert [one.sensitivity.value for one in by_size(images, (10.0,), threshold=1.5)] == [0, 1]
    assert by_size(images, (1.0, 10.0))[0].lesions == 0
