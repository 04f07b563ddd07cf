"""The folder is the registry: every method file in a family folder is found by reading it, without importing torch.

A method file holds one class with a literal ``reference``; the file's name is the method's name. Help, documentation
table, contract tests, benchmark and command line all start from :func:`methods`. Other configurations of methods that
ship are variants with names of their own (:func:`variants`).
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.configs import read_yaml, shipped_configs
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.module import AnomalyModule

FAMILIES = ("reconstruction", "self_supervised", "pretrained", "statistical")
_LITERALS = ("reference", "dims", "fitting", "tiny", "small", "checkpoint_format")


@dataclass(frozen=True)
class Method:
    """What can be said of a method without importing it.

    Attributes:
        name: snake-case name, the file's name.
        family: folder, one of :data:`FAMILIES`; ``outside`` for classes that live elsewhere (:func:`outside`).
        class_path: import path of the class, as a configuration names it.
        summary: first line of the class's docstring.
        reference: title, venue, year and URL of the paper.
        dims: spatial dimensions that the method works in.
        fitting: ``gradient`` or ``single_pass``.
        tiny: constructor arguments that fit in a second on CPU.
        small: constructor arguments for 64 pixels and minutes on a CPU, over those of the method's configuration.
        checkpoint_format: name of the original authors' checkpoint format, if it can be imported.
    """

    name: str
    family: str
    class_path: str
    summary: str
    reference: dict[str, Any]
    dims: tuple[int, ...] = (2,)
    fitting: str = "gradient"
    tiny: dict[str, Any] | None = None
    small: dict[str, Any] | None = None
    checkpoint_format: str | None = None

    @property
    def class_name(self) -> str:
        """Name of the class alone."""
        return self.class_path.rpartition(".")[2]


@cache
def methods() -> dict[str, Method]:
    """All methods by name, in the order of families and then names."""
    found: dict[str, Method] = {}
    for family in FAMILIES:
        for path in sorted((Path(__file__).parent / family).glob("[a-z]*.py")):
            method = _read_method(path, family)
            if method is not None:
                found[method.name] = method
    return found


def _read_method(path: Path, family: str) -> Method | None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        values = dict(_literal_attributes(node))
        if "reference" in values:
            summary = (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")
            return Method(path.stem, family, f"zoo.{family}.{path.stem}.{node.name}", summary, **values)
    return None


def _literal_attributes(node: ast.ClassDef) -> Iterable[tuple[str, Any]]:
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and target.id in _LITERALS and value is not None:
            yield target.id, ast.literal_eval(value)


def nearest(word: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """Names that a misspelt ``word`` may have meant, best first."""
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), by_lower, n=limit, cutoff=0.5)
    return [by_lower[name] for name in close]


def find(name: str) -> Method:
    """The method called ``name``: its name, its class name or its class path, whatever the case.

    Raises:
        UserError: no such method; the message lists the nearest names.
    """
    known = methods()
    key = name.lower().replace("-", "_")
    if key.startswith("zoo."):  # a class keeps its name when it moves to another room
        key = key.rpartition(".")[2]
    for method in known.values():
        if key in (method.name, method.name.replace("_", ""), method.class_name.lower()):
            return method
    by_word = {word: method.name for method in known.values() for word in (method.class_name, method.name)}
    by_word |= {
        key.rpartition("/")[2]: key.rpartition("/")[2] for key in shipped_configs() if key.startswith("models/")
    }
    close = list(dict.fromkeys(by_word[word] for word in nearest(key.rpartition(".")[2], by_word)))
    hint = f"nearest: {', '.join(close)}" if close else f"known: {', '.join(known)}"
    raise UserError(f"unknown method '{name}'; {hint} (`zoo models` lists all)")


@dataclass(frozen=True)
class Variant:
    """A shipped configuration of a method that goes by a name of its own, as ``dn2`` does.

    Attributes:
        name: the configuration's name below ``models/``.
        method: whose arguments it sets.
        arguments: those arguments.
        summary: first line of its comment.
    """

    name: str
    method: Method
    arguments: dict[str, Any]
    summary: str


@cache
def variants() -> dict[str, Variant]:
    """All shipped configurations of methods but the methods' own, by name."""
    found: dict[str, Variant] = {}
    for key, path in shipped_configs().items():
        folder, _, name = key.rpartition("/")
        if folder == "models" and name not in methods():
            model = read_yaml(path)["model"]
            given = model.get("init_args", {}).items()
            plain = {key: tuple(value) if isinstance(value, list) else value for key, value in given}
            comment = path.read_text(encoding="utf-8").partition("\n")[0].strip("# ").rstrip(".")
            found[name] = Variant(name, find(model["class_path"]), plain, comment)
    return found


def names(family: str | None = None) -> list[str]:
    """Names of all methods, each followed by those of its variants.

    Args:
        family: of :data:`FAMILIES`; None = all.
    """
    chosen = [method for method in methods().values() if family in (None, method.family)]
    return [
        name
        for method in chosen
        for name in (method.name, *(one.name for one in variants().values() if one.method == method))
    ]


def find_settings(name: str) -> tuple[Method, dict[str, Any]]:
    """The method that a name stands for, and the arguments that the name brings along (those of a variant).

    Raises:
        UserError: neither a method nor a variant; the message lists the nearest names.
    """
    variant = variants().get(name.lower().replace("-", "_"))
    return (find(name), {}) if variant is None else (variant.method, variant.arguments)


def arguments(cls: type) -> dict[str, Any]:
    """Constructor arguments of a class, with those that it hands on to its parents, and their defaults."""
    found: dict[str, Any] = {}
    for one in cls.__mro__:
        if "__init__" not in vars(one):
            continue
        parameters = [*inspect.signature(vars(one)["__init__"]).parameters.values()][1:]
        named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        found = {one.name: one.default for one in parameters if one.kind in named} | found
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
            break
    return found


def outside(cls: type) -> Method:
    """The entry of a class that is in no family folder, from its attributes; it goes by its name in snake case."""
    values = {key: getattr(cls, key) for key in _LITERALS if key != "reference" and hasattr(cls, key)}
    summary = (inspect.getdoc(cls) or "").partition("\n")[0].rstrip(".")
    path = f"{cls.__module__}.{cls.__qualname__}"
    return Method(snake(cls.__name__), "outside", path, summary, getattr(cls, "reference", {}), **values)


def snake(class_name: str) -> str:
    """``MeanImage`` as ``mean_image``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name).lower()


def is_outside(name: str) -> bool:
    """Whether a name is the path of a class outside of this package."""
    top, dot, _ = name.partition(".")
    return bool(top and dot) and top not in ("zoo", "datamodules")


def load_class(name: str) -> "type[AnomalyModule]":
    """Import the class of the method called ``name``, or a class outside of this package by its path.

    Raises:
        UserError: no such method, module or class; the message says how the user's own is found.
    """
    path = name if is_outside(name) else find(name).class_path
    module, _, class_name = path.rpartition(".")
    try:
        found: type[AnomalyModule] = getattr(importlib.import_module(module), class_name)
    except (ModuleNotFoundError, AttributeError) as error:
        if not is_outside(name) or (isinstance(error, ModuleNotFoundError) and not module.startswith(error.name or "")):
            raise
        raise UserError(not_importable(name)) from error
    return found


def not_importable(path: str) -> str:
    """What to do about a class outside of this package that Python does not find, in a sentence."""
    module, _, class_name = path.rpartition(".")
    if importable(module):
        return f"{path}: there is no {class_name} in the module {module}; look at the name"
    file = module.replace(".", "/") + ".py"
    return (
        f"{path}: Python finds no module {module}; put the folder that holds {file} on its path "
        f"(PYTHONPATH=FOLDER before the command), or install it with pip"
    )


def importable(module: str) -> bool:
    """Whether Python finds a module; the packages that hold it are imported for that, it is not."""
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False
