"""The folder is the registry of data sets: a literal ``card`` in each file, read without importing torch.

A DataModule's file in this folder holds a class with a ``card``; a source that a DataModule composes (a collection of
brains, say) is a small file of one of the folders in :data:`SOURCES` with a ``card`` of its own. The file's name is the
data set's name. Commands, help, phantoms, the documentation's table and contract tests start from :func:`data_sets`.
"""

import ast
import importlib
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.registry import nearest

if TYPE_CHECKING:
    from datamodules.base import AnomalyDataModule

SOURCES = ("brain", "auxiliary")
PHANTOM_PRESETS = ("smoke", "small", "demo", "full-shape")


@dataclass(frozen=True)
class DataSet:
    """What can be said of a data set without importing it: its card.

    Attributes:
        name: snake-case name, the file's name.
        group: empty for a DataModule, else the folder of the source.
        class_name: the DataModule's class, empty for a source.
        summary: first line of the class's or the file's docstring.
        title: what it is, in a few words.
        access: where the user gets it.
        licence: its terms.
        layout: what the root holds.
        size: bytes of the download in words, where ``downloads`` does not tell.
        steps: how a person gets it where a program may not, one sentence each.
        images: ``pictures``, ``slices`` or ``volumes``.
        subject: what one subject is, and how it is known.
        official: number of images, films or cases by part, as published.
        phantom: module of ``datamodules.phantoms`` that writes its stand-in; empty for a set composed of sources.
        phantom_options: further settings that the phantom's writer knows, with their values.
        config: the shipped configuration that uses it, empty for auxiliary sets.
        channels: possible numbers of channels of ``image``.
        value_range: the range of ``image``, as served by default.
        foreground: rule by which the foreground follows from an image alone, where a batch does not bring it:
            ``all``, ``nonzero``, ``above_minimum`` of the range, or ``above X``.
        protocol: what has to be done to compare with published tables.
        leaks: known shortcuts and leaks.
        pool: where images of unknown health come from, for ``data.unlabeled``; empty where there are none.
        sources: folder of the sources that the DataModule composes.
        more: entries that only its group knows.
    """

    name: str
    group: str
    class_name: str
    summary: str
    title: str
    access: str
    licence: str
    layout: str
    images: str
    subject: str
    size: str = ""
    steps: tuple[str, ...] = ()
    official: dict[str, int] = field(default_factory=dict)
    phantom: str = ""
    phantom_options: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    config: str = ""
    channels: tuple[int, ...] = (1,)
    value_range: tuple[float, float] = (0.0, 1.0)
    foreground: str = "above_minimum"
    protocol: str = ""
    leaks: str = ""
    pool: str = ""
    sources: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """Import path of the file."""
        return ".".join(part for part in ("datamodules", self.group, self.name) if part)


@cache
def cards() -> dict[str, DataSet]:
    """All cards by name: the DataModules, then the sources folder by folder; alphabetical."""
    found: dict[str, DataSet] = {}
    for group in ("", *SOURCES):
        for path in sorted((Path(__file__).parent / group).glob("[a-z]*.py")):
            entry = _read(path, group)
            if entry is not None:
                found[entry.name] = entry
    return found


def data_sets() -> dict[str, DataSet]:
    """The data sets that have files of their own, and so a phantom and a check, by name."""
    return {name: entry for name, entry in cards().items() if entry.phantom}


def class_names() -> dict[str, str]:
    """Class of each DataModule with the name of its file."""
    return {entry.class_name: entry.name for entry in cards().values() if entry.class_name}


def _read(path: Path, group: str) -> DataSet | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    owners: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for owner in owners:
        for statement in owner.body:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == "card" for target in targets):
                assert isinstance(statement, ast.Assign)
                summary = (ast.get_docstring(owner) or "").partition("\n")[0].rstrip(".")
                class_name = owner.name if isinstance(owner, ast.ClassDef) else ""
                return _entry(path.stem, group, class_name, summary, ast.literal_eval(statement.value))
    return None


def _entry(name: str, group: str, class_name: str, summary: str, card: dict[str, Any]) -> DataSet:
    known = {one.name for one in fields(DataSet)} - {"name", "group", "class_name", "summary", "more"}
    more = {key: value for key, value in card.items() if key not in known}
    told = {key: value for key, value in card.items() if key in known}
    return DataSet(name, group, class_name, summary, **told, more=more)


def find(name: str) -> DataSet:
    """The data set called ``name``.

    Raises:
        UserError: no such data set, with the nearest names; or one that is composed of sources, with theirs.
    """
    entry = cards().get(name)
    if entry is None:
        close = nearest(name, data_sets()) or list(data_sets())
        raise UserError(f"unknown data set '{name}'; nearest: {', '.join(close)}")
    if not entry.phantom:
        parts = [one.name for one in cards().values() if one.group == entry.sources]
        raise UserError(f"{name} is composed of sources; name one of {', '.join(parts)}")
    return entry


def data_module(name: str, **options: Any) -> "AnomalyDataModule":
    """The DataModule that reads the data set, a source together with a partner.

    Args:
        name: of a data set that is not auxiliary.
        **options: of the DataModule.

    Raises:
        UserError: unknown name, or options that do not fit.
    """
    entry = find(name)
    if entry.class_name:
        module: AnomalyDataModule = getattr(importlib.import_module(entry.module), entry.class_name)(**options)
        return module
    composed: AnomalyDataModule = home(entry).data_module(entry, **options)
    return composed


def home(entry: DataSet) -> Any:
    """The module that knows how a source is examined and used: the DataModule that composes it, else its folder's."""
    composer = next((one for one in cards().values() if one.sources == entry.group), None)
    return importlib.import_module(f"datamodules.{entry.group}" if composer is None else composer.module)
