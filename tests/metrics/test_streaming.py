"""The streaming metrics hold what they promise: the exact value lies in the certified interval."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.metrics.functional import binary_summary
from zoo.metrics.streaming import FIGURES, StreamingPixelMetrics


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "ties", "tiny", "huge", "negative", "coarse bins", "hot pixel", "constant"]),
    st.floats(0.01, 0.6),
)
def test_the_exact_value_lies_in_the_interval(seed, kind, share):
    rng = np.random.default_rng(seed)
    labels = rng.random(4000) < share
    labels[:2] = True, False
    scores = rng.standard_normal(4000) + labels
    scores = {
        "normal": scores,
        "ties": np.round(scores),
        "tiny": 1e-30 * scores,
        "huge": 1e30 * scores,
        "negative": -200 + scores,
        "coarse bins": 100 + 0.05 * scores,
        "hot pixel": np.where(np.arange(4000) == 0, 1e9, scores),
        "constant": np.zeros(4000),
    }[kind].astype(np.float32)
    metric = StreamingPixelMetrics()
    for part in np.array_split(np.arange(4000), 7):
        metric.update(torch.from_numpy(scores[part]), torch.from_numpy(labels[part]))
    exact = binary_summary(scores, labels)
    found = metric.compute()
    for name in FIGURES:
        value, low, high = found[name]
        assert low - 1e-9 <= getattr(exact, name) <= high + 1e-9, (name, found[name])
        assert low - 1e-12 <= value <= high + 1e-12
    if kind in ("normal", "ties", "hot pixel"):
        assert found["auroc"].high - found["auroc"].low < 2e-3 or kind == "ties"
        assert abs(found["auroc"].value - exact.auroc) < 1e-4
    assert found["dice_at_fpr"].value <= exact.best_dice + 1e-12


def test_parts_add_up_like_processes():
    rng = np.random.default_rng(0)
    scores, labels = torch.from_numpy(rng.standard_normal(500)), torch.from_numpy(rng.random(500) < 0.3)
    whole, one, two = StreamingPixelMetrics(), StreamingPixelMetrics(), StreamingPixelMetrics()
    whole.update(scores, labels)
    one.update(scores[:200], labels[:200])
    two.update(scores[200:], labels[200:])
    one.positives += two.positives
    one.pixels += two.pixels
    assert one.compute() == whole.compute()


def test_foreground_missing_class_and_bad_scores():
    metric = StreamingPixelMetrics()
    scores, labels = torch.tensor([0.1, 0.9, 0.5]), torch.tensor([False, True, False])
    metric.update(scores, labels, torch.tensor([True, True, False]))
    assert int(metric.pixels.sum()) == 2
    one_class = StreamingPixelMetrics()
    one_class.update(scores, torch.zeros(3, dtype=torch.bool))
    assert np.isnan(one_class.compute()["auroc"].value)
    with pytest.raises(ValueError, match="1 of 2 scores"):
        metric.update(torch.tensor([0.1, float("nan")]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="1 of 2 labels"):
        metric.update(torch.tensor([0.1, 0.2]), torch.tensor([1, 2]))


@pytest.mark.parametrize("kind", ["distances", "log-likelihoods", "unit range", "beyond one"])
def test_four_ranges_in_which_torchmetrics_differs(kind):
    """torchmetrics' AUROC applies a sigmoid to scores outside [0, 1]; rank metrics must not depend on the range."""
    from sklearn.metrics import average_precision_score, roc_auc_score
    from torchmetrics.classification import BinaryAUROC

    rng = np.random.default_rng(0)
    labels = np.arange(2000) < 1000
    base = rng.standard_normal(2000) + 1.05 * labels
    order = rng.permutation(2000)
    labels, unit = labels[order], ((base - base.min()) / np.ptp(base))[order]
    scores = {
        "distances": 100 + 20 * unit,
        "log-likelihoods": -200 + 20 * unit,
        "unit range": unit,
        "beyond one": 1.2 * unit,
    }[kind].astype(np.float32)
    expected = roc_auc_score(labels, scores)
    exact = binary_summary(scores, labels)
    assert exact.auroc == pytest.approx(expected, abs=1e-12)
    assert exact.average_precision == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    metric, peer = StreamingPixelMetrics(), BinaryAUROC()
    for part in np.array_split(np.arange(2000), 500):
        metric.update(torch.from_numpy(scores[part]), torch.from_numpy(labels[part]))
        peer.update(torch.from_numpy(scores[part]), torch.from_numpy(labels[part]).int())
    streamed = metric.compute()["auroc"]
    assert streamed.low <= expected <= streamed.high
    if kind in ("distances", "beyond one"):
        assert abs(float(peer.compute()) - expected) > 0.003  # the trap is still there
