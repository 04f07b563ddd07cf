"""Lesion detection on maps made by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from zoo.metrics.lesions import Candidates, by_size, candidates, froc, froc_intervals


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


def test_intervals_of_froc_draw_whole_cases():
    """The same as building every resample: cases are drawn with and without lesions apart, with all their images."""
    rng = np.random.default_rng(3)
    images, cases = [], []
    for number in range(24):
        sizes = [4.0] * int(rng.integers(1, 4)) if number % 2 else []
        hits = rng.integers(-1, len(sizes), int(rng.integers(0, 6)))
        images.append(Candidates(rng.integers(0, 9, len(hits)).astype(float).tolist(), hits.tolist(), sizes))
        cases.append(f"p{number // 3}" if number % 2 else f"h{number // 3}")
    rates = (0.5, 1.0, 2.0)
    found = froc_intervals(images, cases, rates, resamples=60, seed=5)
    names = sorted(set(cases))
    ill = np.array([name.startswith("p") for name in names])
    draws = np.random.default_rng(5)
    by_hand = []
    for _ in range(60):
        units = np.concatenate([draws.choice(part, len(part)) for part in (np.flatnonzero(ill), np.flatnonzero(~ill))])
        drawn = [
            (image, f"{place}")
            for place, unit in enumerate(units)
            for image, case in zip(images, cases, strict=True)
            if case == names[unit]
        ]
        by_hand.append(froc([one for one, _ in drawn], [case for _, case in drawn], rates).sensitivity)
    low, high = np.quantile(by_hand, [0.025, 0.975], axis=0)
    assert [one.low for one in found] == pytest.approx(low.tolist())
    assert [one.high for one in found] == pytest.approx(high.tolist())
    assert [one.value for one in found] == froc(images, cases, rates).sensitivity
    assert all(math.isnan(one.low) for one in froc_intervals([Candidates([1.0], [-1], [])], ["a"]))


def test_froc_equals_picai_eval():
    """Every point of picai_eval's curve, one to one by IoU: lesions found at its false positives a case."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "metrics" / "picai_eval_froc.json").read_text())
    images = []
    for case in golden["cases"]:
        truth, found = (np.zeros(golden["shape"]) for _ in range(2))
        for array, boxes in ((truth, case["lesions"]), (found, case["candidates"])):
            for z, y, x, depth, height, width in boxes:
                array[z : z + depth, y : y + height, x : x + width] = 1
        parts, count = ndimage.label(found, np.ones((3, 3, 3)))
        scores = np.array([0.0, *case["scores"]])
        assert len(scores) == count + 1
        images.append(candidates(scores[parts], truth > 0, 0.0, match="iou"))
    names = [str(number) for number in range(len(images))]
    finite = np.isfinite(golden["fpr"])
    rates = np.rint(np.array(golden["fpr"])[finite] * len(images)) / len(images)  # it keeps float32
    shares = np.array(golden["tpr"])[finite]
    best = [shares[rates <= rate].max() for rate in rates]  # of equal false positives the most lesions
    found = froc(images, names, rates.tolist())
    assert found.lesions == golden["lesions"]
    assert found.sensitivity == pytest.approx(best, abs=1e-6)


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
