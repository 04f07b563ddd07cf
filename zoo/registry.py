"""The folder is the registry: every method file in a family folder is found by reading it, without importing torch.

A method file holds one class with a literal ``reference``; the file's name is the method's name. Help, documentation
table, contract tests, benchmark and command line all start from :func:`methods`.
"""

import ast
import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.module import AnomalyModule

FAMILIES = ("reconstruction", "self_supervised", "pretrained")
_LITERALS = ("reference", "dims", "fitting", "tiny", "checkpoint_format")


@dataclass(frozen=True)
class Method:
    """What can be said of a method without importing it.

    Attributes:
        name: snake-case name, the file's name.
        family: folder, one of :data:`FAMILIES`.
        class_path: import path of the class, as a configuration names it.
        summary: first line of the class's docstring.
        reference: title, venue, year and URL of the paper.
        dims: spatial dimensions that the method works in.
        fitting: ``gradient`` or ``single_pass``.
        tiny: constructor arguments that fit in a second on CPU.
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
    for method in known.values():
        if key in (method.name, method.name.replace("_", ""), method.class_name.lower(), method.class_path.lower()):
            return method
    by_word = {word: method.name for method in known.values() for word in (method.class_name, method.name)}
    close = list(dict.fromkeys(by_word[word] for word in nearest(key.rpartition(".")[2], by_word)))
    hint = f"nearest: {', '.join(close)}" if close else f"known: {', '.join(known)}"
    raise UserError(f"unknown method '{name}'; {hint} (`zoo models` lists all)")


def load_class(name: str) -> "type[AnomalyModule]":
    """Import the class of the method called ``name``."""
    module, _, class_name = find(name).class_path.rpartition(".")
    return getattr(importlib.import_module(module), class_name)
