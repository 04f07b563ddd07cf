"""``report.html`` of one run: metrics, the decision, curves, panels; from the same parts as a benchmark's page."""

import base64
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import charts
from benchmarks.door import panel_bytes, plain_line, problem_of_content, problem_of_files, read_json
from benchmarks.results import read_scores
from zoo.errors import UserError
from zoo.files import write_text
from zoo.metrics.curves import precision_curve, roc_curve
from zoo.metrics.table import TABLE, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ASSETS = Path(__file__).parent / "page"


def write_run_page(run: Path, out: Path) -> Path:
    """Write the page of a tested run.

    Args:
        run: folder with ``metrics.json`` and ``scores.csv``, of the run or of one of its later tests.
        out: folder of the page.

    Returns:
        Path: of ``report.html``.

    Raises:
        UserError: not tested, or files that cannot be read.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

    content, scores, labels = _read(run)
    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals["heading"] = lambda metric: heading(metric) if metric in TABLE else metric
    template = environment.get_template("run.html.j2")
    shown = {key: value for key, value in content.items() if key not in ("metrics", "decision")}

    def page(decision: Any) -> str:
        return template.render(
            name=f"{content.get('method', run.name)} on {content.get('dataset', 'its data')}",
            style=(_ASSETS / "style.css").read_text(encoding="utf-8"),
            run={"phantom": bool(content.get("phantom"))},
            metrics=sorted(content["metrics"].items()),
            decision=decision,
            charts=[chart.svg() for chart in _charts(decision, scores, labels)],
            panels=_panels(run),
            provenance=json.dumps(shown, indent=1),
            config=_config(run),
        )

    try:
        text = page(content.get("decision") or {"warnings": []})
    except (UndefinedError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        told = plain_line(f"The decision in metrics.json is damaged and left out ({type(error).__name__}: {error}).")
        text = page({"warnings": [told]})
    path = out / "report.html"
    write_text(path, text)
    return path


def _read(run: Path) -> tuple[dict[str, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    for name in ("metrics.json", "scores.csv"):
        if not (run / name).is_file():
            raise UserError(f"{run}: not tested yet (no {name}); lightning test --run {run}")
    content = read_json(run / "metrics.json")
    problem = problem_of_files(run) or problem_of_content(content)
    try:
        scores = read_scores(run / "scores.csv") if problem is None else {}
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        problem = f"scores.csv is damaged ({plain_line(error, 100)})"
    if problem is not None:
        raise UserError(f"{run}: {problem}; test again")
    return content, scores["score"], scores["label"].astype(int)


def _config(run: Path) -> str:
    """The configuration as it stands there; of a later test the run's."""
    for folder in (run, run.parent):
        if (folder / "config.yaml").is_file() and problem_of_files(folder) is None:
            return (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    return ""


def _charts(decision: dict[str, Any], scores: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> list[charts.Chart]:
    looks, grid, legend = charts.looks(["this run"]), np.linspace(0, 1, 201), {"this run": "this run"}
    found = [charts.distribution("scores", "Scores of images", scores, labels)]
    if len(set(labels.tolist())) > 1:
        share = float(labels.mean())
        for name, title, axes, curve, chance in (
            ("roc", "ROC of images", ("false-positive rate", "sensitivity"), roc_curve, None),
            ("pr", "Precision and recall of images", ("recall", "precision"), precision_curve, share),
        ):
            series = {"this run": curve(scores, labels, grid)[None]}
            found.append(charts.curves(name, title, axes, series, looks, legend=legend, chance=chance))
    if decision.get("qq"):
        found.append(_qq(decision["qq"]))
    if decision.get("froc"):
        found.append(_froc(decision["froc"]))
    if decision.get("net_benefit"):
        found.append(_net_benefit(decision["net_benefit"], decision["prevalence"]))
    return found


def _qq(content: dict[str, Any]) -> charts.Chart:
    """Shares of healthy cases at or below a p-value, with the band that one calibration allows."""
    levels = content["levels"]
    x = [row["level"] for row in levels]

    def draw(axes: "Axes") -> None:
        low, high = ([row["band"][side] for row in levels] for side in (0, 1))
        axes.fill_between(x, low, high, alpha=0.2, label="95 % range of one calibration")
        axes.plot(x, [row["share"] for row in levels], "o-", label=f"{content['healthy']} healthy cases")
        axes.plot((0, 1), (0, 1), linewidth=0.8, linestyle=(0, (2, 2)), label="nominal")
        axes.set(
            xlabel="p at most", ylabel="share of healthy cases", title="Healthy p-values", xlim=(0, 1), ylim=(0, 1)
        )
        axes.legend(loc="best")

    return charts.Chart("qq", "share of healthy test cases by p-value", (4.2, 3.3), draw)


def _froc(content: dict[str, Any]) -> charts.Chart:
    def draw(axes: "Axes") -> None:
        for key, told in (("sensitivity", "all cases"), ("at_rates_on_healthy_cases", "healthy cases alone")):
            values = [np.nan if one is None else one for one in content[key]]
            if not np.isnan(values).all():
                axes.plot(content["rates"], values, "o-", label=told)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="false positives a case", ylabel="lesions found", title="FROC (any overlap)", ylim=(0, 1.01))
        axes.legend(loc="best")

    return charts.Chart("froc", "lesions found against false positives a case", (4.2, 3.3), draw)


def _net_benefit(rows: list[dict[str, float]], prevalence: float) -> charts.Chart:
    def draw(axes: "Axes") -> None:
        x = [row["threshold"] for row in rows]
        axes.plot(x, [row["rule"] for row in rows], "o-", label="the rule")
        axes.plot(x, [row["all"] for row in rows], label="flag all")
        axes.axhline(0, linewidth=0.8, label="flag none")
        axes.set(
            xlabel="least share of true alarms that one would act on",
            ylabel="net benefit",
            title=f"Decision curve at prevalence {prevalence:g}",
            ylim=(-0.05, max(0.05, 1.1 * prevalence)),
        )
        axes.legend(loc="best")

    return charts.Chart("net_benefit", "net benefit of the rule", (4.2, 3.3), draw)


def _panels(run: Path) -> list[tuple[str, str]]:
    found = []
    for path in sorted((run / "panels").glob("*.png"), reverse=True)[:4]:
        content = panel_bytes(path, run)
        if content is None:
            continue
        data = base64.b64encode(content).decode()
        found.append((path.stem.replace("_", " "), f"data:image/png;base64,{data}"))
    return found
