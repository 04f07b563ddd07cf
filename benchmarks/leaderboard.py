"""What finished cells say: means over seeds, intervals, paired tests, ranks, copies, shortcuts. The same each time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.door import problem_of_cell, remarks_of
from benchmarks.results import SEMI_SUPERVISED, Result
from benchmarks.selection import Choice, read_choice
from zoo.metrics.functional import auroc, evaluate
from zoo.metrics.shortcuts import PIXEL_SHORTCUTS, STATISTICS, Shortcut, advantage, audit
from zoo.metrics.statistics import Interval, average_ranks, bootstrap_interval, critical_difference, delong_test, holm
from zoo.metrics.table import PRIMARY, TABLE, in_order, metrics_of

RESAMPLES = 500
LEVEL = 0.05
_NAN = float("nan")
_NOTHING = Interval(_NAN, _NAN, _NAN)
Array = NDArray[Any]


class Row(NamedTuple):
    """One method on one data set.

    Attributes:
        dataset: name.
        method: name.
        seeds: number of finished seeds.
        means: metric -> mean over seeds; nan where no seed has it.
        deviations: metric -> sample standard deviation over seeds; nan below two seeds.
        interval: of the image AUROC: 95 % bootstrap over cases (patients, else volumes or images), mean of the seeds'
            bounds.
        p_value: of the AUROC's difference to the best method of the data set, Holm-corrected; nan for the best.
        best: highest mean image AUROC.
        advantage: of the image AUROC over that of the strongest statistic that needs no learning: paired bootstrap by
            case, mean of the seeds' bounds.
        beats_shortcuts: the advantage's interval lies above 0.
        stratified: AUROC within quantile bins of that statistic, mean over seeds.
        phantom: generated data.
        without_copies: like ``interval``, without the test images that look like a training image; nan without any.
        repeated: every seed gave the same scores: no spread over seeds can be told.
        missing: seeds without a result -> why.
        remarks: what its runs leave out or replace of the method's paper.
        choice: the image AUROC by the way that the checkpoint is chosen, mean over seeds; None where not compared.
    """

    dataset: str
    method: str
    seeds: int
    means: dict[str, float]
    deviations: dict[str, float]
    interval: Interval
    p_value: float
    best: bool
    advantage: Interval
    beats_shortcuts: bool
    stratified: float
    phantom: bool
    without_copies: Interval = _NOTHING
    repeated: bool = False
    missing: Mapping[int, str] = {}
    remarks: tuple[str, ...] = ()
    choice: Choice | None = None


class Reference(NamedTuple):
    """What needs no learning, as a row beside the methods.

    Attributes:
        name: short.
        told: in words.
        kind: ``chance``, ``image`` (a statistic of the image) or ``pixel`` (a map).
        values: metric -> value.
    """

    name: str
    told: str
    kind: str
    values: dict[str, float]


class DataSet(NamedTuple):
    """What was tested.

    Attributes:
        name: in the benchmark.
        phantom: generated data.
        images: number of test images.
        anomalous: number of anomalous ones.
        cases: number of cases: patients where known, else volumes or images.
        ill: number of cases with any anomalous image.
        patients: the cases are patients, by the data.
        units: level -> number of its ``units`` and of the ``anomalous`` ones.
        copies: id of a test image -> training image that it looks like; None where the test did not look.
        shortcuts: statistics that need no learning, the strongest first.
        without_copies: the same without the copies; empty without any.
        references: chance, the strongest statistic and the maps that need no learning.
    """

    name: str
    phantom: bool
    images: int
    anomalous: int
    cases: int
    ill: int
    patients: bool
    units: dict[str, dict[str, int]]
    copies: dict[str, str] | None
    shortcuts: list[Shortcut]
    without_copies: list[Shortcut]
    references: list[Reference]


# ---- methods ------------------------------------------------------------------------------------------------------


def rows_of(results: list[Result], missing: Mapping[str, str] | None = None) -> list[Row]:
    """The leaderboard: by data set, best mean image AUROC first, methods without any result last.

    Args:
        results: finished cells.
        missing: names of cells without a result -> why.
    """
    absent = _absent(missing or {})
    names = metrics_of_cells(results)
    rows: list[Row] = []
    for dataset in sorted({result.dataset for result in results} | {dataset for dataset, _ in absent}):
        here = [result for result in results if result.dataset == dataset]
        by_method = {name: [r for r in here if r.method == name] for name in sorted({r.method for r in here})}
        means = {name: _mean(PRIMARY, cells) for name, cells in by_method.items()}
        best = max(means, key=lambda name: (-np.inf if np.isnan(means[name]) else means[name], name), default="")
        p_values = _against_best(by_method, best) if by_method else {}
        shortcuts = shortcuts_of(here) if here else []
        strongest = shortcuts[0].name if shortcuts else ""
        found = [
            _row(cells, names, name == best, p_values[name], strongest)._replace(
                missing=absent.get((dataset, name.removesuffix(SEMI_SUPERVISED)), {})
            )
            for name, cells in by_method.items()
        ]
        rows += sorted(found, key=lambda row: (-np.nan_to_num(row.means[PRIMARY], nan=-1.0), row.method))
        phantom = any(row.phantom for row in found)
        rows += [
            _empty(dataset, method, names, reasons, phantom)
            for (of, method), reasons in sorted(absent.items())
            if of == dataset and not by_method.keys() & {method, method + SEMI_SUPERVISED}
        ]
    return rows


def metrics_of_cells(results: list[Result]) -> list[str]:
    """The metrics of the table, and those that only these cells have."""
    return in_order({*TABLE, *(name for result in results for name in result.content["metrics"])})


def _absent(missing: Mapping[str, str]) -> dict[tuple[str, str], dict[int, str]]:
    found: dict[tuple[str, str], dict[int, str]] = {}
    for cell, reason in sorted(missing.items()):
        name = Path(cell).name
        if problem_of_cell(name) is None:
            parts = name.split("--")
            found.setdefault((parts[1], parts[0]), {})[int(parts[2])] = reason
    return found


def _empty(dataset: str, method: str, names: list[str], reasons: dict[int, str], phantom: bool) -> Row:
    nothing = dict.fromkeys(names, _NAN)
    figures = (_NOTHING, _NAN, False, _NOTHING, False, _NAN, phantom)
    return Row(dataset, method, 0, nothing, nothing, *figures, missing=reasons)


def _row(cells: list[Result], names: list[str], best: bool, p_value: float, strongest: str) -> Row:
    over = _mean_interval([_advantage(cell) for cell in cells])
    audits = [audit(_statistics(cell), cell.scores["label"], cell.scores["score"]) for cell in cells]
    stratified = [row.stratified_auroc for rows in audits for row in rows if row.name == strongest]
    scores = [cell.scores["score"] for cell in cells]
    repeated = len(cells) > 1 and all(np.array_equal(scores[0], other) for other in scores[1:])
    deviations = {name: _deviation(name, cells) for name in names}
    choices = [choice for cell in cells if (choice := read_choice(cell.folder)) is not None]
    return Row(
        cells[0].dataset,
        cells[0].method,
        len(cells),
        {name: _mean(name, cells) for name in names},
        dict.fromkeys(names, _NAN) if repeated else deviations,
        _mean_interval([_interval(cell) for cell in cells]),
        p_value,
        best,
        over,
        bool(over.low > 0),
        float(np.mean(stratified)) if stratified else _NAN,
        any(bool(cell.content.get("phantom")) for cell in cells),
        _mean_interval([_interval(_kept(cell)) for cell in cells]) if _copies(cells[0]).any() else _NOTHING,
        repeated,
        remarks=tuple(dict.fromkeys(one for cell in cells for one in remarks_of(cell.content))),
        choice=Choice(*np.mean(choices, 0).tolist()) if choices else None,
    )


def _values(metric: str, cells: list[Result]) -> list[float]:
    found = (cell.content["metrics"].get(metric) for cell in cells)
    return [float(value) for value in found if value is not None]


def _mean(metric: str, cells: list[Result]) -> float:
    values = _values(metric, cells)
    return float(np.mean(values)) if values else _NAN


def _deviation(metric: str, cells: list[Result]) -> float:
    values = _values(metric, cells)
    return float(np.std(values, ddof=1)) if len(values) > 1 else _NAN


def _interval(cell: Result) -> Interval:
    scores, labels = cell.scores["score"], cell.scores["label"].astype(int)
    return bootstrap_interval(scores, labels, auroc, groups=_cases(cell), resamples=RESAMPLES)


def _advantage(cell: Result) -> Interval:
    scores, labels = cell.scores["score"], cell.scores["label"]
    if not _statistics(cell):
        return _NOTHING
    return advantage(scores, _statistics(cell), labels, groups=_cases(cell), resamples=RESAMPLES)


def _mean_interval(intervals: list[Interval]) -> Interval:
    return Interval(*(float(np.mean([one[k] for one in intervals])) for k in range(3)))


def _cases(cell: Result) -> list[str] | None:
    """The case of each image; None where every image is one."""
    cases = cell.cases
    return None if len(set(cases)) == len(cases) else list(cases)


def _copies(cell: Result) -> Array:
    """True for images that look like a training image."""
    copied = cell.scores.get("copy_of")
    return np.zeros(len(cell.scores["id"]), bool) if copied is None else np.asarray(copied != "")


def _kept(cell: Result) -> Result:
    """The cell without the images that look like a training image."""
    kept = ~_copies(cell)
    return cell._replace(scores={name: column[kept] for name, column in cell.scores.items()})


def _pooled(cells: list[Result]) -> tuple[Array, Array, Array]:
    """Ids, labels and the scores' ranks averaged over seeds."""
    ranks = np.mean([stats.rankdata(cell.scores["score"]) for cell in cells], axis=0)
    return cells[0].scores["id"], cells[0].scores["label"], ranks


def _against_best(by_method: dict[str, list[Result]], best: str) -> dict[str, float]:
    """Holm-corrected p values of DeLong's test against the best method, on scores averaged over seeds."""
    reference, cases = _pooled(by_method[best]), _cases(by_method[best][0])
    others = [name for name in by_method if name != best]
    p_values = []
    for name in others:
        ids, labels, ranks = _pooled(by_method[name])
        same = len(ids) == len(reference[0]) and bool((ids == reference[0]).all())
        test = delong_test(ranks, reference[2], labels, groups=cases) if same else None
        p_values.append(_NAN if test is None else test.p_value)
    return {best: _NAN, **dict(zip(others, holm(p_values), strict=True))}


def shown(rows: list[Row]) -> list[str]:
    """The metrics that any of the rows has."""
    return [metric for metric in rows[0].means if any(not np.isnan(row.means[metric]) for row in rows)] if rows else []


def is_shown_best(row: Row, rows: list[Row]) -> bool:
    """True if the tests support that the row's method is better than every other on its data set."""
    others = [one for one in rows if one.dataset == row.dataset and one is not row and one.seeds]
    return row.best and bool(others) and all(one.p_value < LEVEL for one in others)


def ranks_of(rows: list[Row]) -> tuple[dict[str, float], float]:
    """Average rank of each method over the data sets that all have, and the critical difference."""
    datasets, names = complete(rows), sorted({row.method for row in rows if row.seeds})
    value = {(row.dataset, row.method): row.means[PRIMARY] for row in rows}
    table = np.array([[value[dataset, name] for name in names] for dataset in datasets])
    ranks = average_ranks(table) if datasets else np.full(len(names), _NAN)
    ordered = sorted(zip(names, ranks, strict=True), key=lambda item: (item[1], item[0]))
    return {name: float(rank) for name, rank in ordered}, critical_difference(len(names), len(datasets))


def complete(rows: list[Row]) -> list[str]:
    """The data sets on which every method with any result has one."""
    names = {row.method for row in rows if row.seeds}
    known = {(row.dataset, row.method) for row in rows if row.seeds and not np.isnan(row.means[PRIMARY])}
    datasets = sorted({row.dataset for row in rows})
    return [dataset for dataset in datasets if names and all((dataset, name) in known for name in names)]


# ---- data sets ----------------------------------------------------------------------------------------------------


def datasets_of(results: list[Result]) -> list[DataSet]:
    """What was tested, by name."""
    names = sorted({result.dataset for result in results})
    return [_dataset(name, [result for result in results if result.dataset == name]) for name in names]


def _dataset(name: str, cells: list[Result]) -> DataSet:
    fullest = _fullest(cells)
    labels, subjects = fullest.scores["label"].astype(int), fullest.scores["subject"]
    units = _units([fullest, *cells])
    units.setdefault("image", {"units": len(labels), "anomalous": int(labels.sum())})
    looked = next((cell for cell in cells if "copy_of" in cell.scores), None)
    copies = None
    if looked is not None:
        copies = {str(i): str(c) for i, c in zip(looked.scores["id"], looked.scores["copy_of"], strict=True) if c}
    shortcuts = audit(_statistics(fullest), labels)
    kept = _kept(fullest)
    return DataSet(
        name,
        any(bool(cell.content.get("phantom")) for cell in cells),
        len(labels),
        int(labels.sum()),
        len(set(fullest.cases)),
        len(set(fullest.cases[labels == 1])),
        not (subjects == "").any(),
        units,
        copies,
        shortcuts,
        audit(_statistics(kept), kept.scores["label"]) if copies and "copy_of" in fullest.scores else [],
        _references(cells, fullest, shortcuts, units),
    )


def _units(cells: list[Result]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for cell in cells:
        units = cell.content.get("units")
        for level, one in units.items() if isinstance(units, dict) else ():
            if one["units"]:
                found.setdefault(level, {key: one[key] for key in ("units", "anomalous")})
    return found


def _references(
    cells: list[Result], fullest: Result, shortcuts: list[Shortcut], units: dict[str, dict[str, int]]
) -> list[Reference]:
    chance = {}
    for metric in TABLE.values():
        one = units.get(metric.level)
        if metric.chance is not None and one and one["units"]:
            chance[metric.name] = metric.chance.at(one["anomalous"] / one["units"])
    found = [Reference("chance", "scores that know nothing", "chance", chance)]
    labels = fullest.scores["label"].astype(int)
    for shortcut in shortcuts[:1]:
        values = fullest.scores[shortcut.name]
        evaluated = evaluate(values if auroc(values, labels) >= 0.5 else -values, labels)
        figures = {metric.name: metric.value(evaluated) for metric in metrics_of("image")}
        found.append(Reference(shortcut.name, STATISTICS[shortcut.name], "image", figures))
    maps = next((m for cell in cells if isinstance(m := cell.content.get("pixel_shortcuts"), dict)), {})
    for name, told in PIXEL_SHORTCUTS.items():
        if isinstance(maps.get(name), dict):
            figures = {key: float(value) for key, value in maps[name].items() if isinstance(value, int | float)}
            found.append(Reference(name, told, "pixel", figures))
    return found


def _statistics(cell: Result) -> dict[str, Array]:
    return {name: cell.scores[name] for name in STATISTICS if name in cell.scores}


def shortcuts_of(cells: list[Result]) -> list[Shortcut]:
    """Statistics that need no learning on the test set of these cells, the strongest first.

    Cells of an older version may lack some; the cell that knows most of them is asked.
    """
    fullest = _fullest(cells)
    return audit(_statistics(fullest), fullest.scores["label"])


def _fullest(cells: list[Result]) -> Result:
    """The cell that says most of the test set: with both classes (whole volumes may have one), then most statistics."""
    return max(cells, key=lambda cell: (len(set(cell.scores["label"].tolist())) > 1, len(_statistics(cell))))
