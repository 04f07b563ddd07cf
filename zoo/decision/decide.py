"""Decisions by one rule: *flagged*, *not flagged*, *not decided*; and what can be said of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.decision import conformal
from zoo.decision.calibration import Calibration
from zoo.decision.findings import MaskRule
from zoo.errors import UserError

Array = NDArray[Any]
FLAGGED, NOT_FLAGGED, NOT_DECIDED = "flagged", "not flagged", "not decided"
LEVEL = 0.05
UNKNOWN_PATIENTS = (
    "patients are unknown: every file counts as a case; several images of a patient make the error rate wrong "
    "(data.case_pattern or data.table)"
)


@dataclass
class Rule:
    """How decisions are made.

    Attributes:
        level: false-positive rate among healthy cases, or false discovery rate of a worklist; None: 5 % where the
            calibration allows it, else nothing is decided and the reason told. A level that is asked for and impossible
            is an error.
        confidence: the level then bounds the false-positive rate of this very calibration with this confidence, for
            example 0.95; None: on average over calibrations.
        rule: ``threshold`` decides each case alone; ``fdr`` ranks a closed list (Benjamini-Hochberg).
        mask: findings of maps: ``components`` by their mass, ``max`` by their largest value, or ``none``.
        force: decide even where the calibration does not fit the cases.
        prevalence: share of anomalous cases in the population of use, for the predictive values of a test; None: they
            are not told.
    """

    level: float | None = None
    confidence: float | None = None
    rule: Literal["threshold", "fdr"] = "threshold"
    mask: MaskRule = "components"
    force: bool = False
    prevalence: float | None = None

    @property
    def asked(self) -> bool:
        """A decision was asked for: what prevents it is an error."""
        return self.level is not None or self.confidence is not None

    def __post_init__(self) -> None:
        for name in ("level", "confidence", "prevalence"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise UserError(f"decision.{name} must lie between 0 and 1, found {value}")
        if self.rule == "fdr" and self.confidence is not None:
            raise UserError("decision.confidence bounds the threshold rule; --decision.rule fdr has no such bound")


class CaseDecision(NamedTuple):
    """What is said of one case; p, q and percentile are nan without a calibration."""

    decision: str
    p_value: float
    percentile: float
    q_value: float
    note: str


@dataclass
class Decisions:
    """Decisions of a list of cases.

    Attributes:
        cases: one a case.
        level: in force.
        rank: r of the threshold, 0 where none is possible.
        threshold: a case is flagged above it; nan for none and for the fdr rule.
        drift: tests of the list against the calibration.
        warnings: lines for the user.
    """

    cases: list[CaseDecision]
    level: float
    rank: int = 0
    threshold: float = float("nan")
    drift: conformal.Drift = field(default_factory=lambda: conformal.Drift(False))
    warnings: list[str] = field(default_factory=list)

    def summary(self, calibration: Calibration | None, rule: Rule) -> dict[str, Any]:
        """Content of ``decision.json``; no figure that is not a number."""
        content: dict[str, Any] = {"rule": rule.rule, "level": self.level, "confidence": rule.confidence}
        content |= {"mask": rule.mask, "warnings": self.warnings, "calibrated": calibration is not None}
        content["counts"] = {
            word: sum(one.decision == word for one in self.cases) for word in (FLAGGED, NOT_FLAGGED, NOT_DECIDED)
        }
        if calibration is None:
            return content
        n = len(calibration)
        rates: dict[str, Any] = {"guaranteed_false_positive_rate": min(1.0, 2 * self.level)}
        if not calibration.members:
            mean, low, high = conformal.realised_rate(n, self.rank)
            rates = {"expected_false_positive_rate": mean}
            rates |= {"realised_false_positive_rate_90_percent_range": [low, high]}
        return content | {
            "r": self.rank,
            "threshold": None if np.isnan(self.threshold) else self.threshold,
            "n": n,
            "smallest_p": calibration.smallest_p,
            **rates,
            "drift": {key: value for key, value in self.drift._asdict().items() if value == value},
            "calibration": {
                "digest": calibration.digest(),
                **{name: getattr(calibration, name) for name in _TOLD},
                "models": len(calibration.members) or 1,
            },
        }


_TOLD = ("source", "method", "weights", "case_score", "selected_by", "phantom", "date", "version", "precision")


def decide(
    calibration: Calibration | None,
    scores: Array,
    rule: Rule,
    *,
    images: Sequence[int] | None = None,
    groups: Sequence[str] | None = None,
    statistics: dict[str, list[float]] | None = None,
    fold_scores: Sequence[Array] = (),
    run: str = "this model",
) -> Decisions:
    """Decide a list of cases.

    Args:
        calibration: of the model, or None: nothing is decided.
        scores: ``(m,)`` of the cases.
        rule: see there.
        images: ``m`` numbers of images.
        groups: ``m`` groups; each is judged by the calibration cases of its own where these suffice.
        statistics: ``m`` values by name, for the drift tests.
        fold_scores: ``(m,)`` scores by each of the calibration's fold models, where it has any.
        run: name of the run, for messages.

    Raises:
        UserError: a decision was asked for (``rule.level`` or ``confidence``) that this calibration does not allow.
    """
    level = LEVEL if rule.level is None else rule.level
    m, nan = len(scores), float("nan")
    if calibration is None:
        message = missing(run)
        if rule.asked:
            raise UserError(message)
        return Decisions([CaseDecision(NOT_DECIDED, nan, nan, nan, "no calibration")] * m, level, warnings=[message])
    known = np.asarray(calibration.scores)
    r = conformal.rank(len(known), level, rule.confidence)
    result = Decisions([], level, r)
    if calibration.phantom:
        result.warnings.append("calibrated on PHANTOM data: no statement on real images")
    possible = _possible(calibration, level, rule)
    if possible and rule.asked:
        raise UserError(possible)
    if possible:
        result.warnings.append(possible)
    compared = conformal.dealt(fold_scores) if calibration.members and m else scores
    if m:
        result.drift = conformal.drift(known, compared, calibration.statistics, statistics)
    withheld = _judge_drift(result, m, rule)
    p, percentile, notes = _by_group(calibration, scores, fold_scores, list(groups or [""] * m), level)
    q = conformal.q_values(p)
    if rule.rule == "fdr":
        flagged = q <= level + 1e-12
        fewest = conformal.worklist_floor(m, len(known), level) if m else 0
        if fewest > 1:
            result.warnings.append(
                f"with {len(known)} calibration cases a list of {m} needs at least {fewest} cases at the smallest p"
            )
    elif rule.confidence is None:
        flagged = p <= level + 1e-12
    else:
        flagged = np.asarray(scores, np.float64) > (conformal.threshold(known, r) if r else np.inf)
    if r and rule.rule == "threshold" and not calibration.members:
        result.threshold = conformal.threshold(known, r)
    most = max(calibration.images)
    for place in range(m):
        note, word = notes[place], FLAGGED if flagged[place] else NOT_FLAGGED
        if images is not None and images[place] > most and calibration.case_score == "max":
            note, word = f"{images[place]} images, calibration cases have at most {most}", NOT_DECIDED
        if possible or withheld:
            word = NOT_DECIDED
        result.cases.append(CaseDecision(word, float(p[place]), float(percentile[place]), float(q[place]), note))
    return result


def missing(run: str) -> str:
    """The message for a run without a calibration."""
    return (
        f"no decision: {run} has no calibration. Scores are raw and comparable only within this model.\n"
        f"make one from healthy images: zoo calibrate --run {run} --healthy DIR ({conformal.needed(LEVEL, 0.95)} cases "
        f"for 5 % false positives at 95 % confidence, {conformal.needed(LEVEL)} without)"
    )


def _possible(calibration: Calibration, level: float, rule: Rule) -> str:
    """Why the rule cannot decide at this level; empty if it can."""
    n = len(calibration)
    if calibration.members and rule.confidence is not None:
        return (
            f"--decision.confidence {rule.confidence}: no bound is known for a cross-conformal calibration; leave it "
            "out, or calibrate on cases of their own: zoo calibrate --healthy DIR"
        )
    if rule.confidence is not None and conformal.rank(n, level, rule.confidence) < 1:
        return (
            f"--decision.confidence {rule.confidence}: {n} cases cannot bound {100 * level:g} % false positives "
            f"({conformal.needed(level, rule.confidence)} needed); they bound "
            f"{100 * conformal.lowest_bound(n, rule.confidence):.1f} %"
        )
    if conformal.rank(n, level) < 1:
        return (
            f"no decision at level {level:g}: {n} calibration cases give p-values of at least "
            f"{calibration.smallest_p:.3f}; {conformal.needed(level)} are needed\n"
            f"lowest level possible: {calibration.smallest_p:.3f}; more: zoo calibrate --healthy DIR, or "
            "data.val_fraction at the next fit"
        )
    return ""


def _judge_drift(result: Decisions, m: int, rule: Rule) -> bool:
    """Add what the drift tests say; True when decisions are withheld."""
    drift = result.drift
    changed = "".join(f", {name} p = {p:.1g}" for name, p in drift.changed_statistics.items())
    if not drift.tested:
        if m:
            result.warnings.append(f"{m} cases: too few to test whether the calibration fits them (20 are needed)")
        return False
    if not drift.fits:
        end = "decided all the same (decision.force)" if rule.force else "decisions withheld"
        result.warnings.append(
            f"the calibration does not fit these {m} cases (lower scores p = {drift.lower_scores:.1g}{changed}): "
            f"{end}\n"
            "calibrate on healthy cases of this source, or --decision.force true"
        )
        return not rule.force
    if drift.more_high_scores:
        result.warnings.append("more high scores than among healthy cases: anomalies or another population")
    if changed:
        result.warnings.append(f"image statistics differ from the calibration's ({changed[2:]})")
    return False


def _by_group(
    calibration: Calibration, scores: Array, fold_scores: Sequence[Array], groups: list[str], level: float
) -> tuple[Array, Array, list[str]]:
    known = np.asarray(calibration.scores)
    p, percentile, notes = np.ones(len(scores)), np.zeros(len(scores)), [""] * len(scores)
    grouped = any(calibration.groups)
    for name in sorted(set(groups)):
        own = np.array([one == name for one in groups], bool)
        judges, note = np.ones(len(known), bool), ""
        if grouped:
            judges, note = conformal.group_calibration(calibration.groups, name, level)
        if calibration.members:
            held, new = calibration.by_fold(judges), [one[own] for one in fold_scores]
            p[own], percentile[own] = conformal.cross_p_values(held, new), conformal.cross_percentiles(held, new)
        else:
            p[own] = conformal.p_values(known[judges], scores[own])
            percentile[own] = conformal.percentiles(known[judges], scores[own])
        for place in np.flatnonzero(own):
            notes[place] = note
    return p, percentile, notes
