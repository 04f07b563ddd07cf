"""Cases: the units that statistics count. A patient's images, or a volume's slices, have one score."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CaseScore = Literal["max", "mean", "top_q"]
TOP = 0.1  # share of a case's images that ``top_q`` averages


def _top(scores: Array) -> float:
    count = max(1, round(TOP * len(scores)))
    return float(np.sort(scores)[-count:].mean())


RULES: dict[str, Callable[[Array], float]] = {
    "max": lambda scores: float(scores.max()),
    "mean": lambda scores: float(scores.mean()),
    "top_q": _top,
}


class Cases(NamedTuple):
    """Scores by case, in the order of the cases' names.

    Attributes:
        names: ``m`` names.
        scores: ``(m,)`` float64.
        members: ``m`` arrays of positions of the case's images.
    """

    names: list[str]
    scores: Array
    members: list[Array]


def group(cases: Sequence[str], scores: Sequence[float] | Array, rule: CaseScore) -> Cases:
    """One score a case.

    Args:
        cases: ``n`` case of each image.
        scores: ``(n,)`` of the images.
        rule: ``max``, ``mean``, or ``top_q``: the mean of the highest tenth, at least one. Fixed beforehand: the
            smallest p of several rules is no p-value.
    """
    values = np.asarray(scores, np.float64)
    names, owner = np.unique(np.asarray(cases, str), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1) if len(order) else []
    return Cases(names.tolist(), np.array([RULES[rule](values[one]) for one in members]), members)


def group_by_fold(cases: Sequence[str], fold_scores: Sequence[tuple[float, ...]], rule: CaseScore) -> list[Array]:
    """One score a case by each fold model of a cross-conformal calibration, in the order of :func:`group`.

    Args:
        cases: ``n`` case of each image.
        fold_scores: ``n`` tuples of the image's scores by the models; empty ones without such a calibration.
        rule: see :func:`group`.

    Returns:
        list: ``(m,)`` float64 of each model.
    """
    return [group(cases, scores, rule).scores for scores in zip(*fold_scores, strict=True)]
