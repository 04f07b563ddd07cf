"""The leaderboard as files: ``leaderboard.csv`` and ``leaderboard.md``. The same bytes each time."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.findings import EXPLANATION, conclusions
from benchmarks.leaderboard import DataSet, Row, datasets_of, is_shown_best, ranks_of, rows_of, shown
from benchmarks.published import Figure, Published, difference
from benchmarks.results import Result
from zoo.files import write_rows, write_text
from zoo.metrics.shortcuts import STATISTICS
from zoo.metrics.table import PRIMARY, TABLE, heading


def write_tables(
    out: Path, name: str, results: list[Result], published: Published, missing: Mapping[str, str] | None = None
) -> list[Row]:
    """Write ``leaderboard.csv`` (our figures only) and ``leaderboard.md``; ``missing`` as in :func:`rows_of`."""
    rows = rows_of(results, missing)
    _write_csv(out / "leaderboard.csv", rows)
    write_text(out / "leaderboard.md", as_markdown(name, rows, datasets_of(results), published))
    return rows


def _write_csv(path: Path, rows: list[Row]) -> None:
    """``leaderboard.csv``: a line per data set and method."""
    names = list(rows[0].means)
    spread = [column for name in names for column in (name, f"{name}_sd")]
    more = (f"{PRIMARY}_low", f"{PRIMARY}_high", "p_against_best", "best")
    audited = ("over_shortcut", "over_shortcut_low", "over_shortcut_high", "beats_shortcuts", "stratified_auroc")
    copies = ("without_copies", "without_copies_low", "without_copies_high", "same_for_all_seeds", "missing")
    columns = ["dataset", "phantom", "method", "seeds", *spread, *more, *audited, *copies]
    lines = []
    for row in rows:
        figures = [_figure(part[name]) for name in names for part in (row.means, row.deviations)]
        bounds = (_figure(row.interval.low), _figure(row.interval.high), _figure(row.p_value))
        last = (row.best, *map(_figure, row.advantage), row.beats_shortcuts, _figure(row.stratified))
        honest = (*map(_figure, row.without_copies), row.repeated, missing_text(row))
        cells = [row.dataset, row.phantom, row.method, row.seeds, *figures, *bounds, *last, *honest]
        lines.append(dict(zip(columns, cells, strict=True)))
    write_rows(path, columns, lines)


def _figure(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"


def as_markdown(name: str, rows: list[Row], datasets: list[DataSet], published: Published) -> str:
    """``leaderboard.md``: the conclusion, a table per data set, then ranks and the meaning of it all."""
    lines = [f"# {_as_markdown_text(name)}", ""]
    notes: list[str] = []
    told = dict(conclusions(rows, datasets))
    about = {one.name: one for one in datasets}
    for dataset in sorted({row.dataset for row in rows}):
        here = [row for row in rows if row.dataset == dataset]
        marked = any(row.phantom for row in here)
        phantom = " (PHANTOM: generated data, no statement on real images)" if marked else ""
        lines += [f"## {dataset}{phantom}", ""]
        if dataset in about:
            lines += [
                f"{counts_text(about[dataset])}.",
                "",
                *(f"- {_as_markdown_text(one)}" for one in told[dataset]),
                "",
            ]
        lines += _markdown_table(here, rows, about.get(dataset), published, notes)
        lines += ["", f"Without learning ({heading(PRIMARY)}): {_told(about.get(dataset)) or 'unknown'}.", ""]
    for sentence in told.get("", []):
        lines += [sentence, ""]
    for kind in (False, True):  # never over real data and phantoms together, never over one data set
        kept = [row for row in rows if row.phantom == kind]
        ranks, difference = ranks_of(kept)
        if not np.isnan(difference):
            lines += [f"## Average rank ({heading(PRIMARY)}){' over PHANTOM data' if kind else ''}", ""]
            lines += [f"{rank:.2f}  {method}" for method, rank in ranks.items()]
            lines += ["", f"Critical difference (Nemenyi, 5 %): {difference:.2f}", ""]
    lines += ["## How to read this", "", *(f"- {line}" for line in EXPLANATION)]
    if notes:
        lines += ["", "Published figures, on the real data and by the protocol of their source:", ""]
        lines += [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(lines).rstrip() + "\n"


def _told(data: DataSet | None) -> str:
    return "" if data is None else ", ".join(f"{STATISTICS[one.name]} {one.auroc:.3f}" for one in data.shortcuts)


def _as_markdown_text(text: str) -> str:
    """A text of somebody else's that stays text: no tags, no links, no columns."""
    return re.sub(r"([\\`|\[\]])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _markdown_table(
    here: list[Row], rows: list[Row], data: DataSet | None, published: Published, notes: list[str]
) -> list[str]:
    beside = [m for m in here[0].means if any(published.get(row.dataset, row.method, m) for row in here)]
    more = [m for m in shown(here) if m != PRIMARY]
    copies = any(not np.isnan(row.without_copies.value) for row in here)
    heads = ["method", "seeds", f"{heading(PRIMARY)} [95 %]", "p vs highest", "over shortcut [95 %]"]
    heads += ["without copies [95 %]"] if copies else []
    heads += [*map(heading, more), *(f"*published {heading(metric)}*" for metric in beside)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in here:
        strong = "**" if is_shown_best(row, rows) else ""
        area = f"{strong}{pm_text(row, PRIMARY)}{strong} {interval_text(row.interval)}" if row.seeds else ""
        area = area or _as_markdown_text(missing_text(row))
        cells = [row.method + marks(row), str(row.seeds), area, p_text(row), advantage_text(row)]
        cells += [_with_bounds(row)] if copies else []
        cells += [pm_text(row, metric) for metric in more]
        cells += [
            _published_cell(row, metric, published.get(row.dataset, row.method, metric), notes) for metric in beside
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for one in () if data is None else data.references:
        figures = ["" if np.isnan(one.values.get(m, np.nan)) else f"{one.values[m]:.3f}" for m in [PRIMARY, *more]]
        cells = [f"*{one.told}*", "", figures[0], "", "", *([""] if copies else []), *figures[1:]]
        lines.append("| " + " | ".join([*cells, *([""] * len(beside))]) + " |")
    return lines


# ---- cells --------------------------------------------------------------------------------------------------------


def counts_text(data: DataSet) -> str:
    """Images, cases and prevalence in words."""
    text = f"{data.images} test images{of_cases(data)}, {data.anomalous} anomalous ({data.anomalous / data.images:.0%})"
    pixels = data.units.get("pixel")
    return text + (f"; {pixels['anomalous'] / pixels['units']:.2%} of the pixels" if pixels else "")


def of_cases(data: DataSet) -> str:
    """Of how many patients or other cases the images are; empty where each is a case of unknown patients."""
    if data.patients:
        return f" of {data.cases} patients"
    return f" of {data.cases} cases ({data.ill} ill)" if data.cases < data.images else ""


def missing_text(row: Row) -> str:
    """Why seeds have no result: one reason, or one for each seed."""
    reasons = sorted(set(row.missing.values()))
    if len(reasons) == 1 and not row.seeds:
        return reasons[0]
    return "; ".join(f"seed {seed}: {reason}" for seed, reason in sorted(row.missing.items()))


def marks(row: Row) -> str:
    """† not shown to beat the shortcuts, ‡ the same for every seed."""
    found = ("†" if row.seeds and not row.beats_shortcuts else "") + ("‡" if row.repeated else "")
    return f" {found}" if found else ""


def interval_text(interval: tuple[float, float, float]) -> str:
    """The bounds; empty where unknown."""
    return "" if np.isnan(interval[1]) else f"[{interval[1]:.3f}, {interval[2]:.3f}]"


def _with_bounds(row: Row) -> str:
    one = row.without_copies
    return "" if np.isnan(one.value) else f"{one.value:.3f} {interval_text(one)}"


def p_text(row: Row) -> str:
    """The test against the highest mean."""
    if row.best:
        return "highest"
    return "" if np.isnan(row.p_value) else f"{row.p_value:.3f}" if row.p_value >= 0.001 else "< 0.001"


def advantage_text(row: Row) -> str:
    """How far the method is above the strongest shortcut."""
    return "" if np.isnan(row.advantage.value) else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row.advantage)


def pm_text(row: Row, metric: str) -> str:
    """Mean and deviation over seeds."""
    mean, deviation = row.means[metric], row.deviations[metric]
    if np.isnan(mean):
        return ""
    return f"{mean:.{digits(metric)}f}" + ("" if np.isnan(deviation) else f" ± {deviation:.{digits(metric)}f}")


def digits(metric: str) -> int:
    """Decimals of a metric: three where its values lie in [0, 1]."""
    return 3 if metric not in TABLE or TABLE[metric].bounds[1] <= 1 else 2


def _published_cell(row: Row, metric: str, figure: Figure | None, notes: list[str]) -> str:
    if figure is None:
        return ""
    ours = against(row, metric, figure)
    return f"*{figure.text}* [{note_number(figure, notes)}]" + (f" ours {ours}" if ours else "")


def against(row: Row, metric: str, figure: Figure) -> str:
    """Our figure against the published one; empty for phantoms, which say nothing about it."""
    if row.phantom or not row.seeds:
        return ""
    return difference(row.means[metric], figure, row.interval if metric == PRIMARY else None)


def note_number(figure: Figure, notes: list[str]) -> int:
    """Number of a figure's source in the list of sources, to which it is added if it is new."""
    told = f"{figure.source.title}, {figure.source.venue}, {figure.source.table}: {figure.source.url}"
    told += " (≈: read off a plot)" if figure.approximate else ""
    if told not in notes:
        notes.append(told)
    return notes.index(told) + 1
