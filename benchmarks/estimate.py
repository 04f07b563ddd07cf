"""How long a benchmark may take: from its finished cells, else from measured steps, else it says: unknown."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks.door import read_json
from benchmarks.plan import Cell
from benchmarks.resources import visible_gpus
from zoo.registry import methods

STEPS = Path(__file__).parent / "step_seconds.yaml"


class Estimate(NamedTuple):
    """Of one cell.

    Attributes:
        seconds: None where unknown.
        basis: what it rests on, in words.
    """

    seconds: float | None
    basis: str


def estimate(cell: Cell, finished: dict[str, list[float]], steps: dict[str, Any]) -> Estimate:
    """Estimate a cell's time.

    Args:
        cell: to be run.
        finished: seconds of training of finished cells by ``METHOD--DATA`` and by ``METHOD``.
        steps: content of ``step_seconds.yaml``.
    """
    for key, basis in ((f"{cell.method}--{cell.dataset}", "finished cells"), (cell.method, "cells on other data")):
        if finished.get(key):
            return Estimate(float(np.mean(finished[key])), basis)
    trainer, data = cell.config.get("trainer", {}), cell.config["data"].get("init_args", {})
    name = next((m.name for m in methods().values() if m.class_path == cell.config["model"]["class_path"]), "")
    measured, side = steps["methods"].get(name), data.get("image_size")
    accelerator = trainer.get("accelerator", "auto")
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not visible_gpus())
    batch = data.get("batch_size", 32)
    if measured is None or not on_cpu or "max_steps" not in trainer or not side or batch == "auto":
        return Estimate(None, "not measured on this device" if measured else "never measured")
    sides = [side, side] if isinstance(side, int) else side
    scale = float(np.prod(sides)) * batch / (steps["image_size"] ** 2 * steps["batch_size"])
    return Estimate(trainer["max_steps"] * measured * scale + steps["start_seconds"], "measured steps, rough")


def finished_seconds(out: Path, cells: list[Cell]) -> dict[str, list[float]]:
    """Seconds of finished cells by ``METHOD--DATA`` and by ``METHOD``."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        seconds = read_json(out / "cells" / cell.name / "metrics.json").get("fit_seconds")
        if isinstance(seconds, int | float):
            for key in (f"{cell.method}--{cell.dataset}", cell.method):
                found.setdefault(key, []).append(float(seconds))
    return found


def told(out: Path, todo: list[Cell], done: list[Cell], workers: int, timeout: float | None) -> list[str]:
    """The plan in lines: the cells, a time for each method, the sum as far as it is known."""
    steps = yaml.safe_load(STEPS.read_text(encoding="utf-8"))
    finished = finished_seconds(out, done)
    estimates = {cell.name: estimate(cell, finished, steps) for cell in todo}
    lines = [f"run   {cell.name}" for cell in todo] + [f"done  {cell.name}" for cell in done]
    for method in dict.fromkeys(cell.method for cell in todo):
        own = [estimates[cell.name] for cell in todo if cell.method == method]
        known = [one.seconds for one in own if one.seconds is not None]
        basis = ", ".join(sorted({one.basis for one in own}))
        time = f"about {sum(known) / 60:.1f} min" if known else "time unknown"
        lines.append(f"time  {method}: {len(own)} cells, {time} ({basis})")
    known = [one.seconds for one in estimates.values() if one.seconds is not None]
    unknown = len(todo) - len(known)
    about = f", about {sum(known) / workers / 60:.1f} minutes" if known else ""
    rest = f", {unknown} of unknown time" if unknown else ""
    limit = f", at most {timeout * len(todo) / workers / 60:.0f} minutes" if timeout else ""
    return [*lines, f"{len(todo)} to run, {len(done)} done{about}{rest}{limit}"]
