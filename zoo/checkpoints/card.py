"""Model cards: what a shared model is, was trained on and achieved, and under which licences its parts are."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.marks import LICENCES, Marks

if TYPE_CHECKING:
    from zoo.module import AnomalyModule

_PHANTOM = "**PHANTOM data** (generated; no statement on real images)"


def model_card(model: "AnomalyModule", *, repository: str | None = None, use: str = "") -> str:
    """Model card from what the weights carry (:attr:`~zoo.module.AnomalyModule.marks`, calibration).

    Args:
        model: trained.
        repository: OWNER/NAME on the hub, for the example; None: the folder is loaded.
        use: code that replaces the example of loading, for files without this package.

    Returns:
        Markdown with the hub's header: data, results with intervals, calibration, limits, licences, citation.
    """
    method, marks = model.method(), model.marks
    phantom = _phantom(marks)
    tags = ["anomaly-detection", "medical-imaging", *(["phantom-data"] if phantom else [])]
    lines = ["---", "library_name: uad-zoo", f"tags: [{', '.join(tags)}]"]
    lines += [f"license: {marks.licence or 'unknown'}", "---", ""]
    lines += [f"# {method.name}: {method.summary}", ""]
    paper = method.reference
    if paper:
        lines += [f"Paper: [{paper['title']}]({paper['url']}), {paper['venue']} {paper['year']}.", ""]
    low, high = (float(bound) for bound in model.hparams.get("value_range") or (0.0, 1.0))
    lines += [
        f"Images: {model.in_channels} channels, {' x '.join(map(str, model.image_size))} pixels, values of the data in "
        f"[{low:g}, {high:g}].",
        "",
    ]
    lines += ["## Training data", "", *_trained_on(marks), ""]
    lines += ["## Results", "", *_results(marks), ""]
    lines += ["## Calibration", "", _calibration(model), ""]
    lines += ["## Limits", "", *(f"- {limit}" for limit in _limits(model, phantom)), ""]
    lines += ["## Licences", "", f"Weights: {marks.licence or 'unknown'}.", *_licences(model), ""]
    lines += ["## Intended use", "", "Research on anomaly detection. Not a medical device; not for diagnosis.", ""]
    source = f"hf://{repository}" if repository else "FOLDER"
    example = ["import zoo", "", f'model = zoo.load_pretrained("{source}")']
    example += ["prediction = model(images)  # (B, C, H, W) float32 in the data's range"]
    lines += ["```python", *(use.splitlines() or example), "```", ""]
    if paper:
        lines += ["## Citation", "", f"{paper['title']}. {paper['venue']} {paper['year']}. {paper['url']}", ""]
    return "\n".join(lines)


def _phantom(marks: Marks) -> bool:
    return marks.phantom or any(one.get("phantom") for one in (*marks.results, *marks.started_from))


def _trained_on(marks: Marks) -> list[str]:
    lines = []
    if marks.dataset:
        kind = f"{_PHANTOM} " if marks.phantom else ""
        licence = f", licence: {marks.data_licence}" if marks.data_licence else ""
        more = ", with unlabelled images (semi-supervised)" if marks.semi_supervised else ""
        lines.append(f"Trained on {kind}`{marks.dataset}`{more}{licence}.")
    if marks.data_fingerprint:
        lines += ["", f"Fingerprint of the data: `{marks.data_fingerprint}`."]
    if marks.origin:
        lines += ["", _imported(marks.origin)]
    for number, start in enumerate(marks.started_from):
        lines += ["", f"{'Training started' if number == 0 else 'That one started'} from {_start(start)}."]
    return lines or ["Not known."]


def _start(start: Mapping[str, Any]) -> str:
    told = f"`{start.get('file') or start.get('dataset') or 'other weights'}`"
    if start.get("dataset"):
        told += f", trained on {_PHANTOM + ' ' if start.get('phantom') else ''}`{start['dataset']}`"
    if start.get("licence"):
        told += f", licence of these weights: {start['licence']}"
    return told


def _imported(origin: Mapping[str, str]) -> str:
    known = LICENCES.get(str(origin.get("format")), ("", "licence not known"))[1]
    return f"Imported from `{origin.get('file')}` (format {origin.get('format')}; {known})."


def _results(marks: Marks) -> list[str]:
    if not marks.results:
        return ["No test results are known."]
    lines = []
    for result in marks.results:
        kind = _PHANTOM if result.get("phantom") else "the data set"
        lines += [f"Tested on {kind} `{result.get('dataset')}`, seed {result.get('seed')}.", ""]
        lines += ["| metric | value | interval |", "|---|---|---|"]
        intervals = result.get("intervals", {})
        for name, value in result.get("metrics", {}).items():
            shown = "{:.4f} to {:.4f}".format(*intervals[name]) if name in intervals else ""
            lines.append(f"| {name} | {value:.4f} | {shown} |")
        lines.append("")
    told = "Intervals of image metrics: 95 %, stratified bootstrap over the test cases (patients if known)."
    return [*lines, told] if any(one.get("intervals") for one in marks.results) else lines[:-1]


def _calibration(model: "AnomalyModule") -> str:
    known = model.calibration
    if known is None:
        return "None: scores are raw, there is no threshold. `zoo calibrate --run RUN --healthy DIR` makes one."
    return known.told()[:1].upper() + known.told()[1:] + f". Digest `{known.digest()}`."


def _limits(model: "AnomalyModule", phantom: bool) -> Iterator[str]:
    if phantom:
        yield "Generated images took part: figures say that the program works, nothing on real images."
    yield "Scores and maps are comparable within this model only; a high value means unlike the training images."
    if model.calibration is not None:
        yield "p-values hold for healthy cases of the same population and scanner as the calibration's, on average."
    else:
        yield "Without a calibration nothing tells how many healthy cases a threshold flags."
    if all(one.get("phantom") for one in model.marks.results):
        yield "Not tested on real images."
    yield "Images of another modality, scanner, size or preprocessing were not tried unless a result above says so."


def _licences(model: "AnomalyModule") -> list[str]:
    lines = []
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
