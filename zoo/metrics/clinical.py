"""What a rule does to cases: exact intervals, predictive values at a stated prevalence, net benefit."""

import math
from typing import NamedTuple

from scipy import optimize, stats
from scipy.special import betaincinv

from zoo.metrics.statistics import Interval


def exact_interval(hits: int, count: int, level: float = 0.95) -> Interval:
    """A proportion with Clopper and Pearson's interval (1934); nan, 0 and 1 for no case at all."""
    if count == 0:
        return Interval(math.nan, 0.0, 1.0)
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, count - hits + 1, tail))
    high = 1.0 if hits == count else float(betaincinv(hits + 1, count - hits, 1 - tail))
    return Interval(hits / count, low, high)


def ratio_interval(hits: tuple[int, int], counts: tuple[int, int], level: float = 0.95) -> Interval:
    """Ratio of two independent proportions with the score interval of Koopman (Biometrics 1984).

    Args:
        hits: of the first and the second proportion.
        counts: cases of each.
        level: of the interval.

    Returns:
        Interval: from 0 to infinity where nothing is known.
    """
    (x, y), (m, n) = hits, counts
    if not m or not n or (x == 0 and y == 0):
        return Interval(math.nan, 0.0, math.inf)
    limit = float(stats.chi2.ppf(level, 1))

    def excess(log_ratio: float) -> float:
        """Pearson's statistic of the most likely proportions with this ratio, over the limit."""
        ratio = math.exp(log_ratio)
        b = ratio * (m + y) + x + n
        second = 2 * (x + y) / (b + math.sqrt(max(b * b - 4 * ratio * (m + n) * (x + y), 0.0)))
        return _deviation(x, m, ratio * second) + _deviation(y, n, second) - limit

    value = (x / m) / (y / n) if y else math.inf
    middle = math.log(max(x, 0.5) / m / (max(y, 0.5) / n))
    low, high = 0.0, math.inf
    if x and excess(middle - 40) > 0:
        low = math.exp(optimize.brentq(excess, middle - 40, middle))
    if y and excess(middle + 40) > 0:
        high = math.exp(optimize.brentq(excess, middle, middle + 40))
    return Interval(value, low, high)


def _deviation(hits: int, count: int, p: float) -> float:
    difference = hits - count * p
    return 0.0 if abs(difference) < 1e-9 else difference**2 / (count * p * max(1 - p, 1e-300))


class Performance(NamedTuple):
    """A rule on cases of known health.

    Attributes:
        anomalous: cases.
        healthy: cases.
        sensitivity: with its exact interval.
        specificity: the same.
        ppv: positive predictive value at ``prevalence``, interval through the ratio of likelihoods.
        npv: the same for the negative one.
        prevalence: that the predictive values are told for.
    """

    anomalous: int
    healthy: int
    sensitivity: Interval
    specificity: Interval
    ppv: Interval
    npv: Interval
    prevalence: float


def performance(detected: int, anomalous: int, false_alarms: int, healthy: int, prevalence: float) -> Performance:
    """Sensitivity, specificity and predictive values.

    Args:
        detected: flagged cases among the anomalous.
        anomalous: number of them.
        false_alarms: flagged cases among the healthy.
        healthy: number of them.
        prevalence: in the population of use, not in the test set, which is usually enriched.
    """
    positive = ratio_interval((detected, false_alarms), (anomalous, healthy))
    negative = ratio_interval((anomalous - detected, healthy - false_alarms), (anomalous, healthy))
    odds = prevalence / (1 - prevalence)
    return Performance(
        anomalous,
        healthy,
        exact_interval(detected, anomalous),
        exact_interval(healthy - false_alarms, healthy),
        Interval(*(_share(ratio * odds) for ratio in positive)),
        Interval(*(1 - _share(ratio * odds) for ratio in (negative.value, negative.high, negative.low))),
        prevalence,
    )


def _share(odds: float) -> float:
    return 1.0 if math.isinf(odds) else odds / (1 + odds)


def net_benefit(sensitivity: float, specificity: float, prevalence: float, threshold: float) -> float:
    """Net benefit of a rule (Vickers and Elkin 2006): true positives less false ones, at the odds of ``threshold``.

    Flagging all has sensitivity 1 and specificity 0, flagging none a net benefit of 0.

    Args:
        sensitivity: of the rule.
        specificity: of the rule.
        prevalence: of the population.
        threshold: the probability of disease above which one would want a case looked at: it is the user's, no output
            of a model.
    """
    return sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * threshold / (1 - threshold)
