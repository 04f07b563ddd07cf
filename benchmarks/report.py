"""``report.html``: one page without network; conclusion, matrix, tables that sort and filter, charts, gallery."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import charts, tables
from benchmarks.cases import WHY, gallery_of, palette
from benchmarks.decisions import charts_of_decisions, decided
from benchmarks.findings import EXPLANATION, conclusions
from benchmarks.gallery import DECADES
from benchmarks.leaderboard import DataSet, Row, datasets_of, is_shown_best, ranks_of, shown
from benchmarks.published import Published, read_table
from benchmarks.results import Result
from benchmarks.settings import budget_text, median, settings_of
from zoo.files import write_text
from zoo.metrics.curves import precision_curve, roc_curve
from zoo.metrics.shortcuts import STATISTICS
from zoo.metrics.table import PRIMARY, TABLE, heading

_ASSETS = Path(__file__).parent / "page"


class Cost(NamedTuple):
    """A column of costs: key of ``metrics.json``, heading, scale, form, label of a chart's axis (none: no chart)."""

    key: str
    heading: str
    scale: float
    form: str
    axis: str


COSTS = (
    Cost("fit_seconds", "fit s", 1, ".1f", "seconds of training"),
    Cost("images_per_second", "images/s", 1, ".1f", ""),
    Cost("peak_memory_bytes", "memory MB", 1e-6, ".0f", ""),
    Cost("parameters", "params", 1, ",.0f", "parameters"),
)


class Scale(NamedTuple):
    """Places of figures in the bars of the matrix, in percent of their width."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Place of a value."""
        return round(100 * float(np.clip((value - self.low) / (self.high - self.low), 0, 1)), 1)


def write_page(
    out: Path,
    name: str,
    rows: list[Row],
    results: list[Result],
    published: Sequence[str],
    failed: Mapping[str, str] | None = None,
) -> None:
    """Write ``report.html``.

    Args:
        out: folder.
        name: title.
        rows: the leaderboard.
        results: the finished cells.
        published: names of files in ``benchmarks/published`` shown beside, clearly apart.
        failed: cells that have no result, and why.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "heading": heading,
        "tables": tables,
        "isnan": np.isnan,
        "is_shown_best": lambda row: is_shown_best(row, rows),
    }
    text = environment.get_template("report.html.j2").render(_content(name, rows, results, published, failed or {}))
    write_text(out / "report.html", text)


def _content(
    name: str, rows: list[Row], results: list[Result], published: Sequence[str], failed: Mapping[str, str]
) -> dict[str, Any]:
    """What the template shows."""
    figures, notes = Published(published, list(TABLE)), list[str]()
    metrics, datasets = shown(rows), datasets_of(results)
    looks = charts.looks(sorted({row.method for row in rows}))
    beside = [metric for metric in metrics if any(figures.get(row.dataset, row.method, metric) for row in rows)]
    places = {(row.dataset, row.method, metric): figures.get(row.dataset, row.method, metric) for row in rows
              for metric in beside}  # fmt: skip
    sources = {key: tables.note_number(figure, notes) for key, figure in places.items() if figure is not None}
    style, script = (_ASSETS.joinpath(file).read_text(encoding="utf-8") for file in ("style.css", "script.js"))
    return {
        "name": name,
        "style": style,
        "script": script,
        "lead": _lead(rows, results, datasets),
        "banner": _banner(datasets),
        "conclusions": conclusions(rows, datasets),
        "explanation": EXPLANATION,
        "rows": rows,
        "datasets": datasets,
        "metrics": metrics,
        "beside": beside,
        "published": places,
        "sources": sources,
        "against": tables.against,
        "notes": notes,
        "failed": failed,
        "primary": PRIMARY,
        "costs": [(cost, {row: _cost(results, row, cost) for row in _keys(rows)}) for cost in COSTS],
        "matrix": _matrix(rows, datasets),
        "scale": _scale(rows, datasets),
        "looks": looks,
        "sections": [_section(one, results, rows, looks) for one in datasets],
        "choices": [row for row in rows if row.choice is not None],
        "ranks": _ranks(rows, looks),
        "published_tables": [read_table(table) for table in published],
        "provenance": [(cell.folder.name, _provenance(cell)) for cell in results],
        "statistics": STATISTICS,
        "why": WHY,
        "palette": ["#%02x%02x%02x" % tuple(colour) for colour in palette()[::17]],  # noqa: UP031
        "decades": DECADES,
    }


def _keys(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.dataset, row.method) for row in rows]


def _lead(rows: list[Row], results: list[Result], datasets: list[DataSet]) -> str:
    methods = {row.method for row in rows}
    seeds = len({result.seed for result in results})
    budget = budget_text(settings_of(results))
    parts = [
        f"{len(methods)} {'method' if len(methods) == 1 else 'methods'}",
        f"{len(datasets)} {'data set' if len(datasets) == 1 else 'data sets'}",
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}",
    ]
    return " × ".join(parts) + (f"; {budget}" if budget else "") + "."


def _banner(datasets: list[DataSet]) -> str:
    phantoms = [one.name for one in datasets if one.phantom]
    if not phantoms:
        return ""
    if len(phantoms) == len(datasets):
        return "PHANTOM DATA: generated images; these figures say nothing about real ones."
    return f"Some data sets are PHANTOMS, generated images: {', '.join(phantoms)}. They are marked where they appear."


def _matrix(rows: list[Row], datasets: list[DataSet]) -> list[tuple[str, list[Row | None]]]:
    """Methods, the best mean over data sets first, and their row of each data set."""
    by = {(row.dataset, row.method): row for row in rows}
    methods = sorted({row.method for row in rows})
    cells = {method: [by.get((one.name, method)) for one in datasets] for method in methods}

    def order(method: str) -> tuple[bool, float, str]:
        values = [row.means[PRIMARY] for row in cells[method] if row is not None and row.seeds]
        known = [value for value in values if not np.isnan(value)]
        return not known, -float(np.mean(known)) if known else 0.0, method

    return [(method, cells[method]) for method in sorted(methods, key=order)]


def _scale(rows: list[Row], datasets: list[DataSet]) -> Scale:
    """One scale for all bars of the matrix, on full tenths."""
    values = [value for row in rows for value in (*row.interval, row.means[PRIMARY]) if not np.isnan(value)]
    values += [one.shortcuts[0].auroc for one in datasets if one.shortcuts] + [0.5]
    return Scale(float(np.floor(min(values) * 10) / 10), float(np.ceil(max(values) * 10) / 10))


def _cost(results: list[Result], key: tuple[str, str], cost: Cost) -> float:
    return median([r for r in results if (r.dataset, r.method) == key], cost.key) * cost.scale


# ---- a data set ---------------------------------------------------------------------------------------------------


def _section(data: DataSet, results: list[Result], rows: list[Row], looks: Mapping[str, charts.Look]) -> dict[str, Any]:
    by_method = {
        row.method: [cell for cell in results if (cell.dataset, cell.method) == (data.name, row.method)]
        for row in rows
        if row.dataset == data.name and row.seeds
    }
    drawn = charts_of(data, by_method, [row for row in rows if row.dataset == data.name], looks)
    decisions = {method: decided(cells) for method, cells in by_method.items()}
    return {
        "data": data,
        "charts": [chart.svg() for chart in drawn],
        "decisions": decisions,
        "decision_charts": [chart.svg() for chart in charts_of_decisions(data.name, decisions, looks)],
        "histograms": [
            charts.distribution(
                f"{data.name}-scores-{method}",
                f"{method}, seed {cells[0].seed}",
                cells[0].scores["score"],
                cells[0].scores["label"],
            ).svg()
            for method, cells in by_method.items()
        ],
        "gallery": gallery_of({method: cells[0] for method, cells in by_method.items()}, data.copies or {}),
        "without_copies": {one.name: one.auroc for one in data.without_copies},
    }


def charts_of(
    data: DataSet, by_method: Mapping[str, list[Result]], rows: list[Row], looks: Mapping[str, charts.Look]
) -> list[charts.Chart]:
    """The charts of a data set: intervals, ROC, precision and recall, cost against accuracy."""
    grid = np.linspace(0, 1, 101)
    means = {row.method: row.means for row in rows}
    legend = {method: f"{method} {means[method][PRIMARY]:.3f}" for method in by_method}
    precision = {method: f"{method} {means[method]['image_ap']:.3f}" for method in by_method}
    lines = {"chance": 0.5}
    if data.shortcuts:
        lines = {f"{STATISTICS[data.shortcuts[0].name]} alone": data.shortcuts[0].auroc, **lines}
    bars = {row.method: row.interval for row in rows if row.seeds}
    drawn: list[charts.Chart | None] = [
        charts.forest(f"{data.name}-intervals", data.name, heading(PRIMARY), bars, lines, looks),
        charts.curves(
            f"{data.name}-roc",
            "ROC (image), with AUROC",
            ("false-positive rate", "sensitivity"),
            {method: _curves(roc_curve, cells, grid) for method, cells in by_method.items()},
            looks,
            legend=legend,
        ),
        charts.curves(
            f"{data.name}-precision",
            "Precision and recall (image), with AP",
            ("recall", "precision"),
            {method: _curves(precision_curve, cells, grid) for method, cells in by_method.items()},
            looks,
            legend=precision,
            chance=data.anomalous / data.images,
        ),
        *(
            charts.cost(
                f"{data.name}-{cost.key}",
                f"Accuracy against {cost.axis}",
                (cost.axis, heading(PRIMARY)),
                {m: (median(cells, cost.key) * cost.scale, means[m][PRIMARY]) for m, cells in by_method.items()},
                looks,
            )
            for cost in COSTS
            if cost.axis
        ),
    ]
    return [chart for chart in drawn if chart is not None]


def _curves(curve: Any, cells: list[Result], grid: charts.Array) -> charts.Array:
    return np.stack([curve(cell.scores["score"], cell.scores["label"], grid) for cell in cells])


def _ranks(rows: list[Row], looks: Mapping[str, charts.Look]) -> list[tuple[bool, str]]:
    """Diagrams of average ranks, of real data and of phantoms apart; none over one data set."""
    found = []
    for phantom in (False, True):
        kept = [row for row in rows if row.phantom == phantom]
        chart = charts.rank_diagram("ranks-phantoms" if phantom else "ranks", *ranks_of(kept), looks)
        if chart is not None:
            found.append((phantom, chart.svg()))
    return found


def _provenance(cell: Result) -> str:
    return json.dumps({key: value for key, value in cell.content.items() if key != "metrics"}, indent=1)
