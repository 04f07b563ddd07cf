"""Which test images the report shows, and how: every method's map of the same image side by side."""

import base64
import io
import zipfile
import zlib
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.results import Result

Array = NDArray[Any]
_WHY = {
    "best": "seen best by all methods together",
    "worst": "seen worst by all methods together",
    "disagreement": "methods differ most",
    "by name": "chosen by a hash of the name, whatever the result",
}


class Case(NamedTuple):
    """A test image and what the methods make of it.

    Attributes:
        name: its id.
        label: 1 = anomalous.
        why: ``best``, ``worst``, ``disagreement`` or ``by name`` (hash of the name, whatever the result).
        places: method -> share of the test set that scores lower, ties counted half.
    """

    name: str
    label: int
    why: str
    places: dict[str, float]


def choose_cases(cells: dict[str, Result], names: Array, count: int = 2, by_name: int = 4) -> list[Case]:
    """Choose cases among the images that all cells have kept.

    An anomalous image is seen well by a method that scores most of the test set lower, a healthy one by a method that
    scores it higher. ``best`` and ``worst`` have the highest and lowest mean over methods, ``disagreement`` the largest
    difference between two methods. Equal ones are ordered by name.

    Args:
        cells: a cell of each method, on the same test set.
        names: ids of the kept images in the order of their hashes, anomalous first.
        count: cases of each kind.
        by_name: further cases by hash alone, half of them anomalous.

    Returns:
        list: without repetition.
    """
    label = {}
    places: dict[str, dict[str, float]] = {str(name): {} for name in names}
    for method, cell in cells.items():
        ranks = (stats.rankdata(cell.scores["score"]) - 0.5) / len(cell.scores["score"])
        for name, kind, place in zip(cell.scores["id"], cell.scores["label"], ranks, strict=True):
            if name in places:
                places[name][method], label[str(name)] = float(place), int(kind)
    known = sorted(name for name, by_method in places.items() if len(by_method) == len(cells))
    seen = {name: [p if label[name] else 1 - p for p in places[name].values()] for name in known}
    mean = {name: round(float(np.mean(values)), 9) for name, values in seen.items()}
    spread = {name: round(max(values) - min(values), 9) for name, values in seen.items()}
    orders = {
        "best": sorted(known, key=lambda name: (-mean[name], name)),
        "worst": sorted(known, key=lambda name: (mean[name], name)),
        "disagreement": sorted(known, key=lambda name: (-spread[name], name)) if len(cells) > 1 else [],
    }
    chosen: dict[str, str] = {}
    for why, order in orders.items():
        fresh = [name for name in order if name not in chosen]
        chosen |= dict.fromkeys(fresh[:count], why)
    for kind in (1, 0):
        fresh = [str(name) for name in names if str(name) not in chosen and label.get(str(name)) == kind]
        chosen |= dict.fromkeys(fresh[: by_name // 2], "by name")
    return [Case(name, label[name], why, places[name]) for name, why in chosen.items()]


def gallery_html(by_method: list[tuple[str, list[Result]]]) -> str:
    """Cases of a data set under every method (first seed), side by side, as HTML."""
    cells = {name: group[0] for name, group in by_method if (group[0].folder / "gallery.npz").is_file()}
    kept = {name: pictures for name, cell in cells.items() if (pictures := _pictures(cell.folder))}
    if not kept:
        return "<p>no pictures</p>"
    first = next(iter(kept.values()))
    parts = [
        f"<p>Cases are chosen among {len(first)} test images that a hash of their names picked before any result. The "
        "figure under a map is the share of the test set that the method (first seed) scores lower. Every map has its "
        "own scale of colours.</p>"
    ]
    heading = ""
    for case in choose_cases({name: cells[name] for name in kept}, np.array(list(first))):
        if case.why != heading:
            heading = case.why
            parts.append(f"<h4>{_WHY[heading]}</h4>")
        parts.append(_case(case, kept))
    return "".join(parts)


def _pictures(folder: Path) -> dict[str, dict[str, Array]]:
    """The kept pictures by id; empty if the file is damaged."""
    try:
        with np.load(folder / "gallery.npz") as arrays:
            return {
                str(name): {k: arrays[f"{n}_{k}"] for k in ("input", "truth", "map") if f"{n}_{k}" in arrays}
                for n, name in enumerate(arrays["names"])
            }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return {}


def _case(case: Case, kept: dict[str, dict[str, dict[str, Array]]]) -> str:
    own = next(iter(kept.values()))[case.name]
    kind = "anomalous" if case.label else "healthy"
    figures = [_figure(own["input"], "input", "gray")]
    if "truth" in own:
        figures.append(_figure(own["truth"], "ground truth", "gray"))
    for method, pictures in kept.items():
        caption = f"{method} {case.places[method]:.0%}"
        if "map" in pictures.get(case.name, {}):
            figures.append(_figure(pictures[case.name]["map"], caption, "map"))
        else:
            figures.append(f"<figure><figcaption>{escape(caption)} (no map)</figcaption></figure>")
    name = f"{escape(case.name)} ({kind})"
    return (
        f'<p class="name">{name}</p>'
        f'<div class="case" tabindex="0" role="group" aria-label="{name}">{"".join(figures)}</div>'
    )


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
