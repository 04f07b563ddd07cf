"""Loggers as users name them: ``wandb``, ``TensorBoardLogger``, ``[csv, wandb]``; imports nothing heavy."""

import importlib.util
from typing import Any, NamedTuple

from zoo.errors import UserError
from zoo.registry import nearest

_PLACE = "lightning.pytorch.loggers"
_PLAIN = (None, True, False, "", "true", "false", "null", "none")


class Logger(NamedTuple):
    """One of Lightning's loggers.

    Attributes:
        class_name: in ``lightning.pytorch.loggers``.
        packages: any of them has to be installed.
        save_dir: it has a folder of that name, which becomes the run's.
    """

    class_name: str
    packages: tuple[str, ...] = ()
    save_dir: bool = True


LOGGERS = {
    "csv": Logger("CSVLogger"),
    "tensorboard": Logger("TensorBoardLogger", ("tensorboard", "tensorboardX")),
    "wandb": Logger("WandbLogger", ("wandb",)),
    "mlflow": Logger("MLFlowLogger", ("mlflow", "mlflow_skinny")),
    "comet": Logger("CometLogger", ("comet_ml",), save_dir=False),
    "litlogger": Logger("LitLogger", ("litlogger",), save_dir=False),
}


def logger_setting(value: Any) -> Any:
    """A setting of ``trainer.logger`` with full class paths for names; the folder is the run's where none is given.

    Args:
        value: a name, a mapping with ``class_path``, a list of them, true, false or None.

    Raises:
        UserError: no such logger, with the nearest names.
    """
    if isinstance(value, list):
        return [logger_setting(one) for one in value]
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        known = _find(value["class_path"])
        if known is None:
            return value
        given = value.get("init_args") or {}
        return {**value, "class_path": f"{_PLACE}.{known.class_name}", "init_args": {**_folder(known), **given}}
    if isinstance(value, dict) or value in _PLAIN:
        return value
    return logger_setting({"class_path": str(value)})


def logger_option(text: str) -> str:
    """A value of ``--trainer.logger`` as :func:`logger_setting`, as JSON; the packages have to be there.

    Raises:
        UserError: no such logger, or its package is missing.
    """
    import json

    import yaml

    if text.lower() in _PLAIN or text.endswith((".yaml", ".yml", ".json")):
        return text
    try:
        value = yaml.safe_load(f"[{text}]" if "," in text and not text.startswith(("[", "{")) else text)
    except yaml.YAMLError:
        return text  # the parser tells
    setting = logger_setting(value)
    for one in setting if isinstance(setting, list) else [setting]:
        if isinstance(one, dict):
            _refuse_missing(str(one.get("class_path")))
    return json.dumps(setting)


def _find(name: str) -> Logger | None:
    """The logger that a name or class path stands for; None for other people's."""
    package, _, last = name.rpartition(".")
    if package and not package.startswith(("lightning", "pytorch_lightning")):
        return None
    for short, entry in LOGGERS.items():
        if last.lower() in (short, entry.class_name.lower()):
            return entry
    known = [*LOGGERS, *(entry.class_name for entry in LOGGERS.values())]
    close = nearest(last, known) or list(LOGGERS)
    raise UserError(f"--trainer.logger: no logger '{name}'; nearest: {', '.join(close)}")


def _folder(logger: Logger) -> dict[str, str]:
    return {"save_dir": "."} if logger.save_dir else {}


def _refuse_missing(class_path: str) -> None:
    entry = next((one for one in LOGGERS.values() if class_path == f"{_PLACE}.{one.class_name}"), None)
    if entry is None or not entry.packages or any(importlib.util.find_spec(one) for one in entry.packages):
        return
    package = entry.packages[0]
    raise UserError(
        f"--trainer.logger {entry.class_name}: the package {package} is not installed; pip install {package}, or take "
        f"another logger, for example csv"
    )
