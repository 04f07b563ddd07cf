"""The parser of Lightning's commands: short names in its files, and mistakes told in a sentence."""

import re
from typing import Any

import jsonargparse
from jsonargparse import _loaders_dumpers as loaders
from lightning.pytorch.cli import LightningArgumentParser

from zoo.cli.options import missing_sections, resolve_classes
from zoo.cli.words import with_lists
from zoo.errors import UserError
from zoo.registry import nearest

MODE = "zoo"


def use_short_names() -> None:
    """Make the parser's YAML reader resolve short names of methods and data sets."""

    def load(text: str) -> Any:
        content = with_lists(loaders.yaml_load(text))
        if isinstance(content, dict):
            resolve_classes(content)
        return content

    jsonargparse.set_loader(MODE, load, loaders.get_loader_exceptions("yaml"))


# ---- mistakes -----------------------------------------------------------------------------------------------------


class Parser(LightningArgumentParser):
    """A parser whose mistakes are one sentence with the nearest valid name."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise instead of printing the usage."""
        raise UserError(_explain(message, _options(self))) from ex


def _options(parser: Any) -> list[str]:
    names = [action.dest for action in parser._actions if action.dest not in ("help", "config")]
    action = getattr(parser, "_subcommands_action", None)
    return names if action is None else _options(next(iter(action._name_parser_map.values())))


def _explain(message: str, options: list[str]) -> str:
    """Say in one or two lines what jsonargparse says in fifty; called again for every level of nesting."""
    prefix = re.match(r'Parser key "(model|data)":', message)
    inner = re.search(r"--\S+: (?:unknown option|expected).*", message)
    if prefix and inner:
        return inner.group(0).replace("--", f"--{prefix.group(1)}.")
    missing = re.search(r"the following arguments are required: (.*)", message)
    if missing:
        return missing_sections(missing.group(1))
    unknown = re.search(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'", message)
    unknown = unknown or re.search(r"[Uu]nrecognized arguments: --([^\s=]+)", message)
    if unknown:
        key = next(group for group in unknown.groups() if group).removeprefix("--")
        close = nearest(key, options)
        hint = f"; nearest: {', '.join('--' + one for one in close)}" if close else ""
        return f"--{key}: unknown option{hint}"
    value = re.search(r'Parser key "([\w.]+)":\s*(?:Expected an? (.+?)\. Got value: (.*))', message)
    if value:
        key, wanted, found = value.groups()
        wanted = re.sub(r"<class '([\w.]+)'>", r"\1", wanted)
        wanted = re.sub(r"typing.Literal\[(.*)\]", r"one of \1", wanted)
        return f"--{key}: expected {wanted}, found {found}"
    drop = ("Does not validate against any of the Union", "Given value", "Errors:", "Problem with given")
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    return "\n".join([line for line in lines if not line.startswith(drop) and "NoneType" not in line][:4] or lines[:4])
