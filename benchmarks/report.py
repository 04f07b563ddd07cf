"""``report.html``: one page without network; tables that sort and filter, curves, costs, a gallery, provenance."""

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks import charts
from benchmarks.leaderboard import METRICS, Result, Row, ranks_of, shortcuts_of
from benchmarks.runner import write_atomically

Array = NDArray[Any]

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 1200px; padding: 0 12px 60px; }
.banner { background: #b30000; color: #fff; padding: 8px 12px; font-weight: 700; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 8px; border-bottom: 1px solid #8886; text-align: left; white-space: nowrap; }
th button { all: unset; cursor: pointer; font-weight: 700; } th button:focus-visible { outline: 2px solid #0072b2; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
.charts { display: flex; flex-wrap: wrap; gap: 12px; } svg { max-width: 100%; height: auto; }
svg text { font-size: 10px; fill: currentColor; } svg .title { font-weight: 700; }
svg .frame { fill: none; stroke: #8888; } svg .axis { stroke: currentColor; }
img { image-rendering: pixelated; width: 112px; height: auto; display: block; }
figure { margin: 0; } figcaption { font-size: 11px; max-width: 112px; overflow-wrap: anywhere; }
.case { display: flex; gap: 6px; overflow-x: auto; margin-bottom: 10px; }
.key { display: inline-block; width: 10px; height: 10px; margin-right: 4px; } label { margin-right: 12px; }
pre { overflow-x: auto; font-size: 11px; }
"""

_SCRIPT = """
const rows = () => [...document.querySelectorAll('#board tbody tr')];
function filter() {
  const data = document.getElementById('dataset').value, text = document.getElementById('text').value.toLowerCase();
  for (const row of rows()) row.hidden = (data && row.dataset.set !== data) ||
    !row.textContent.toLowerCase().includes(text);
  for (const part of document.querySelectorAll('section[data-set]')) part.hidden = data && part.dataset.set !== data;
}
function sort(index, header) {
  const down = header.getAttribute('aria-sort') !== 'descending';
  for (const other of document.querySelectorAll('#board th')) other.removeAttribute('aria-sort');
  header.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const value = row => { const cell = row.cells[index], n = parseFloat(cell.dataset.value ?? cell.textContent);
    return isNaN(n) ? cell.textContent : n; };
  const sorted = rows().sort((a, b) => { const x = value(a), y = value(b);
    const order = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y));
    return down ? -order : order; });
  const body = document.querySelector('#board tbody');
  for (const row of sorted) body.append(row);
}
document.querySelectorAll('#board th').forEach((header, index) =>
  header.querySelector('button').addEventListener('click', () => sort(index, header)));
document.getElementById('dataset').addEventListener('input', filter);
document.getElementById('text').addEventListener('input', filter);
"""


def write_page(out: Path, name: str, rows: list[Row], results: list[Result], published: Sequence[str]) -> None:
    """Write ``report.html``.

    Args:
        out: folder.
        name: title.
        rows: the leaderboard.
        results: the finished cells.
        published: names of files in ``benchmarks/published`` shown beside, clearly apart.
    """
    datasets = sorted({row.dataset for row in rows})
    phantom = any(row.phantom for row in rows)
    banner = '<p class="banner">PHANTOM DATA: generated images; these figures say nothing about real ones.</p>'
    ranks, difference = ranks_of(rows)
    parts = [
        f"<h1>{escape(name)}</h1>",
        banner if phantom else "",
        _controls(datasets),
        _board(rows, results),
        "<p>± standard deviation over seeds; [95 % bootstrap interval over patients]; p: DeLong's test against the "
        "best method of the data set, Holm-corrected; † not shown to beat the best statistic that needs no learning; "
        "stratified: AUROC among images alike in that statistic.</p>",
        "<h2>Average rank</h2>",
        charts.rank_diagram(ranks, difference) or "<p>needs two methods</p>",
        *[_section(dataset, [r for r in results if r.dataset == dataset]) for dataset in datasets],
        *[_published(table) for table in published],
        _provenance(results),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><link rel=icon href='data:,'><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}<script>{_SCRIPT}</script></body></html>"
    )
    write_atomically(out / "report.html", page)


def _controls(datasets: Sequence[str]) -> str:
    options = "".join(f"<option>{escape(name)}</option>" for name in datasets)
    return (
        f'<p><label>data set <select id="dataset"><option value="">all</option>{options}</select></label>'
        '<label>filter <input id="text" type="search" placeholder="method"></label></p>'
    )


def _board(rows: list[Row], results: list[Result]) -> str:
    shown = [metric for metric in METRICS if any(not np.isnan(row.means[metric]) for row in rows)]
    heads = [
        "method",
        "data set",
        "seeds",
        *shown,
        "p vs best",
        "stratified",
        "fit s",
        "images/s",
        "memory MB",
        "params",
    ]
    head = "".join(f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in heads)
    body = []
    for row in rows:
        cells = [r for r in results if (r.dataset, r.method) == (row.dataset, row.method)]
        figures = "".join(_metric_cell(row, metric) for metric in shown)
        p = "best" if row.best else ("" if np.isnan(row.p_value) else f"{row.p_value:.3f}")
        costs = "".join(
            _number_cell(_median(cells, key) * scale, form)
            for key, scale, form in (
                ("fit_seconds", 1, ".1f"),
                ("images_per_second", 1, ".1f"),
                ("peak_memory_bytes", 1e-6, ".0f"),
                ("parameters", 1, ",.0f"),
            )
        )
        mark = "" if row.beats_shortcuts else " †"
        body.append(
            f'<tr data-set="{escape(row.dataset)}"><td>{escape(row.method)}{mark}</td><td>{escape(row.dataset)}</td>'
            f"<td>{row.seeds}</td>{figures}<td>{p}</td>{_number_cell(row.stratified, '.3f')}{costs}</tr>"
        )
    table = f'<table id="board"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _metric_cell(row: Row, metric: str) -> str:
    mean, deviation = row.means[metric], row.deviations[metric]
    if np.isnan(mean):
        return "<td></td>"
    text = f"{mean:.3f}" + ("" if np.isnan(deviation) else f" ± {deviation:.3f}")
    if metric == "image_auroc":
        text += f" [{row.interval.low:.3f}, {row.interval.high:.3f}]"
    return f'<td data-value="{mean:.6f}">{text}</td>'


def _number_cell(value: float, form: str) -> str:
    return "<td></td>" if np.isnan(value) else f'<td data-value="{value:.6g}">{value:{form}}</td>'


def _median(cells: list[Result], key: str) -> float:
    values = [float(cell.content[key]) for cell in cells if cell.content.get(key) is not None]
    return float(np.median(values)) if values else float("nan")


# ---- a data set ---------------------------------------------------------------------------------------------------


def _section(dataset: str, cells: list[Result]) -> str:
    names = sorted({cell.method for cell in cells})
    by_method = [(name, [cell for cell in cells if cell.method == name]) for name in names]
    grid = np.linspace(0, 1, 101)
    roc = [(name, np.stack([_roc(cell, grid) for cell in group])) for name, group in by_method]
    precision = [(name, np.stack([_precision(cell, grid) for cell in group])) for name, group in by_method]
    costs = [
        (
            name,
            _median(group, "fit_seconds"),
            float(np.mean([c.content["metrics"].get("image_auroc") or 0 for c in group])),
        )
        for name, group in by_method
    ]
    keys = "".join(
        f'<label><span class="key" style="background:{charts.colour(number)}"></span>{escape(name)}</label>'
        for number, name in enumerate(names)
    )
    shortcuts = "".join(f"<tr><td>{one.name}</td><td>{one.auroc:.3f}</td></tr>" for one in shortcuts_of(cells))
    histograms = "".join(
        charts.histogram(f"{name}, seed {group[0].seed}", group[0].scores["score"], group[0].scores["label"])
        for name, group in by_method
    )
    return (
        f'<section data-set="{escape(dataset)}"><h2>{escape(dataset)}</h2><p>{keys}</p><div class="charts">'
        + charts.curves("ROC (image)", "false-positive rate", "sensitivity", roc)
        + charts.curves("Precision and recall (image)", "recall", "precision", precision)
        + charts.scatter("Cost and accuracy", "seconds of training (log)", "image AUROC", costs)
        + f"</div><h3>Without learning</h3><table><tr><th>statistic</th><th>AUROC</th></tr>{shortcuts}</table>"
        + f'<h3>Scores</h3><div class="charts">{histograms}</div>'
        + f"<h3>Gallery</h3>{_gallery(by_method)}</section>"
    )


def _roc(cell: Result, grid: Array) -> Array:
    """Sensitivity at the false-positive rates of a grid."""
    scores, labels = cell.scores["score"], cell.scores["label"].astype(bool)
    if labels.all() or not labels.any():
        return np.full_like(grid, np.nan)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits, wrong = np.cumsum(labels[order])[last], np.cumsum(~labels[order])[last]
    return np.interp(grid, np.append(0, wrong / (~labels).sum()), np.append(0, hits / labels.sum()))


def _precision(cell: Result, grid: Array) -> Array:
    """Precision at the recalls of a grid."""
    scores, labels = cell.scores["score"], cell.scores["label"].astype(bool)
    if labels.all() or not labels.any():
        return np.full_like(grid, np.nan)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(labels[order])[last]
    precision, recall = hits / (last + 1), hits / labels.sum()
    return precision[np.minimum(np.searchsorted(recall, grid), len(recall) - 1)]


def _gallery(by_method: list[tuple[str, list[Result]]]) -> str:
    """The same test images under every method (first seed), agreed beforehand, not chosen by result."""
    opened = {name: np.load(group[0].folder / "gallery.npz") for name, group in by_method if _has_gallery(group[0])}
    if not opened:
        return "<p>no pictures</p>"
    first = next(iter(opened.values()))
    cases = []
    for number, name in enumerate(first["names"]):
        figures = [_figure(first[f"{number}_input"], str(name), "gray")]
        if f"{number}_truth" in first:
            figures.append(_figure(first[f"{number}_truth"], "ground truth", "gray"))
        for method, arrays in opened.items():
            where = np.flatnonzero(arrays["names"] == name)
            if len(where) and f"{where[0]}_map" in arrays:
                figures.append(_figure(arrays[f"{where[0]}_map"], method, "map"))
        cases.append(f'<div class="case">{"".join(figures)}</div>')
    return "".join(cases)


def _has_gallery(cell: Result) -> bool:
    return (cell.folder / "gallery.npz").is_file()


def _figure(values: Array, caption: str, kind: str) -> str:
    image = f'<img alt="{escape(caption)}" src="{_png(values, kind)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _png(values: Array, kind: str) -> str:
    """A data URL; images in grey, maps from black over red to yellow, each over its own range."""
    from PIL import Image

    low, high = float(values.min()), float(values.max())
    level = (values - low) / (high - low if high > low else 1)
    if kind == "map":
        level = np.stack([np.clip(2 * level, 0, 1), np.clip(2 * level - 1, 0, 1), np.zeros_like(level)], -1)
    image = Image.fromarray(np.rint(255 * level).astype(np.uint8))
    image.thumbnail((224, 224))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


# ---- around -------------------------------------------------------------------------------------------------------


def _published(name: str) -> str:
    """A published table, apart from our figures and with its source."""
    path = Path(__file__).parent / "published" / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
        parts.append(f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>')
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
