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
