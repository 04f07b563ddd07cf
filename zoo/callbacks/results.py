"""What ``predict`` leaves behind: tables, overlays, maps on the source's grid, DICOM objects, a worklist."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules import listing
from zoo.callbacks.gathering import Gathering, Row
from zoo.decision import bids, dicom, findings, nifti, overlay
from zoo.decision.calibration import Calibration
from zoo.decision.cases import CaseScore, group, group_by_fold
from zoo.decision.decide import NOT_DECIDED, UNKNOWN_PATIENTS, Decisions, Rule, decide
from zoo.decision.worklist import Entry, page
from zoo.errors import UserError
from zoo.files import OutputNames, stem, suffix, whole, write_rows, write_text
from zoo.metrics.shortcuts import PIXEL_STATISTICS

Array = NDArray[Any]
Format = Literal["png", "nifti", "seg", "pm", "sr", "sc", "html"]
MapForm = Literal["npy", "png", "none"]
_SCORES = ("id", "anomaly_score", "map", "map_min", "map_max", "case", "percentile", "p_value", "decision")
_CASES = (
    *("case", "images", "anomaly_score", "percentile", "p_value", "q_value", "decision", "components"),
    *("largest_component_mm3", "worst_image", "group", "note"),
)
_COMPONENTS = ("case", "component", "image", "p_value", "mass", "size", "size_unit", "x", "y", "z", "space")


@dataclass
class Context:
    """What is known beside scores and maps.

    Attributes:
        folder: new, for all files.
        method: name.
        version: of this package.
        run: name of the run or checkpoint, for messages.
        calibration: of the model, or None.
        rule: of the decisions.
        formats: of the files beside the tables.
        maps: form of the raw maps.
        phantom: the images are generated.
        original: the picture of a source (path, slice) in [0, 1] at the file's resolution, or None where the image was
            cropped or registered.
        members: files of a volume whose source is one of several, such as a DICOM series.
    """

    folder: Path
    method: str
    version: str
    run: str = "this model"
    calibration: Calibration | None = None
    rule: Rule = field(default_factory=Rule)
    formats: Sequence[Format] = ("png", "nifti", "html")
    maps: MapForm = "npy"
    phantom: bool = False
    original: Callable[[str, int], Array | None] = lambda source, number: None
    members: Callable[[str], list[str]] = lambda source: [source]
    warnings: list[str] = field(default_factory=list)
    names: OutputNames = field(default_factory=OutputNames)

    def name_for(self, name: str, folder: str, ending: str) -> Path:
        """A new path below the folder; names that differ in their suffix alone keep it."""
        bare = (Path(name).parent / stem(name)).as_posix()
        return self.names.name(f"{folder}/{bare}", ending, fuller=f"{folder}/{name}")


@dataclass
class _Output:
    """What was found in a volume or image."""

    rows: list[Row]
    components: list[dict[str, Any]]
    thumbnail: Array | None = None
    overlay: str = ""


def write_results(gathered: Gathering, context: Context) -> Decisions:
    """Decide and write everything.

    Args:
        gathered: all images of the call.
        context: see there.

    Returns:
        Decisions: by case, in the order of the cases' names.

    Raises:
        OSError: a file could not be written; the tables of what was scored are.
    """
    how: CaseScore = "max" if context.calibration is None else context.calibration.case_score
    rows = gathered.rows
    cases = group([row.case for row in rows], [row.score for row in rows], how)
    means = np.array([row.statistics for row in rows]).reshape(len(rows), -1)
    statistics = {
        name: [float(means[one, column].mean()) for one in cases.members]
        for column, name in enumerate(PIXEL_STATISTICS)
    }
    decisions = decide(
        context.calibration,
        cases.scores,
        context.rule,
        fold_scores=group_by_fold([row.case for row in rows], [row.fold_scores for row in rows], how),
        images=[len(one) for one in cases.members],
        groups=[rows[one[0]].group for one in cases.members],
        statistics=statistics,
        run=context.run,
    )
    if len(cases.names) > 1 and all(row.case == row.volume for row in rows) and all(row.slice < 0 for row in rows):
        decisions.warnings.append(UNKNOWN_PATIENTS)
    by_case = dict(zip(cases.names, decisions.cases, strict=True))
    scale = _scale(gathered, context)
    images = Counter(row.case for row in rows)
    outputs: dict[str, list[_Output]] = {}
    scores: list[dict[str, Any]] = []
    failure: OSError | None = None
    for name, members in gathered.volumes():
        decision = by_case[members[0].case]
        maps = gathered.stacked(members)
        output = _Output(members, [])
        files = [""] * len(members)
        try:
            files = _raw_maps(gathered, name, members, context)
            if maps is not None and scale is not None:
                level = decisions.level if decision.decision != NOT_DECIDED else None
                labels, found = _find(maps, context, level)
                output.components = _component_rows(name, members, found, maps.shape, context)
                _draw(output, name, maps, labels, scale, decision, gathered, context)
                _write_volume(output, name, maps, labels, found, scale, decision, context)
        except OSError as error:  # a full disk: the tables are small, and hold what took the time
            failure = failure or error
        outputs.setdefault(members[0].case, []).append(output)
        for row, file in zip(members, files, strict=True):
            scores.append(_score_row(row, gathered.map(row), file, decision if images[row.case] == 1 else None))
    order = {row.name: place for place, row in enumerate(rows)}
    scores.sort(key=lambda line: order[line["id"]])
    decisions.warnings += context.warnings
    _write_tables(cases, decisions, outputs, scores, rows, context)
    if failure is not None:
        raise failure
    return decisions


def _find(maps: Array, context: Context, level: float | None) -> tuple[Array, list[findings.Component]]:
    known = None if context.calibration is None else context.calibration.maps
    if known is None or level is None or not np.isfinite(maps).any():
        return np.zeros(maps.shape, np.int32), []
    return findings.find(maps, known, level=level, rule=context.rule.mask)


def _scale(gathered: Gathering, context: Context) -> list[float] | None:
    """Quantiles of healthy pixels, or of this call's where there is no calibration."""
    if not any(row.place >= 0 for row in gathered.rows):
        return None
    if context.calibration is not None and context.calibration.maps is not None:
        return context.calibration.maps.quantiles
    step = max(1, -(-len(gathered.rows) // 200))
    samples = [
        found[np.isfinite(found)] for row in gathered.rows[::step] if (found := gathered.masked_map(row)) is not None
    ]
    pooled = np.concatenate([one[:: max(1, one.size // 20_000)] for one in samples])
    return np.quantile(pooled, np.linspace(0, 1, findings.POINTS)).tolist() if pooled.size else None


# ---- one volume or image --------------------------------------------------------------------------------------------


def _raw_maps(gathered: Gathering, name: str, members: list[Row], context: Context) -> list[str]:
    """Write the raw maps; their paths below the folder, one an image."""
    if context.maps == "none" or members[0].place < 0:
        return [""] * len(members)
    if _as_nifti(members):
        path = context.name_for(name, "maps", ".nii.gz")
        maps = [found for row in members if (found := gathered.map(row)) is not None]
        stacked = np.stack(maps) if members[0].slice >= 0 else maps[0]
        values = _on_file(stacked, members, outside=float(stacked.min()))
        finite = float(values.max(initial=0.0))
        nifti.write_like(
            members[0].source,
            values,
            context.folder / path,
            name="anomaly map",
            method=context.method,
            largest=finite,
        )
        return [path.as_posix()] * len(members)
    files = []
    for row in members:
        found = gathered.map(row)
        assert found is not None
        files.append(_write_map(context, row.name, found))
    return files


def _write_map(context: Context, name: str, found: Array) -> str:
    ending = ".png" if context.maps == "png" and found.ndim == 2 else ".npy"
    path = context.folder / context.names.name(f"maps/{name}", ending)
    if ending == ".png":
        from PIL import Image

        low, high = float(found.min()), float(found.max())
        grey = np.rint((found - low) / max(high - low, 1e-30) * 65535).astype(np.uint16)
        with whole(path) as partial:
            Image.fromarray(grey).save(partial)
    else:
        with whole(path) as partial:
            np.save(partial, found)
    return path.relative_to(context.folder).as_posix()


def _as_nifti(members: list[Row]) -> bool:
    return members[0].to_file is not None and suffix(members[0].source) in (".nii", ".nii.gz")


def _is_dicom(members: list[Row]) -> bool:
    return listing.kind(members[0].source) in (".dcm", ".dicom")


def _on_file(values: Array, members: list[Row], outside: float = 0.0) -> Array:
    """A map ``(D, h, w)`` on the grid ``(X, Y, Z)`` of its NIfTI file; whole numbers are not interpolated."""
    shape, first = nifti.shape_of(members[0].source), members[0].to_file
    assert first is not None
    if members[0].slice < 0:
        return nifti.on_grid(values, first, shape, outside)
    numbers = [row.slice for row in members]
    dense = np.full((numbers[-1] - numbers[0] + 1, *values.shape[1:]), outside, values.dtype)
    dense[np.array(numbers) - numbers[0]] = values
    start = np.eye(4)
    start[0, 3] = numbers[0]
    return nifti.on_grid(dense, first @ start, shape, outside)


def _nearest(labels: Array, size: Sequence[int]) -> Array:
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(size, labels.shape, strict=True)
    )
    found: Array = labels[rows[:, None], columns[None]]
    return found


def _component_rows(
    name: str, members: list[Row], found: Sequence[findings.Component], shape: tuple[int, ...], context: Context
) -> list[dict[str, Any]]:
    rows = []
    headers = _headers(members, context) if found and _is_dicom(members) else None
    for one in found:
        index = one.centre if len(one.centre) == len(shape) else (0.0, *one.centre)
        number = round(index[0]) if len(shape) == 3 and members[0].slice >= 0 else 0
        size, unit, place, space = _geometry(one, index, shape, members, headers, context)
        rows.append(
            {
                "case": members[0].case,
                "component": one.number,
                "image": members[min(number, len(members) - 1)].name,
                "p_value": one.p_value,
                "mass": f"{one.mass:.6g}",
                "size": f"{size:.4g}",
                "size_unit": unit,
                **{axis: f"{value:.4g}" for axis, value in zip("xyz", place, strict=False)},
                "space": space,
            }
        )
        rows[-1] = dict.fromkeys(_COMPONENTS, "") | rows[-1]
    return rows


def _geometry(
    one: findings.Component,
    index: tuple[float, ...],
    shape: tuple[int, ...],
    members: list[Row],
    headers: Sequence[Any] | None,
    context: Context,
) -> tuple[float, str, tuple[float, ...], str]:
    """Size with its unit and place with its space: mm in RAS (NIfTI) or LPS (DICOM), else pixels of the file."""
    grid = members[0].to_file
    if _as_nifti(members) and grid is not None:
        source, number = members[0].source, index[0]
        if members[0].slice >= 0:
            number = float(np.interp(number, np.arange(len(members)), [row.slice for row in members]))
        x, y, z = (float(axis) for axis in (grid @ [number, *index[1:], 1.0])[:3])
        volume = abs(float(np.linalg.det(grid[:3, :3]))) * nifti.voxel_volume(source)
        return one.pixels * volume, "mm3", nifti.place(source, (x, y, z)), "RAS mm"
    if headers is not None:
        rows, columns = int(headers[0].Rows), int(headers[0].Columns)
        plane = (_to_file(index[-2], shape[-2], rows), _to_file(index[-1], shape[-1], columns))
        place = dicom.place(headers, (*index[:-2], *plane))
        unit = dicom.pixel_size(headers)
        ratio = rows * columns / (shape[-2] * shape[-1])
        size = (one.pixels * ratio * unit[0], unit[1]) if unit is not None else (one.pixels * ratio, "pixels")
        return (*size, *((place, "LPS mm") if place is not None else (plane[::-1], "pixels")))
    first = members[0]
    original = context.original(first.source, first.slice) if first.source else None
    if original is not None and len(shape) == 2:
        plane = (_to_file(index[0], shape[0], original.shape[0]), _to_file(index[1], shape[1], original.shape[1]))
        ratio = original.shape[0] * original.shape[1] / (shape[0] * shape[1])
        return one.pixels * ratio, "pixels", plane[::-1], "pixels"
    return float(one.pixels), "pixels", tuple(reversed(index)), "pixels of the map"


def _to_file(index: float, side: int, file_side: int) -> float:
    return (index + 0.5) * file_side / side - 0.5


def _headers(members: list[Row], context: Context) -> list[Any]:
    return dicom.read_series(context.members(members[0].source))


def _worst(maps: Array, labels: Array) -> int:
    """The slice of a volume with most of the first finding, else with the largest value."""
    counts = (labels == 1).sum((1, 2))
    return int(counts.argmax()) if counts.any() else int(maps.max((1, 2)).argmax())


def _draw(
    output: _Output,
    name: str,
    maps: Array,
    labels: Array,
    scale: Sequence[float],
    decision: Any,
    gathered: Gathering,
    context: Context,
) -> None:
    """Overlay of the image, or of the most unusual slice."""
    if not {"png", "html", "sc"} & set(context.formats):
        return
    members, plane = output.rows, 0
    if maps.ndim == 3:
        plane = _worst(maps, labels)
        maps, labels = maps[plane], labels[plane]
    row = members[plane] if members[0].slice >= 0 else members[0]
    picture = context.original(row.source, row.slice) if row.source else None
    if picture is None:
        picture = gathered.picture(row)
        picture = picture[plane] if picture.ndim == 4 else picture
    pixels = overlay.blend(picture, maps, scale, labels)
    output.thumbnail = pixels
    healthy = context.calibration is not None
    rule = f"{context.rule.rule} rule, level {context.rule.level or 0.05:g}"
    phantom = context.phantom or (context.calibration is not None and context.calibration.phantom)
    lines = overlay.caption(row.name, decision.percentile, decision.p_value, decision.decision, rule, phantom)
    told = "percentile of healthy pixels" if healthy else "percentile of this call's pixels: no calibration"
    drawn = overlay.with_caption(pixels, lines, told)
    if "png" in context.formats:
        from PIL import Image

        relative = context.name_for(name, "overlays", ".png")
        with whole(context.folder / relative) as partial:
            Image.fromarray(drawn).save(partial)
        output.overlay = relative.as_posix()
    if "sc" in context.formats and _is_dicom(members):
        _write_dicom("sc", name, members, None, decision, [], context, picture=drawn)


def _write_volume(
    output: _Output,
    name: str,
    maps: Array,
    labels: Array,
    found: Sequence[findings.Component],
    scale: Sequence[float],
    decision: Any,
    context: Context,
) -> None:
    """Percentile map and mask on the grid of the source."""
    members = output.rows
    known = context.calibration is not None and context.calibration.maps is not None
    if "nifti" in context.formats and known and maps.ndim == 3:
        if _as_nifti(members):
            _write_nifti(name, members, maps, labels, scale, context)
        elif suffix(members[0].source) in (".nii", ".nii.gz"):
            _refuse(context, "NIfTI maps: this data set does not say where its images lie in their files")
    wanted = [kind for kind in ("seg", "sr", "pm") if kind in context.formats]
    if not wanted or not _is_dicom(members):
        return
    if not known:
        _refuse(context, f"DICOM {', '.join(wanted)}: not written without a calibration")
        return
    sizes = [float(row["size"]) for row in output.components]
    unit = output.components[0]["size_unit"] if output.components else "pixels"
    for kind in wanted:
        _write_dicom(kind, name, members, (maps, labels, scale), decision, found, context, sizes=sizes, unit=unit)


def _write_nifti(
    name: str, members: list[Row], maps: Array, labels: Array, scale: Sequence[float], context: Context
) -> None:
    source = members[0].source
    percent = _on_file(findings.pixel_percentiles(maps, scale), members)
    mask = _on_file((labels > 0).astype(np.uint8), members)
    derived = bids.source_of(source)
    for kind, values, largest in (("percentile", percent, 100.0), ("mask", mask, 1.0)):
        if derived is None:
            path = context.name_for(name, "nifti", f"_{kind}.nii.gz")
        else:
            base, fuller = derived.bases[kind]
            path = context.names.name(base, ".nii.gz", fuller=fuller)
        (context.folder / path).parent.mkdir(parents=True, exist_ok=True)
        nifti.write_like(source, values, context.folder / path, name=kind, method=context.method, largest=largest)
        if derived is not None and kind == "mask":
            bids.write_about(context.folder, derived, path, context.version)


def _write_dicom(
    kind: Any,
    name: str,
    members: list[Row],
    arrays: tuple[Array, Array, Sequence[float]] | None,
    decision: Any,
    found: Sequence[findings.Component],
    context: Context,
    *,
    picture: Array | None = None,
    sizes: Sequence[float] = (),
    unit: str = "pixels",
) -> None:
    calibration = context.calibration
    digest = "" if calibration is None else calibration.digest()
    report = dicom.Report(
        context.method,
        context.version,
        digest,
        decision.decision,
        decision.percentile,
        decision.p_value,
        found,
        sizes,
        unit,
    )
    try:
        headers = _headers(members, context)
        labels = percent = None
        if arrays is not None:
            size = (int(headers[0].Rows), int(headers[0].Columns))
            maps, marked = (one[None] if one.ndim == 2 else one for one in arrays[:2])
            if len(maps) != len(headers):
                raise UserError(f"{name}: {len(maps)} slices were scored, the series has {len(headers)}")
            labels = np.stack([_nearest(one, size) for one in marked])
            levels = findings.pixel_percentiles(maps, arrays[2])
            percent = np.stack([overlay.resized(one, size) for one in levels])
        path = context.folder / context.name_for(name, "dicom", f"_{kind}.dcm")
        dicom.write(kind, headers, path, report, labels=labels, percentiles=percent, picture=picture)
    except UserError as error:
        _refuse(context, str(error))


def _refuse(context: Context, message: str) -> None:
    if message not in context.warnings:
        context.warnings.append(message)


# ---- tables ---------------------------------------------------------------------------------------------------------


def _score_row(row: Row, found: Array | None, file: str, decision: Any) -> dict[str, Any]:
    line = dict.fromkeys(_SCORES, "")
    line |= {"id": row.name, "anomaly_score": repr(row.score), "case": row.case, "map": file}
    if found is not None and file:
        line |= {"map_min": repr(float(found.min())), "map_max": repr(float(found.max()))}
    if decision is not None:
        line |= {"decision": decision.decision}
        line |= {"percentile": _figure(decision.percentile), "p_value": _figure(decision.p_value)}
    return line


def _figure(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _write_tables(
    cases: Any,
    decisions: Decisions,
    outputs: dict[str, list[_Output]],
    scores: list[dict[str, Any]],
    rows: list[Row],
    context: Context,
) -> None:
    lines, entries, components = [], [], []
    for place, name in enumerate(cases.names):
        decision, found = decisions.cases[place], outputs[name]
        worst = max((rows[k] for k in cases.members[place]), key=lambda row: row.score)
        parts = [row for output in found for row in output.components]
        volumes = [float(row["size"]) for row in parts if row["size_unit"] == "mm3"]
        shown = next((one for one in found if worst in one.rows), found[0])
        components += parts
        lines.append(
            {
                "case": name,
                "images": len(cases.members[place]),
                "anomaly_score": repr(float(cases.scores[place])),
                "percentile": _figure(decision.percentile),
                "p_value": _figure(decision.p_value),
                "q_value": _figure(decision.q_value),
                "decision": decision.decision,
                "components": len(parts),
                "largest_component_mm3": max(volumes, default=""),
                "worst_image": worst.name,
                "group": worst.group,
                "note": decision.note,
            }
        )
        entries.append(
            Entry(
                name,
                float(cases.scores[place]),
                decision.percentile,
                decision.p_value,
                decision.q_value,
                decision.decision,
                decision.note,
                len(cases.members[place]),
                shown.thumbnail,
                shown.overlay,
                parts,
            )
        )
    write_rows(context.folder / "scores.csv", _SCORES, scores)
    write_rows(context.folder / "cases.csv", _CASES, lines)
    write_rows(context.folder / "components.csv", _COMPONENTS, components)
    summary = decisions.summary(context.calibration, context.rule)
    summary |= {"method": context.method, "version": context.version, "phantom": context.phantom}
    write_text(context.folder / "decision.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    if "html" in context.formats:
        phantom = context.phantom or (context.calibration is not None and context.calibration.phantom)
        text = page(f"Worklist: {context.method}", _facts(decisions, context), decisions.warnings, entries, phantom)
        write_text(context.folder / "predictions.html", text)


def _facts(decisions: Decisions, context: Context) -> list[tuple[str, str]]:
    facts = [("method", f"{context.method} (uad-zoo {context.version})"), ("run", context.run)]
    calibration = context.calibration
    if calibration is None:
        return [*facts, ("calibration", "none: scores are raw")]
    facts.append(("calibration", f"{calibration.told()}, {calibration.date[:10]}, {calibration.digest()}"))
    rule = context.rule
    told = f"{rule.rule}, level {decisions.level:g}"
    if rule.confidence is not None:
        told += f", bounded with confidence {rule.confidence:g}"
    facts.append(("rule", f"{told}; findings by {rule.mask}"))
    summary = decisions.summary(calibration, rule)
    if decisions.rank and rule.rule == "threshold":
        if calibration.members:
            told = f"at most {100 * summary['guaranteed_false_positive_rate']:.3g} % of healthy cases, on average"
        else:
            low, high = summary["realised_false_positive_rate_90_percent_range"]
            rate = summary["expected_false_positive_rate"]
            told = f"{100 * rate:.3g} % of healthy cases expected; 90 % range {100 * low:.2g} to {100 * high:.3g} %"
        facts.append(("false positives", told))
    drift = decisions.drift
    if drift.tested:
        word = "fits these cases" if drift.fits else "does not fit these cases"
        facts.append(("drift", f"{word} (lower scores p = {drift.lower_scores:.2g}, all p = {drift.all_scores:.2g})"))
    return facts
