"""Names, paths and keys of a call, checked in a moment: before torch and Lightning are imported.

What can be told from the files alone is told here: arguments come from the classes' source. Types and values are left
to the parser; so is all that names a class from outside this package.
"""

import ast
import glob
import importlib.util
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from datamodules.registry import class_names
from zoo.cli.options import missing_sections, resolve_names, take_run, todays, with_place
from zoo.cli.words import tidy
from zoo.configs import read_yaml
from zoo.errors import UserError
from zoo.registry import nearest

# beside the trainer's arguments of the command itself
TOP_LEVEL = {
    "config", "model", "data", "trainer", "metrics", "panels", "predictions", "last_checkpoint", "init_from",
    "decision", "seed_everything", "test_after_fit", "tune_allocator", "optimizer", "lr_scheduler", "print_config",
    "help",
}  # fmt: skip
_HOME = Path(__file__).parents[2]
_NOT_OPTIONS = {"self", "model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}


def check_call(argv: list[str]) -> None:
    """Raise what can be known of a ``fit``, ``validate``, ``test`` or ``predict`` that must fail.

    Args:
        argv: command and options.

    Raises:
        UserError: an unknown configuration, method, data set or key (with the nearest, and the line of the file that
            holds it), a missing method, data set, run, checkpoint or folder.
    """
    command, options = argv[0], argv[1:]
    if any(word in ("-h", "--help") or word.partition("=")[0].endswith(".help") for word in options):
        return
    rest, run, trust = take_run(options)
    if run is not None and not trust:
        from zoo.cli.trust import check_run

        check_run(run)
    resolved, files = resolve_names(tidy(rest))
    call = _Call(command)
    if run is not None:
        call.add_file(todays(read_yaml(run.config)))
    for path in files:
        call.add_file(read_yaml(path))
    for key, value in _pairs(resolved):
        call.add_option(key, value)
    try:
        call.check()
    except UserError as error:
        raise UserError(with_place(str(error), files)) from error


def _pairs(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """Options with their values; None where there is none."""
    for number, word in enumerate(words):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            following = words[number + 1] if number + 1 < len(words) else "--"
            yield key, value if equals else None if following.startswith("--") else following


class _Call:
    """What the files and options of a call set, one after another.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.classes: dict[str, str | None] = {}  # None: not to be known here
        self.keys: dict[str, list[str]] = {"model": [], "data": [], "trainer": []}
        self.top: list[str] = []
        self.paths: dict[str, Any] = {}

    def add_file(self, content: Any) -> None:
        """Take what a configuration file sets."""
        for key, part in content.items() if isinstance(content, dict) else ():
            self.top.append(str(key))
            if key in self.keys:
                self._add_section(key, part)
            elif key in ("ckpt_path", "input"):
                self.paths[key] = part

    def add_option(self, key: str, value: str | None) -> None:
        """Take what an option sets."""
        first, *inner = key.removesuffix("+").split(".")
        self.top.append(first)
        if first in self.keys and not inner:
            self._add_section(first, _plain(value))
        elif first in self.keys and inner[0] == "class_path":
            self._choose(first, value)
        elif first in self.keys:
            inner = inner[1:] if inner[0] == "init_args" else inner
            self.keys[first] += inner[:1]
            if (first, inner) == ("data", ["root"]):
                self.paths["data.root"] = value
        elif first in ("ckpt_path", "input") and not inner:
            self.paths[first] = value

    def _add_section(self, section: str, part: Any) -> None:
        if section == "trainer":
            self.keys[section] += [str(key) for key in part] if isinstance(part, dict) else []
            return
        if not isinstance(part, dict):
            self._choose(section, part)
            return
        if "class_path" in part:
            self._choose(section, part["class_path"])
        arguments = part.get("init_args")
        if isinstance(arguments, dict):
            self.keys[section] += map(str, arguments)
            if section == "data" and "root" in arguments:
                self.paths["data.root"] = arguments["root"]

    def _choose(self, section: str, name: Any) -> None:
        known = isinstance(name, str) and not name.endswith((".yaml", ".yml", ".json"))
        resolved = None
        if known:
            (_, resolved), _ = resolve_names([f"--{section}.class_path", name])
        if section in self.classes and self.classes[section] != resolved:
            self.keys[section] = []  # they belonged to another class
        self.classes[section] = resolved

    def check(self) -> None:
        """Raise the first mistake."""
        extra = {"input"} if self.command == "predict" else set()
        _refuse(self.top, TOP_LEVEL | trainer_arguments(self.command) | extra, "")
        for section in ("model", "data"):
            path = self.classes.get(section)
            known = None if path is None else constructor_arguments(path)
            if known is not None:
                _refuse(self.keys[section], known, f"{section}.")
        _refuse(self.keys["trainer"], trainer_arguments("__init__"), "trainer.")
        missing = [section for section in ("model", "data") if section not in self.classes]
        if self.paths.get("ckpt_path") or "init_from" in self.top:  # the checkpoint tells its method, and how it reads
            tells_data = self.command == "predict" or self.keys["data"]
            missing = [section for section in missing if section == "data" and not tells_data]
        if missing:
            raise UserError(missing_sections(", ".join(missing)))
        self._check_paths()

    def _check_paths(self) -> None:
        told = {
            "data.root": "data.root: no folder {}; give the folder of the data, or none to run on a phantom",
            "ckpt_path": "--ckpt_path {}: no such file",
            "input": "--input {}: no such file or folder",
        }
        if "input" in self.paths or self.command == "predict":
            del told["data.root"]  # prediction needs no training data
        for key, message in told.items():
            path = self.paths.get(key)
            if key == "data.root" and self.command == "predict" and self.paths.get("input"):
                continue  # predicting new images needs no training data
            if isinstance(path, str) and key == "input" and glob.has_magic(path):
                continue  # a pattern; the data set tells if nothing matches
            if isinstance(path, str) and path != "null" and "://" not in path and not Path(path).expanduser().exists():
                raise UserError(message.format(Path(path).expanduser()))


def _plain(value: str | None) -> Any:
    if value is None or not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def _refuse(keys: Iterable[str], known: set[str], prefix: str) -> None:
    if not known:
        return
    for key in keys:
        if key not in known:
            close = ", ".join(f"--{prefix}{one}" for one in nearest(key, known))
            raise UserError(f"--{prefix}{key}: unknown option{f'; nearest: {close}' if close else ''}")


# ---- arguments from source ----------------------------------------------------------------------------------------


@cache
def trainer_arguments(function: str) -> set[str]:
    """Arguments of a function of Lightning's ``Trainer`` that are options; empty where its source is not to be had."""
    package = importlib.util.find_spec("lightning")
    if package is None or not package.submodule_search_locations:
        return set()
    path = Path(package.submodule_search_locations[0]) / "pytorch" / "trainer" / "trainer.py"
    if not path.is_file():
        return set()
    owner = _class(_tree(path), "Trainer")
    found = None if owner is None else _function(owner, function)
    return set() if found is None else _names(found) - _NOT_OPTIONS


@cache
def constructor_arguments(class_path: str) -> set[str] | None:
    """Arguments of a class of this package, with those that it hands on to its bases; None where they are not known."""
    module, _, name = class_path.rpartition(".")
    if module == "datamodules" and name in class_names():
        module = f"datamodules.{class_names()[name]}"
    path = _HOME / f"{module.replace('.', '/')}.py"
    owner = _class(_tree(path), name) if module.split(".")[0] in ("zoo", "datamodules") and path.is_file() else None
    if owner is None:
        return None
    constructor = _function(owner, "__init__")
    own = set() if constructor is None else _names(constructor) - {"self"}
    if constructor is not None and constructor.args.kwarg is None:
        return own
    for base in _bases(owner, path, module):
        inherited = constructor_arguments(base)
        if inherited is not None:
            return own | inherited
    return None


def _bases(owner: ast.ClassDef, path: Path, module: str) -> Iterator[str]:
    homes = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in _tree(path).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for base in owner.bases:
        if isinstance(base, ast.Name):
            yield homes.get(base.id, f"{module}.{base.id}")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _class(tree: ast.Module, name: str) -> ast.ClassDef | None:
    return next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)


def _function(owner: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _names(function: ast.FunctionDef) -> set[str]:
    arguments = function.args
    return {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
