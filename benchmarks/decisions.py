"""What the calibrated rule does in finished cells: cases detected, false alarms, lesions found."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.charts import FAINT, Chart, Look
from benchmarks.door import is_number, plain_line
from benchmarks.results import Result
from zoo.metrics.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
_BESIDE = (0.12, 0.15, 0.62, 0.91)


class Alarms(NamedTuple):
    """Healthy cases that were flagged, with the 99 % range that one calibration allows."""

    flagged: int
    healthy: int
    low: int
    high: int


class Size(NamedTuple):
    """Lesions between two sizes, infinite at the end, and the share of them that was found."""

    low: float
    high: float
    lesions: int
    found: Interval


class Decision(NamedTuple):
    """What one cell says.

    Attributes:
        calibration: number of healthy cases.
        level: of the rule.
        sensitivity: by case, exact interval.
        specificity: the same.
        alarms: see there.
        rates: false positives a case.
        froc: share of lesions found at the rates, with bootstrap intervals; empty without lesions.
        sizes: lesions by size; empty without.
        unit: of the sizes.
        levels: nominal levels.
        shares: of healthy cases with p at most the level.
        bands: 95 % range of the shares.
    """

    calibration: int
    level: float
    sensitivity: Interval
    specificity: Interval
    alarms: Alarms
    rates: list[float]
    froc: list[Interval]
    sizes: list[Size]
    unit: str
    levels: list[float]
    shares: list[float]
    bands: list[tuple[float, float]]


class Decided(NamedTuple):
    """A method on a data set.

    Attributes:
        seeds: their decisions.
        why: in the words of the first cell, where there is none.
    """

    seeds: list[Decision]
    why: str

    def mean(self, name: str) -> Interval:
        """Mean over seeds of ``sensitivity`` or ``specificity`` and of their bounds."""
        return _mean([getattr(one, name) for one in self.seeds])

    def at_one(self) -> Interval | None:
        """Share of lesions found at one false positive a case; None without lesions."""
        found = [one.froc[one.rates.index(1.0)] for one in self.seeds if one.froc and 1.0 in one.rates]
        return _mean(found) if found else None

    def alarms_text(self) -> str:
        """Flagged healthy cases of each seed, and whether that is to be expected."""
        parts = []
        for one in dict.fromkeys(decision.alarms for decision in self.seeds):
            inside = one.low <= one.flagged <= one.high
            parts.append(f"{one.flagged}/{one.healthy} ({'' if inside else 'NOT '}{one.low}–{one.high})")
        return ", ".join(parts)


def _mean(found: Sequence[Interval]) -> Interval:
    return Interval(*(float(np.mean([one[k] for one in found])) for k in range(3)))


def decided(cells: Sequence[Result]) -> Decided:
    """What the rule does in the cells of a method on a data set."""
    found, why = [], ""
    for cell in cells:
        content = cell.content.get("decision")
        try:
            decision = read_decision(content)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            decision, why = None, plain_line(f"damaged: {error}", 100)
        if decision is not None:
            found.append(decision)
        elif not why:
            warnings = content.get("warnings") if isinstance(content, dict) else None
            told = warnings[0] if isinstance(warnings, list) and warnings else "tested by an older version"
            why = plain_line(str(told).split(". ")[0].splitlines()[0], 120)
    return Decided(found, "" if found else why)


def read_decision(content: Any) -> Decision | None:
    """The decision of a cell from its ``metrics.json``; None where nothing was decided.

    Raises:
        TypeError: something is not of its type, as are ValueError, KeyError and AttributeError.
    """
    if not isinstance(content, dict) or "sensitivity" not in content:
        return None
    alarms, froc, qq = content["false_alarms"], content.get("froc"), content.get("qq") or {"levels": []}
    low, high = alarms["expected_99_percent_range"]
    rates, found = _froc(froc) if froc is not None else ([], [])
    rows = qq["levels"]
    return Decision(
        _whole(content["n"]),
        _number(content["level"]),
        _interval(content["sensitivity"]),
        _interval(content["specificity"]),
        Alarms(_whole(alarms["count"]), _whole(alarms["healthy"]), _whole(low), _whole(high)),
        rates,
        found,
        [_size(one) for one in content.get("lesions_by_size", [])],
        plain_line(content.get("size_unit", ""), 20),
        [_number(row["level"]) for row in rows],
        [_number(row["share"]) for row in rows],
        [(_number(row["band"][0]), _number(row["band"][1])) for row in rows],
    )


def _froc(content: Mapping[str, Any]) -> tuple[list[float], list[Interval]]:
    rates, values = [_number(one) for one in content["rates"]], content["sensitivity"]
    bounds = content.get("intervals_95_percent") or [[one, one] for one in values]
    if len(rates) != len(values):
        raise ValueError(f"{len(values)} sensitivities at {len(rates)} rates")
    if any(one is None for one in values):
        return [], []
    known = zip(values, bounds, strict=True)
    return rates, [Interval(_number(one), _number(low), _number(high)) for one, (low, high) in known]


def _size(one: Mapping[str, Any]) -> Size:
    high = math.inf if one["high"] is None else _number(one["high"])
    return Size(_number(one["low"]), high, _whole(one["lesions"]), _interval(one["sensitivity"]))


def _interval(one: Mapping[str, Any]) -> Interval:
    return Interval(*(math.nan if one[key] is None else _number(one[key]) for key in ("value", "low", "high")))


def _number(value: Any) -> float:
    if not is_number(value):
        raise TypeError(f"{plain_line(value, 30)} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise TypeError(f"{plain_line(value, 30)} is no count")
    return value


# ---- charts ---------------------------------------------------------------------------------------------------------


def charts_of_decisions(name: str, found: Mapping[str, Decided], looks: Mapping[str, Look]) -> list[Chart]:
    """FROC, lesions by size, and reliability of the p-values, as far as the cells tell them.

    Args:
        name: of the data set.
        found: method -> see :func:`decided`.
        looks: of the methods.
    """
    kept = {method: one.seeds for method, one in found.items() if one.seeds}
    with_lesions = {method: [one for one in seeds if one.froc] for method, seeds in kept.items()}
    with_lesions = {method: seeds for method, seeds in with_lesions.items() if seeds}
    drawn = []
    if with_lesions:
        drawn = [_froc_chart(name, with_lesions, looks), _size_chart(name, with_lesions, looks)]
    with_levels = {method: [one for one in seeds if one.levels] for method, seeds in kept.items()}
    with_levels = {method: seeds for method, seeds in with_levels.items() if seeds}
    return [*drawn, _reliability_chart(name, with_levels, looks)] if with_levels else drawn


def _legend(axes: "Axes") -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)


def _froc_chart(name: str, found: Mapping[str, list[Decision]], looks: Mapping[str, Look]) -> Chart:
    def draw(axes: "Axes") -> None:
        for method, seeds in found.items():
            same = [one for one in seeds if one.rates == seeds[0].rates]
            values = np.array([[point.value for point in one.froc] for one in same])
            low, high = (np.array([[point[k] for point in one.froc] for one in same]).mean(0) for k in (1, 2))
            look = looks[method]
            axes.fill_between(same[0].rates, low, high, color=look.colour, alpha=0.1, linewidth=0)
            axes.plot(
                same[0].rates, values.mean(0), "o", color=look.colour, linestyle=look.dash, markersize=3, label=method
            )
        axes.set_xscale("log", base=2)
        ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
        axes.set_xticks(ticks, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
        axes.set(xlabel="false positives a case", ylabel="lesions found", title="FROC (any overlap)", ylim=(0, 1.01))
        _legend(axes)

    told = "lesions found against false positives a case, 95 % bootstrap by case"
    return Chart(f"{name}-froc", told, (5.2, 3.3), draw, _BESIDE)


def _size_chart(name: str, found: Mapping[str, list[Decision]], looks: Mapping[str, Look]) -> Chart:
    first = next(iter(found.values()))[0]

    def draw(axes: "Axes") -> None:
        bins = [(size.low, size.high) for size in first.sizes]
        for place, (method, seeds) in enumerate(found.items()):
            same = [one for one in seeds if [(size.low, size.high) for size in one.sizes] == bins]
            if not same:
                continue
            rows = [_mean([one.sizes[k].found for one in same]) for k in range(len(first.sizes))]
            x = np.arange(len(rows)) + 0.5 * ((place + 0.5) / len(found) - 0.5)
            known = np.array([not math.isnan(row.value) for row in rows])
            value, low, high = (np.array([row[k] for row in rows])[known] for k in range(3))
            look = looks[method]
            axes.errorbar(x[known], value, (np.maximum(value - low, 0), np.maximum(high - value, 0)), fmt="o",
                          color=look.colour, linestyle=look.dash, markersize=3, linewidth=1, elinewidth=0.7,
                          label=method)  # fmt: skip
        heads = [f"{_short(one.low)}–{_short(one.high)}\n{one.lesions}" for one in first.sizes]
        axes.set_xticks(range(len(heads)), heads)
        axes.set(xlabel=f"size in {first.unit}, and number of lesions", ylabel="lesions found", ylim=(0, 1.01))
        axes.set_title("Lesions by size, at the healthy 99 % quantile")
        _legend(axes)

    told = "share of lesions found by size, exact 95 % intervals"
    return Chart(f"{name}-sizes", told, (5.2, 3.3), draw, (0.12, 0.2, 0.62, 0.91))


def _short(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _reliability_chart(name: str, found: Mapping[str, list[Decision]], looks: Mapping[str, Look]) -> Chart:
    def draw(axes: "Axes") -> None:
        widest = max((one for seeds in found.values() for one in seeds), key=lambda one: len(one.levels))
        low, high = zip(*widest.bands, strict=True)
        axes.fill_between(widest.levels, low, high, color=FAINT, alpha=0.2, linewidth=0, label="95 % range")
        axes.plot((0, 1), (0, 1), color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)), label="as stated")
        for method, seeds in found.items():
            same = [one for one in seeds if one.levels == seeds[0].levels]
            shares, look = np.array([one.shares for one in same]), looks[method]
            if len(same) > 1:
                axes.fill_between(
                    same[0].levels, shares.min(0), shares.max(0), color=look.colour, alpha=0.1, linewidth=0
                )
            axes.plot(
                same[0].levels, shares.mean(0), "o", color=look.colour, linestyle=look.dash, markersize=3, label=method
            )
        axes.set(xlabel="p at most", ylabel="share of healthy test cases", xlim=(0, 1), ylim=(0, 1))
        axes.set_title("Reliability of p-values")
        _legend(axes)

    told = "share of healthy test cases with a p-value of at most so much, beside the nominal share"
    return Chart(f"{name}-reliability", told, (5.2, 3.3), draw, _BESIDE)
