"""Conformal p-values: by definition, by simulation, and the tables of the literature."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from zoo.decision import conformal
from zoo.errors import UserError

scores = st.lists(st.sampled_from([-1.5, -0.0, 0.0, 1.0, 2.0, 2.5]), min_size=1, max_size=12)


@given(scores, scores)
def test_p_values_and_percentiles_are_their_definitions(calibration, new):
    p, percentile = conformal.p_values(calibration, new), conformal.percentiles(calibration, new)
    for score, one, share in zip(new, p, percentile, strict=True):
        assert one == (1 + sum(c >= score for c in calibration)) / (len(calibration) + 1)
        assert share == 100 * sum(c < score for c in calibration) / len(calibration)
    assert (conformal.p_values(calibration[::-1], new) == p).all()


def test_constant_scores_decide_nothing():
    assert (conformal.p_values([3.0] * 99, [3.0, 3.0]) == 1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(UserError, match="1 new scores are NaN or infinite"):
        conformal.p_values([1.0], [bad, 2.0])
    with pytest.raises(UserError, match="1 calibration scores"):
        conformal.p_values([1.0, bad], [2.0])
    with pytest.raises(UserError, match="no calibration case"):
        conformal.p_values([], [2.0])


def test_realised_rate_of_many_calibrations():
    """The rate above the k-th largest of n uniform scores is 1 minus that score."""
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.random((20_000, 99)), axis=1)
    realised = 1 - drawn[:, -conformal.rank(99, 0.05)]
    assert realised.mean() == pytest.approx(0.05, abs=0.0007)
    low, high = np.quantile(realised, [0.05, 0.95])
    assert low == pytest.approx(0.020, abs=0.003)
    assert high == pytest.approx(0.090, abs=0.003)
    assert conformal.realised_rate(99, 5)[1:] == pytest.approx((low, high), abs=0.002)
    few = 1 - rng.random((20_000, 19)).max(1)
    assert conformal.rank(19, 0.05) == 1
    assert few.mean() == pytest.approx(0.05, abs=0.0015)
    assert conformal.rank(18, 0.05) == 0


@pytest.mark.parametrize("level", [0.01, 0.05, 0.07, 0.29])
def test_flagging_above_the_threshold_is_p_at_most_level(level):
    rng = np.random.default_rng(1)
    for n in (19, 99, 120):
        calibration, new = rng.integers(0, 30, n) / 10, rng.integers(0, 40, 500) / 10
        r = conformal.rank(n, level)
        flagged = conformal.p_values(calibration, new) <= level + 1e-12
        assert (flagged == (new > conformal.threshold(calibration, r) if r else np.zeros(500, bool))).all()


SIZES = {0.01: (299, 473, 628, 913), 0.02: (149, 236, 313, 456), 0.05: (59, 93, 124, 181), 0.10: (29, 46, 61, 89)}


@pytest.mark.parametrize("level", SIZES)
def test_sizes_for_a_bound_at_95_percent_confidence(level):
    for r, n in zip((1, 2, 3, 5), SIZES[level], strict=True):
        assert conformal.rank(n, level, 0.95) == r
        assert conformal.rank(n - 1, level, 0.95) == r - 1
    assert conformal.needed(level, 0.95) == SIZES[level][0]


def test_bound_holds_as_often_as_promised():
    assert conformal.rank(100, 0.05, 0.95) == 2
    rng = np.random.default_rng(2)
    second = np.sort(rng.random((20_000, 100)), axis=1)[:, -2]
    assert (1 - second <= 0.05).mean() == pytest.approx(0.9629, abs=0.006)
    assert conformal.lowest_bound(40, 0.95) == pytest.approx(0.0722, abs=1e-4)
    assert [conformal.needed(level) for level in (0.01, 0.05, 0.1)] == [99, 19, 9]


def test_case_scores_hold_their_level_where_pooled_images_do_not():
    """Half of the patients have one image, half ten that score one deviation lower (within-patient correlation 0.8)."""
    rng = np.random.default_rng(3)
    rates = {"equal": [], "unequal": [], "pooled": []}
    for _ in range(3000):
        patients = rng.normal(size=41)[:, None]
        images = np.sqrt(0.8) * patients + np.sqrt(0.2) * rng.normal(size=(41, 10))
        equal = images[:, :4].max(1)
        rates["equal"].append(conformal.p_values(equal[:40], equal[40:])[0] <= 0.05)
        many = np.arange(41) % 2 == 1
        order = rng.permutation(41)
        patient_max = np.where(many, images.max(1) - 1, images[:, 0])[order]
        rates["unequal"].append(conformal.p_values(patient_max[:40], patient_max[40:])[0] <= 0.05)
        pool = np.concatenate([images[j] - 1 if many[j] else images[j, :1] for j in order[:40]])
        last = order[40]
        first = images[last, 0] - many[last]
        rates["pooled"].append(conformal.p_values(pool, [first])[0] <= 0.05)
    # 3,000 draws of a rate of 2 / 41: standard error 0.004
    assert np.mean(rates["equal"]) == pytest.approx(2 / 41, abs=0.012)
    assert np.mean(rates["unequal"]) == pytest.approx(2 / 41, abs=0.012)
    assert np.mean(rates["pooled"]) > 0.10


def test_conditional_p_values_hold_at_all_levels_at_once():
    smallest = {100: 0.045, 200: 0.0228, 500: 0.0092, 1000: 0.0046}
    for n, expected in smallest.items():
        assert conformal.conditional_p_values(np.arange(n), [n])[0] == pytest.approx(expected, abs=6e-5)
    n = 100
    p = conformal.conditional_p_values(np.arange(n), np.arange(-1, n) + 0.5)[::-1]  # for ranks 1 ... n + 1
    assert (np.diff(p) >= 0).all()
    assert (p >= np.arange(1, n + 2) / (n + 1) - 1e-12).all()
    rng = np.random.default_rng(4)
    drawn = np.sort(rng.random((4000, n)), axis=1)[:, ::-1]
    realised = 1 - drawn  # the rate at which a healthy case ranks before the j-th largest
    assert (realised <= p[:n]).all(1).mean() >= 0.88


def test_worklists_keep_the_false_discovery_rate():
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(300):
        calibration, new = rng.normal(size=200), rng.normal(size=200)
        new[:20] += 3
        flagged = conformal.q_values(conformal.p_values(calibration, new)) <= 0.1
        shares.append(flagged[20:].sum() / max(flagged.sum(), 1))
    assert np.mean(shares) <= 0.10 + 3 * np.std(shares) / np.sqrt(len(shares))
    assert conformal.worklist_floor(200, 100, 0.1) == 20
    assert conformal.worklist_floor(200, 50, 0.1) == 40


def test_drift_tests_tell_anomalies_from_another_population():
    rng = np.random.default_rng(6)
    draws = 600

    def run(change):
        found = [conformal.drift(rng.normal(size=200), change(rng.normal(size=100))) for _ in range(draws)]
        return np.mean([one.all_scores < 0.01 for one in found]), np.mean([not one.fits for one in found])

    unchanged = run(lambda new: new)
    assert all(0.002 <= share <= 0.02 for share in unchanged)
    anomalies, withheld = run(lambda new: np.where(np.arange(100) < 20, new + 3, new))
    assert anomalies > 0.4
    assert withheld <= 0.03
    assert run(lambda new: new - 1)[1] >= 0.85
    assert run(lambda new: 2 * new)[1] >= 0.85
    few = conformal.drift(rng.normal(size=200), rng.normal(size=19) + 5)
    assert not few.tested
    assert few.fits
    assert not conformal.drift(rng.normal(size=50), rng.normal(size=50) + 99).fits


def test_drift_of_image_statistics_is_adjusted():
    rng = np.random.default_rng(7)
    known = {"mean": rng.normal(size=60).tolist(), "deviation": rng.normal(size=60).tolist()}
    new = {"mean": (rng.normal(size=60) + 3).tolist(), "deviation": rng.normal(size=60).tolist(), "other": [0.0] * 60}
    found = conformal.drift(rng.normal(size=60), rng.normal(size=60), known, new)
    assert list(found.changed_statistics) == ["mean"]
    assert found.fits


def test_counts_of_flagged_healthy_cases_are_beta_binomial():
    low, high = conformal.flagged_range(100, 100, 5, 0.95)
    assert (low, high) == (0, 12)
    assert stats.betabinom(100, 5, 96).cdf(12) >= 0.975


def test_cross_conformal_holds_near_its_level():
    """Mahalanobis distance in ten dimensions, 40 images: the training images' own distances flag a third."""
    rng = np.random.default_rng(8)

    def distances(train, new):
        centred = new - train.mean(0)
        return np.einsum("ij,jk,ik->i", centred, np.linalg.inv(np.cov(train.T)), centred)

    crossed, naive = [], []
    for _ in range(400):
        data, new = rng.normal(size=(40, 10)), rng.normal(size=(20, 10))
        folds = np.arange(40) % 8
        parts = [data[folds != k] for k in range(8)]
        held = [distances(part, data[folds == k]) for k, part in enumerate(parts)]
        p = conformal.cross_p_values(held, [distances(part, new) for part in parts])
        crossed.append((p <= 0.1).mean())
        naive.append((conformal.p_values(distances(data, data), distances(data, new)) <= 0.1).mean())
    assert 0.06 <= np.mean(crossed) <= 0.12
    assert np.mean(naive) > 0.25


def test_groups_judge_their_own_where_they_suffice():
    groups = ["a"] * 30 + ["b"] * 5
    own, note = conformal.group_calibration(groups, "a", 0.05)
    assert own.sum() == 30
    assert note == ""
    own, note = conformal.group_calibration(groups, "b", 0.05)
    assert own.all()
    assert note == "group b: 5 calibration cases, all groups used"
