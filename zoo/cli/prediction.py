"""What ``predict`` needs: a run or a checkpoint, and files. The rest is the run's, or the machine's of the caller."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.integrity import is_cache
from datamodules.registry import class_names
from zoo.checkpoints.bounds import check_image_size
from zoo.checkpoints.loading import class_of, read_header
from zoo.cli.trust import problem_of_config
from zoo.configs import read_yaml
from zoo.errors import UserError
from zoo.module import OF_THE_DATA
from zoo.registry import arguments, load_class

# Options of the machine, which change no result (beyond rounding): the caller's, whatever the run had.
_DATA = ("batch_size", "num_workers", "cache_dir", "bad_files", "device_store")
_PLACES = ("root", "train_root", "test_root", "table")
_TRAINER = (
    *("accelerator", "devices", "strategy", "num_nodes", "precision", "plugins", "use_distributed_sampler"),
    *("logger", "enable_progress_bar", "enable_model_summary", "default_root_dir", "log_every_n_steps", "profiler"),
)
_WHILE_FITTING = ("data.num_workers", "data.cache_dir", "trainer.accelerator", "trainer.enable_progress_bar")
_OF_THE_CALL = (
    *("config", "ckpt_path", "verbose", "weights_only", "return_predictions", "input", "predictions", "decision"),
    "init_from",
)


def is_callers(command: str, key: str) -> bool:
    """Whether an option of a command with ``--run`` may differ from the run's."""
    part, _, name = key.partition(".")
    if part in _OF_THE_CALL or key in _WHILE_FITTING or (part == "data" and name in _PLACES):
        return True
    if command == "fit":
        return False
    if command == "predict" and part in ("trainer", "panels", "metrics", "last_checkpoint"):
        return True
    return (part == "data" and name in _DATA) or (part == "trainer" and name.partition(".")[0] in _TRAINER)


def cache_default(stored: dict[str, Any]) -> list[str]:
    """The option that leaves a run's ``data.cache_dir`` out where it is no cache of this machine: it is written to.

    Args:
        stored: content of the run's configuration.
    """
    data = stored.get("data")
    place = (data.get("init_args") or {}).get("cache_dir") if isinstance(data, dict) else None
    if place is None or is_cache(Path(place).expanduser()):
        return []
    print(f"the run's data.cache_dir {place} is no cache of this machine: the usual one is taken", file=sys.stderr)
    return ["--data.cache_dir=null"]


def machine_defaults(command: str, stored: dict[str, Any]) -> list[str]:
    """Options that put this machine in the place of the run's.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        stored: content of the run's configuration.
    """
    if command == "predict":
        plain = {"accelerator": "auto", "devices": 1, "strategy": "auto", "num_nodes": 1, "precision": "null"}
        plain |= {"logger": "false", "callbacks": "null", "plugins": "null"}
        return [f"--trainer.{key}={value}" for key, value in plain.items()]
    trainer = stored.get("trainer")
    wanted = trainer.get("accelerator", "auto") if isinstance(trainer, dict) else "auto"
    if command != "fit" and wanted not in ("auto", "cpu") and not _is_there(str(wanted)):
        return ["--trainer.accelerator=auto", "--trainer.devices=auto", "--trainer.strategy=auto"]
    return []


def _is_there(accelerator: str) -> bool:
    import torch

    if accelerator == "mps":
        return torch.backends.mps.is_available()
    return torch.cuda.is_available()


def value_of(options: Sequence[str], key: str) -> str | None:
    """The value that the last ``--key VALUE`` or ``--key=VALUE`` among the options gives; None without one."""
    found = None
    for position, word in enumerate(options):
        name, equals, value = word.partition("=")
        if name == key:
            found = value if equals else next(iter(options[position + 1 : position + 2]), None)
    return found


def older_arguments(stored: dict[str, Any]) -> list[str]:
    """Options that keep what an older run's configuration meant: arguments that its method has gained since."""
    model = stored.get("model")
    if not isinstance(model, dict) or not str(model.get("class_path")).startswith("zoo."):
        return []
    given = model.get("init_args") or {}
    before = load_class(str(model["class_path"])).before
    return [f"--model.{key}={value}" for key, value in before.items() if key not in given]


def model_of_checkpoint(
    source: str, header: dict[str, Any], given: dict[str, Any], *, trust: bool = False
) -> dict[str, Any]:
    """The section ``model`` of a configuration, from what a checkpoint knows.

    Args:
        source: named in errors.
        header: of the checkpoint.
        given: arguments of its method.
        trust: it may be a class outside of this package.

    Raises:
        UserError: it names no method, or one that it may not.
    """
    cls = class_of(source, header, trust=trust)
    known = arguments(cls)
    hparams = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in {**cls.before, **given}.items()
        if key not in OF_THE_DATA or key in known
    }
    return {"class_path": cls.method().class_path, "init_args": hparams}


def data_of_checkpoint(source: str, header: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """The section ``data`` of a configuration, from what a checkpoint knows.

    Args:
        source: named in errors.
        header: of the checkpoint.
        model: :func:`model_of_checkpoint`.

    Raises:
        UserError: it does not tell how its data were read.
    """
    data = header.get("data")
    if not isinstance(data, dict):
        size = model["init_args"].get("image_size")
        if not isinstance(size, list) or len(size) != 2:
            raise UserError(f"{source}: does not say how its volumes are read; add --config data/NAME")
        folder: dict[str, Any] = {"image_size": size, "in_channels": model["init_args"].get("in_channels")}
        return {"class_path": "datamodules.Folder", "init_args": folder}
    class_path, read_with, facts = str(data.get("class_path")), data.get("init_args"), data.get("known")
    if class_path not in {f"datamodules.{name}" for name in class_names()}:
        raise UserError(f"{source}: its data were read by {class_path[:60]}, no class of this package; add --data NAME")
    if not isinstance(read_with, dict) or not isinstance(facts, dict | None):
        raise UserError(f"{source}: damaged: does not say how its data were read; add --config data/NAME")
    if "cache_dir" in read_with:
        raise UserError(f"{source}: refused, nothing was run: it names a place to write to (cache_dir)")
    size = (facts or {}).get("image_size")
    check_image_size(source, size)
    return {"class_path": class_path, "init_args": {**read_with, "image_size": size}}


def told_by_checkpoint(
    command: str, words: Sequence[str], files: Sequence[Path], *, trust: bool = False
) -> dict[str, Any]:
    """Sections of a configuration that the caller leaves to the checkpoint of ``--ckpt_path`` or ``--init_from``.

    The method is the checkpoint's where none is given. So is the way to read images, for a prediction of files or
    where only the place of the data is given (``--data.root DIR``).

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        words: the caller's options.
        files: configuration files among them.
        trust: the method may be a class outside of this package.

    Raises:
        UserError: the checkpoint does not tell, or a prediction has no files.
    """
    start = value_of(words, "--init_from") or value_of(words, "--init_from.source")
    source = value_of(words, "--ckpt_path") or start
    given = {word.partition("=")[0].removeprefix("--").removesuffix(".class_path") for word in words}
    given |= {str(key) for path in files for key in (read_yaml(path) or {})}
    data_keys = any(key.startswith("data.") for key in given)
    wanted_data = "data" not in given and (command == "predict" or data_keys)
    if source is None or "help" in given or ("model" in given and not wanted_data):
        return {}
    if command == "predict" and "data" not in given and "input" not in given:
        raise UserError("predict --ckpt_path scores new images: add --input FILE_OR_FOLDER; for the test set, --run")
    try:
        header, settings = read_header(source)
    except UserError:
        if value_of(words, "--ckpt_path") is None:  # the authors' file does not say into which method
            return {}
        raise
    model = model_of_checkpoint(source, header, settings, trust=trust)
    found = {} if "model" in given else {"model": model}
    if wanted_data:
        found["data"] = data_of_checkpoint(source, header, model)
    if command == "fit" and "model" in found and start is not None:  # it may be of another size
        own = {key: value for key, value in model["init_args"].items() if key not in ("image_size", "in_channels")}
        found["model"] = {**model, "init_args": own}
    if not trust and (problem := problem_of_config(found)) is not None:
        raise UserError(f"{source}: refused, nothing was run: {problem}; give --config for its data and method")
    return found


def known_of_data(checkpoint: Any) -> dict[str, Any]:
    """Size, channels and grey scale of the data that a checkpoint was trained on, as far as it tells."""
    header = checkpoint.get("uad_zoo") if isinstance(checkpoint, dict) else None
    data = header.get("data") if isinstance(header, dict) else None
    found = data.get("known") if isinstance(data, dict) else None
    if isinstance(found, dict):
        return found
    hparams = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    told = hparams if isinstance(hparams, dict) else {}
    return {"image_size": told.get("image_size"), "channels": told.get("in_channels")}


def advice(command: str, run: Any, options: Sequence[str]) -> str:
    """The command that takes the run's configuration, its checkpoint and all that the caller gave."""
    parts = ["lightning", command, "--config", str(run.config)]
    if command != "fit" and value_of(options, "--ckpt_path") is None:
        parts += ["--ckpt_path", str(run.checkpoint or "...")]
    return shlex.join([*parts, *options])
