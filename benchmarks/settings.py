"""How the finished cells were run: what the page's head and the paper's methods paragraph say."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.results import Result
from zoo.configs import read_yaml
from zoo.errors import UserError


class Setting(NamedTuple):
    """How a method was run on a data set.

    Attributes:
        method: name in the benchmark.
        class_path: of the method.
        dataset: name in the benchmark.
        data_class: class path of the DataModule.
        steps: limit of training steps; None: the method's own.
        image_size: side or sides of the images; None: the files'.
        batch_size: images of a training step; None: the default.
    """

    method: str
    class_path: str
    dataset: str
    data_class: str
    steps: int | None
    image_size: Any
    batch_size: int | None


def settings_of(results: list[Result]) -> list[Setting]:
    """Of the first cell of each method on each data set; cells without a readable configuration are left out."""
    found: dict[tuple[str, str], Setting] = {}
    for cell in results:
        if (cell.dataset, cell.method) in found:
            continue
        try:
            config = read_yaml(cell.folder / "config.yaml")
            data, model = config["data"], config["model"]
            arguments = data.get("init_args") or {}
            found[cell.dataset, cell.method] = Setting(
                cell.method,
                str(model.get("class_path", "")),
                cell.dataset,
                str(data.get("class_path", "")),
                (config.get("trainer") or {}).get("max_steps"),
                arguments.get("image_size"),
                arguments.get("batch_size"),
            )
        except (OSError, UserError, AttributeError, KeyError, TypeError):
            continue
    return list(found.values())


def span(values: list[int]) -> str:
    """``120`` or ``120 to 240``."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def budget_text(settings: list[Setting]) -> str:
    """How long the methods trained, in words."""
    steps = [one.steps for one in settings if isinstance(one.steps, int) and one.steps > 0]
    own = sorted({one.method for one in settings if not (isinstance(one.steps, int) and one.steps > 0)})
    parts = [f"{span(steps)} training steps"] if steps else []
    if own:
        parts.append(f"{'one pass or ' if steps else ''}the method's own budget for {', '.join(own)}")
    return "; ".join(parts)


def median(cells: list[Result], key: str) -> float:
    """Median of a number of ``metrics.json`` over cells; nan where none has it."""
    values = [float(cell.content[key]) for cell in cells if isinstance(cell.content.get(key), int | float)]
    return float(np.median(values)) if values else float("nan")
