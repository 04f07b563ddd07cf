"""Tables from finished cells: means over seeds, intervals, paired tests, ranks, shortcuts. The same bytes each time."""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.published import Figure, Published
from benchmarks.results import Result
from zoo.files import write_text
from zoo.metrics.functional import auroc
from zoo.metrics.shortcuts import STATISTICS, Shortcut, advantage, audit
from zoo.metrics.statistics import Interval, average_ranks, bootstrap_interval, critical_difference, delong_test, holm
from zoo.metrics.table import PRIMARY, TABLE, heading, in_order

EXPLANATION = (
    "± is the sample standard deviation over seeds.",
    "[95 %] is a percentile bootstrap over patients (over images where the data name no patients), stratified by "
    "class; the bounds are means over seeds.",
    "p vs highest is DeLong's paired test of the image AUROC, on scores averaged over seeds, against the method with "
    "the highest mean; patients count as independent (images where the data name no patients); Holm-corrected within "
    "the data set. The highest mean is not thereby shown to be best.",
    "Over shortcut is the AUROC less that of the strongest statistic that needs no learning (brightness, contrast, "
    "filled area, shape of the file, distance to the nearest training image), chosen with its direction on this very "
    "test set; the interval is a paired bootstrap by patient. † marks methods whose interval does not lie above 0.",
    "Stratified is the AUROC among images that are alike in that statistic (five bins).",
    "Average ranks are over data sets; the critical difference (Nemenyi) takes these as independent and few of them as "
    "little evidence.",
)
RESAMPLES = 500
Array = NDArray[Any]


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
        advantage: of the image AUROC over that of the strongest statistic that needs no learning: paired bootstrap by
            patient, mean of the seeds' bounds.
        beats_shortcuts: the advantage's interval lies above 0.
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
    advantage: Interval
    beats_shortcuts: bool
    stratified: float
    phantom: bool


def rows_of(results: list[Result]) -> list[Row]:
    """The leaderboard: by data set, best mean image AUROC first."""
    rows: list[Row] = []
    for dataset in sorted({result.dataset for result in results}):
        here = [result for result in results if result.dataset == dataset]
        by_method = {name: [r for r in here if r.method == name] for name in sorted({r.method for r in here})}
        means = {name: _mean(PRIMARY, cells) for name, cells in by_method.items()}
        best = max(means, key=lambda name: (-np.inf if np.isnan(means[name]) else means[name], name))
        p_values = _against_best(by_method, best)
        shortcuts, names = shortcuts_of(here), metrics_of(results)
        strongest = shortcuts[0].name if shortcuts else ""
        rows += sorted(
            (
                _row(dataset, name, cells, names, name == best, p_values[name], strongest)
                for name, cells in by_method.items()
            ),
            key=lambda row: (-np.nan_to_num(row.means[PRIMARY], nan=-1.0), row.method),
        )
    return rows


def metrics_of(results: list[Result]) -> list[str]:
    """The metrics of the table, and those that only these cells have."""
    return in_order({*TABLE, *(name for result in results for name in result.content["metrics"])})


def _row(
    dataset: str,
    method: str,
    cells: list[Result],
    names: list[str],
    best: bool,
    p_value: float,
    strongest: str,
) -> Row:
    over = _mean_interval([_advantage(cell) for cell in cells])
    audits = [audit(_statistics(cell), cell.scores["label"], cell.scores["score"]) for cell in cells]
    stratified = [row.stratified_auroc for rows in audits for row in rows if row.name == strongest]
    return Row(
        dataset,
        method,
        len(cells),
        {name: _mean(name, cells) for name in names},
        {name: _deviation(name, cells) for name in names},
        _mean_interval([_interval(cell) for cell in cells]),
        p_value,
        best,
        over,
        bool(over.low > 0),
        float(np.mean(stratified)) if stratified else float("nan"),
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
    scores, labels = cell.scores["score"], cell.scores["label"].astype(int)
    return bootstrap_interval(scores, labels, auroc, groups=_patients(cell), resamples=RESAMPLES)


def _advantage(cell: Result) -> Interval:
    scores, labels = cell.scores["score"], cell.scores["label"]
    if not _statistics(cell):
        return Interval(float("nan"), float("nan"), float("nan"))
    return advantage(scores, _statistics(cell), labels, groups=_patients(cell), resamples=RESAMPLES)


def _mean_interval(intervals: list[Interval]) -> Interval:
    return Interval(*(float(np.mean([one[k] for one in intervals])) for k in range(3)))


def _patients(cell: Result) -> list[str] | None:
    """The patient of each image; None where they are unknown or have one image each."""
    subjects = cell.scores["subject"]
    return None if (subjects == "").any() or len(set(subjects)) == len(subjects) else list(subjects)


def _pooled(cells: list[Result]) -> tuple[Array, Array, Array]:
    """Ids, labels and the scores' ranks averaged over seeds."""
    ranks = np.mean([stats.rankdata(cell.scores["score"]) for cell in cells], axis=0)
    return cells[0].scores["id"], cells[0].scores["label"], ranks


def _against_best(by_method: dict[str, list[Result]], best: str) -> dict[str, float]:
    """Holm-corrected p values of DeLong's test against the best method, on scores averaged over seeds."""
    reference, patients = _pooled(by_method[best]), _patients(by_method[best][0])
    others = [name for name in by_method if name != best]
    p_values = []
    for name in others:
        ids, labels, ranks = _pooled(by_method[name])
        same = len(ids) == len(reference[0]) and bool((ids == reference[0]).all())
        test = delong_test(ranks, reference[2], labels, groups=patients) if same else None
        p_values.append(float("nan") if test is None else test.p_value)
    return {best: float("nan"), **dict(zip(others, holm(p_values), strict=True))}


def _statistics(cell: Result) -> dict[str, Array]:
    return {name: cell.scores[name] for name in STATISTICS if name in cell.scores}


def shortcuts_of(cells: list[Result]) -> list[Shortcut]:
    """Statistics that need no learning on the test set of these cells, the strongest first.

    Cells of an older version may lack some; the cell that knows most of them is asked.
    """
    fullest = max(cells, key=lambda cell: len(_statistics(cell)))
    return audit(_statistics(fullest), fullest.scores["label"])


def shown(rows: list[Row]) -> list[str]:
    """The metrics that any of the rows has."""
    return [metric for metric in rows[0].means if any(not np.isnan(row.means[metric]) for row in rows)]


def ranks_of(rows: list[Row]) -> tuple[dict[str, float], float]:
    """Average rank of each method over the data sets that all have, and the critical difference."""
    datasets, names = sorted({row.dataset for row in rows}), sorted({row.method for row in rows})
    value = {(row.dataset, row.method): row.means[PRIMARY] for row in rows}
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
    names = list(rows[0].means)
    spread = [column for name in names for column in (name, f"{name}_sd")]
    more = (f"{PRIMARY}_low", f"{PRIMARY}_high", "p_against_best", "best")
    audited = ("over_shortcut", "over_shortcut_low", "over_shortcut_high", "beats_shortcuts", "stratified_auroc")
    writer.writerow(["dataset", "phantom", "method", "seeds", *spread, *more, *audited])
    for row in rows:
        figures = [_figure(part[name]) for name in names for part in (row.means, row.deviations)]
        bounds = (_figure(row.interval.low), _figure(row.interval.high), _figure(row.p_value))
        last = (row.best, *map(_figure, row.advantage), row.beats_shortcuts, _figure(row.stratified))
        writer.writerow([row.dataset, row.phantom, row.method, row.seeds, *figures, *bounds, *last])
    return stream.getvalue()


def _figure(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"


def as_markdown(name: str, rows: list[Row], results: list[Result], published: Published) -> str:
    """``leaderboard.md``: a table per data set with its shortcut audit, then ranks and the meaning of it all."""
    lines = [f"# {name}", ""]
    notes: list[str] = []
    for dataset in sorted({row.dataset for row in rows}):
        here = [row for row in rows if row.dataset == dataset]
        marked = any(row.phantom for row in here)
        phantom = " (PHANTOM: generated data, no statement on real images)" if marked else ""
        lines += [f"## {dataset}{phantom}", ""]
        beside = [m for m in here[0].means if any(published.get(dataset, row.method, m) for row in here)]
        more = [m for m in shown(here) if m != PRIMARY]
        heads = [
            "method",
            "seeds",
            f"{heading(PRIMARY)} [95 %]",
            "p vs highest",
            "over shortcut [95 %]",
            *map(heading, more),
        ]
        heads += [*(f"*published {heading(metric)}*" for metric in beside)]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for row in here:
            figures = [_published_cell(published.get(dataset, row.method, metric), notes) for metric in beside]
            lines += ["| " + " | ".join([*_markdown_cells(row, more), *figures]) + " |"]
        told = ", ".join(
            f"{one.name} {one.auroc:.3f}" for one in shortcuts_of([r for r in results if r.dataset == dataset])
        )
        lines += ["", f"Without learning (AUROC): {told or 'unknown'}. † not shown to beat the best of them.", ""]
    for kind in (False, True):  # never over real data and phantoms together
        kept = [row for row in rows if row.phantom == kind]
        if kept:
            ranks, difference = ranks_of(kept)
            lines += [f"## Average rank ({heading(PRIMARY)}){' over PHANTOM data' if kind else ''}", ""]
            lines += [f"{rank:.2f}  {method}" for method, rank in ranks.items()]
            lines += ["", f"Critical difference (Nemenyi, 5 %): {difference:.2f}", ""]
            if np.isnan(difference):
                lines[-2] = "No critical difference: it needs two methods and two data sets."
    lines += ["## How to read this", "", *(f"- {line}" for line in EXPLANATION)]
    if notes:
        lines += ["", "Published figures, on the real data and by the protocol of their source:", ""]
        lines += [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(lines).rstrip() + "\n"


def _published_cell(figure: Figure | None, notes: list[str]) -> str:
    if figure is None:
        return ""
    return f"*{figure.text}* [{note_number(figure, notes)}]"


def note_number(figure: Figure, notes: list[str]) -> int:
    """Number of a figure's source in the list of sources, to which it is added if it is new."""
    told = f"{figure.source.title}, {figure.source.venue}, {figure.source.table}: {figure.source.url}"
    told += " (≈: read off a plot)" if figure.approximate else ""
    if told not in notes:
        notes.append(told)
    return notes.index(told) + 1


def _markdown_cells(row: Row, more: list[str]) -> list[str]:
    area = f"{_pm(row, PRIMARY)} [{row.interval.low:.3f}, {row.interval.high:.3f}]"
    mark = "" if row.beats_shortcuts else " †"
    rest = (_pm(row, name) for name in more)
    return [row.method + mark, str(row.seeds), area, p_text(row), advantage_text(row), *rest]


def p_text(row: Row) -> str:
    """The test against the highest mean."""
    if row.best:
        return "highest"
    return "" if np.isnan(row.p_value) else f"{row.p_value:.3f}" if row.p_value >= 0.001 else "< 0.001"


def advantage_text(row: Row) -> str:
    """How far the method is above the strongest shortcut."""
    return "" if np.isnan(row.advantage.value) else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row.advantage)


def _pm(row: Row, metric: str) -> str:
    mean, deviation = row.means[metric], row.deviations[metric]
    if np.isnan(mean):
        return ""
    return f"{mean:.3f}" + ("" if np.isnan(deviation) else f" ± {deviation:.3f}")


def write_tables(out: Path, name: str, results: list[Result], published: Published) -> list[Row]:
    """Write ``leaderboard.csv`` (our figures only) and ``leaderboard.md``."""
    rows = rows_of(results)
    write_text(out / "leaderboard.csv", as_csv(rows))
    write_text(out / "leaderboard.md", as_markdown(name, rows, results, published))
    return rows
