"""Intervals of proportions, predictive values and net benefit."""

import math

import numpy as np
import pytest
from scipy import stats

from zoo.metrics.clinical import exact_interval, net_benefit, performance, ratio_interval


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (3, 17), (95, 100)])
def test_exact_intervals_are_those_of_scipy(hits, count):
    found = stats.binomtest(hits, count).proportion_ci(method="exact")
    assert exact_interval(hits, count) == pytest.approx((hits / count, found.low, found.high))


def test_no_case_is_no_knowledge():
    value, low, high = exact_interval(0, 0)
    assert math.isnan(value)
    assert (low, high) == (0, 1)


def test_ratio_interval_of_the_literature():
    """Koopman 1984, the example of 36 of 40 against 16 of 80: 2.94 to 7.15."""
    value, low, high = ratio_interval((36, 16), (40, 80))
    assert value == pytest.approx(4.5)
    assert (low, high) == pytest.approx((2.94, 7.15), abs=0.01)
    low, high = ratio_interval((16, 36), (80, 40))[1:]
    assert (1 / high, 1 / low) == pytest.approx((2.94, 7.15), abs=0.01)


def test_ratio_at_the_rim():
    assert ratio_interval((0, 5), (10, 10))[:2] == (0, 0)
    assert ratio_interval((5, 0), (10, 10))[2] == math.inf
    assert ratio_interval((0, 0), (10, 10))[1:] == (0, math.inf)
    value, low, high = ratio_interval((10, 10), (10, 10))
    assert low < value == 1 < high
    assert ratio_interval((10, 1), (10, 200))[1] > 1


@pytest.mark.parametrize(("sensitivity", "false_rate", "n"), [(0.9, 0.05, 100), (0.7, 0.02, 150), (0.85, 0.09, 60)])
def test_predictive_values_cover_the_truth(sensitivity, false_rate, n):
    rng = np.random.default_rng(0)
    prevalence = 0.05
    truth = prevalence * sensitivity / (prevalence * sensitivity + (1 - prevalence) * false_rate)
    covered = []
    for _ in range(400):
        detected, wrong = int(rng.binomial(n, sensitivity)), int(rng.binomial(n, false_rate))
        found = performance(detected, n, wrong, n, prevalence)
        covered.append(found.ppv.low <= truth <= found.ppv.high)
        assert found.npv.low <= found.npv.value <= found.npv.high
    assert np.mean(covered) >= 0.93


def test_predictive_values_by_hand():
    found = performance(80, 100, 10, 100, 0.1)
    assert found.ppv.value == pytest.approx(0.08 / (0.08 + 0.09))
    assert found.npv.value == pytest.approx(0.81 / (0.81 + 0.02))
    assert found.specificity.value == 0.9
    without = performance(0, 100, 0, 100, 0.1)
    assert math.isnan(without.ppv.value)


def test_net_benefit_by_hand():
    assert net_benefit(0.8, 0.9, 0.1, 0.2) == pytest.approx(0.08 - 0.09 * 0.25)
    assert net_benefit(1, 0, 0.1, 0.1) == pytest.approx(0)
