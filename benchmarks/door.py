"""What comes in from a benchmark folder, which may be anybody's: checked once for types, sizes and names."""

import zipfile
from pathlib import Path
from typing import Any

_LARGEST = {"metrics.json": 1 << 20, "scores.csv": 1 << 28, "status.json": 1 << 20, "config.yaml": 1 << 18}
_LARGEST_GALLERY = 1 << 28  # bytes once unpacked
_TEXTS = ("method", "dataset", "device", "config_sha256", "data_fingerprint")
_NUMBERS = ("seed", "fit_seconds", "images_per_second", "peak_memory_bytes", "parameters", "threads")
_GROUPS = ("versions", "units", "metrics", "pixel_shortcuts", "certified_intervals")


def problem_of_sizes(folder: Path) -> str | None:
    """The first file of a cell that is larger than any honest one; None if there is none."""
    for name, limit in _LARGEST.items():
        path = folder / name
        if path.is_file() and path.stat().st_size > limit:
            return f"{name} is larger than {limit >> 20 or 1} MiB"
    return None


def problem_of_content(content: dict[str, Any]) -> str | None:
    """What in a ``metrics.json`` is not of its type; None if all is."""
    for key in _TEXTS:
        if not isinstance(content.get(key), str | None):
            return f"metrics.json: {key} is no text"
    for key in _NUMBERS:
        if not isinstance(content.get(key), int | float | None) or isinstance(content.get(key), bool):
            return f"metrics.json: {key} is no number"
    for key in _GROUPS:
        if not isinstance(content.get(key), dict | None):
            return f"metrics.json: {key} does not hold names with values"
    if not isinstance(content.get("phantom", False), bool):
        return "metrics.json: phantom is neither true nor false"
    versions = content.get("versions") or {}
    if not all(isinstance(value, str) for value in versions.values()):
        return "metrics.json: versions holds other things than texts"
    return None


def gallery_may_be_read(path: Path) -> bool:
    """Whether a gallery is an archive of a sane size once unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist()) <= _LARGEST_GALLERY
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def known_names(found: Any, known: list[str]) -> tuple[list[str], list[str]]:
    """Of what a folder asks for, the names that this package ships, and the other things, as text.

    Args:
        found: the value of ``published`` in ``benchmark.json``.
        known: names of the shipped tables.
    """
    asked = found if isinstance(found, list) else [] if found is None else [found]
    return [name for name in asked if isinstance(name, str) and name in known], [
        str(name)[:60] for name in asked if not (isinstance(name, str) and name in known)
    ]
