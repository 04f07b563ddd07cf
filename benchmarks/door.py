"""What comes in from a benchmark folder, which may be anybody's: checked once for places, sizes, types and names."""

import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# files of a cell, with the largest size of an honest one
_LARGEST = {
    "metrics.json": 1 << 20,
    "scores.csv": 1 << 28,
    "status.json": 1 << 20,
    "config.yaml": 1 << 18,
    "selection.json": 1 << 22,
    "gallery.npz": 1 << 28,
}
_LARGEST_JSON = 1 << 24
_LARGEST_GALLERY = 1 << 28  # bytes once unpacked
_LARGEST_PANEL = 1 << 25
_LARGEST_SIDE = 1024  # of a gallery's picture
_LARGEST_NUMBER = 1e39  # float32 ends below
_MOST_METRICS = 500
_MOST_REMARKS = 20
_TEXTS = ("method", "dataset", "device", "config_sha256", "data_fingerprint")
_NUMBERS = ("seed", "fit_seconds", "images_per_second", "peak_memory_bytes", "parameters", "threads")
_GROUPS = ("versions", "units", "metrics", "pixel_shortcuts", "certified_intervals")
_NAME = re.compile(r"\w[\w .,+=()@%-]{0,99}")  # of a method or a data set: nothing that HTML, LaTeX or a shell reads
_METRIC = re.compile(r"\w[\w .@%/-]{0,79}")


def problem_of_name(name: str) -> str | None:
    """What is wrong with the name of a method or data set, which page, tables and files show; None if nothing."""
    if _NAME.fullmatch(name) and "--" not in name:
        return None
    return "a name is at most 100 letters, digits, spaces and .,+=()@%-, and no --"


def problem_of_cell(name: str) -> str | None:
    """What is wrong with the name of a cell; None if nothing."""
    parts = name.split("--")
    if len(parts) != 3 or not re.fullmatch(r"[0-9]{1,9}", parts[2]):
        return "its name is not METHOD--DATA--SEED"
    return problem_of_name(parts[0]) or problem_of_name(parts[1])


def plain_line(text: Any, longest: int = 300) -> str:
    """A text from a file as one line without control characters, which terminals obey."""
    return "".join(one if one.isprintable() else " " for one in str(text)[:longest])


def problem_of_files(folder: Path) -> str | None:
    """The first file of a cell that is no file, leads elsewhere or is too large for an honest one; None if all fit."""
    for name, limit in _LARGEST.items():
        path = folder / name
        if not path.is_symlink() and not path.exists():
            continue
        if not path.is_file() or path.resolve().parent != folder.resolve():
            return f"{name} is no file of this folder"
        if path.stat().st_size > limit:
            return f"{name} is larger than {limit >> 20 or 1} MiB"
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing, damaged, larger than any honest one or something else."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_JSON:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def problem_of_content(content: dict[str, Any]) -> str | None:
    """What in a ``metrics.json`` is not of its type; None if all is."""
    for key in _TEXTS:
        if not isinstance(content.get(key), str | None):
            return f"metrics.json: {key} is no text"
    for key in _NUMBERS:
        if content.get(key) is not None and not is_number(content[key]):
            return f"metrics.json: {key} is no number"
    for key in _GROUPS:
        if not isinstance(content.get(key), dict | None):
            return f"metrics.json: {key} does not hold names with values"
    if not isinstance(content.get("phantom", False), bool):
        return "metrics.json: phantom is neither true nor false"
    remarks = content.get("remarks", [])
    if not isinstance(remarks, list) or not all(isinstance(one, str) for one in remarks[:_MOST_REMARKS]):
        return "metrics.json: remarks is no list of texts"
    versions = content.get("versions") or {}
    if not all(isinstance(value, str) for value in versions.values()):
        return "metrics.json: versions holds other things than texts"
    if not isinstance(content.get("metrics"), dict):
        return "metrics.json is missing or damaged"
    maps = content.get("pixel_shortcuts") or {}
    for name, figures in {"metrics": content["metrics"], **maps}.items():
        if not isinstance(figures, dict) or not _are_figures(figures):
            return f"metrics.json: {plain_line(name, 40)} does not hold names with numbers"
    for level, counts in (content.get("units") or {}).items():
        if not _METRIC.fullmatch(level) or not _are_counts(counts):
            return f"metrics.json: units of {plain_line(level, 40)} are no counts"
    return None


def remarks_of(content: Mapping[str, Any]) -> list[str]:
    """What a checked ``metrics.json`` says that its run leaves out of the method's paper, in plain lines."""
    return [plain_line(one) for one in content.get("remarks", [])[:_MOST_REMARKS]]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of a sane size."""
    return type(value) in (int, float) and abs(value) < _LARGEST_NUMBER and math.isfinite(value)


def _are_figures(found: Mapping[str, Any]) -> bool:
    fits = (_METRIC.fullmatch(name) and (value is None or is_number(value)) for name, value in found.items())
    return len(found) <= _MOST_METRICS and all(fits)


def _are_counts(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    whole, part = found.get("units"), found.get("anomalous")
    return type(whole) is int and type(part) is int and 0 <= part <= whole < 1 << 62


def are_scores(columns: Iterable[NDArray[Any]]) -> bool:
    """Whether columns hold finite numbers of a sane size."""
    return all(bool((np.abs(one) < _LARGEST_NUMBER).all()) for one in columns)


def gallery_may_be_read(path: Path) -> bool:
    """Whether a gallery is an archive of a sane size once unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist()) <= _LARGEST_GALLERY
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def are_pictures(found: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the pictures of one test image are small, 8-bit and of one size, and there is an input among them."""
    shapes = {one.shape for one in found.values()}
    return (
        "input" in found
        and len(shapes) == 1
        and all(one.dtype == np.uint8 and one.ndim == 2 for one in found.values())
        and all(0 < side <= _LARGEST_SIDE for shape in shapes for side in shape)
    )


def panel_bytes(path: Path, run: Path) -> bytes | None:
    """The content of a PNG file of a run; None if it is none, leads out of the run or is larger than any honest one."""
    inside = path.is_file() and path.resolve().is_relative_to(run.resolve())
    if not inside or path.stat().st_size > _LARGEST_PANEL:
        return None
    content = path.read_bytes()
    return content if content.startswith(b"\x89PNG\r\n\x1a\n") else None


def known_names(found: Any, known: list[str]) -> tuple[list[str], list[str]]:
    """Of what a folder asks for, the names that this package ships, and the other things, as text.

    Args:
        found: the value of ``published`` in ``benchmark.json``.
        known: names of the shipped tables.
    """
    asked = found if isinstance(found, list) else [] if found is None else [found]
    return [name for name in asked if isinstance(name, str) and name in known], [
        plain_line(name, 60) for name in asked if not (isinstance(name, str) and name in known)
    ][:20]
