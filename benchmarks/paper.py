"""A benchmark as parts of a paper: LaTeX tables, figures, references, a methods paragraph, a checklist."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import charts
from benchmarks.decisions import Decided, charts_of_decisions, decided
from benchmarks.findings import listed
from benchmarks.leaderboard import RESAMPLES, DataSet, Row, datasets_of, is_shown_best, ranks_of, shown
from benchmarks.report import charts_of
from benchmarks.results import SEMI_SUPERVISED, Result
from benchmarks.settings import Setting, budget_text, settings_of
from benchmarks.tables import digits, marks, of_cases
from zoo.files import write_text
from zoo.metrics.shortcuts import STATISTICS
from zoo.metrics.statistics import Interval
from zoo.metrics.table import PRIMARY, TABLE, heading

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\textsuperscript{\dag}",
    "‡": r"\textsuperscript{\ddag}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "²": r"\textsuperscript{2}",
    "°": r"\textdegree{}",
}
_LEVELS = ("image", "slice", "pixel", "lesion", "case")


def write_paper(folder: Path, name: str, rows: list[Row], results: list[Result]) -> list[Path]:
    """Write everything into ``folder``.

    ``leaderboard.tex`` is methods by data sets, ``DATA-LEVEL.tex`` all metrics of a level; both need ``booktabs``.
    Bold stands only where the tests support it. ``figures`` holds SVG and PDF, ``references.bib`` the compared methods
    and the data, ``methods.tex`` what was done, ``checklist.md`` what the run answers of a reporting guideline.

    Args:
        folder: made where it does not exist.
        name: title of the benchmark.
        rows: the leaderboard.
        results: the finished cells.

    Returns:
        list: the files.
    """
    datasets, settings = datasets_of(results), settings_of(results)
    decisions = {
        data.name: {
            row.method: decided([r for r in results if (r.dataset, r.method) == (data.name, row.method)])
            for row in rows
            if row.dataset == data.name and row.seeds
        }
        for data in datasets
    }
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    texts = {"leaderboard.tex": _leaderboard(rows, datasets)}
    for data in datasets:
        here = [row for row in rows if row.dataset == data.name and row.seeds]
        for level in _LEVELS:
            if table := _level_table(here, rows, data, level):
                texts[f"{data.name}-{level}.tex"] = table
        if any(one.seeds for one in decisions[data.name].values()):
            texts[f"{data.name}-decision.tex"] = _decision_table(data, decisions[data.name])
    texts["references.bib"] = _references(settings)
    texts["methods.tex"] = methods_paragraph(rows, results, datasets, settings)
    texts["checklist.md"] = _checklist(name, rows, datasets, decisions)
    for file, text in texts.items():
        write_text(folder / file, text)
    looks = charts.looks(sorted({row.method for row in rows}))
    drawn: list[charts.Chart | None] = []
    for data in datasets:
        here = [row for row in rows if row.dataset == data.name]
        cells = {row.method: [r for r in results if (r.dataset, r.method) == (data.name, row.method)] for row in here}
        drawn += charts_of(data, {method: own for method, own in cells.items() if own}, here, looks)
        drawn += charts_of_decisions(data.name, decisions[data.name], looks)
    drawn.append(charts.rank_diagram("ranks", *ranks_of([row for row in rows if not row.phantom]), looks))
    for chart in drawn:
        if chart is not None:
            chart.save(figures)
    return sorted([*(folder / file for file in texts), *figures.iterdir()])


def latex(text: str) -> str:
    """Text for LaTeX."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


# ---- tables -------------------------------------------------------------------------------------------------------


def _table(
    columns: str, head: list[str], body: list[list[str]], foot: list[list[str]], caption: str, label: str
) -> str:
    lines = [" & ".join(row) + r" \\" for row in body]
    rest = [r"\midrule", *(" & ".join(row) + r" \\" for row in foot)] if foot else []
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *lines,
            *rest,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _leaderboard(rows: list[Row], datasets: list[DataSet]) -> str:
    by = {(row.dataset, row.method): row for row in rows}
    body = []
    for method in sorted({row.method for row in rows}):
        cells = [by.get((data.name, method)) for data in datasets]
        body.append([latex(method), *(_cell(row, rows) for row in cells)])
    foot = [["strongest statistic without learning", *(_strongest(data) for data in datasets)]]
    heads = [latex(data.name) + (" (phantom)" if data.phantom else "") for data in datasets]
    made = any(data.phantom for data in datasets)
    phantom = " Phantoms are generated data and say nothing about real images." if made else ""
    caption = (
        f"{latex(heading(PRIMARY))}: mean over seeds and 95\\,\\% bootstrap interval. Bold: better than every other "
        "method (DeLong's test, Holm-corrected). \\dag: not shown to beat the strongest statistic without learning. "
        f"\\ddag: the same for every seed. --: no result.{phantom}"
    )
    return _table("l" * (1 + len(datasets)), ["method", *heads], body, foot, caption, "leaderboard")


def _cell(row: Row | None, rows: list[Row]) -> str:
    if row is None or not row.seeds or np.isnan(row.means[PRIMARY]):
        return "--"
    figure = f"{row.means[PRIMARY]:.3f}"
    figure = rf"\textbf{{{figure}}}" if is_shown_best(row, rows) else figure
    return f"{figure}{latex(marks(row).strip())} [{row.interval.low:.3f}, {row.interval.high:.3f}]"


def _strongest(data: DataSet) -> str:
    if not data.shortcuts:
        return "--"
    return f"{data.shortcuts[0].auroc:.3f} ({latex(STATISTICS[data.shortcuts[0].name])})"


def _level_table(here: list[Row], rows: list[Row], data: DataSet, level: str) -> str:
    metrics = [name for name in shown(here) if name in TABLE and TABLE[name].level == level]
    if not metrics:
        return ""
    body = [[latex(row.method), *(_figure(row, metric, rows) for metric in metrics)] for row in here]
    foot = []
    for one in data.references:
        values = [one.values.get(metric, np.nan) for metric in metrics]
        if not all(np.isnan(values)):
            texts = ["" if np.isnan(v) else f"{v:.{digits(m)}f}" for m, v in zip(metrics, values, strict=True)]
            foot.append([latex(one.told), *texts])
    phantom = " PHANTOM: generated data." if data.phantom else ""
    caption = (
        f"{latex(data.name)}: {level} metrics, mean $\\pm$ standard deviation over seeds. Below the line: "
        f"what needs no learning.{phantom}"
    )
    return _table(
        "l" + "r" * len(metrics),
        ["method", *(latex(heading(metric)) for metric in metrics)],
        body,
        foot,
        caption,
        f"{data.name}-{level}",
    )


def _decision_table(data: DataSet, decisions: Mapping[str, Decided]) -> str:
    body = []
    for method, one in decisions.items():
        if not one.seeds:
            body.append([latex(method), *["--"] * 4])
            continue
        rates = [_bounded(one.mean(name)) for name in ("sensitivity", "specificity")]
        body.append([latex(method), str(one.seeds[0].calibration), *rates, latex(one.alarms_text())])
    level = next(one.seeds[0].level for one in decisions.values() if one.seeds)
    caption = (
        f"{latex(data.name)}: by case at thresholds calibrated on held-out healthy cases, level {level:g}; exact "
        "95\\,\\% intervals, means over seeds. Behind the false alarms the number to be expected (99\\,\\%)."
    ) + (" PHANTOM: generated data." if data.phantom else "")
    heads = ["method", "calibration cases", "sensitivity", "specificity", "healthy cases flagged"]
    return _table("lrrrl", heads, body, [], caption, f"{data.name}-decision")


def _bounded(one: Interval) -> str:
    return "--" if np.isnan(one.value) else f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _figure(row: Row, metric: str, rows: list[Row]) -> str:
    mean, deviation = row.means[metric], row.deviations[metric]
    if np.isnan(mean):
        return "--"
    text = f"{mean:.{digits(metric)}f}"
    text = rf"\textbf{{{text}}}" if metric == PRIMARY and is_shown_best(row, rows) else text
    return text + ("" if np.isnan(deviation) else f" $\\pm$ {deviation:.{digits(metric)}f}")


# ---- references ---------------------------------------------------------------------------------------------------


def _references(settings: list[Setting]) -> str:
    entries = {}
    for setting in settings:
        if paper := _paper_of(setting.class_path):
            note = f"{paper['venue']}"
            entries[_key(setting.class_path)] = _entry(
                _key(setting.class_path), paper["title"], note, str(paper["year"]), paper["url"]
            )
        if (card := _card_of(setting.data_class)) is not None and card.access != "-":
            title = f"{card.title[:1].upper()}{card.title[1:]}"
            entries[f"data:{card.name}"] = _entry(f"data:{card.name}", title, f"Data set: {card.access}", "", "")
    return "\n".join(entries[key] for key in sorted(entries))


def _entry(key: str, title: str, venue: str, year: str, url: str) -> str:
    fields = {"title": f"{{{latex(title)}}}", "howpublished": latex(venue), "year": year, "url": url}
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@misc{{{key},\n{body}\n}}\n"


def _key(class_path: str) -> str:
    parts = class_path.split(".")
    return parts[-2] if len(parts) > 1 else class_path


def _paper_of(class_path: str) -> dict[str, Any] | None:
    from zoo.registry import methods

    return next((method.reference for method in methods().values() if method.class_path == class_path), None)


def _card_of(class_path: str) -> Any:
    from datamodules.registry import data_sets

    name = class_path.rpartition(".")[2]
    return next((card for card in data_sets().values() if card.class_name == name), None)


# ---- words --------------------------------------------------------------------------------------------------------


def methods_paragraph(rows: list[Row], results: list[Result], datasets: list[DataSet], settings: list[Setting]) -> str:
    """What was done, from the settings of the cells, in LaTeX."""
    classes = {setting.method: setting.class_path for setting in settings}
    named = [
        latex(method) + (rf"~\cite{{{_key(classes[method])}}}" if _paper_of(classes.get(method, "")) else "")
        for method in sorted({row.method for row in rows if row.seeds})
    ]
    seeds = sorted({result.seed for result in results})
    others = sorted({latex(row.method) for row in rows if row.method.endswith(SEMI_SUPERVISED)})
    sizes = sorted({_size(setting.image_size) for setting in settings if setting.image_size is not None})
    batches = sorted({setting.batch_size for setting in settings if setting.batch_size})
    parts = [
        f"We compared {listed(named)} on {listed([_data_text(data, settings) for data in datasets])}.",
        "All methods learned from healthy images only"
        + (f", but {listed(others)} also saw images of unknown health." if others else "."),
        f"Images were resized to {listed(sizes)} pixels." if sizes else "",
        f"Budget: {latex(budget_text(settings))}." if settings else "",
        f"Batches held {listed([str(size) for size in batches])} images." if batches else "",
        f"Figures are means over {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}.",
        f"Intervals are 95\\,\\% percentile bootstraps with {RESAMPLES} resamples, stratified by class, by case: "
        "the patient where known, else the volume, else the image.",
        "On every data set the AUROC of each method was compared with the highest by DeLong's paired test on ranks "
        "averaged over seeds, with Holm's correction.",
        "As a control, statistics that need no learning (brightness, contrast, filled area, sharpness, noise, "
        "position, file properties, distance to the nearest training image) were evaluated on the same test "
        "sets, the strongest chosen in its own favour; each lead over it has a paired bootstrap interval.",
        *(_copies_text(data) for data in datasets if data.copies),
        "Phantoms are generated data and say nothing about real images." if any(d.phantom for d in datasets) else "",
        _software(results),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _data_text(data: DataSet, settings: list[Setting]) -> str:
    card = next((c for s in settings if s.dataset == data.name and (c := _card_of(s.data_class)) is not None), None)
    cited = "" if card is None or card.access == "-" else rf"~\cite{{data:{card.name}}}"
    kind = ", a phantom" if data.phantom else ""
    return f"{latex(data.name)}{cited} ({data.images} test images{of_cases(data)}, {data.anomalous} anomalous{kind})"


def _size(size: Any) -> str:
    sides = [size, size] if isinstance(size, int) else list(size)
    return r" $\times$ ".join(str(side) for side in sides)


def _copies_text(data: DataSet) -> str:
    return (
        f"On {latex(data.name)}, {len(data.copies or {})} test images resemble a training image (correlation of "
        "thumbnails); results without them are reported too."
    )


def _software(results: list[Result]) -> str:
    versions: dict[str, set[str]] = {}
    devices = sorted({str(result.content.get("device")) for result in results if result.content.get("device")})
    for result in results:
        found = result.content.get("versions")
        for package, version in found.items() if isinstance(found, dict) else ():
            versions.setdefault(str(package), set()).add(str(version))
    told = ", ".join(f"{latex(name)} {latex('/'.join(sorted(versions[name])))}" for name in sorted(versions))
    return f"Software: {told}." + (f" Hardware: {latex(', '.join(devices))}." if devices else "") if told else ""


def _checklist(
    name: str, rows: list[Row], datasets: list[DataSet], decisions: Mapping[str, Mapping[str, Decided]]
) -> str:
    """Topics of CLAIM and Metrics Reloaded, and what of them the run answers."""
    patients = all(data.patients for data in datasets)
    known = "yes" if patients else "partly: not known for every data set; volumes or images count as independent there"
    levels = "image and pixel" if any("pixel" in data.units for data in datasets) else "image"
    compared = sum(row.seeds > 0 for row in rows) > 1
    topics = {
        "Data: number of cases, prevalence": "yes: methods.tex, captions",
        "Data: source, eligibility, ethics, de-identification": "no: state it",
        "Data: patients": known,
        "Data: training and test do not share images": _copies_told(datasets),
        "Reference standard: who annotated, how": "no: state it",
        "Model: architecture, initialisation, settings": "yes: config.yaml of every cell, references.bib",
        "Training: budget, seeds": "yes: methods.tex",
        "Evaluation: metrics that suit the task": f"yes: {levels} level; add those that your task needs",
        "Evaluation: chance level beside metrics that depend on prevalence": "yes: foot of the tables",
        "Evaluation: uncertainty": f"yes: bootstrap intervals by {'patient' if patients else 'case'}",
        "Evaluation: tests and correction for their number": "yes: DeLong, Holm" if compared else "no: one method",
        "Evaluation: trivial baselines": "yes: statistics and maps without learning",
        "Evaluation: threshold chosen without test labels": _thresholds_told(decisions),
        "Evaluation: external data": "say whether any test set comes from another site",
        "Failures": "yes: stated in the tables" if any(row.missing for row in rows) else "none",
        "Code, versions, configuration": "yes: metrics.json of every cell",
    }
    lines = [f"# What the run answers: {name}", "", "Topics after CLAIM and Metrics Reloaded.", ""]
    lines += ["| topic | answered |", "|---|---|", *(f"| {topic} | {answer} |" for topic, answer in topics.items())]
    if any(data.phantom for data in datasets):
        lines += ["", "Phantoms are generated data: nothing here holds for real images."]
    return "\n".join(lines) + "\n"


def _thresholds_told(decisions: Mapping[str, Mapping[str, Decided]]) -> str:
    found = [bool(one.seeds) for here in decisions.values() for one in here.values()]
    if not any(found):
        return "no: `best_*` are upper bounds; `zoo calibrate` gives one"
    part = "" if all(found) else f" for {sum(found)} of {len(found)} methods and data sets"
    return f"yes{part}: calibrated on held-out healthy cases, sensitivity and specificity by case with exact intervals"


def _copies_told(datasets: list[DataSet]) -> str:
    if any(data.copies is None for data in datasets):
        return "partly: not looked for on every data set"
    total = ", ".join(f"{len(data.copies)} on {data.name}" for data in datasets if data.copies)
    return f"near-copies found: {total}; results without them are given" if total else "yes: no near-copies found"
