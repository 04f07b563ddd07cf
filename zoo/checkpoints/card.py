"""Model cards: what a shared model is, was trained on and achieved, and under which licences its parts are."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.metrics.functional import auroc, average_precision
from zoo.metrics.statistics import bootstrap_interval

if TYPE_CHECKING:
    from zoo.module import AnomalyModule

# what the original authors publish under; none of them gives the weights a licence apart from the code's
LICENCES = {
    "mae": ("cc-by-nc-4.0", "github.com/facebookresearch/mae: code and weights CC BY-NC 4.0"),
    "fae": ("mit", "github.com/FeliMe/feature-autoencoder: code MIT"),
    "many_tasks": ("mit", "github.com/matt-baugh/many-tasks-make-light-work: code MIT"),
}
_BOOTSTRAPPED = {"image_auroc": auroc, "image_ap": average_precision}


def model_card(
    model: "AnomalyModule",
    run: Path | None,
    *,
    repository: str = "OWNER/NAME",
    licence: str | None = None,
    origin: Mapping[str, Any] | None = None,
) -> str:
    """Model card with method, paper, data, metrics with intervals, intended use and licences.

    Args:
        model: trained.
        run: the run's folder, whose ``metrics.json`` and ``scores.csv`` are read; None: no results are known.
        repository: OWNER/NAME on the hub, for the example.
        licence: of the weights, an identifier of the hub (cc-by-4.0); None: the imported file's, or unknown.
        origin: the checkpoint's note on the file that it was imported from.

    Returns:
        Markdown with the hub's header.
    """
    method, content = model.method(), _results(run)
    paper = method.reference
    imported = LICENCES.get(str((origin or {}).get("format")))
    licence = licence or (imported[0] if imported else "unknown")
    tags = ["anomaly-detection", "medical-imaging", *(["phantom-data"] if content.get("phantom") else [])]
    lines = ["---", "library_name: uad-zoo", f"tags: [{', '.join(tags)}]", f"license: {licence}", "---", ""]
    lines += [f"# {method.name}: {method.summary}", ""]
    lines += [f"Paper: [{paper['title']}]({paper['url']}), {paper['venue']} {paper['year']}.", ""]
    lines += [f"Images: {model.in_channels} channels, {' x '.join(map(str, model.image_size))} pixels.", ""]
    lines += ["## Results", "", *_metrics(content, run), ""]
    lines += ["## Licences", "", f"Weights: {licence}.", *_origins(model, origin), ""]
    lines += ["## Intended use", "", "Research on anomaly detection. Not a medical device; not for diagnosis.", ""]
    lines += ["```python", "import zoo", "", f'model = zoo.load_pretrained("hf://{repository}")']
    return "\n".join([*lines, "prediction = model(images)  # (B, C, H, W) float32 in the data's range", "```", ""])


def _results(run: Path | None) -> dict[str, Any]:
    path = None if run is None else run / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}


def _metrics(content: Mapping[str, Any], run: Path | None) -> list[str]:
    if not content or run is None:
        return ["No test results are known."]
    kind = "**PHANTOM data** (generated; no statement on real images)" if content.get("phantom") else "the data set"
    intervals = _intervals(run) | content.get("certified_intervals", {})
    lines = [f"Trained and tested on {kind} `{content.get('dataset')}`, seed {content.get('seed')}.", ""]
    lines += ["| metric | value | interval |", "|---|---|---|"]
    for name, value in content["metrics"].items():
        if value is not None:
            low, high = intervals.get(name, (None, None))
            shown = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
            lines.append(f"| {name} | {value:.4f} | {shown} |")
    if any(name in intervals for name in _BOOTSTRAPPED):
        lines += ["", "Intervals of image metrics: 95 %, stratified bootstrap over the test cases (patients if known)."]
    return lines


def _intervals(run: Path) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of the metrics that follow from the scores of the images alone."""
    path = run / "scores.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    scores = np.array([float(row["score"]) for row in rows])
    labels = np.array([int(float(row["label"])) for row in rows])
    subjects = [row.get("subject") or row["id"] for row in rows]
    found = {
        name: bootstrap_interval(scores, labels, metric, groups=subjects) for name, metric in _BOOTSTRAPPED.items()
    }
    return {name: (one.low, one.high) for name, one in found.items() if not np.isnan(one.low)}


def _origins(model: "AnomalyModule", origin: Mapping[str, Any] | None) -> list[str]:
    lines = []
    if origin:
        known = LICENCES.get(str(origin.get("format")), ("", "licence not known"))[1]
        lines += ["", f"Imported from `{origin.get('file')}` (format {origin.get('format')}; {known})."]
    backbone, weights = model.hparams.get("backbone"), model.hparams.get("weights")
    if backbone and weights == "imagenet":
        import timm

        config: Any = timm.get_pretrained_cfg(backbone)
        licence = (config.license if config is not None else None) or "not stated"
        where = config.hf_hub_id or config.url if config is not None else backbone
        lines += ["", f"Backbone: {where}, ImageNet weights, licence as timm states it: {licence}."]
    elif backbone and weights not in (None, "random"):
        lines += ["", f"Backbone: {backbone}, filled from `{Path(str(weights)).name}`, licence not known."]
    return lines
