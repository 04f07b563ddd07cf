"""Which test images the report shows, and how: every method's map of the same image side by side."""

import base64
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.door import gallery_may_be_read
from benchmarks.results import Result

Array = NDArray[Any]
WHY = {
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


class Picture(NamedTuple):
    """A case as the page shows it.

    Attributes:
        case: see there.
        image: data URL of the input.
        outline: SVG path of the ground truth in units of the image; empty without one.
        size: width and height of the image.
        maps: method -> data URL of its map; None where it has none.
        copy_of: training image that it looks like; empty if there is none.
    """

    case: Case
    image: str
    outline: str
    size: tuple[int, int]
    maps: dict[str, str | None]
    copy_of: str


class Gallery(NamedTuple):
    """Cases of a data set.

    Attributes:
        pictures: in the order of the reasons.
        candidates: number of test images among which they were chosen.
        common: methods share a scale: how rare a value is among pixels of healthy images; else each map has its own.
    """

    pictures: list[Picture]
    candidates: int
    common: bool


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


def gallery_of(cells: dict[str, Result], copies: Mapping[str, str]) -> Gallery:
    """Cases of a data set under every method, side by side.

    Args:
        cells: a cell of each method.
        copies: id of a test image -> training image that it looks like.
    """
    kept = {name: found for name, cell in cells.items() if (found := _pictures(cell.folder))}
    if not kept:
        return Gallery([], 0, False)
    first = next(iter(kept.values()))
    names = [name for name in first if name != _SCALE]
    pictures = []
    for case in choose_cases({name: cells[name] for name in kept}, np.array(names)):
        own = first[case.name]
        maps = {
            method: _png(found[case.name]["map"], as_map=True) if "map" in found.get(case.name, {}) else None
            for method, found in kept.items()
        }
        outline = _outline(own["truth"]) if "truth" in own else ""
        height, width = own["input"].shape[:2]
        pictures.append(
            Picture(case, _png(own["input"], as_map=False), outline, (width, height), maps, copies.get(case.name, ""))
        )
    return Gallery(pictures, len(names), all(_SCALE in found for found in kept.values()))


_SCALE = "\0common scale"


def _pictures(folder: Path) -> dict[str, dict[str, Array]]:
    """The kept pictures by id; empty if the file is missing or damaged."""
    if not gallery_may_be_read(folder / "gallery.npz"):
        return {}
    try:
        with np.load(folder / "gallery.npz") as arrays:
            found = {
                str(name): {k: arrays[f"{n}_{k}"] for k in ("input", "truth", "map") if f"{n}_{k}" in arrays}
                for n, name in enumerate(arrays["names"])
            }
            return found | ({_SCALE: {}} if arrays.get("by_healthy_pixels") else {})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return {}


def _outline(truth: Array) -> str:
    """SVG path around the true anomaly, in pixels of the picture."""
    from skimage.measure import find_contours

    parts = []
    for line in find_contours(np.pad(truth > truth.max() / 2, 1).astype(float), 0.5):
        parts.append("M" + "L".join(f"{x - 0.5:.1f} {y - 0.5:.1f}" for y, x in line) + "Z")
    return "".join(parts)


def palette() -> Array:
    """Colours of maps, ``(256, 3)`` uint8."""
    from matplotlib import colormaps

    table: Array = np.rint(255 * colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
    return table


def _png(values: Array, as_map: bool) -> str:
    """A data URL of an 8-bit picture: grey, or in the colours of maps."""
    from PIL import Image

    image = Image.fromarray(values)
    if as_map:
        image = image.convert("P")
        image.putpalette(palette().ravel().tolist())
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
