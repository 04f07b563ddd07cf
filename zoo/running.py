"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's command line with short names, run folders and short errors."""

import contextlib
import importlib
import logging
import re
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jsonargparse
import torch
import yaml
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import datamodules
from datamodules.base import AnomalyDataModule
from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.callbacks.last_checkpoint import LastCheckpoint
from zoo.callbacks.panels import Panels
from zoo.callbacks.plain_progress import PlainProgress
from zoo.callbacks.prediction_writer import PredictionWriter
from zoo.cli import config_path
from zoo.errors import UserError
from zoo.module import AnomalyModule
from zoo.nn.features import weights_follow
from zoo.registry import find, nearest
from zoo.run_folder import Run, new_folder, open_run, provenance

_OF_THE_CALL = ("config", "ckpt_path", "verbose", "weights_only", "return_predictions", "input")


def main(argv: list[str]) -> int:
    """Run one of Lightning's four commands.

    Args:
        argv: command and options.

    Returns:
        int: 0.

    Raises:
        UserError: any mistake in options, configuration or data.
    """
    quieten()
    command, options, run = argv[0], *_take_run(argv[1:])
    arguments = [command]
    if run is not None:
        arguments += ["--config", str(run.config)]
    arguments += _resolve_names(options)
    jsonargparse.set_loader(_MODE, _load_yaml, get_loader_exceptions("yaml"))
    try:
        ZooCLI(arguments, run)
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    return 0


# ---- options ------------------------------------------------------------------------------------------------------

_MODE = "zoo"
get_loader_exceptions = jsonargparse._loaders_dumpers.get_loader_exceptions  # the parser's own list for YAML


def _take_run(options: list[str]) -> tuple[list[str], Run | None]:
    """Take ``--run FOLDER`` out of the options."""
    rest: list[str] = []
    folder: str | None = None
    words = iter(options)
    for word in words:
        key, equals, value = word.partition("=")
        if key == "--run":
            folder = value if equals else next(words, "")
        else:
            rest.append(word)
    if folder is None:
        return rest, None
    if not folder:
        raise UserError("--run needs the folder of a run, for example --run runs/fae-medmnist-001")
    return rest, open_run(Path(folder))


def _resolve_names(options: list[str]) -> list[str]:
    """Short names of configurations, methods and data sets become paths; configuration files are checked."""
    resolvers = {
        "--config": lambda name: str(_checked(config_path(name))),
        "-c": lambda name: str(_checked(config_path(name))),
        "--model": lambda name: find(name).class_path,
        "--model.class_path": lambda name: find(name).class_path,
        "--model.help": lambda name: find(name).class_path,
        "--data": _data_class,
        "--data.class_path": _data_class,
        "--data.help": _data_class,
    }
    resolved: list[str] = []
    pending = None
    for word in options:
        key, equals, value = word.partition("=")
        if pending is not None:
            resolved.append(word if word.startswith(("-", "{")) else pending(word))
            pending = None
        elif key in resolvers and equals:
            resolved.append(f"{key}={value if value.startswith('{') else resolvers[key](value)}")
        else:
            pending = resolvers.get(word)
            resolved.append(word)
    return resolved


def _data_class(name: str) -> str:
    """Import path of a data set: ``CovidX``, ``covidx`` or a path of the user's own class."""
    known = [entry for entry in datamodules.__all__ if entry not in ("AnomalyDataModule", "Sample")]
    wanted = name.removeprefix("datamodules.").replace("_", "").lower()
    for entry in known:
        if entry.lower() == wanted:
            return f"datamodules.{entry}"
    if "." in name and not name.startswith("datamodules."):
        return name
    close = nearest(name.removeprefix("datamodules."), known)
    raise UserError(f"unknown data set '{name}'; {'nearest' if close else 'known'}: {', '.join(close or known)}")


def _checked(path: Path) -> Path:
    """Read a configuration once for its form, so that mistakes are told with the file's name."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a YAML text file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys such as model:, data:, trainer:; found {type(content).__name__}")
    for key, resolve in (("model", find), ("data", _data_class)):
        part = content.get(key)
        class_path = part.get("class_path") if isinstance(part, dict) else part
        if isinstance(class_path, str) and not _own_class(class_path):
            try:
                resolve(class_path)
            except UserError as error:
                raise UserError(f"{path}: {key}.class_path: {error}") from error
    return path


def _own_class(class_path: str) -> bool:
    """Whether the path leads to a class outside this package."""
    module, _, name = class_path.rpartition(".")
    if not module or module.split(".")[0] in ("zoo", "datamodules"):
        return False
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False


def _load_yaml(text: str) -> Any:
    """YAML as jsonargparse reads it, with short names of methods and data sets resolved."""
    content = jsonargparse._loaders_dumpers.yaml_load(text)
    if isinstance(content, dict):
        for key, resolve in (("model", lambda name: find(name).class_path), ("data", _data_class)):
            part = content.get(key)
            if isinstance(part, str):
                content[key] = part = {"class_path": part}
            if isinstance(part, dict) and isinstance(part.get("class_path"), str):
                if not _own_class(part["class_path"]):
                    part["class_path"] = resolve(part["class_path"])
    return content


class Parser(LightningArgumentParser):
    """A parser whose mistakes are one sentence with the nearest valid name."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise instead of printing the usage."""
        raise UserError(explain(message, self)) from ex


def explain(message: str, parser: LightningArgumentParser) -> str:
    """Say in one or two lines what jsonargparse says in fifty."""
    keys = _keys(parser)
    unknown = re.search(r"[Oo]ption '([^']+)' is not accepted", message) or re.search(
        r"does not accept (?:nested key|option) '([^']+)'", message
    )
    unknown = unknown or re.search(r"[Uu]nrecognized arguments: --([^\s=]+)", message)
    if unknown:
        return _unknown_key(unknown.group(1), message, keys)
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    drop = ("Problem with given class_path", "Does not validate against any of the Union", "Given value type")
    kept = [line for line in lines if not line.startswith(drop) and "NoneType" not in line]
    return "\n".join((kept or lines)[:4])


def _unknown_key(key: str, message: str, keys: list[str]) -> str:
    owner = re.search(r"class_path '([^']+)'", message)
    parent = re.search(r"(?:key|parameter) \"([^\"]+)\"", message)
    if owner is not None:
        part = (parent.group(1) if parent else "model").split(".init_args")[0]
        module, _, name = owner.group(1).rpartition(".")
        known = jsonargparse.ArgumentParser(exit_on_error=False)
        known.add_class_arguments(getattr(importlib.import_module(module), name), None, fail_untyped=False)
        names = [action.dest for action in known._actions if action.dest not in ("help", "config")]
        close = nearest(key.rpartition(".")[2], names)
        return f"{name} has no option {part}.{key}; " + (
            f"nearest: {', '.join(f'{part}.{one}' for one in close)}" if close else f"options: {', '.join(names[:20])}"
        )
    close = nearest(key, keys)
    return f"unknown option --{key}" + (f"; nearest: {', '.join('--' + one for one in close)}" if close else "")


def _keys(parser: LightningArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions if action.dest and action.dest != "help"]


# ---- the command line ---------------------------------------------------------------------------------------------


class ZooCLI(LightningCLI):
    """Parses, makes the run folder, runs.

    Args:
        arguments: command and resolved options.
        run: the run given by ``--run``.
    """

    def __init__(self, arguments: list[str], run: Run | None) -> None:
        self.run = run
        terminal = sys.stderr.isatty()
        super().__init__(
            AnomalyModule,
            AnomalyDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "enable_progress_bar": terminal,
                "default_root_dir": "runs",
                "log_every_n_steps": 10,
            },
            parser_class=Parser,
            parser_kwargs={name: {"parser_mode": _MODE} for name in self.subcommands()} | {"parser_mode": _MODE},
            args=arguments,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside Lightning's own."""
        parser.add_argument("--test_after_fit", type=bool, default=False, help="fit, then test")
        parser.add_argument(
            "--tune_allocator", type=bool, default=False, help="CPU training: keep freed memory (zoo/allocator.py)"
        )
        parser.add_lightning_class_args(AnomalyMetrics, "metrics")
        parser.add_lightning_class_args(Panels, "panels")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--input", type=str | None, default=None, help="image or folder to score; default: the test set"
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; with ``--run`` refuse options that differ from the run's."""
        self.config = parser.parse_args(args)
        self._given = self.config[self.config["subcommand"]]
        if self.run is not None:
            stored = parser.parse_args([args[0], "--config", str(self.run.config)])
            self._refuse_differences(stored[args[0]])

    def _refuse_differences(self, stored: jsonargparse.Namespace) -> None:
        assert self.run is not None
        before, now = (dict(jsonargparse.namespace_to_dict(one.clone()).items()) for one in (stored, self._given))
        for key, old, new in _differences(before, now):
            if key.split(".")[0] in (*_OF_THE_CALL, "predictions"):
                continue
            raise UserError(
                f"--{key} {new}: the run {self.run.folder} has {old}; --run takes the run as it is\n"
                f"for a new run: lightning {self.config['subcommand']} --config {self.run.config} "
                f"--ckpt_path {self.run.checkpoint or '...'} --{key} {new}"
            )

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: a checkpoint's values never replace the user's."""

    def before_instantiate_classes(self) -> None:
        """Choose checkpoint and folder."""
        given = self._given
        if given.tune_allocator:
            from zoo.allocator import tune_allocator

            tune_allocator()
        self.checkpoint = None if given.get("ckpt_path") is None else Path(given.ckpt_path)
        if self.run is not None and self.checkpoint is None:
            self.checkpoint = self.run.resume if self.subcommand == "fit" else self.run.checkpoint
            if self.checkpoint is None and self.subcommand != "fit":
                raise UserError(f"{self.run.folder}: no checkpoint yet; finish it with `lightning fit --run`")
        if self.checkpoint is not None and not self.checkpoint.is_file():
            raise UserError(f"--ckpt_path {self.checkpoint}: no such file")
        self.text = self._config_text()

    def _config_text(self) -> str:
        if self.run is not None:
            return self.run.config.read_text(encoding="utf-8")
        self._dump_config()
        kept = {key: value for key, value in self.config_dump.items() if key not in _OF_THE_CALL}
        return yaml.safe_dump(kept, sort_keys=False)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the common callbacks, writing into the run's folder."""
        if self.subcommand == "predict" and self._given.input is not None:
            self.datamodule.predict_input = self._given.input
        self.folder = self._make_folder() if _get_rank() in (None, 0) else None
        trainer_config = self.config_init[self.subcommand].trainer
        if trainer_config.logger in (None, True) and self.folder is not None:
            trainer_config.logger = CSVLogger(self.folder, name="logs")
        trainer = super().instantiate_trainer(**kwargs)
        own = [_OutputFolder(self)]
        if self.subcommand == "fit" and not trainer_config.enable_progress_bar:
            own.append(PlainProgress())
        if self.subcommand != "fit":
            trainer.callbacks[:] = [one for one in trainer.callbacks if not isinstance(one, LastCheckpoint)]
        trainer.callbacks[:0] = own
        return trainer

    def _make_folder(self) -> Path:
        if self.run is not None:
            return self.run.folder
        name = f"{type(self.model).method().name}-{self.datamodule.name}"
        folder = new_folder(Path(self._given.trainer.default_root_dir), name)
        partial = folder / "config.partial"
        partial.write_text(self.text, encoding="utf-8")
        partial.replace(folder / "config.yaml")
        return folder

    def _run_subcommand(self, subcommand: str) -> None:
        with weights_follow() if self.checkpoint is not None else contextlib.nullcontext():
            getattr(self, f"run_{subcommand}")()

    def run_fit(self) -> None:
        """Fit; then test if asked to."""
        started = time.perf_counter()
        self.trainer.fit(self.model, self.datamodule, ckpt_path=_path(self.checkpoint))
        self.fit_seconds = time.perf_counter() - started
        if self._given.test_after_fit:
            self.trainer.test(self.model, self.datamodule, verbose=False)
        self._say(
            f"lightning test --run {self.folder}", f"lightning predict --run {self.folder} --input FILE_OR_FOLDER"
        )

    def run_validate(self) -> None:
        """Validate and print the metrics."""
        self.trainer.validate(self.model, self.datamodule, ckpt_path=_path(self.checkpoint), verbose=False)
        for name, value in _find(self.trainer, AnomalyMetrics).results.items():
            print(f"val/{name:14s} {value:.4f}")
        self._say()

    def run_test(self) -> None:
        """Test."""
        self.trainer.test(self.model, self.datamodule, ckpt_path=_path(self.checkpoint), verbose=False)
        self._say()

    def run_predict(self) -> None:
        """Predict and write the files."""
        self.trainer.predict(self.model, self.datamodule, ckpt_path=_path(self.checkpoint), return_predictions=False)
        if self.trainer.is_global_zero:
            print(f"scores and maps: {_find(self.trainer, PredictionWriter).folder}")

    def _say(self, *next_commands: str) -> None:
        if self.trainer.is_global_zero:
            note = "   (PHANTOM data: no statement on real images)" if self.datamodule.phantom else ""
            print(f"run folder: {self.folder}{note}")
            for command in next_commands:
                print(f"  {command}")
            print(f"repeat:     lightning {self.subcommand} --config {Path(str(self.folder)) / 'config.yaml'}")


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _find(trainer: Trainer, kind: type[Any]) -> Any:
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif str(old) != str(new):
            found.append((f"{prefix}{key}".replace(".init_args", ""), old, new))
    return found


class _OutputFolder(Callback):
    """Tells every callback where the run's files go, once all processes are up."""

    def __init__(self, cli: ZooCLI) -> None:
        self.cli = cli

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the outputs that the user has not set."""
        folder: Path = trainer.strategy.broadcast(self.cli.folder)
        self.cli.folder = folder
        results = folder
        if stage == "test" and (folder / "metrics.json").exists():
            results = new_folder(folder, "test")
        for callback in trainer.callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / "checkpoints")
                callback.filename = callback.filename or "best"
            elif isinstance(callback, LastCheckpoint):
                callback.folder = callback.folder or str(folder / "checkpoints")
            elif isinstance(callback, AnomalyMetrics) and stage == "test":
                callback.output = str(results / "metrics.json")
            elif isinstance(callback, Panels) and stage == "test":
                callback.folder = str(results / "panels")
            elif isinstance(callback, PredictionWriter) and stage == "predict" and callback.folder is None:
                callback.folder = str(new_folder(folder, "predictions"))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say in ``metrics.json`` what was tested."""
        metrics = _find(trainer, AnomalyMetrics)
        assert isinstance(pl_module, AnomalyModule)
        metrics.extra = provenance(pl_module, trainer, self.cli.text, self.cli._given.seed_everything) | {
            "fit_seconds": getattr(self.cli, "fit_seconds", None),
            "peak_memory_bytes": peak_memory(pl_module.device),
        }


def peak_memory(device: torch.device) -> int:
    """Largest memory so far: of the GPU, or resident in the process (bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def quieten() -> None:
    """Leave out what the user cannot act on."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    patterns = (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*fewer than the logging interval.*|.*is smaller than the logging interval.*",
        ".*configure_optimizers. returned .None.*|.*configure_optimizers. returned an empty.*",
        ".*training_step. returned .None.*",
        ".*Checkpoint directory .* exists.*",
        ".*pin_memory.*",
        ".*max_epochs. was not set.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*lightning.pytorch.*litlogger.*|.*litmodels.*",
    )
    for pattern in patterns:
        warnings.filterwarnings("ignore", pattern)
