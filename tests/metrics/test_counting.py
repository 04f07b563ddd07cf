"""Counting without a sort gives the integers of a sort, and scikit-learn's figures, on every kind of scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from zoo.metrics import counting
from zoo.metrics.functional import auroc, pixel_summary
from zoo.metrics.ranking import area_under, at_rate, mean_precision, rank, rank_pixels

KINDS = {
    "normal": lambda r, n: r.standard_normal(n),
    "half zero": lambda r, n: np.maximum(r.standard_normal(n), 0),
    "signed zeros": lambda r, n: np.where(r.random(n) < 0.5, -0.0, r.integers(-1, 2, n)),
    "few values": lambda r, n: r.integers(-3, 4, n) / 3,
    "narrow": lambda r, n: 1 + 1e-6 * r.standard_normal(n),
    "narrow negative": lambda r, n: -7 - 1e-6 * r.standard_normal(n),
    "wide": lambda r, n: np.exp(30 * r.standard_normal(n)) * r.choice([-1, 1], n),
    "denormal": lambda r, n: r.integers(-5, 6, n) * 1e-45,
    "constant": lambda r, n: np.full(n, 0.25),
}


def scores_of(kind: str, rng: np.random.Generator, n: int, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.nan_to_num(KINDS[kind](rng, n).astype(dtype))


@pytest.fixture
def counted(monkeypatch):
    """Always count, never sort."""
    monkeypatch.setattr(counting, "sorts_fast", lambda: False)
    monkeypatch.setattr(counting, "_SMALL", 0)
    monkeypatch.setattr(counting, "_CROWD", float("inf"))


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    n=st.integers(2, 400),
    share=st.floats(0.01, 0.24),
    dtype=st.sampled_from(["f4", "f8"]),
    seed=st.integers(0, 2**31),
    masked=st.booleans(),
    chunk=st.sampled_from([7, 64, 1 << 16]),
    few=st.sampled_from([1, 24, 10**9]),
    table=st.sampled_from([16, 1 << 17]),
)
def test_equal_to_a_sort_and_to_scikit_learn(kind, n, share, dtype, seed, masked, chunk, few, table):
    rng = np.random.default_rng(seed)
    scores, labels = scores_of(kind, rng, n, dtype), rng.random(n) < share
    inside = rng.random(n) < 0.8 if masked else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_CHUNK", chunk)
        patch.setattr(counting, "_FEW", few)
        patch.setattr(counting, "_TABLE", table)
        sorted_hits, by_sort = rank_pixels(scores, labels, inside)
        patch.setattr(counting, "sorts_fast", lambda: False)
        patch.setattr(counting, "_SMALL", 0)
        patch.setattr(counting, "_CROWD", float("inf"))
        patch.setattr(counting, "_FREQUENT", 0.25)
        hits, found = rank_pixels(scores, labels, inside)
        chosen, truth = (scores, labels) if inside is None else (scores[inside], labels[inside])
        parts = np.array_split(rng.permutation(chosen[~truth]), 3)
        in_parts = rank(np.sort(hits), parts)
        assert (hits == sorted_hits).all()
        if truth.all() or not truth.any():
            assert found is by_sort is in_parts is None
            return
        expected = [at_rate(by_sort, rate) for rate in (0.0, 0.05, 0.5, 0.99, 1.0)]
        for ranks in (found, in_parts):
            for name in ("positives", "tp", "fp", "above"):
                assert (getattr(ranks, name) == getattr(by_sort, name)).all(), name
            assert [at_rate(ranks, rate) for rate in (0.0, 0.05, 0.5, 0.99, 1.0)] == expected
    assert area_under(found) == pytest.approx(roc_auc_score(truth, chosen), abs=1e-12)
    assert mean_precision(found) == pytest.approx(average_precision_score(truth, chosen), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(2, 60), st.integers(0, 2**31), st.floats(0, 1))
def test_the_threshold_at_a_rate_is_the_lowest_that_keeps_it(kind, n, seed, rate):
    rng = np.random.default_rng(seed)
    scores, labels = scores_of(kind, rng, n, "f4"), rng.random(n) < 0.4
    _, ranks = rank_pixels(scores, labels, None)
    if ranks is None:
        return
    hit, wrong, threshold = at_rate(ranks, rate)
    called = scores >= threshold
    assert (hit, wrong) == ((called & labels).sum(), (called & ~labels).sum())
    allowed = np.floor(rate * (~labels).sum() + 1e-9)
    assert wrong <= allowed
    lower = scores[scores < threshold]
    assert not lower.size or ((scores >= lower.max()) & ~labels).sum() > allowed


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_many_scores_in_several_chunks(kind, dtype, counted):
    rng = np.random.default_rng(1)
    scores, labels = scores_of(kind, rng, 200_000, dtype), rng.random(200_000) < 0.05
    _, ranks = rank_pixels(scores, labels, None)
    assert area_under(ranks) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert mean_precision(ranks) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_scores_that_are_not_finite_are_counted_and_refused(bad, where, counted):
    scores = np.zeros(100, np.float32)
    scores[where] = bad
    with pytest.raises(ValueError, match="1 of 100 scores are NaN or infinite"):
        auroc(scores, np.arange(100) < 1)


def test_one_positive_below_all_others(counted):
    """The gap that holds the threshold is then the whole set."""
    scores, labels = np.arange(10_000, dtype=np.float32), np.arange(10_000) < 1
    _, ranks = rank_pixels(scores, labels, None)
    assert at_rate(ranks, 0.05) == (0, 499, 9501.0)


def test_regions_and_foreground_are_alike_both_ways(monkeypatch):
    rng = np.random.default_rng(2)
    masks = np.zeros((6, 40, 40), bool)
    masks[::2, 5:12, 8:20] = True
    masks[2, 30:33, 30:33] = True
    maps = np.round(rng.standard_normal(masks.shape), 1).astype(np.float32) + masks
    foreground = rng.random(masks.shape) < 0.7
    expected = pixel_summary(maps, masks, foreground=foreground)
    monkeypatch.setattr(counting, "sorts_fast", lambda: False)
    monkeypatch.setattr(counting, "_SMALL", 0)
    found = pixel_summary(maps, masks, foreground=foreground)
    assert found.binary == expected.binary
    assert found.aupro == expected.aupro


def test_where_counting_does_not_suit_it_is_sorted(monkeypatch):
    assert isinstance(counting.sorts_fast(), bool)
    monkeypatch.setattr(counting, "sorts_fast", lambda: False)
    values = np.unique(np.random.default_rng(0).standard_normal(1000))
    assert counting.locator_for(values, 10_000) is None  # few scores
    assert counting.locator_for(values, 1 << 20) is not None
    assert counting.locator_for(values.astype(">f4"), 1 << 20) is None
    assert counting.locator_for(np.arange(1000), 1 << 20) is None
    assert counting.locator_for(1 + 1e-13 * values, 1 << 20) is None  # differ past the bits of the table
