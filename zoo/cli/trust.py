"""What a run folder may ask for.

It may come from anywhere, so it is data: a configuration in it names classes of this package and a few of Lightning's
own, with plain values; anything else is refused before a module is imported.
"""

import re
from pathlib import Path
from typing import Any

from zoo.cli.options import data_class, method_class
from zoo.configs import read_yaml
from zoo.errors import UserError
from zoo.registry import FAMILIES, is_outside
from zoo.run_folder import Run

# Lightning's classes that a run's configuration may name, with the arguments that it may set. Left out: whatever takes
# a function or an object, sends files away, or writes where it is told to.
_LIGHTNING = {
    "callbacks": {
        "DeviceStatsMonitor": "cpu_stats",
        "EarlyStopping": "monitor min_delta patience verbose mode strict check_finite stopping_threshold "
        "divergence_threshold check_on_train_epoch_end log_rank_zero_only",
        "LearningRateMonitor": "logging_interval log_momentum log_weight_decay",
        "ModelCheckpoint": "filename monitor verbose save_last save_top_k save_on_exception save_weights_only mode "
        "auto_insert_metric_name every_n_train_steps train_time_interval every_n_epochs save_on_train_epoch_end "
        "enable_version_counter",
        "ModelSummary": "max_depth",
        "RichModelSummary": "max_depth",
        "StochasticWeightAveraging": "swa_lrs swa_epoch_start annealing_epochs annealing_strategy device",
        "TQDMProgressBar": "refresh_rate process_position leave",
    },
    "loggers": {
        "CSVLogger": "save_dir name version prefix flush_logs_every_n_steps",
        "MLFlowLogger": "experiment_name run_name tracking_uri save_dir prefix synchronous",
        "TensorBoardLogger": "save_dir name version log_graph default_hp_metric prefix comment max_queue flush_secs "
        "filename_suffix purge_step",
        "WandbLogger": "save_dir name version offline id anonymous project prefix add_file_policy",
    },
    "strategies": {
        "DDPStrategy": "process_group_backend timeout start_method find_unused_parameters static_graph dim init_sync "
        "broadcast_buffers bucket_cap_mb check_reduction gradient_as_bucket_view skip_all_reduce_unused_params"
    },
}
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_CLASSES = {"callbacks": "callbacks", "logger": "loggers", "strategy": "strategies"}  # key of the trainer: package
_NAMES = ("accelerator", "strategy", "precision", "profiler", "logger", "devices", "gradient_clip_algorithm")
_EMPTY = ("plugins", "model_registry", "dirpath", "folder", "output")  # places, and what is not plain
_OF_THE_CALL = ("config", "ckpt_path", "input")
_SECTIONS = ("metrics", "panels", "predictions", "last_checkpoint", "init_from", "decision")
_DEPTH = 4
_KEY = re.compile(r"[A-Za-z_]\w*")  # the parser takes "a.b" and "a+" for other keys


def check_run(run: Run) -> None:
    """Refuse a run that asks for more than shipped classes with plain values, or leads elsewhere; imports nothing.

    Args:
        run: not trusted.

    Raises:
        UserError: names the key, what it asks for, and ``--trust``.
    """
    config, inside = run.config, run.folder.resolve()
    for path in run.folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(inside) and not _is_old_log(path, run.folder):
            raise UserError(f"{path}: a link that leads out of the run's folder; if the run is your own, add --trust")
        if not path.is_file() and not path.is_dir() and not path.is_symlink():
            raise UserError(f"{path}: neither a file nor a folder; if the run is your own, add --trust")
    content = read_yaml(config)
    if not isinstance(content, dict):
        raise UserError(f"{config}: expected keys such as model:, data:, trainer:; found {type(content).__name__}")
    if (problem := problem_of_config(content)) is not None:
        raise UserError(
            f"{config}: {problem}\n"
            "a run folder may come from anywhere: only classes of this package and plain values are built from it, and "
            "nothing of it was imported; if the run is your own, add --trust"
        )


def _is_old_log(path: Path, folder: Path) -> bool:
    """A link that W&B's client makes to its own log; nothing reads or writes it again."""
    return (
        re.fullmatch(r"wandb/(offline-)?run-[\w-]+/logs/debug[\w-]*\.log", path.relative_to(folder).as_posix())
        is not None
    )


def problem_of_config(content: dict[str, Any]) -> str | None:
    """What a configuration asks for beyond shipped classes with plain values, in a sentence; None if nothing."""
    try:
        for key, part in content.items():
            _check_part(str(key), part)
    except _NotPlainError as refusal:
        return str(refusal)
    return None


class _NotPlainError(Exception):
    """Something that is refused, in a sentence."""


def _check_part(key: str, part: Any) -> None:
    if not _KEY.fullmatch(key):
        raise _NotPlainError(f"{_short(key)} is no name of an option")
    if key in _OF_THE_CALL and part is not None:
        raise _NotPlainError(f"{key} belongs to a call, not to a run")
    if key in ("model", "data"):
        path, arguments = _class(key, part)
        if is_outside(path):
            raise _NotPlainError(f"{key}.class_path {path} is no class of this package")
        try:
            resolved = (method_class if key == "model" else data_class)(path)
        except UserError as error:
            raise _NotPlainError(f"{key}.class_path: {error}") from error
        # a class of a family is found by its name wherever it has moved within the families, and nowhere else
        elsewhere = path.startswith("zoo.") and path.split(".")[1] not in FAMILIES
        if elsewhere or resolved.split(".")[0] not in ("zoo", "datamodules"):
            raise _NotPlainError(f"{key}.class_path {path} is no class of this package")
        _plain(f"{key}.init_args", arguments)
        if key == "data" and not isinstance(arguments.get("cache_dir"), str | None):
            raise _NotPlainError(f"data.cache_dir {_short(arguments['cache_dir'])} is no path")
    elif key == "trainer":
        if not isinstance(part, dict):
            raise _NotPlainError(f"trainer: expected its options, found {_short(part)}")
        for name, value in part.items():
            _check_option(str(name), value)
    elif key in _SECTIONS and not isinstance(part, dict | None):  # the parser takes a text for the name of a file
        raise _NotPlainError(f"{key}: expected its options, found {_short(part)}")
    else:
        _plain(key, part)


def _check_option(name: str, value: Any) -> None:
    """An option of the trainer."""
    if not _KEY.fullmatch(name):
        raise _NotPlainError(f"trainer.{_short(name)} is no name of an option")
    key = f"trainer.{name}"
    if name in _CLASSES and not isinstance(value, str | bool | list | dict | None):
        raise _NotPlainError(f"{key}: expected classes by name, found {_short(value)}")
    if name in _CLASSES and isinstance(value, dict | list):
        for entry in value if isinstance(value, list) else [value]:
            _check_lightning(key, _CLASSES[name], entry)
    elif name in ("callbacks", *_NAMES) and isinstance(value, str) and not re.fullmatch(r"[\w,-]*", value):
        raise _NotPlainError(f"{key} {_short(value)} is no plain name")
    elif name != "default_root_dir":  # not used: the run has its folder
        _plain(key, value)


def _check_lightning(key: str, package: str, entry: Any) -> None:
    path, arguments = _class(key, entry)
    module, _, name = path.rpartition(".")
    if package == "callbacks" and re.fullmatch(r"zoo\.callbacks\.\w+", module):
        allowed = None
    else:
        shipped = not module or any(module == f"{top}.{package}" for top in _PACKAGES)
        allowed = _LIGHTNING[package].get(name, "").split() if shipped else []
        if not allowed:
            raise _NotPlainError(f"{key}: {path} is not among the classes that a run may name")
    for argument, value in arguments.items():
        if allowed is not None and argument not in allowed and value not in (None, False):
            raise _NotPlainError(f"{key}: {name}.{argument} may not be set")
        if argument == "save_dir" and value in (None, "."):  # the run's folder
            continue
        if name == "MLFlowLogger" and _is_local(argument, value):
            continue
        if argument == "save_dir" or (isinstance(value, str) and _leaves(value)):
            raise _NotPlainError(f"{key}: {name}.{argument} {_short(value)} leads out of the run's folder")
        _plain(f"{key}: {name}.{argument}", value)


def _is_local(argument: str, value: Any) -> bool:
    """Whether MLflow stays on this machine, in the folder that the command is called in."""
    if argument == "tracking_uri":
        return value is None or re.fullmatch(r"sqlite:///[\w-]+\.db", str(value)) is not None
    return argument == "save_dir" and value == "./mlruns"  # its default


def _class(key: str, entry: Any) -> tuple[str, dict[str, Any]]:
    """Class path and arguments of an entry."""
    if isinstance(entry, str):
        entry = {"class_path": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("class_path"), str):
        raise _NotPlainError(f"{key}: expected class_path and init_args, found {_short(entry)}")
    more = [name for name in entry if name not in ("class_path", "init_args") and entry[name]]
    if more:
        raise _NotPlainError(f"{key}.{more[0]} may not be set")
    arguments = entry.get("init_args")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise _NotPlainError(f"{key}.init_args: expected arguments by name, found {_short(arguments)}")
    return entry["class_path"], arguments


def _plain(key: str, value: Any, depth: int = 0) -> None:
    """Refuse what is no plain value: objects by name, and places for files."""
    last = key.rpartition(".")[2]
    if last in _EMPTY and value is not None:
        raise _NotPlainError(f"{key} {_short(value)} leads out of the run's folder")
    if isinstance(value, dict | list) and depth < _DEPTH:
        if isinstance(value, dict) and "class_path" in value:
            raise _NotPlainError(f"{key}: {_short(value['class_path'])} may not be named there")
        entries = value.items() if isinstance(value, dict) else ((last, entry) for entry in value)
        for name, entry in entries:
            if isinstance(value, dict) and not _KEY.fullmatch(str(name)):
                raise _NotPlainError(f"{key}: {_short(name)} is no name of an option")
            _plain(f"{key}.{name}" if isinstance(value, dict) else key, entry, depth + 1)
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise _NotPlainError(f"{key}: expected a plain value, found {_short(value)}")


def _leaves(text: str) -> bool:
    """Whether a name could be a path out of the folder that it is joined to."""
    return text.startswith(("/", "~", "\\")) or ".." in text or "://" in text or "$" in text


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
