"""Options of the commands: short names, configuration files, and where a mistake stands; imports nothing heavy."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.registry import class_names
from zoo.cli.loggers import logger_option, logger_setting
from zoo.configs import config_path, read_yaml
from zoo.errors import UserError
from zoo.registry import find_settings, importable, is_outside, nearest, not_importable
from zoo.run_folder import Run, open_run


def take_run(options: list[str]) -> tuple[list[str], Run | None, bool]:
    """Take ``--run FOLDER`` and ``--trust`` out of the options.

    Returns:
        The other options, the run, and whether its configuration may name any class.

    Raises:
        UserError: no run in the folder.
    """
    rest: list[str] = []
    folder: str | None = None
    words = iter(options)
    for word in words:
        key, equals, value = word.partition("=")
        if key == "--run":
            folder = value if equals else next(words, "")
        elif word != "--trust":
            rest.append(word)
    trust = "--trust" in options
    if folder is None:
        sources = ("--ckpt_path", "--init_from", "--init_from.source")
        if trust and not any(word.partition("=")[0] in sources for word in rest):
            raise UserError("--trust belongs to --run FOLDER or --ckpt_path FILE; a file given by --config is your own")
        return rest, None, trust
    if not folder:
        raise UserError("--run needs the folder of a run, for example --run runs/NAME")
    if (Path(folder) / "model.safetensors").is_file():  # what push and export write: weights, no run
        return [*rest, "--ckpt_path", folder], None, trust
    return rest, open_run(Path(folder)), trust


# ---- names --------------------------------------------------------------------------------------------------------


def method_class(name: str) -> str:
    """Import path of a method: ``fae``, ``FeatureAutoencoder`` or a path, also of the user's own class.

    Raises:
        UserError: no such method, or no such module.
    """
    return _own_class(name) if is_outside(name) else find_settings(name)[0].class_path


def method_with_settings(name: str) -> str:
    """As :func:`method_class`; of a variant the path with its arguments, as JSON."""
    path, settings = method_class(name), {} if is_outside(name) else find_settings(name)[1]
    return json.dumps({"class_path": path, "init_args": settings}) if settings else path


def data_class(name: str) -> str:
    """Import path of a data set: its class or file by name, or a path, also of the user's own class."""
    if is_outside(name):
        return _own_class(name)
    known = class_names()
    wanted = name.rpartition(".")[2].replace("_", "").lower()
    for entry in known:
        if entry.lower() == wanted:
            return f"datamodules.{entry}"
    close = nearest(name.rpartition(".")[2], known)
    raise UserError(f"unknown data set '{name}'; {'nearest' if close else 'known'}: {', '.join(close or known)}")


def _own_class(path: str) -> str:
    """The path of a class outside of this package, if its top package is there; nothing is imported for that."""
    if not importable(path.partition(".")[0]):
        raise UserError(not_importable(path))
    return path


_RESOLVERS: dict[str, Callable[[str], str]] = {"model": method_class, "data": data_class}


def resolve_names(options: list[str]) -> tuple[list[str], list[Path]]:
    """Replace short names of configurations, methods and data sets, and check the configuration files.

    Returns:
        The options with full names, and the configuration files among them.

    Raises:
        UserError: an unknown name, or a file that is not a configuration.
    """
    files: list[Path] = []

    def config(name: str) -> str:
        files.append(config_path(name))
        _check(files[-1])
        return str(files[-1])

    resolvers: dict[str, Callable[[str], str]] = {"--config": config, "-c": config}
    for key, resolve in _RESOLVERS.items():
        resolvers |= dict.fromkeys((f"--{key}", f"--{key}.class_path", f"--{key}.help"), resolve)
    resolvers["--model"] = method_with_settings
    resolvers |= dict.fromkeys(("--trainer.logger", "--trainer.logger+"), logger_option)
    resolved: list[str] = []
    pending: Callable[[str], str] | None = None
    for word in options:
        word = re.sub(r"^--init_from(?==|$)", "--init_from.source", word)
        word = re.sub(r"^--trainer\.logger\.class_path(?==|$)", "--trainer.logger", word)
        key, equals, value = word.partition("=")
        if pending is not None:
            resolved.append(word if word.startswith("-") else _resolved(word, pending))
            pending = None
        elif key in resolvers and equals:
            resolved.append(f"{key}={_resolved(value, resolvers[key])}")
        else:
            pending = resolvers.get(word)
            resolved.append(word)
    return resolved, files


def _resolved(value: str, resolve: Callable[[str], str]) -> str:
    """Names become paths; a mapping is left as it is, but for loggers, which get their folder."""
    return value if value.startswith("{") and resolve is not logger_option else resolve(value)


def _check(path: Path) -> None:
    """Read a configuration once, so that mistakes of form are told with the file's name."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys such as model:, data:, trainer:; found {type(content).__name__}")
    try:
        resolve_classes(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def resolve_classes(content: dict[str, Any]) -> None:
    """Put full class paths for short names of a method, a data set and loggers, a variant's arguments too, in place."""
    trainer = content.get("trainer")
    if isinstance(trainer, dict) and "logger" in trainer:
        trainer["logger"] = logger_setting(trainer["logger"])
    for key, resolve in _RESOLVERS.items():
        part = content.get(key)
        if isinstance(part, str) and not part.endswith((".yaml", ".yml", ".json")):
            content[key] = part = {"class_path": part}
        if isinstance(part, dict) and isinstance(part.get("class_path"), str):
            name = part["class_path"]
            part["class_path"] = resolve(name)
            settings = find_settings(name)[1] if key == "model" and not is_outside(name) else {}
            if settings:
                part["init_args"] = {**settings, **(part.get("init_args") or {})}


def todays(content: Any) -> Any:
    """The configuration of a run, maybe an older one, without what has gone since; what it meant stays.

    Args:
        content: of a run's ``config.yaml``; not altered.
    """
    if not isinstance(content, dict):
        return content
    kept = dict(content)
    metrics, model = kept.get("metrics"), kept.get("model")
    if isinstance(metrics, dict) and "pixel_ap_group" in metrics:
        kept["metrics"] = {key: value for key, value in metrics.items() if key != "pixel_ap_group"}
        if metrics["pixel_ap_group"] is not None:
            kept["metrics"].setdefault("protocol", "multi_task")
    own = model.get("init_args") if isinstance(model, dict) else None
    if isinstance(model, dict) and isinstance(own, dict) and str(model.get("class_path")).startswith("zoo."):
        settled = {key: value for key, value in own.items() if key != "value_range"}  # the data and the checkpoint tell
        kept["model"] = {**model, "init_args": settled}
    return kept


# ---- mistakes -----------------------------------------------------------------------------------------------------


def missing_sections(names: str) -> str:
    """What to give for required options that are missing, such as ``model, data``."""
    parts = [name.rpartition(".")[2] for name in names.split(", ")]
    ways = {
        "model": "no method given: --config models/NAME or --model NAME (`zoo models` lists them)",
        "data": "no data set given: --config data/NAME or --data NAME (`zoo data list` lists them)",
    }
    return "\n".join(ways.get(part, f"--{part} is required") for part in parts)


def with_place(message: str, files: list[Path]) -> str:
    """A message about an option (``--model.init_args.lr: ...``), with the line of the file that set it.

    Args:
        message: as :class:`Parser` tells it.
        files: the configuration files, in the order in which they were merged.
    """
    first, *rest = message.splitlines() or [""]
    key = re.match(r"--([\w.+]+): ", first)
    if key is None:
        return message
    for path in reversed(files):
        number = _line(path, key.group(1).rstrip("+").split("."))
        if number is not None:
            return "\n".join([f"{first} ({path}, line {number})", *rest])
    return message


def _line(path: Path, key: list[str]) -> int | None:
    """Where a key stands in a YAML file; ``init_args`` may be left out of it."""
    import yaml

    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    found = None
    while key and isinstance(node, yaml.MappingNode):
        entries = {name.value: (name, value) for name, value in node.value}
        if key[0] in entries:
            found, node = entries[key[0]]
            key = key[1:]
        elif "init_args" in entries:
            node = entries["init_args"][1]
        else:
            return None
    return None if key or found is None else int(found.start_mark.line) + 1
