"""The authors' figures, scikit-learn on adversarial inputs, and the remaining functions."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from zoo.metrics.functional import (
    aupro,
    auroc,
    average_precision,
    best_dice,
    best_iou,
    binary_summary,
    expected_calibration_error,
    partial_auroc,
    pixel_summary,
    region_sizes,
    sensitivity_at_specificity,
    summary_of_parts,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"


def test_authors_figures_of_fae() -> None:
    expected = json.loads((GOLDEN / "fae_eval.json").read_text())
    values, aux = expected["values"], expected["aux"]
    with np.load(GOLDEN / "fae_eval.npz") as file:
        maps, masks = file["preds"], file["targets"]
    assert auroc(maps, masks) == pytest.approx(values["compute_auroc(preds, targets)"], abs=1e-12)
    assert average_precision(maps, masks) == pytest.approx(
        values["compute_average_precision(preds, targets)"], abs=1e-12
    )
    assert auroc(aux["scores"], aux["labels"]) == pytest.approx(values["compute_auroc(scores, labels)"], abs=1e-12)
    # theirs takes a strict > at a threshold that counts >=, on a grid of 100: ours is the exact optimum above it
    assert best_dice(maps, masks) >= values["compute_best_dice(preds, targets, 100) [value, threshold]"][0]
    assert best_iou(maps, masks) >= values["compute_best_iou(preds, targets, 100) [value, threshold]"][0]


@given(
    st.lists(
        st.tuples(st.sampled_from([-200.0, -1e-30, 0.0, -0.0, 1e-45, 0.5, 1.0, 1.2, 100.0, 3e38]), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
@settings(max_examples=200, deadline=None)
def test_adversarial_scores_equal_scikit_learn(cases: list[tuple[float, bool]], dtype: type) -> None:
    scores = np.clip(np.array([score for score, _ in cases]), *((-6e4, 6e4) if dtype is np.float16 else (None, None)))
    scores, labels = scores.astype(dtype), np.array([label for _, label in cases])
    found = binary_summary(scores, labels, fpr=0.3)
    if labels.all() or not labels.any():
        assert np.isnan(found.auroc)
        return
    reference = scores.astype(np.float64)
    assert found.auroc == pytest.approx(roc_auc_score(labels, reference), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(labels, reference), abs=1e-12)
    rates, hits, _ = roc_curve(labels, reference, drop_intermediate=False)
    kept = hits[rates <= 0.3 + 1e-12].max()
    assert sensitivity_at_specificity(scores, labels, 0.7)[0] == pytest.approx(kept, abs=1e-12)
    assert partial_auroc(scores, labels, 0.3) == pytest.approx(roc_auc_score(labels, reference, max_fpr=0.3), abs=1e-12)
    chosen = reference >= found.threshold_at_fpr
    assert found.dice_at_fpr == pytest.approx(2 * (chosen & labels).sum() / (chosen.sum() + labels.sum()), abs=1e-12)


@pytest.mark.parametrize("kind", ["distances near 100", "log-likelihoods near -200", "unit interval", "up to 1.2"])
def test_scores_outside_the_unit_interval_need_no_sigmoid(kind: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 4 == 0
    unit = rng.random(2000) * 0.7 + 0.3 * labels * rng.random(2000)
    moved = {"distances near 100": 100 + unit, "log-likelihoods near -200": unit - 200, "unit interval": unit}
    scores = moved.get(kind, 1.2 * unit)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, unit), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, unit), abs=1e-12)


def test_parts_equal_the_whole() -> None:
    rng = np.random.default_rng(1)
    maps, masks = rng.integers(0, 30, (6, 1, 12, 12)).astype(np.float32), rng.random((6, 1, 12, 12)) < 0.2
    parts = [np.sort(maps[i : i + 2][~masks[i : i + 2]]) for i in (0, 2, 4)]
    found, whole = summary_of_parts(maps[masks], *region_sizes(masks), parts), pixel_summary(maps, masks)
    np.testing.assert_allclose(found.binary, whole.binary, atol=1e-12)
    np.testing.assert_allclose(found.binary, binary_summary(maps, masks), atol=1e-12)
    assert found.aupro == pytest.approx(aupro(maps, masks), abs=1e-12)
    assert np.isnan(aupro(maps, np.zeros_like(masks)))


def test_calibration_error() -> None:
    assert expected_calibration_error([0.25] * 4, [1, 0, 0, 0]) == pytest.approx(0)
    assert expected_calibration_error([1.0, 0.0], [0, 1]) == pytest.approx(1)
    with pytest.raises(ValueError, match="1 of 2 values are outside"):
        expected_calibration_error([1.5, 0.2], [1, 0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.uint8])
def test_extreme_imbalance_and_constants_equal_scikit_learn(dtype: type) -> None:
    rng = np.random.default_rng(0)
    scores = (100 * rng.random(100_000)).astype(dtype)  # ties in all but float64
    for positives in (1, 3, 99_999):
        labels = np.zeros(100_000, bool)
        labels[rng.choice(100_000, positives, replace=False)] = True
        found = binary_summary(scores, labels)
        reference = scores.astype(np.float64)
        assert found.auroc == pytest.approx(roc_auc_score(labels, reference), abs=1e-12)
        assert found.average_precision == pytest.approx(average_precision_score(labels, reference), abs=1e-12)
        constant = binary_summary(np.full_like(scores, 7), labels)
        assert constant.auroc == 0.5
        assert constant.average_precision == pytest.approx(positives / 100_000, abs=1e-15)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", [0, 5, 99_998])
def test_infinities_and_nan_are_refused_wherever_they_are(bad: float, where: int) -> None:
    scores, labels = np.arange(99_999, dtype=np.float32), np.arange(99_999) % 3 == 0
    scores[where] = bad
    for function in (auroc, average_precision, binary_summary):
        with pytest.raises(ValueError, match="1 of 99999 scores are NaN or infinite"):
            function(scores, labels)
    outside = np.ones(99_999, bool)
    outside[where] = False
    assert np.isfinite(auroc(scores, labels, outside))  # what does not count may be anything


def test_parts_of_any_dtype_share_the_first_forbidden_negative() -> None:
    rng = np.random.default_rng(2)
    for dtype in (np.float32, np.float64, np.int32, np.uint8):
        scores = np.clip(100 + 20 * rng.standard_normal(3000), 0, 255)
        scores = (scores - (100 if np.issubdtype(dtype, np.floating) else 0)).astype(dtype)
        labels = rng.random(3000) < 0.1
        parts = [np.sort(part) for part in np.array_split(scores[~labels], 4)]
        sizes, count = np.ones(labels.sum(), np.int32), int(labels.sum())
        for fpr in (0.0, 0.05, 0.5, 1.0):
            found = summary_of_parts(scores[labels], sizes, count, parts, fpr).binary
            np.testing.assert_allclose(found, binary_summary(scores, labels, fpr), atol=1e-12)


def test_uint8_masks_and_shapes() -> None:
    maps, masks = np.random.default_rng(0).random((2, 1, 8, 8)), np.zeros((2, 1, 8, 8), np.uint8)
    masks[0, 0, 2:4, 2:4] = 1
    assert aupro(maps, masks) == aupro(maps, masks.astype(bool)) == aupro(maps[:, 0], masks[:, 0])
    with pytest.raises(ValueError, match="1 of 128 labels"):
        aupro(maps, np.where(maps == maps.max(), 255, masks).astype(np.uint8))
    with pytest.raises(ValueError, match="foreground"):
        auroc(maps, masks, np.ones(3, bool))
