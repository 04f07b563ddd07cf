"""Which test cases the report shows, and how: every method's map of the same image side by side."""

import base64
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.door import are_pictures, gallery_may_be_read
from benchmarks.results import Result

Array = NDArray[Any]
WHY = {
    "best": "seen best by all methods together",
    "worst": "seen worst by all methods together",
    "disagreement": "methods differ most",
    "by name": "chosen by a hash of the name, whatever the result",
}


class Case(NamedTuple):
    """A test case (a patient, a volume, an image) and what the methods make of it.

    Attributes:
        name: the patient's, the volume's or the image's.
        label: 1 = anomalous.
        why: ``best``, ``worst``, ``disagreement`` or ``by name`` (hash of the name, whatever the result).
        places: method -> share of the test cases that score lower, ties counted half; a case's score is that of its
            most unusual image.
    """

    name: str
    label: int
    why: str
    places: dict[str, float]


class Slide(NamedTuple):
    """An image of a case.

    Attributes:
        name: its id.
        image: data URL of the input.
        outline: SVG path of the ground truth in units of the image; empty without one.
        size: width and height of the image.
        maps: method -> data URL of its map; None where it has none.
        copy_of: training image that it looks like; empty if there is none.
    """

    name: str
    image: str
    outline: str
    size: tuple[int, int]
    maps: dict[str, str | None]
    copy_of: str


class Picture(NamedTuple):
    """A case as the page shows it.

    Attributes:
        case: see there.
        slides: its kept images, in the order of slices.
        shown: place of the one in the list of cases: that with the largest true anomaly, else the middle one.
    """

    case: Case
    slides: list[Slide]
    shown: int

    def others(self) -> list[dict[str, Any] | None]:
        """The slides as plain values for the viewer, None for the one that the list shows; empty if it is alone."""
        if len(self.slides) == 1:
            return []
        return [None if place == self.shown else one._asdict() for place, one in enumerate(self.slides)]


class Gallery(NamedTuple):
    """Cases of a data set.

    Attributes:
        pictures: in the order of the reasons.
        candidates: number of test cases among which they were chosen.
        common: methods share a scale: how rare a value is among pixels of healthy images; else each map has its own.
    """

    pictures: list[Picture]
    candidates: int
    common: bool


def choose_cases(cells: dict[str, Result], names: Array, count: int = 2, by_name: int = 4) -> list[Case]:
    """Choose cases among those that all cells have kept.

    An anomalous case is seen well by a method that scores most of the test set lower, a healthy one by a method that
    scores it higher. ``best`` and ``worst`` have the highest and lowest mean over methods, ``disagreement`` the largest
    difference between two methods. Equal ones are ordered by name.

    Args:
        cells: a cell of each method, on the same test set.
        names: of the kept cases in the order of their hashes, anomalous first.
        count: cases of each kind.
        by_name: further cases by hash alone, half of them anomalous.

    Returns:
        list: without repetition.
    """
    label = {}
    places: dict[str, dict[str, float]] = {str(name): {} for name in names}
    for method, cell in cells.items():
        known, owner = np.unique(cell.cases, return_inverse=True)
        highest, kinds = np.full(len(known), -np.inf), np.zeros(len(known), int)
        np.maximum.at(highest, owner, cell.scores["score"])
        np.maximum.at(kinds, owner, cell.scores["label"].astype(int))
        ranks = (stats.rankdata(highest) - 0.5) / len(known)
        for name, kind, place in zip(known, kinds, ranks, strict=True):
            if name in places:
                places[name][method], label[str(name)] = float(place), int(kind)
    kept = sorted(name for name, by_method in places.items() if len(by_method) == len(cells))
    seen = {name: [p if label[name] else 1 - p for p in places[name].values()] for name in kept}
    mean = {name: round(float(np.mean(values)), 9) for name, values in seen.items()}
    spread = {name: round(max(values) - min(values), 9) for name, values in seen.items()}
    orders = {
        "best": sorted(kept, key=lambda name: (-mean[name], name)),
        "worst": sorted(kept, key=lambda name: (mean[name], name)),
        "disagreement": sorted(kept, key=lambda name: (-spread[name], name)) if len(cells) > 1 else [],
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
    """Cases of a data set under every method that was tested on the same images as most, side by side.

    Args:
        cells: a cell of each method; one may see whole volumes where the others see slices.
        copies: id of a test image -> training image that it looks like.
    """
    tested = {name: tuple(cell.scores["id"]) for name, cell in cells.items()}
    most = Counter(tested.values()).most_common(1)[0][0]
    kept = {name: found for name, cell in cells.items() if tested[name] == most and (found := _pictures(cell.folder))}
    if not kept:
        return Gallery([], 0, False)
    first = next(iter(kept.values()))
    cell = cells[next(iter(kept))]
    known = dict(zip(cell.scores["id"].tolist(), cell.cases.tolist(), strict=True))
    # slices of a 3-D volume have its id and their number
    case_of = {name: known.get(name, known.get(name.rpartition("#")[0], "")) for name in first if name != _SCALE}
    names = list(dict.fromkeys(case_of.values()))
    pictures = []
    for case in choose_cases({name: cells[name] for name in kept}, np.array(names)):
        slides, areas = [], []
        for name in (name for name, owner in case_of.items() if owner == case.name):
            own = first[name]
            maps = {
                method: _png(found[name]["map"], as_map=True) if "map" in found.get(name, {}) else None
                for method, found in kept.items()
            }
            height, width = own["input"].shape[:2]
            outline = _outline(own["truth"]) if "truth" in own else ""
            image = _png(own["input"], as_map=False)
            slides.append(Slide(name, image, outline, (width, height), maps, copies.get(name, "")))
            areas.append(int((own["truth"] > 127).sum()) if outline else 0)
        shown = int(np.argmax(areas)) if any(areas) else len(slides) // 2
        pictures.append(Picture(case, slides, shown))
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
            common = bool(arrays.get("by_healthy_pixels"))
    except (OSError, ValueError, KeyError, TypeError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return {}
    if not all(map(are_pictures, found.values())):
        return {}
    return found | ({_SCALE: {}} if common else {})


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
