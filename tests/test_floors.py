"""The floors of the house: imports run downwards only, lazy ones too; docs/architecture.md draws them.

What only type checkers import is exempt. `zoo/__init__.py` is the front door: it hands out names of many floors and is
imported for the version alone.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground. Rooms of one floor may use each other where nothing else is said; the longest name counts.
FLOORS = (
    ("zoo.errors",),
    ("zoo.files",),
    ("datamodules.listing", "datamodules.reading"),
    ("zoo.registry", "zoo.configs", "zoo.metrics", "zoo.scoring", "zoo.sample", "zoo.foreground", "zoo.allocator"),
    ("zoo.callbacks", "zoo.synthetic", "zoo.nn", "zoo.checkpoints", "zoo.decision"),
    ("zoo.module", "zoo.staging", "zoo.run_folder"),
    ("zoo.reconstruction", "zoo.self_supervised", "zoo.pretrained", "zoo.statistical", "datamodules"),
    ("benchmarks",),
    ("zoo.cli", "zoo.__main__"),
)
# Neighbours on one floor that must not know each other.
APART = (
    ("zoo.reconstruction", "datamodules"),
    ("zoo.self_supervised", "datamodules"),
    ("zoo.pretrained", "datamodules"),
)
FRONT_DOOR = "zoo"
TOOLS = ("benchmarks.speed", "benchmarks.phantom_difficulty")  # of development, outside the wheel


def _floor(module: str) -> int | None:
    """Number of the longest name that the module lies under."""
    found = [
        (len(room), number)
        for number, rooms in enumerate(FLOORS)
        for room in rooms
        if module == room or module.startswith(room + ".")
    ]
    return max(found)[1] if found else None


def _modules() -> dict[str, Path]:
    found = {}
    for package in ("zoo", "datamodules", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module with its line, but for those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(ast.Module(node.orelse, []))
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        else:
            yield from _imports(node)


def _wrong(module: str, source: str) -> list[str]:
    own = _floor(module)
    found = []
    for name, line in _imports(ast.parse(source)):
        if name.split(".")[0] not in ("zoo", "datamodules", "benchmarks") or name.count(".") == 0:
            continue
        other = _floor(name)
        apart = any(
            (module.startswith(a) and name.startswith(b)) or (module.startswith(b) and name.startswith(a))
            for a, b in APART
        )
        if own is not None and other is not None and (other > own or apart):
            found.append(f"{module}, line {line}: imports {name}, floor {other} from floor {own}")
    return found


def test_every_room_has_a_floor():
    lost = [name for name in _modules() if _floor(name) is None and name != FRONT_DOOR]
    assert not lost, "put them on a floor: " + ", ".join(lost)


def test_imports_run_downwards():
    wrong = [
        line
        for name, path in _modules().items()
        if name != FRONT_DOOR and not name.startswith(TOOLS)
        for line in _wrong(name, path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_room_is_named_twice():
    rooms = [room for floor in FLOORS for room in floor]
    assert len(rooms) == len(set(rooms))


@pytest.mark.parametrize(
    ("module", "source", "fails"),
    [
        ("zoo.files", "from zoo.cli import main", True),
        ("zoo.files", "def f():\n    import zoo.cli.running", True),
        ("zoo.files", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zoo.module import Stage", False),
        ("zoo.files", "if TYPE_CHECKING:\n    pass\nelse:\n    import zoo.module", True),
        ("benchmarks.runner", "from zoo.cli.running import main", True),
        ("datamodules.base", "from zoo.reconstruction.fae import FeatureAutoencoder", True),
        ("zoo.reconstruction.fae", "from datamodules import Folder", True),
        ("zoo.cli.running", "from benchmarks import gallery", False),
    ],
)
def test_the_test_sees_it(module, source, fails):
    assert bool(_wrong(module, source)) == fails
