"""What a benchmark consists of: its configuration becomes cells, each a complete configuration of one run."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.door import problem_of_name
from zoo.configs import config_path, read_yaml
from zoo.errors import UserError
from zoo.registry import arguments, find, load_class, methods, nearest, variants

_KEYS = ("name", "models", "data", "seeds", "trainer", "metrics", "budget", "timeout_minutes", "published", "selection")
# How images are served in training is the method's affair; which images, the benchmark's data entry says alone.
_SERVING = ("batch_size", "random_crop", "val_fraction", "max_val_images")
PLACES = ("root", "train_root", "test_root", "table")  # of a data set's files
_SATURATED = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {
        "monitor": "val/synthetic_pixel_ap",
        "mode": "max",
        "stopping_threshold": 0.875,
        "patience": 1_000_000,
        "strict": False,  # methods without a map have no pixel AP and take the limit
        "check_on_train_epoch_end": False,
    },
}


class Cell(NamedTuple):
    """One method on one data set with one seed.

    Attributes:
        method: name in the benchmark.
        dataset: name in the benchmark.
        seed: of the run.
        config: the complete configuration.
        fingerprint: SHA-256 of configuration and data files; equal = need not be run again.
        needs: names of the cells whose checkpoints this one (an ensemble) is made of.
    """

    method: str
    dataset: str
    seed: int
    config: dict[str, Any]
    fingerprint: str
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Folder of the cell."""
        return f"{self.method}--{self.dataset}--{self.seed}"


class _Entry(NamedTuple):
    """A method or a data set of the benchmark: its shipped configuration, and what the benchmark says over it."""

    shipped: dict[str, Any]
    said: dict[str, Any]


class Plan(NamedTuple):
    """A benchmark.

    Attributes:
        name: title of the report.
        cells: in the order of data sets, methods, seeds.
        timeout: seconds that a cell may take, None without limit.
        published: names of the published tables that the report shows beside.
        selection: score the test set at every validation, to compare ways of choosing a checkpoint.
    """

    name: str
    cells: list[Cell]
    timeout: float | None
    published: list[str]
    selection: bool = False


def read_plan(source: str, out: Path = Path()) -> Plan:
    """Read a benchmark's configuration: a path, or the short name of a shipped one (``quick``).

    A cell's configuration merges, later ones winning: the data set's configuration; the method's (``model``,
    ``trainer``, ``metrics``, and of ``data`` what concerns the serving of images, :data:`_SERVING`); what the benchmark
    says in the data entry, then in the model entry; the benchmark's ``trainer`` and ``metrics``.

    ``trainer`` of a data entry (epochs, say) holds for the methods that say nothing else of it.

    An entry with ``small: true`` takes the small settings of its method's card: over the method's own configuration,
    under those of a named variant and under ``init_args``. The model ``"*"`` stands for every registered method that no
    other entry uses (but ensembles); of its ``init_args`` each method takes those it has. A model with ``folds: [0, 1,
    ...]`` becomes one for each fold (``NAME_fold0``, argument ``fold``), and with ``ensemble: true`` a further one,
    ``NAME_ensemble``, of all folds.

    Args:
        source: path or name.
        out: the benchmark's folder, where ensembles find their members.

    Raises:
        UserError: not found, unknown keys or methods, nothing to run.
    """
    path = _locate(source)
    content = _read(path)
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{path}: unknown key '{key}'; nearest: {', '.join(nearest(key, _KEYS) or _KEYS)}")
    models, ensembles = _models(path, _with_all(_entries(path, content, "models")))
    data = {name: _data(path, name, value) for name, value in _entries(path, content, "data").items()}
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise UserError(f"{path}: seeds must be a list of integers, found {seeds!r}")
    selection = bool(content.get("selection", False))
    prints = {name: data_fingerprint(_merged(*entry)) for name, entry in data.items()}
    common = {"trainer": _trainer(path, content), "metrics": content.get("metrics", {})}
    cells: list[Cell] = []
    for dataset, method, seed in itertools.product(data, models, seeds):
        shipped, said = zip(data[dataset], models[method], strict=True)
        config = _merged(*shipped, *said, common)
        config |= {"seed_everything": seed, "test_after_fit": True}
        text = json.dumps([config, prints[dataset], *(["selection"] if selection else [])], sort_keys=True)
        needs = tuple(f"{member}--{dataset}--{seed}" for member in ensembles.get(method, ()))
        if needs:
            text += "".join(cell.fingerprint for cell in cells if cell.name in needs)
            folders = [str(out.absolute() / "cells" / need) for need in needs]
            config["model"] = {**config["model"], "init_args": {"checkpoints": folders}}
        cells.append(Cell(method, dataset, seed, config, hashlib.sha256(text.encode()).hexdigest(), needs))
    minutes = content.get("timeout_minutes")
    return Plan(
        str(content.get("name", path.stem)),
        cells,
        None if minutes is None else 60 * float(minutes),
        list(content.get("published", [])),
        selection,
    )


def _trainer(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Trainer settings of all cells: the budget decides how long they train.

    ``paper`` (default): each method's own budget; ``equal_steps``: ``trainer.max_steps`` for all; ``saturation``: stop
    when the synthetic validation AP reaches 0.875 (nnOOD), with ``trainer.max_steps`` as the limit.
    """
    trainer, budget = dict(content.get("trainer", {})), content.get("budget", "paper")
    if budget not in ("paper", "equal_steps", "saturation"):
        raise UserError(f"{path}: budget must be paper, equal_steps or saturation, found {budget!r}")
    if budget != "paper" and "max_steps" not in trainer:
        raise UserError(f"{path}: budget {budget} needs trainer.max_steps")
    if budget == "paper" and "max_steps" in trainer:
        raise UserError(f"{path}: trainer.max_steps for all methods is budget: equal_steps; say so, or leave it out")
    if budget == "saturation":
        trainer["callbacks"] = [*trainer.get("callbacks", []), _SATURATED]
    return trainer


def _locate(source: str) -> Path:
    return config_path(source if Path(source).is_file() or "/" in source else f"benchmarks/{source}")


def with_threads(plan: Plan, threads: int) -> Plan:
    """The plan for cells of so many threads: figures depend on it in the last digits, so that it is in the fingerprint.

    Args:
        plan: for one thread.
        threads: of each cell.
    """
    if threads == 1:
        return plan
    marked = (f"{cell.fingerprint} {threads} threads" for cell in plan.cells)
    prints = [hashlib.sha256(text.encode()).hexdigest() for text in marked]
    return plan._replace(cells=[cell._replace(fingerprint=one) for cell, one in zip(plan.cells, prints, strict=True)])


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys {', '.join(_KEYS)}")
    return content


def _entries(path: Path, content: dict[str, Any], key: str) -> dict[str, Any]:
    found = content.get(key)
    if isinstance(found, list):
        found = {str(name).rpartition("/")[2]: None for name in found}
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: {key} must list at least one entry, found {found!r}")
    for name in found:
        if name != "*" and (problem := problem_of_name(str(name))) is not None:
            raise UserError(f"{path}: '{name}': {problem}")
    return found


def _with_all(entries: dict[str, Any]) -> dict[str, Any]:
    """Put the registry's methods in the place of ``"*"``."""
    if "*" not in entries:
        return entries
    common = dict(entries["*"] or {})
    named = {name: entry for name, entry in entries.items() if name != "*"}
    used = {name if not isinstance(entry, dict) else entry.get("config", name) for name, entry in named.items()}
    for name in methods():
        if name in used | named.keys() or name == "ensemble":  # an ensemble needs its members
            continue
        known = arguments(load_class(name))
        own = {key: value for key, value in common.get("init_args", {}).items() if key in known}
        named[name] = {**common, "init_args": own}
    return named


def _models(path: Path, entries: dict[str, Any]) -> tuple[dict[str, _Entry], dict[str, list[str]]]:
    """Methods by name with folds expanded, and the members of each ensemble."""
    models: dict[str, _Entry] = {}
    ensembles: dict[str, list[str]] = {}
    for name, entry in entries.items():
        entry = {} if entry is None else {"config": entry} if isinstance(entry, str) else dict(entry)
        folds, ensemble = entry.pop("folds", None), entry.pop("ensemble", False)
        if folds is None:
            models[name] = _model(path, name, entry)
            continue
        members = {
            f"{name}_fold{fold}": {**entry, "init_args": {**entry.get("init_args", {}), "fold": fold}} for fold in folds
        }
        for member, member_entry in members.items():
            models[member] = _model(path, name, member_entry)
        if ensemble:
            common = {key: entry[key] for key in ("data", "metrics") if key in entry}
            combined = _model(path, "ensemble", common)
            # the members' rules of evaluation hold for their ensemble
            metrics = models[next(iter(members))].shipped.get("metrics", {})
            models[f"{name}_ensemble"] = combined._replace(shipped={**combined.shipped, "metrics": metrics})
            ensembles[f"{name}_ensemble"] = list(members)
    return models, ensembles


def _model(path: Path, name: str, entry: dict[str, Any]) -> _Entry:
    """A method: a shipped configuration by name, with what the entry says over it."""
    keys = ("config", "class_path", "init_args", "trainer", "data", "metrics", "init_from", "small")
    _known(path, name, entry, keys)
    base: dict[str, Any] = {"model": {"class_path": entry.get("class_path"), "init_args": {}}}
    if "class_path" not in entry:
        base = _read(config_path(_with_folder(entry.get("config", name), "models")))
    class_path = base["model"]["class_path"]
    if class_path.startswith("zoo.") or "." not in class_path:
        method = find(class_path)
        base["model"]["class_path"] = method.class_path
        if entry.get("small"):
            card, given = (method.small or {}).items(), dict(base["model"].get("init_args", {}))
            small = {key: list(value) if isinstance(value, tuple) else value for key, value in card}
            variant = str(entry.get("config", name)).rpartition("/")[2] in variants()
            base["model"]["init_args"] = {**small, **given} if variant else {**given, **small}
    served = base.get("data", {}).get("init_args", {})
    shipped = {key: base.get(key, {}) for key in ("model", "trainer", "metrics")}
    shipped["data"] = {"init_args": {key: served[key] for key in _SERVING if key in served}}
    said = {key: entry.get(key, {}) for key in ("trainer", "metrics")}
    if "init_from" in entry:
        said["init_from"] = {"source": entry["init_from"]}
    said |= {"model": {"init_args": entry.get("init_args", {})}, "data": {"init_args": entry.get("data", {})}}
    return _Entry(shipped, said)


def _data(path: Path, name: str, entry: Any) -> _Entry:
    entry = {} if entry is None else {"config": entry} if isinstance(entry, str) else dict(entry)
    _known(path, name, entry, ("config", "class_path", "init_args", "metrics", "trainer"))
    base: dict[str, Any] = {"data": {"class_path": entry.get("class_path"), "init_args": {}}}
    if "class_path" not in entry:
        base = _read(config_path(_with_folder(entry.get("config", name), "data")))
    said = {"data": {"init_args": entry.get("init_args", {})}}
    said |= {"metrics": entry.get("metrics", {}), **({"trainer": entry["trainer"]} if "trainer" in entry else {})}
    return _Entry({key: base[key] for key in ("data", "metrics") if key in base}, said)


def _known(path: Path, name: str, entry: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in entry:
        if key not in keys:
            raise UserError(f"{path}: {name}: unknown key '{key}'; known: {', '.join(keys)}")


def _with_folder(name: str, folder: str) -> str:
    return name if "/" in name or name.endswith(".yaml") else f"{folder}/{name}"


def _merged(*parts: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = _merged(result[key], value) if both else value
    return result


def data_fingerprint(config: dict[str, Any]) -> str:
    """SHA-256 of a data set's options and of its files' names, sizes and times, or of the generator's version."""
    from datamodules.phantoms import VERSION

    given = config["data"].get("init_args", {})
    places = [str(given[key]) for key in PLACES if given.get(key) is not None]
    files = [entry for place in places for entry in _files_of(Path(place).expanduser())]
    content: Any = files if places else {"phantom": VERSION}
    return hashlib.sha256(json.dumps([config, content], sort_keys=True).encode()).hexdigest()


def _files_of(place: Path) -> list[list[Any]]:
    """Name, size and time of a file, or of all files below a folder."""
    if place.is_file():  # a table, or a set in one file
        return [[place.name, place.stat().st_size, place.stat().st_mtime_ns]]
    if not place.is_dir():
        raise UserError(f"data.root: no folder {place}; give the folder of the data, or none to run on a phantom")
    found = ((path, path.stat()) for path in sorted(place.rglob("*")) if path.is_file())
    return [[path.relative_to(place).as_posix(), stat.st_size, stat.st_mtime_ns] for path, stat in found]
