"""Procedural stand-ins for data sets that may not be redistributed, written in the official layouts.

`write` makes the files; the ordinary loaders read them. `PHANTOM_DATA.json` marks the root, and `_phantom_truth/` holds
what real data lacks: exact healthy twins (same subject, same scan, no lesion) and exact masks, listed in `truth.csv`.
Numbers obtained on phantoms say nothing about patients.

A data set's card names its writer, a module of this folder with `jobs(settings)`, the files or subjects to make;
`render(root, settings, job)`, which writes one of them, in any process and order; `finish(root, settings, results)`,
which writes the tables; and, if it has something to add to the marker or to refuse, `prepare(settings)`.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from datamodules.phantoms.storage import TRUTH, Result, Settings, Truth, write_csv
from datamodules.registry import PHANTOM_PRESETS, data_sets
from zoo.files import named

#: Raised whenever the same arguments would give other pixels.
VERSION = 3
MARKER = "PHANTOM_DATA.json"


def _writer(name: str) -> ModuleType:
    return importlib.import_module(f"datamodules.phantoms.{data_sets()[name].phantom}")


def _check(settings: Settings) -> None:
    known = data_sets()
    if settings.name not in known:
        raise ValueError(f"unknown phantom {settings.name!r}; choose from {', '.join(known)}")
    if settings.preset not in PHANTOM_PRESETS:
        raise ValueError(f"unknown preset {settings.preset!r}; choose from {', '.join(PHANTOM_PRESETS)}")
    if not settings.difficulty > 0:
        raise ValueError(f"difficulty must be positive, found {settings.difficulty}; 1 is the calibrated default")
    own = known[settings.name].phantom_options
    for option in ("source_shift", "jpeg2000"):
        if getattr(settings, option) and option not in own:
            having = [name for name, entry in known.items() if option in entry.phantom_options]
            raise ValueError(f"{option} exists for {', '.join(having)} only, not for {settings.name}")
    layouts = own.get("layout", ())
    if settings.layout not in ("official", *layouts) and "*" not in layouts:
        others = [
            f"{layout!r} of {name}"
            for name, entry in known.items()
            for layout in entry.phantom_options.get("layout", ())
        ]
        raise ValueError(
            f"unknown layout {settings.layout!r} of {settings.name}; besides 'official' there are {', '.join(others)}"
        )


def _marker(settings: Settings) -> dict[str, Any]:
    prepare = getattr(_writer(settings.name), "prepare", None)
    further = {} if prepare is None else prepare(settings)
    return {"synthetic": True, "generator_version": VERSION, **settings._asdict(), **further}


def _is_written(root: Path, marker: dict[str, Any]) -> bool:
    """True if `root` already holds exactly this phantom; an error if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    path = root / MARKER
    if path.is_file() and json.loads(path.read_text()) == marker:
        return True
    found = "another phantom" if path.is_file() else "files that are no phantom"
    raise FileExistsError(f"{root} holds {found}; nothing was written. Choose an empty or new folder")


def _run(task: tuple[str, Path, Settings, Any]) -> Result:
    module, root, settings, job = task
    result: Result = importlib.import_module(module).render(root, settings, job)
    return result


def _render_all(root: Path, settings: Settings, workers: int) -> list[Truth]:
    layout = _writer(settings.name)
    tasks = [(layout.__name__, root, settings, job) for job in layout.jobs(settings)]
    if workers > 1:
        # spawned, because forking a process that runs threads of torch may hang
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            results = list(pool.map(_run, tasks))
    else:
        results = [_run(task) for task in tasks]
    layout.finish(root, settings, results)
    return [row for result in results for row in result.truth]


def write(
    name: str,
    root: str | Path,
    preset: str = "smoke",
    seed: int = 0,
    *,
    difficulty: float = 1.0,
    workers: int = 1,
    source_shift: bool = False,
    layout: str = "official",
    jpeg2000: bool = False,
) -> None:
    """Write a phantom data set in its official layout; `root` appears at once when all files are complete.

    A root that already holds the same phantom is left as it is.

    Args:
        name: a data set's name.
        root: new or empty folder.
        preset: `smoke` (seconds), `small` (under a minute), `demo` (tens of minutes) or `full-shape` (few files of
            official size).
        seed: same seed, same data, whatever the number of workers.
        difficulty: divides the contrast of lesions; 1 is calibrated, 2 is twice as faint.
        workers: processes.
        source_shift: all positives from one hospital's devices, all test negatives from another's.
        layout: `official`, or one of those that the data set's card lists.
        jpeg2000: all films compressed without loss, as part of the original ones are.

    The last three exist where the card lists them under `phantom_options`.

    Raises:
        ValueError: unknown name, preset or option, or no encoder for JPEG 2000.
        FileExistsError: `root` holds other files.
    """
    settings = Settings(name, preset, seed, float(difficulty), source_shift, layout, jpeg2000)
    _check(settings)
    root = Path(root)
    marker = _marker(settings)
    if _is_written(root, marker):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        with named(root, folder):
            truth = _render_all(folder, settings, workers)
            write_csv(folder / TRUTH / "truth.csv", Truth._fields, truth)
            (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n")
        folder.chmod(0o755)
        try:
            folder.replace(root)
        except OSError:
            # another process may have finished the same phantom first
            if not _is_written(root, marker):
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
