"""A test at the calibrated threshold: what the rule does to cases of known health."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from zoo.decision import conformal
from zoo.decision.calibration import Calibration
from zoo.decision.cases import CaseScore, group, group_by_fold
from zoo.decision.decide import FLAGGED, NOT_DECIDED, Decisions, Rule, decide
from zoo.metrics.clinical import net_benefit, performance
from zoo.metrics.lesions import BINS, RATES, Candidates, by_size, candidates, froc, froc_intervals
from zoo.metrics.shortcuts import PIXEL_STATISTICS
from zoo.metrics.statistics import Interval, holm

_WORST = 5
_SMALLEST_GROUP = 10  # cases of a class, below which a subgroup is not tested
_CURVE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)


class Image(NamedTuple):
    """One tested image."""

    name: str
    case: str
    label: int
    score: float
    group: str
    statistics: tuple[float, ...]
    lesions: Candidates | None
    fold_scores: tuple[float, ...] = ()


def lesion_candidates(outputs: Any, batch: Any, calibration: Calibration | None) -> list[Candidates | None]:
    """Candidates of a batch above the calibration's primary threshold; None without masks, maps or a calibration."""
    count = len(outputs.anomaly_score)
    known = None if calibration is None else calibration.maps
    if known is None or outputs.anomaly_map is None or "mask" not in batch:
        return [None] * count
    maps = outputs.anomaly_map.detach().float().cpu().numpy()[:, 0]
    masks = batch["mask"].detach().cpu().numpy()[:, 0].astype(bool)
    inside = batch.get("foreground")
    if inside is not None:
        filled = inside.detach().cpu().numpy()[:, 0]
        maps = np.where(filled | ~filled.any(tuple(range(1, filled.ndim)), keepdims=True), maps, -np.inf)
    spacing = batch.get("spacing")
    sides = [None] * count if spacing is None else spacing.tolist()
    return [
        candidates(one, mask, known.primary, spacing=side) for one, mask, side in zip(maps, masks, sides, strict=True)
    ]


def evaluate_cases(
    images: Sequence[Image], calibration: Calibration | None, rule: Rule, *, spacing: bool, dims: int, run: str
) -> dict[str, Any]:
    """The section ``decision`` of ``metrics.json``.

    The threshold comes from the calibration, the figures from the test: nothing here was chosen on the test set.

    Args:
        images: of the test.
        calibration: of the model, or None: only why nothing was decided.
        rule: of the decisions; a test of known health is never withheld by drift, which an enriched set mimics.
        spacing: sizes of lesions are in mm.
        dims: spatial dimensions of the maps.
        run: for messages.

    Returns:
        dict: plain values; None for what cannot be told.
    """
    how: CaseScore = "max" if calibration is None else calibration.case_score
    cases = group([one.case for one in images], [one.score for one in images], how)
    labels = np.array([max(images[k].label for k in members) for members in cases.members], bool)
    counts = {"cases": len(labels), "anomalous": int(labels.sum()), "healthy": int((~labels).sum())}
    means = np.array([one.statistics for one in images]).reshape(len(images), -1)
    statistics = {
        name: [float(means[members, column].mean()) for members in cases.members]
        for column, name in enumerate(PIXEL_STATISTICS)
        if means.shape[1] > column
    }
    forced = Rule(rule.level, rule.confidence, rule.rule, rule.mask, force=True, prevalence=rule.prevalence)
    groups = [images[members[0]].group for members in cases.members]
    sizes = [len(members) for members in cases.members]
    more: dict[str, Any] = {"images": sizes, "groups": groups, "statistics": statistics, "run": run}
    folds = group_by_fold([one.case for one in images], [one.fold_scores for one in images], how)
    decisions = decide(calibration, cases.scores, forced, fold_scores=folds, **more)
    content = decisions.summary(calibration, forced) | counts
    if calibration is None or not len(labels):
        return content
    flagged = np.array([one.decision == FLAGGED for one in decisions.cases])
    decided = np.array([one.decision != NOT_DECIDED for one in decisions.cases])
    p = np.array([one.p_value for one in decisions.cases])
    content["qq"] = _qq(p[~labels], len(calibration))
    content["worst"] = _worst(cases.names, labels, p, groups)
    if decided.any():
        content |= _figures(flagged[decided], labels[decided], calibration, decisions, rule)
        content["subgroups"] = _subgroups(
            flagged[decided], labels[decided], [g for g, d in zip(groups, decided, strict=True) if d]
        )
    content |= _lesions(images, spacing, dims)
    return content


def _figures(
    flagged: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    calibration: Calibration,
    decisions: Decisions,
    rule: Rule,
) -> dict[str, Any]:
    healthy, anomalous = int((~labels).sum()), int(labels.sum())
    false_alarms, detected = int(flagged[~labels].sum()), int(flagged[labels].sum())
    found = performance(detected, anomalous, false_alarms, healthy, rule.prevalence or 0.5)
    low, high = conformal.flagged_range(healthy, len(calibration), decisions.rank)
    content: dict[str, Any] = {
        "sensitivity": _interval(found.sensitivity),
        "specificity": _interval(found.specificity),
        "false_alarms": {"count": false_alarms, "healthy": healthy, "rate": false_alarms / healthy if healthy else None}
        | {"expected_99_percent_range": [low, high], "inside": low <= false_alarms <= high},
    }
    if rule.prevalence is not None:
        content["prevalence"] = rule.prevalence
        content |= {"ppv": _interval(found.ppv), "npv": _interval(found.npv)}
        rates = found.sensitivity.value, found.specificity.value
        content["net_benefit"] = [
            {
                "threshold": t,
                "rule": net_benefit(*rates, rule.prevalence, t),
                "all": net_benefit(1, 0, rule.prevalence, t),
            }
            for t in _CURVE
            if not math.isnan(sum(rates))
        ]
    return content


def _qq(p: np.ndarray[Any, Any], n: int) -> dict[str, Any] | None:
    """Ordered p-values of healthy cases beside the uniform ones, with their 95 % beta-binomial band."""
    m = len(p)
    if not m:
        return None
    levels = [level for level in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8) if conformal.rank(n, level) > 0]
    rows = []
    for level in levels:
        low, high = conformal.flagged_range(m, n, conformal.rank(n, level), 0.95)
        rows.append({"level": level, "share": float((p <= level + 1e-12).mean()), "band": [low / m, high / m]})
    return {"healthy": m, "levels": rows, "p": [float(one) for one in np.sort(p)[:: max(1, m // 200)]]}


def _worst(
    names: list[str], labels: np.ndarray[Any, Any], p: np.ndarray[Any, Any], groups: list[str]
) -> dict[str, Any]:
    """Healthy cases with the smallest, anomalous ones with the largest p."""
    found = {}
    for key, kind, sign in (("healthy", ~labels, 1), ("anomalous", labels, -1)):
        places = np.flatnonzero(kind)
        order = places[np.argsort(sign * p[places], kind="stable")][:_WORST]
        found[key] = [{"case": names[k], "p_value": float(p[k]), "group": groups[k]} for k in order]
    return found


def _subgroups(flagged: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], groups: list[str]) -> list[dict[str, Any]]:
    """False-positive rate and sensitivity of each group; Fisher's test against the others, adjusted by Holm."""
    if len(set(groups)) < 2:
        return []
    rows, raw = [], []
    named = np.array(groups)
    for name in sorted(set(groups)):
        own = named == name
        row: dict[str, Any] = {"group": name or "unknown", "cases": int(own.sum())}
        for key, kind in (("false_positive_rate", ~labels), ("sensitivity", labels)):
            inside, outside = flagged[own & kind], flagged[~own & kind]
            found = performance(int(inside.sum()), len(inside), 0, 1, 0.5).sensitivity
            row[key] = _interval(found)
            enough = min(len(inside), len(outside)) >= _SMALLEST_GROUP
            table = [[int(one.sum()), len(one) - int(one.sum())] for one in (inside, outside)]
            raw.append(float(stats.fisher_exact(table).pvalue) if enough else math.nan)
        rows.append(row)
    adjusted = iter(holm(raw))
    for row in rows:
        for key in ("false_positive_rate", "sensitivity"):
            p = next(adjusted)
            row[f"{key}_p"] = None if math.isnan(p) else p
    return rows


def _lesions(images: Sequence[Image], spacing: bool, dims: int) -> dict[str, Any]:
    known = [(one.case, one.lesions) for one in images if one.lesions is not None]
    sizes = [size for _, one in known for size in one.sizes]
    if not sizes:
        return {}
    found, cases = [one for _, one in known], [case for case, _ in known]
    curve, intervals = froc(found, cases), froc_intervals(found, cases)
    bins = BINS[dims] if spacing else tuple(float(one) for one in np.unique(np.quantile(sizes, [1 / 3, 2 / 3])))
    content: dict[str, Any] = {
        "lesions": curve.lesions,
        "froc": {"match": "overlap", "rates": list(RATES)}
        | {"sensitivity": _plain(curve.sensitivity), "at_rates_on_healthy_cases": _plain(curve.healthy)}
        | {"intervals_95_percent": [[one.low, one.high] for one in intervals]},
        "lesions_by_size": [
            {"low": one.low, "high": None if math.isinf(one.high) else one.high, "lesions": one.lesions}
            | {"sensitivity": _interval(one.sensitivity)}
            for one in by_size(found, bins)
        ],
    }
    content["size_unit"] = ("mm2" if dims == 2 else "mm3") if spacing else "pixels of the map"
    return content


def _plain(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _interval(one: Interval) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in one._asdict().items()}


def figures(content: dict[str, Any]) -> dict[str, float]:
    """Metrics of the table; what cannot be told is left out."""
    found = {}
    for name, key in (("case_sensitivity", "sensitivity"), ("case_specificity", "specificity")):
        if content.get(key, {}).get("value") is not None:
            found[name] = content[key]["value"]
    if "froc" in content:
        found["lesions_at_1fp"] = content["froc"]["sensitivity"][RATES.index(1.0)]
    return found


def told(content: dict[str, Any]) -> list[str]:
    """Lines for the terminal."""
    if "sensitivity" not in content:
        return [line for line in content["warnings"] if line.startswith(("no decision", "--decision"))]
    lines = []
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        one = content.get(name)
        if one is not None and one["value"] is not None:
            more = f" at prevalence {content['prevalence']:g}" if name in ("ppv", "npv") else ""
            lines.append(f"{name:14s} {one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]{more}")
    alarms = content["false_alarms"]
    low, high = alarms["expected_99_percent_range"]
    word = "as expected" if alarms["inside"] else "NOT as expected: the calibration is of other cases"
    lines.append(
        f"{alarms['count']} of {alarms['healthy']} healthy cases flagged at level {content['level']:g} "
        f"(99 % range {low} to {high}): {word}"
    )
    return lines


def gather_images(images: list[Image]) -> list[Image]:
    """Those of all processes, each once."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return images
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, images)
    return sorted({one.name: one for part in parts for one in part}.values(), key=lambda one: one.name)
