"""``report.html``: one page without network; tables that sort and filter, curves, costs, a gallery, provenance."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import charts
from benchmarks.cases import gallery_html
from benchmarks.leaderboard import (
    EXPLANATION,
    Row,
    advantage_text,
    note_number,
    p_text,
    ranks_of,
    shortcuts_of,
    shown,
)
from benchmarks.published import Published, read_table
from benchmarks.results import Result
from zoo.files import write_text
from zoo.metrics.curves import precision_curve, roc_curve
from zoo.metrics.table import PRIMARY, TABLE, heading

Array = NDArray[Any]
_ASSETS = Path(__file__).parent / "page"
_COSTS = (  # key of metrics.json, heading, scale, form, axis
    ("fit_seconds", "fit s", 1, ".1f", "seconds of training (log)"),
    ("images_per_second", "images/s", 1, ".1f", "images per second in the test (log)"),
    ("peak_memory_bytes", "memory MB", 1e-6, ".0f", "peak memory in MB (log)"),
    ("parameters", "params", 1, ",.0f", "parameters (log)"),
)


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
        failed: cells that are not in the tables, and why.
    """
    datasets = sorted({row.dataset for row in rows})
    phantoms = sorted({row.dataset for row in rows if row.phantom})
    notes: list[str] = []
    board = _board(rows, results, Published(published, list(TABLE)), notes)
    parts = [
        f"<h1>{escape(name)}</h1>",
        _banner(phantoms, datasets),
        "<nav aria-label='sections'>"
        + "".join(f'<a href="#{escape(d)}">{escape(d)}</a>' for d in datasets)
        + '<a href="#reading">how to read this</a></nav>',
        _failures(failed or {}),
        _controls(datasets, shown(rows)),
        board,
        _notes(notes),
        '<h2 id="reading">How to read this</h2><ul>'
        + "".join(f"<li>{escape(line)}</li>" for line in EXPLANATION)
        + "</ul>",
        *_ranks(rows),
        *[_section(d, [r for r in results if r.dataset == d], d in phantoms) for d in datasets],
        *[_published_tables(table) for table in published],
        _provenance(results),
    ]
    style, script = (_ASSETS.joinpath(file).read_text(encoding="utf-8") for file in ("style.css", "script.js"))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><link rel=icon href='data:,'><style>{style}</style></head>"
        f"<body>{''.join(parts)}<script>{script}</script></body></html>"
    )
    write_text(out / "report.html", page)


def _banner(phantoms: Sequence[str], datasets: Sequence[str]) -> str:
    if not phantoms:
        return ""
    if len(phantoms) == len(datasets):
        told = "PHANTOM DATA: generated images; these figures say nothing about real ones."
    else:
        told = (
            f"Some data sets are PHANTOMS, generated images: {', '.join(phantoms)}. They are marked where they appear."
        )
    return f'<p class="banner">{escape(told)}</p>'


def _failures(failed: Mapping[str, str]) -> str:
    if not failed:
        return ""
    lines = "".join(f"<li><b>{escape(cell)}</b>: {escape(reason)}</li>" for cell, reason in failed.items())
    return f"<details open><summary>not in these tables: {len(failed)}</summary><ul>{lines}</ul></details>"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    lines = "".join(f'<li id="source{number}">{escape(note)}</li>' for number, note in enumerate(notes, 1))
    told = (
        "Published figures (in italics) were computed by their authors on the real data, by the protocol of the source:"
    )
    return f"<p>{told}</p><ol>{lines}</ol>"


def _ranks(rows: list[Row]) -> list[str]:
    """Average ranks, of real data and of phantoms apart."""
    parts = []
    for phantom in (False, True):
        kept = [row for row in rows if row.phantom == phantom]
        if kept:
            tag = " <span class=tag>PHANTOM</span>" if phantom else ""
            diagram = charts.rank_diagram(*ranks_of(kept)) or "<p>needs two methods</p>"
            parts.append(f"<h2>Average rank{tag}</h2>{diagram}")
    return parts


def _controls(datasets: Sequence[str], metrics: Sequence[str]) -> str:
    choices = [
        f'<label>{label} <select id="{key}"><option value="">all</option>'
        + "".join(f"<option>{escape(name)}</option>" for name in names)
        + "</select></label>"
        for label, key, names in (("data set", "dataset", datasets), ("metric", "metric", metrics))
    ]
    return (
        f"<p>{''.join(choices)}"
        '<label>filter <input id="text" type="search" placeholder="method"></label>'
        '<output id="count" aria-live="polite"></output></p>'
    )


def _board(rows: list[Row], results: list[Result], published: Published, notes: list[str]) -> str:
    metrics = shown(rows)
    beside = [metric for metric in metrics if any(published.get(row.dataset, row.method, metric) for row in rows)]
    heads = [(name, "") for name in ("method", "data set", "seeds")]
    for metric in metrics:
        heads += [(heading(metric), metric)] + ([(f"published {heading(metric)}", metric)] if metric in beside else [])
    heads += [(name, "") for name in ("p vs highest", "over shortcut", "stratified", *(cost[1] for cost in _COSTS))]
    head = "".join(
        f'<th scope="col"{_of(metric)}><button type="button">{escape(text)}</button></th>' for text, metric in heads
    )
    body = []
    for row in rows:
        cells = [r for r in results if (r.dataset, r.method) == (row.dataset, row.method)]
        figures = ""
        for metric in metrics:
            figures += _metric_cell(row, metric)
            if metric in beside:
                figures += _published_cell(published, row, metric, notes)
        costs = "".join(_number_cell(_median(cells, key) * scale, form) for key, _, scale, form, _ in _COSTS)
        mark, tag = "" if row.beats_shortcuts else " †", " <span class=tag>PHANTOM</span>" if row.phantom else ""
        body.append(
            f'<tr data-set="{escape(row.dataset)}"><td>{escape(row.method)}{mark}</td>'
            f"<td>{escape(row.dataset)}{tag}</td><td>{row.seeds}</td>"
            f'{figures}{_p_cell(row)}<td data-value="{row.advantage.value:.6f}">{advantage_text(row)}</td>'
            f"{_number_cell(row.stratified, '.3f')}{costs}</tr>"
        )
    table = f'<table id="board"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="leaderboard">{table}</div>'


def _of(metric: str) -> str:
    return f' data-metric="{metric}"' if metric else ""


def _metric_cell(row: Row, metric: str) -> str:
    mean, deviation = row.means[metric], row.deviations[metric]
    if np.isnan(mean):
        return f"<td{_of(metric)}></td>"
    text = f"{mean:.3f}" + ("" if np.isnan(deviation) else f" ± {deviation:.3f}")
    if metric == PRIMARY:
        text += f" [{row.interval.low:.3f}, {row.interval.high:.3f}]"
    return f'<td{_of(metric)} data-value="{mean:.6f}">{text}</td>'


def _published_cell(published: Published, row: Row, metric: str, notes: list[str]) -> str:
    figure = published.get(row.dataset, row.method, metric)
    if figure is None:
        return f'<td class="published"{_of(metric)}></td>'
    number = note_number(figure, notes)
    link = f'<sup><a href="#source{number}" aria-label="source {number}">{number}</a></sup>'
    return f'<td class="published"{_of(metric)} data-value="{figure.value:.6f}">{figure.text}{link}</td>'


def _p_cell(row: Row) -> str:
    value = 2.0 if row.best else row.p_value  # the highest itself sorts above all
    return f'<td data-value="{value:.6g}">{escape(p_text(row))}</td>'


def _number_cell(value: float, form: str) -> str:
    return "<td></td>" if np.isnan(value) else f'<td data-value="{value:.6g}">{value:{form}}</td>'


def _median(cells: list[Result], key: str) -> float:
    values = [float(cell.content[key]) for cell in cells if cell.content.get(key) is not None]
    return float(np.median(values)) if values else float("nan")


# ---- a data set ---------------------------------------------------------------------------------------------------


def _section(dataset: str, cells: list[Result], phantom: bool) -> str:
    names = sorted({cell.method for cell in cells})
    by_method = [(name, [cell for cell in cells if cell.method == name]) for name in names]
    grid = np.linspace(0, 1, 101)
    roc = [
        (name, np.stack([roc_curve(cell.scores["score"], cell.scores["label"], grid) for cell in group]))
        for name, group in by_method
    ]
    precision = [
        (name, np.stack([precision_curve(cell.scores["score"], cell.scores["label"], grid) for cell in group]))
        for name, group in by_method
    ]
    areas = {name: [_area(c) for c in group] for name, group in by_method}
    costs = "".join(
        charts.scatter(
            f"Cost: {head}",
            axis,
            heading(PRIMARY),
            [(name, _median(group, key) * scale, float(np.mean(areas[name]))) for name, group in by_method],
        )
        for key, head, scale, _, axis in _COSTS
    )
    keys = "".join(
        f'<label><span class="key" style="background:{charts.colour(number)}"></span>{escape(name)}</label>'
        for number, name in enumerate(names)
    )
    shortcuts = "".join(f"<tr><td>{one.name}</td><td>{one.auroc:.3f}</td></tr>" for one in shortcuts_of(cells))
    histograms = "".join(
        charts.histogram(f"{name}, seed {group[0].seed}", group[0].scores["score"], group[0].scores["label"])
        for name, group in by_method
    )
    kind = ' class="phantom"' if phantom else ""
    banner = '<p class="banner">PHANTOM DATA: no statement on real images.</p>' if phantom else ""
    return (
        f'<section data-set="{escape(dataset)}" id="{escape(dataset)}"{kind}><h2>{escape(dataset)}</h2>{banner}'
        f'<p>{keys} bands: lowest to highest seed</p><div class="charts">'
        + charts.curves("ROC (image)", "false-positive rate", "sensitivity", roc)
        + charts.curves("Precision and recall (image)", "recall", "precision", precision)
        + f'</div><h3>Cost against accuracy</h3><div class="charts">{costs}</div>'
        + f"<h3>Without learning</h3><table><tr><th>statistic</th><th>AUROC</th></tr>{shortcuts}</table>"
        + f'<h3>Scores</h3><div class="charts">{histograms}</div>'
        + f"<h3>Gallery</h3>{gallery_html(by_method)}</section>"
    )


def _area(cell: Result) -> float:
    value = cell.content["metrics"].get(PRIMARY)
    return float("nan") if value is None else float(value)


# ---- around -------------------------------------------------------------------------------------------------------


def _published_tables(name: str) -> str:
    """A published table, apart from our figures and with its source."""
    content = read_table(name)
    source = content["source"]
    link = f'<a href="{escape(source["url"])}">{escape(source["title"])}</a>'
    parts = [f"<h2>Published: {link}, {escape(str(source['venue']))}</h2>"]
    for table in content["tables"]:
        columns = [str(column) for column in table.get("columns", [])]
        head = "".join(f"<th>{escape(column)}</th>" for column in ["", *columns])
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in [row, *_listed(values)]) + "</tr>"
            for row, values in table.get("rows", {}).items()
        )
        parts.append(f"<h3>{escape(str(table['name']))}</h3><p>{escape(str(table.get('notes', '')))}</p>")
        parts.append(f'<div class="scroll" tabindex="0"><table><tr>{head}</tr>{body}</table></div>')
    return "".join(parts)


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _provenance(results: list[Result]) -> str:
    blocks = "".join(
        f"<details><summary>{escape(cell.folder.name)}</summary><pre>"
        f"{escape(json.dumps({k: v for k, v in cell.content.items() if k != 'metrics'}, indent=1))}</pre></details>"
        for cell in results
    )
    return f"<h2>Provenance</h2>{blocks}"
