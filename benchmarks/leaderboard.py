"""Tables from finished cells: means over seeds, intervals, paired tests, ranks, shortcuts. The same bytes each time."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.runner import read_status, write_atomically
from zoo.metrics.functional import auroc
from zoo.metrics.shortcuts import STATISTICS, Shortcut, audit
from zoo.metrics.statistics import Interval, average_ranks, bootstrap_interval, critical_difference, delong_test, holm

METRICS = (
    "image_auroc",
    "image_ap",
    "pixel_auroc",
    "pixel_ap",
    "pixel_aupro",
    "dice_at_5fpr",
    "iou_at_5fpr",
    "best_dice",
    "best_iou",
    "slice_auroc",
    "slice_ap",
)
Array = NDArray[Any]


class Result(NamedTuple):
    """A finished cell.

    Attributes:
        folder: of the cell.
        method: name in the benchmark.
        dataset: name in the benchmark.
        seed: of the run.
        content: its ``metrics.json``.
        scores: columns of its ``scores.csv``, sorted by id.
    """

    folder: Path
    method: str
    dataset: str
    seed: int
    content: dict[str, Any]
    scores: dict[str, Array]


class Row(NamedTuple):
    """One method on one data set.

    Attributes:
        dataset: name.
        method: name.
        seeds: number of finished seeds.
        means: metric -> mean over seeds; nan where no seed has it.
        deviations: metric -> sample standard deviation over seeds; nan below two seeds.
        interval: of the image AUROC: 95 % bootstrap over patients (images where unknown), mean of the seeds' bounds.
        p_value: of the AUROC's difference to the best method of the data set, Holm-corrected; nan for the best.
        best: highest mean image AUROC.
        beats_shortcuts: the interval lies above the strongest statistic that needs no learning.
        stratified: AUROC within quantile bins of that statistic, mean over seeds.
        phantom: generated data.
    """

    dataset: str
    method: str
    seeds: int
    means: dict[str, float]
    deviations: dict[str, float]
    interval: Interval
    p_value: float
    best: bool
    beats_shortcuts: bool
    stratified: float
    phantom: bool


def read_results(folders: Iterable[Path]) -> list[Result]:
    """All finished cells of benchmark folders, sorted; of equal cells the first counts."""
    found: dict[tuple[str, str, int], Result] = {}
    for folder in (path for out in folders for path in sorted((out / "cells").glob("*--*--*"))):
        if read_status(folder).get("status") != "done":
            continue
        method, dataset, seed = folder.name.split("--")
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        found.setdefault(
            (dataset, method, int(seed)), Result(folder, method, dataset, int(seed), content, _scores(folder))
        )
    return [found[key] for key in sorted(found)]


def _scores(folder: Path) -> dict[str, Array]:
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["id"])
    numbers = {name: np.array([float(row[name]) for row in rows]) for name in ("label", "score", *STATISTICS)}
    return {**numbers, **{name: np.array([row[name] for row in rows]) for name in ("id", "subject")}}


def rows_of(results: list[Result]) -> list[Row]:
    """The leaderboard: by data set, best mean image AUROC first."""
    rows: list[Row] = []
    for dataset in sorted({result.dataset for result in results}):
        here = [result for result in results if result.dataset == dataset]
        by_method = {name: [r for r in here if r.method == name] for name in sorted({r.method for r in here})}
        means = {name: _mean("image_auroc", cells) for name, cells in by_method.items()}
        best = max(means, key=lambda name: (-np.inf if np.isnan(means[name]) else means[name], name))
        p_values = _against_best(by_method, best)
        strongest = shortcuts_of(here)[0]
        rows += sorted(
            (_row(dataset, name, cells, name == best, p_values[name], strongest) for name, cells in by_method.items()),
            key=lambda row: (-np.nan_to_num(row.means["image_auroc"], nan=-1.0), row.method),
        )
    return rows


def _row(dataset: str, method: str, cells: list[Result], best: bool, p_value: float, strongest: Shortcut) -> Row:
    intervals = [_interval(cell) for cell in cells]
    interval = Interval(*(float(np.mean([one[k] for one in intervals])) for k in range(3)))
    audits = [audit(_statistics(cell), cell.scores["label"], cell.scores["score"]) for cell in cells]
    stratified = [row.stratified_auroc for rows in audits for row in rows if row.name == strongest.name]
    return Row(
        dataset,
        method,
        len(cells),
        {name: _mean(name, cells) for name in METRICS},
        {name: _deviation(name, cells) for name in METRICS},
        interval,
        p_value,
        best,
        bool(interval.low > strongest.auroc),
        float(np.mean(stratified)),
        any(bool(cell.content.get("phantom")) for cell in cells),
    )


def _values(metric: str, cells: list[Result]) -> list[float]:
    found = (cell.content["metrics"].get(metric) for cell in cells)
    return [float(value) for value in found if value is not None]


def _mean(metric: str, cells: list[Result]) -> float:
    values = _values(metric, cells)
    return float(np.mean(values)) if values else float("nan")


def _deviation(metric: str, cells: list[Result]) -> float:
    values = _values(metric, cells)
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _interval(cell: Result) -> Interval:
    scores, subjects = cell.scores, cell.scores["subject"]
    groups = None if (subjects == "").any() or len(set(subjects)) == len(subjects) else list(subjects)
    return bootstrap_interval(scores["score"], scores["label"].astype(int), auroc, groups=groups, resamples=500)


def _pooled(cells: list[Result]) -> tuple[Array, Array, Array]:
    """Ids, labels and the scores' ranks averaged over seeds."""
    ranks = np.mean([stats.rankdata(cell.scores["score"]) for cell in cells], axis=0)
    return cells[0].scores["id"], cells[0].scores["label"], ranks


def _against_best(by_method: dict[str, list[Result]], best: str) -> dict[str, float]:
    """Holm-corrected p values of DeLong's test against the best method, on scores averaged over seeds."""
    reference = _pooled(by_method[best])
    others = [name for name in by_method if name != best]
    p_values = []
    for name in others:
        ids, labels, ranks = _pooled(by_method[name])
        same = len(ids) == len(reference[0]) and bool((ids == reference[0]).all())
        p_values.append(delong_test(ranks, reference[2], labels).p_value if same else float("nan"))
    return {best: float("nan"), **dict(zip(others, holm(p_values), strict=True))}


def _statistics(cell: Result) -> dict[str, Array]:
    return {name: cell.scores[name] for name in STATISTICS}


def shortcuts_of(cells: list[Result]) -> list[Shortcut]:
    """Statistics that need no learning on the test set of these cells, the strongest first."""
    return audit(_statistics(cells[0]), cells[0].scores["label"])


def ranks_of(rows: list[Row]) -> tuple[dict[str, float], float]:
    """Average rank of each method over the data sets that all have, and the critical difference."""
    datasets, names = sorted({row.dataset for row in rows}), sorted({row.method for row in rows})
    value = {(row.dataset, row.method): row.means["image_auroc"] for row in rows}
    table = np.array([[value.get((dataset, name), float("nan")) for name in names] for dataset in datasets])
    blocks = int((~np.isnan(table).any(1)).sum())
    ranks = average_ranks(table) if len(names) else np.array([])
    ordered = sorted(zip(names, ranks, strict=True), key=lambda item: (item[1], item[0]))
    return {name: float(rank) for name, rank in ordered}, critical_difference(len(names), blocks)


# ---- files --------------------------------------------------------------------------------------------------------


def as_csv(rows: list[Row]) -> str:
    """``leaderboard.csv``: a line per data set and method."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    spread = [column for name in METRICS for column in (name, f"{name}_sd")]
    more = ("image_auroc_low", "image_auroc_high", "p_against_best", "best", "beats_shortcuts", "stratified_auroc")
    writer.writerow(["dataset", "phantom", "method", "seeds", *spread, *more])
    for row in rows:
        figures = [_figure(part[name]) for name in METRICS for part in (row.means, row.deviations)]
        bounds = (_figure(row.interval.low), _figure(row.interval.high), _figure(row.p_value))
        last = (row.best, row.beats_shortcuts, _figure(row.stratified))
        writer.writerow([row.dataset, row.phantom, row.method, row.seeds, *figures, *bounds, *last])
    return stream.getvalue()


def _figure(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"


def as_markdown(name: str, rows: list[Row], results: list[Result]) -> str:
    """``leaderboard.md``: a table per data set with its shortcut audit, then the ranks."""
    lines = [f"# {name}", ""]
    for dataset in sorted({row.dataset for row in rows}):
        here = [row for row in rows if row.dataset == dataset]
        phantom = " (PHANTOM: generated data, no statement on real images)" if here[0].phantom else ""
        lines += [f"## {dataset}{phantom}", ""]
        lines += ["| method | seeds | image AUROC [95 %] | p vs best | image AP | pixel AUROC | pixel AP | AUPRO |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [_markdown_row(row) for row in here]
        cells = [result for result in results if result.dataset == dataset]
        told = ", ".join(f"{one.name} {one.auroc:.3f}" for one in shortcuts_of(cells))
        lines += ["", f"Without learning (AUROC): {told}. † not shown to beat the best of them.", ""]
    ranks, difference = ranks_of(rows)
    lines += ["## Average rank (image AUROC)", ""]
    lines += [f"{rank:.2f}  {method}" for method, rank in ranks.items()]
    lines += ["", f"Critical difference (Nemenyi, 5 %): {difference:.2f}" if not np.isnan(difference) else ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(row: Row) -> str:
    area = f"{_pm(row, 'image_auroc')} [{row.interval.low:.3f}, {row.interval.high:.3f}]"
    significant = row.best and row.p_value != row.p_value
    mark = "" if row.beats_shortcuts else " †"
    p = "best" if significant else ("" if np.isnan(row.p_value) else f"{row.p_value:.3f}")
    rest = " | ".join(_pm(row, name) for name in ("image_ap", "pixel_auroc", "pixel_ap", "pixel_aupro"))
    return f"| {row.method}{mark} | {row.seeds} | {area} | {p} | {rest} |"


def _pm(row: Row, metric: str) -> str:
    mean, deviation = row.means[metric], row.deviations[metric]
    if np.isnan(mean):
        return ""
    return f"{mean:.3f}" + ("" if np.isnan(deviation) else f" ± {deviation:.3f}")


def write_tables(out: Path, name: str, results: list[Result]) -> list[Row]:
    """Write ``leaderboard.csv`` and ``leaderboard.md``; nothing is written without finished cells."""
    rows = rows_of(results)
    write_atomically(out / "leaderboard.csv", as_csv(rows))
    write_atomically(out / "leaderboard.md", as_markdown(name, rows, results))
    return rows
