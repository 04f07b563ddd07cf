"""Configuration files: the shipped ones by name, and reading YAML that may come from anywhere."""

from pathlib import Path
from typing import Any

from zoo.errors import UserError

_MAX_BYTES = 1 << 18
_MAX_DEPTH = 20
_MAX_VALUES = 100_000


def shipped_configs() -> dict[str, Path]:
    """All shipped configurations by short name (``models/fae``), in a clone and in an installed wheel."""
    here = Path(__file__).parent
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def config_path(name: str) -> Path:
    """A configuration file: a path, or the short name of a shipped one such as ``models/fae``.

    Raises:
        UserError: no such file; the message lists the nearest shipped names.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = shipped_configs()
    short = name.removesuffix(".yaml").removeprefix("configs/")
    if short in shipped:
        return shipped[short]
    last = [full for full in shipped if full.rpartition("/")[2] == short]
    if len(last) == 1:
        return shipped[last[0]]
    from zoo.registry import nearest

    close = last or nearest(short, shipped)
    hint = f"nearest shipped: {', '.join(close)}" if close else "shipped: models/..., data/..., papers/..., quickstart"
    raise UserError(f"--config {name}: no such file; {hint}")


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file.

    Tags that construct objects are refused, and so is a file that a few lines of aliases make huge.

    Args:
        path: UTF-8 text, at most 256 KiB.

    Returns:
        dict, list, str, number, bool or None, as the file has it.

    Raises:
        UserError: no YAML, no plain values, or too large; the message names file and line.
        OSError: it cannot be read.
    """
    import yaml

    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: larger than {_MAX_BYTES // 1024} KiB; no configuration is")
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_bombs(path, text)
        return yaml.safe_load(text)
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise UserError(f"{path}{line}: not valid YAML of plain values: {error.problem}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a YAML text file") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # an impossible date, an unhashable key
        raise UserError(f"{path}: not valid YAML of plain values: {error}") from error


def _refuse_bombs(path: Path, text: str) -> None:
    """Count the values with every alias put in full: ten lines can stand for a billion."""
    import yaml

    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor of each collection around, and the count where it starts
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise UserError(f"{path}: *{event.anchor} is inside itself")
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - start
        if count > _MAX_VALUES or len(open_nodes) > _MAX_DEPTH:
            raise UserError(f"{path}: refused: more than {_MAX_VALUES:,} values or {_MAX_DEPTH} levels")
