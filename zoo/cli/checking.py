"""What ``zoo benchmark --dry-run`` checks of every cell before anything is trained."""

import importlib
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from benchmarks.plan import PLACES, Cell
from datamodules.registry import cards, class_names
from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.cli.parsing import use_short_names
from zoo.cli.running import Call, ZooCLI, quieten
from zoo.errors import UserError


class _Ready(Exception):
    """Carries the parser out of a command line that is not to be run."""


class _ParserOnly(ZooCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        raise _Ready(parser)


def problems(cells: Iterable[Cell]) -> dict[str, str]:
    """What is wrong with cells, by name: options that do not exist, values of the wrong kind, sizes a method refuses.

    Networks are built with random weights and thrown away; no data are read and nothing is downloaded. Cells that
    differ in their seed alone are checked once.

    Args:
        cells: of a plan.
    """
    quieten()
    use_short_names()
    parser = _parser()
    known: dict[str, str | None] = {}  # by what is checked: a configuration without its seed, a method at a size
    found: dict[str, str] = {}
    for cell in cells:
        reason = _problem(parser, {key: value for key, value in cell.config.items() if key != "seed_everything"}, known)
        if reason is not None:
            found[cell.name] = reason
    return found


def _parser() -> Any:
    try:
        _ParserOnly(["fit"], Call(None, []))
    except _Ready as ready:
        return ready.args[0]
    raise AssertionError("the command line was run")


def _problem(parser: Any, config: dict[str, Any], known: dict[str, str | None]) -> str | None:
    text = json.dumps(config, sort_keys=True)
    if text not in known:
        known[text] = _told(lambda: _check(parser, config, known))
    return known[text]


def _check(parser: Any, config: dict[str, Any], known: dict[str, str | None]) -> None:
    """Parse the options, create the data module and, where the image size is said, the method's networks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        given = parser.parse_args(["fit", "--config", str(path)])["fit"]
    data, model = _created(given.data), given.model
    AnomalyMetrics(protocol=given.metrics.protocol).check_data(data)
    size = None if data.image_size is None else data.spatial_size
    random = {"weights": "random"} if "weights" in model.init_args else {}
    built = f"{model.class_path} {size} {model.init_args}"
    if size is None or "checkpoints" in model.init_args:  # an ensemble's members do not exist yet
        _created(model, **random)
        return
    if built not in known:
        known[built] = _told(lambda: _created(model, **random, image_size=size).configure_model())
    if known[built] is not None:
        raise UserError(str(known[built]))


def _created(part: Any, **changes: Any) -> Any:
    module, _, name = part.class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**{**part.init_args.as_dict(), **changes})


def _told(check: Callable[[], Any]) -> str | None:
    """What a check complains of."""
    try:
        check()
    except (UserError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def missing_data(cells: Iterable[Cell]) -> list[str]:
    """Of every data set without a root, one line: that it will be a phantom, and where the official files are."""
    lines: dict[str, str] = {}
    for cell in cells:
        data = cell.config["data"]
        arguments = data.get("init_args", {})
        if any(arguments.get(key) is not None for key in PLACES) or cell.dataset in lines:
            continue
        own = class_names().get(data["class_path"].rpartition(".")[2], "")
        names = [arguments[key] for key in ("train", "test") if arguments.get(key) in cards()] or [own]
        where = "; ".join(f"{cards()[name].title}: {cards()[name].access}" for name in names if name in cards())
        lines[cell.dataset] = f"data  {cell.dataset}: no data.root, a PHANTOM; official files: {where or 'your own'}"
    return list(lines.values())
