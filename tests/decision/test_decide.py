"""Decisions and their messages."""

import numpy as np
import pytest

from zoo.decision.decide import Rule, decide, missing
from zoo.errors import UserError


def _words(decisions):
    return [one.decision for one in decisions.cases]


def test_without_a_calibration_nothing_is_decided():
    found = decide(None, np.zeros(2), Rule(), run="runs/a")
    assert _words(found) == ["not decided"] * 2
    assert found.warnings == [missing("runs/a")]
    assert "zoo calibrate --run runs/a --healthy DIR (59 cases" in found.warnings[0]
    with pytest.raises(UserError, match="no decision: runs/a has no calibration"):
        decide(None, np.zeros(2), Rule(level=0.05), run="runs/a")


def test_too_few_cases(make_calibration):
    found = decide(make_calibration(6), np.array([99.0]), Rule())
    assert _words(found) == ["not decided"]
    assert found.cases[0].p_value == 1 / 7
    assert found.cases[0].percentile == 100
    message = "no decision at level 0.05: 6 calibration cases give p-values of at least 0.143; 19 are needed"
    assert message in found.warnings[0]
    with pytest.raises(UserError, match=r"lowest level possible: 0\.143"):
        decide(make_calibration(6), np.array([99.0]), Rule(level=0.05))
    assert _words(decide(make_calibration(6), np.array([99.0, -99.0]), Rule(level=0.2))) == ["flagged", "not flagged"]


def test_bounds_that_are_impossible_say_what_is_possible(make_calibration):
    with pytest.raises(UserError, match=r"40 cases cannot bound 5 % false positives \(59 needed\); they bound 7.2 %"):
        decide(make_calibration(40), np.zeros(3), Rule(confidence=0.95))
    found = decide(make_calibration(100), np.array([9.0, -9.0]), Rule(level=0.05, confidence=0.95))
    assert found.rank == 2
    assert found.threshold == make_calibration(100).scores[-2]
    assert _words(found) == ["flagged", "not flagged"]


def test_threshold_rule_decides_a_case_alone_as_in_a_list(make_calibration):
    calibration = make_calibration(40)
    scores = np.linspace(-2, 4, 15)
    together = decide(calibration, scores, Rule())
    alone = [decide(calibration, scores[k : k + 1], Rule()).cases[0] for k in range(15)]
    assert [one._replace(q_value=0) for one in together.cases] == [one._replace(q_value=0) for one in alone]


def test_worklists_tell_their_floor(make_calibration):
    rng = np.random.default_rng(0)
    found = decide(make_calibration(50), rng.normal(size=200), Rule(rule="fdr", level=0.1))
    assert "with 50 calibration cases a list of 200 needs at least 40 cases at the smallest p" in found.warnings
    scores = rng.normal(size=200)
    scores[:60] += 9
    flagged = decide(make_calibration(200, 1), scores, Rule(rule="fdr", level=0.1, force=True))
    assert _words(flagged)[:60] == ["flagged"] * 60
    with pytest.raises(UserError, match="no such bound"):
        Rule(rule="fdr", confidence=0.9)
    with pytest.raises(UserError, match="level must lie between 0 and 1"):
        Rule(level=1.5)


def test_drift_withholds_unless_forced(make_calibration):
    rng = np.random.default_rng(1)
    shifted = rng.normal(size=120) - 1
    statistics = {"mean": (rng.normal(size=120) + 3).tolist()}
    found = decide(make_calibration(200), shifted, Rule(), statistics=statistics)
    assert set(_words(found)) == {"not decided"}
    assert "the calibration does not fit these 120 cases (lower scores p = " in found.warnings[0]
    assert ", mean p = " in found.warnings[0]
    assert "decisions withheld" in found.warnings[0]
    forced = decide(make_calibration(200), shifted, Rule(force=True), statistics=statistics)
    assert "not flagged" in _words(forced)
    higher = rng.normal(size=120)
    higher[:30] += 5
    assert "more high scores than among healthy cases" in decide(make_calibration(200), higher, Rule()).warnings[0]
    assert "too few to test" in decide(make_calibration(200), higher[:5], Rule()).warnings[0]


def test_cases_with_more_images_than_any_calibration_case_are_not_decided(make_calibration):
    calibration = make_calibration(40, images=[3] * 40)
    found = decide(calibration, np.array([9.0, 9.0]), Rule(), images=[3, 4])
    assert _words(found) == ["flagged", "not decided"]
    assert found.cases[1].note == "4 images, calibration cases have at most 3"
    mean = decide(make_calibration(40, images=[3] * 40, case_score="mean"), np.array([9.0]), Rule(), images=[4])
    assert _words(mean) == ["flagged"]


def test_groups_have_their_own_calibration(make_calibration):
    scores = [*np.linspace(0, 1, 25).tolist(), *np.linspace(10, 11, 25).tolist()]
    calibration = make_calibration(50, scores=scores, groups=["old"] * 25 + ["new"] * 25)
    found = decide(calibration, np.array([5.0, 5.0, 5.0]), Rule(), groups=["old", "new", "else"])
    assert _words(found) == ["flagged", "not flagged", "not flagged"]
    assert found.cases[2].note == "group else: 0 calibration cases, all groups used"


def test_summary_is_plain_and_finite(make_calibration):
    import json

    for calibration in (None, make_calibration(30, phantom=True)):
        found = decide(calibration, np.array([9.0]), Rule())
        text = json.dumps(found.summary(calibration, Rule()), allow_nan=False)
        assert ("PHANTOM" in text) == (calibration is not None)
