"""Findings on maps: rates by case, hand-made components, the common scale."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from zoo.decision import findings


def _noise(rng, count, side=60):
    maps = gaussian_filter(rng.normal(size=(count, side, side)), (0, 2, 2))
    maps[:, :, side // 2 :] *= 1.3  # the right half is harder
    return maps


@pytest.mark.parametrize("rule", ["components", "max"])
def test_share_of_healthy_cases_with_any_mark(rule):
    rng = np.random.default_rng(0)
    marked = []
    for _ in range(40):
        healthy = findings.reference([[one] for one in _noise(rng, 60)])
        marked += [bool(findings.find(one, healthy, level=0.05, rule=rule)[1]) for one in _noise(rng, 30)]
    assert np.mean(marked) == pytest.approx(0.05, abs=0.02)


def test_components_by_hand():
    anomaly_map = np.zeros((8, 9))
    anomaly_map[1, 1] = anomaly_map[2, 2] = 3.0  # touch by a corner: one component
    anomaly_map[5:7, 5:8] = 2.0
    healthy = findings.MapReference(1.0, [1.0] * 19, [1.0] * 18 + [3.9], [0.0, 1.0])
    labels, found = findings.find(anomaly_map, healthy, level=0.1)
    assert [(one.number, one.mass, one.pixels, one.peak) for one in found] == [(1, 6.0, 6, 2.0), (2, 4.0, 2, 3.0)]
    assert [one.p_value for one in found] == [1 / 20, 1 / 20]
    assert found[0].centre == (5.5, 6.0)
    assert found[1].centre == (1.5, 1.5)
    assert (labels[5:7, 5:8] == 1).all()
    assert labels[1, 1] == labels[2, 2] == 2
    assert findings.find(anomaly_map, healthy, level=0.04)[1] == []
    assert findings.find(anomaly_map, healthy, level=0.1, rule="none")[1] == []
    assert findings.find(np.full((8, 9), -np.inf), healthy, level=0.1)[1] == []


def test_negative_maps_and_outside_of_the_foreground():
    rng = np.random.default_rng(1)
    maps = _noise(rng, 20) - 5
    maps[:, :10] = -np.inf
    healthy = findings.reference([[one] for one in maps])
    assert healthy.primary < 0
    assert np.isfinite(healthy.quantiles).all()
    new = maps[0].copy()
    new[30:40, 20:30] = 0.0
    labels, found = findings.find(new, healthy, level=0.05)
    assert len(found) == 1
    assert labels[35, 25] == 1
    level = findings.display_level(new, healthy.quantiles)
    assert level[35, 25] == 1
    assert (level[:10] == 0).all()


def test_same_value_same_level_and_percentile():
    rng = np.random.default_rng(2)
    maps = rng.normal(size=(30, 40, 40))
    healthy = findings.reference([[one] for one in maps])
    one, other = np.array([[0.0, 2.0]]), np.array([[2.0, 1e9, -1e9]])
    assert (
        findings.display_level(one, healthy.quantiles)[0, 1] == findings.display_level(other, healthy.quantiles)[0, 0]
    )
    percentile = findings.pixel_percentiles(np.array([-9.0, 0.0, np.quantile(maps, 0.99), 99.0]), healthy.quantiles)
    assert percentile == pytest.approx([0, 50, 99, 100], abs=0.5)
    assert findings.display_level(np.quantile(maps, [0.9, 0.99, 0.999]), healthy.quantiles) == pytest.approx(
        [0, 1 / 3, 2 / 3], abs=0.02
    )
    constant = findings.reference([[np.ones((4, 4))]] * 3)
    assert findings.pixel_percentiles(np.array([0.0, 1.0, 2.0]), constant.quantiles).tolist() == [0, 100, 100]


def test_volumes():
    rng = np.random.default_rng(3)
    volumes = gaussian_filter(rng.normal(size=(25, 12, 12, 12)), (0, 1, 1, 1))
    healthy = findings.reference([[one] for one in volumes])
    new = volumes[0].copy()
    new[4:8, 4:8, 4:8] += 2
    labels, found = findings.find(new, healthy, level=0.05)
    assert len(found) == 1
    assert labels.shape == new.shape
    assert found[0].centre == pytest.approx((5.5, 5.5, 5.5), abs=0.7)
