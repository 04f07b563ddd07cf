"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's command line with run folders."""

import contextlib
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonargparse
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from datamodules.base import AnomalyDataModule
from datamodules.integrity import default_cache
from datamodules.records import write_csv
from datamodules.registry import class_names
from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.callbacks.attached import attached
from zoo.callbacks.calibrating import ReserveCalibration
from zoo.callbacks.init_from import InitFrom
from zoo.callbacks.last_checkpoint import LastCheckpoint
from zoo.callbacks.outputs import PlacesOutputs
from zoo.callbacks.panels import Panels
from zoo.callbacks.plain_progress import PlainProgress
from zoo.callbacks.prediction_writer import PredictionWriter
from zoo.callbacks.tracking import Tracking
from zoo.checkpoints.loading import lightning_file, same_backbone
from zoo.checkpoints.marks import result_of
from zoo.checkpoints.reading import read_checkpoint
from zoo.checkpoints.saving import attach_result
from zoo.cli.calibrate import calibrate_after_fit, find_calibration, members_of
from zoo.cli.memory import settle_batch
from zoo.cli.options import resolve_names, take_run, todays, with_place
from zoo.cli.parsing import MODE, Parser, use_short_names
from zoo.cli.prediction import (
    advice,
    cache_default,
    is_callers,
    known_of_data,
    machine_defaults,
    older_arguments,
    told_by_checkpoint,
    value_of,
)
from zoo.cli.trust import check_run
from zoo.cli.words import tidy
from zoo.configs import read_yaml
from zoo.decision.calibration import Calibration
from zoo.decision.decide import Rule
from zoo.errors import UserError
from zoo.files import held, write_text
from zoo.module import AnomalyModule
from zoo.nn.features import weights_follow
from zoo.registry import Method, methods, snake
from zoo.run_folder import Run, new_folder, provenance

_OWN_CONFIGURATION = "give the checkpoint's own (--run FOLDER has it; predict --ckpt_path FILE --input ... needs none)"
_ROOM = 1 << 20  # bytes below which a disk counts as full
_OF_THE_CALL = ("config", "ckpt_path", "verbose", "weights_only", "return_predictions", "input", "decision")


def main(argv: list[str], callbacks: Iterable[Callback] = (), calibrate: Any = None) -> int:
    """Run one of Lightning's four commands.

    Args:
        argv: command and options.
        callbacks: added to the trainer's.
        calibrate: see :class:`Call`.

    Returns:
        int: 0; 1 where files to predict were left out.

    Raises:
        UserError: any mistake in options, configuration or data.
    """
    quieten()
    command, options, run, trust = argv[0], *take_run(argv[1:])
    if run is not None and not trust:
        check_run(run)
    if options == ["--help", "all"]:
        options = ["--help"]
    words = tidy(options)
    resolved, files = resolve_names(words)
    use_short_names()
    call = Call(run, list(callbacks), words, calibrate=calibrate)
    with contextlib.ExitStack() as stack:
        if run is None:
            told = told_by_checkpoint(command, words, files, trust=trust)
            call.before = ["--config", str(_scratch(stack, told))] if told else []
        else:
            call.before = _of_run(command, run, stack)
            if not trust and value_of(words, "--data.cache_dir") is None:
                call.before += cache_default(read_yaml(run.config))
        return _call(command, call, resolved, files)


def _of_run(command: str, run: Run, stack: contextlib.ExitStack) -> list[str]:
    """Arguments of a run, which come before the caller's."""
    content = read_yaml(run.config)
    stored = todays(content) if isinstance(content, dict) else {}
    file = run.config if stored == content else _scratch(stack, stored)
    return ["--config", str(file), *older_arguments(stored), *machine_defaults(command, stored)]


def _scratch(stack: contextlib.ExitStack, content: dict[str, Any]) -> Path:
    """A configuration file that goes with the call."""
    file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "config.yaml"
    write_text(file, yaml.safe_dump(content, sort_keys=False))
    return file


def _call(command: str, call: "Call", resolved: list[str], files: list[Path]) -> int:
    try:
        with call.holding:
            cli = ZooCLI([command, *call.before, *resolved], call)
        return 1 if command == "predict" and cli.datamodule.rejected else 0
    except Interrupted as stop:
        if command == "fit" and stop.folder is not None:
            print(f"interrupted; resume with: lightning fit --run {stop.folder}", file=sys.stderr)
        else:
            print("interrupted", file=sys.stderr)
        return 128 + stop.signal
    except Exception as error:
        if call.made is not None and not any(call.made.glob("checkpoints/*")):  # a mistake leaves nothing behind
            shutil.rmtree(call.made, ignore_errors=True)
        if isinstance(error, OSError) and error.filename is None and call.folder is not None:  # a logger's, mostly
            raise OSError(error.errno, error.strerror or str(error), str(_full_place(call.folder))) from error
        if isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict"):
            first = " ".join(str(error).splitlines()[1:2]).strip()
            raise UserError(f"the checkpoint does not fit the configuration: {first}\n{_OWN_CONFIGURATION}") from error
        if isinstance(error, ValueError) and _of_optimiser(error):
            raise UserError(
                f"the optimiser refuses a setting: {error}; see the method's options (model.lr, ...)"
            ) from error
        early = isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on")
        if not early and not isinstance(error, UserError | MisconfigurationException):
            raise
        message = str(error) if isinstance(error, UserError) else " ".join(str(error).split())
        raise UserError(with_place(message, files)) from error


def _full_place(folder: Path) -> Path:
    """Where a file of unknown name did not fit: the run's folder, unless there is room and none in another place."""
    places = [folder, Path(tempfile.gettempdir()), default_cache()]
    full = [place for place in places if place.is_dir() and shutil.disk_usage(place).free < _ROOM]
    return full[0] if full else folder


def _of_optimiser(error: BaseException) -> bool:
    """Whether an optimiser's constructor has raised it: a negative learning rate, for example."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and "optim" in Path(place.tb_frame.f_code.co_filename).parts


@dataclass
class Call:
    """What one call of the program is given, and what it made.

    Attributes:
        run: the run of ``--run``.
        callbacks: added to the trainer's.
        folder: of the run.
        made: the same, if it is new.
        holding: ends with the call: it lets go of the run folder.
        words: the caller's options, without ``--run``.
        before: arguments that come before them: configuration of the run or checkpoint, this machine.
        calibrate: called with trainer, model, data and checkpoint in the place of a prediction.
    """

    run: Run | None
    callbacks: list[Callback]
    words: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    folder: Path | None = None
    made: Path | None = None
    calibrate: Callable[[Trainer, AnomalyModule, AnomalyDataModule, Path], None] | None = None
    holding: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM has ended the command.

    Attributes:
        signal: its number.
        folder: of the run, once there is one.
    """

    def __init__(self, signal: int, folder: Path | None) -> None:
        super().__init__(signal)
        self.signal, self.folder = signal, folder


# ---- the command line ---------------------------------------------------------------------------------------------


class ZooCLI(LightningCLI):
    """Parses, makes the run folder, runs.

    Args:
        arguments: command and resolved options.
        call: see there.
    """

    def __init__(self, arguments: list[str], call: Call) -> None:
        self.call, self.run = call, call.run
        self.calibration: Calibration | None = None
        self.calibration_problem = ""
        terminal = sys.stderr.isatty()
        parser = {"parser_mode": MODE, "allow_abbrev": False, "usage": "lightning COMMAND [options]"}
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
            parser_kwargs=parser | dict.fromkeys(self.subcommands(), parser),
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
        parser.add_lightning_class_args(InitFrom, "init_from")  # works in fit; a run's configuration keeps it
        parser.add_class_arguments(Rule, "decision")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--input", type=str, nargs="+", help="images, folders or patterns to score; default: the test set"
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; with ``--run`` refuse options that differ from the run's."""
        self.config = parser.parse_args(args)
        self._given = self.config[self.config["subcommand"]]
        if self.run is not None:
            self._given.trainer.default_root_dir = str(self.run.folder)
            stored = parser.parse_args([args[0], *self.call.before])
            stored[args[0]].trainer.default_root_dir = str(self.run.folder)
            self._refuse_differences(stored[args[0]])

    def _refuse_differences(self, stored: jsonargparse.Namespace) -> None:
        assert self.run is not None
        before, now = (dict(jsonargparse.namespace_to_dict(one.clone()).items()) for one in (stored, self._given))
        for key, old, new in _differences(before, now):
            if is_callers(self.config["subcommand"], key):
                continue
            raise UserError(
                f"--{key} {new}: the run {self.run.folder} has {old}; --run takes the run as it is\n"
                f"for a new run: {advice(self.config['subcommand'], self.run, self.call.words)}"
            )

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: a checkpoint's values never replace the user's."""

    def before_instantiate_classes(self) -> None:
        """Choose checkpoint and folder."""
        given = self._given
        if given.tune_allocator:
            from zoo.allocator import tune_allocator

            tune_allocator()
        self.checkpoint, content = self._find_checkpoint()
        if self.checkpoint is not None:
            self.known = known_of_data(content)
            if self.subcommand in ("test", "predict"):
                run = None if self.run is None else self.run.folder
                self.calibration, self.calibration_problem = find_calibration(content, run)
            if self.subcommand == "fit":
                self._check_start(content)
                self._refuse_overruled(content)
        self.text = self._config_text()
        self.folder = self._make_folder() if _get_rank() in (None, 0) else None
        self.call.folder = self.folder
        if self.folder is not None:
            if self.subcommand in ("fit", "test"):  # they write the run's own files
                self.call.holding.enter_context(held(self.folder))
            self._place_loggers(self.folder)

    def _find_checkpoint(self) -> tuple[Path | None, dict[str, Any]]:
        """The caller's checkpoint in a form that Lightning takes, else the run's, and its content."""
        source = self._given.get("ckpt_path")
        if source is not None:
            scratch = self.call.holding.enter_context(tempfile.TemporaryDirectory())
            return lightning_file(source, Path(scratch))
        if self.run is None:
            return None, {}
        found = self.run.resume if self.subcommand == "fit" else self.run.checkpoint
        if found is None and self.subcommand != "fit":
            raise UserError(f"{self.run.folder}: no checkpoint yet; finish it with `lightning fit --run`")
        return found, {} if found is None else read_checkpoint(found)

    def _check_start(self, content: dict[str, Any]) -> None:
        """A fit is continued from a whole checkpoint, or begun from weights; not both."""
        source, given = self._given.init_from.source, self._given.get("ckpt_path")
        if source is not None and self.run is None:
            raise UserError(f"--ckpt_path continues a run, --init_from {source} starts one from weights: give one")
        if "optimizer_states" not in content:
            raise UserError(
                f"--ckpt_path {given or self.checkpoint}: holds weights alone, there is nothing to continue; "
                f"--init_from {given or self.checkpoint} starts a new fit from them"
            )

    def _refuse_overruled(self, content: dict[str, Any]) -> None:
        """What a continued run would take from its checkpoint may not be given otherwise: it would go unheard."""
        source = self._given.get("ckpt_path")
        if source is None:
            return
        now = self._given.model.init_args.as_dict() if "init_args" in self._given.model else {}
        stored, header = content.get("hyper_parameters", {}), content["uad_zoo"]
        pairs = [(f"model.{key}", now.get(key), stored[key]) for key in stored if key in now]
        pairs.append(("seed_everything", self._given.seed_everything, header.get("seed")))
        for key, new, old in pairs:
            follows = key in ("model.image_size", "model.in_channels")  # checked against the data, as in any fit
            if not follows and old is not None and _listed(new) != _listed(old):
                raise UserError(
                    f"--{key} {new}: --ckpt_path continues a run, and that of {source} has {old}\n"
                    f"give --{key} {old}, or start a new fit from its weights: --init_from {source}"
                )

    def _make_folder(self) -> Path:
        if self.run is not None:
            return self.run.folder
        method, data = (self._given[key].class_path for key in ("model", "data"))
        name = f"{_snake(method, methods().values())}-{_snake(data, ())}"
        folder = new_folder(Path(self._given.trainer.default_root_dir), name)
        self.call.made = folder
        write_text(folder / "config.yaml", self.text)
        return folder

    def _place_loggers(self, folder: Path) -> None:
        """Give loggers the run's folder, unless the user chose another one."""
        loggers = self._given.trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            arguments = getattr(logger, "init_args", None)
            if arguments is not None and "save_dir" in arguments and arguments.save_dir in (None, "."):
                arguments.save_dir = str(folder)

    def _config_text(self) -> str:
        if self.run is not None:
            return self.run.config.read_text(encoding="utf-8")
        self._dump_config()
        kept = {key: value for key, value in self.config_dump.items() if key not in _OF_THE_CALL}
        source = self._given.get("ckpt_path")
        begun = "" if source is None else f"# of a call with --ckpt_path {json.dumps(str(source))}\n"
        return begun + yaml.safe_dump(kept, sort_keys=False)

    def instantiate_classes(self) -> None:
        """Make data set, model and trainer; what their constructors refuse is told without the parser's wrapping."""
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except (ModuleNotFoundError, ValueError) as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, ModuleNotFoundError):  # of loggers and the like, whose packages are not ours
                reason = " ".join(str(cause).split())[:200]
                raise UserError(f"trainer: {reason}; or take another, for example --trainer.logger csv") from error
            raise UserError(str(cause)) if isinstance(cause, ValueError) else cause from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the common callbacks, writing into the run's folder."""
        if self.subcommand == "predict" and self._given.input is not None:
            self._predict_files(self._given.input)
        trainer_config = self.config_init[self.subcommand].trainer
        if trainer_config.logger in (None, True) and self.folder is not None:
            trainer_config.logger = CSVLogger(self.folder, name="logs")
        try:
            trainer = super().instantiate_trainer(**kwargs)
            for logger in trainer.loggers:  # a package that is missing or broken shows now
                _ = getattr(logger, "experiment", None)
        except (OSError, UserError):
            raise
        except Exception as error:  # loggers and plugins raise what they like
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"trainer: {reason or type(error).__name__}") from error
        callbacks = attached(trainer)
        own: list[Callback] = [_PlaceOutputs(self), *self.call.callbacks]
        if self.subcommand == "fit":
            own.append(ReserveCalibration())
        self._take_decision(callbacks)
        if self.subcommand == "fit" and not trainer_config.enable_progress_bar:
            own.append(PlainProgress())
        if self.subcommand != "fit":
            callbacks[:] = [one for one in callbacks if not isinstance(one, LastCheckpoint)]
        callbacks[:0] = own
        callbacks.append(Tracking(yaml.safe_load(self.text)))
        return trainer

    def _take_decision(self, callbacks: list[Callback]) -> None:
        """Hand rule and calibration to the callbacks that decide."""
        rule: Rule = self.config_init[self.subcommand].decision
        if self.calibration_problem and rule.asked:
            raise UserError(self.calibration_problem)
        members = members_of(self.calibration, None if self.run is None else self.run.folder)
        for callback in callbacks:
            if isinstance(callback, PredictionWriter | AnomalyMetrics):
                callback.rule, callback.calibration, callback.members = rule, self.calibration, members
                callback.run = str(self._given.get("ckpt_path") if self.run is None else self.run.folder)
                callback.problem = self.calibration_problem
            elif isinstance(callback, Panels):
                callback.calibration = self.calibration

    def _predict_files(self, places: list[str]) -> None:
        """Read the files as the training images were read; a damaged one is told, the others are scored."""
        data = self.datamodule
        data.predict_input = places
        if not any(word.partition("=")[0] == "--data.bad_files" for word in self.call.words):
            data.bad_files = "lenient"
        if self.checkpoint is not None:
            data.take_known(self.known)

    def _run_subcommand(self, subcommand: str) -> None:
        follow = self.checkpoint is not None or (subcommand == "fit" and self._brings_backbone())
        try:
            with weights_follow() if follow else contextlib.nullcontext():
                getattr(self, f"run_{subcommand}")()
        except SystemExit as error:  # Lightning's way to end after Ctrl-C and SIGTERM
            number = signal.SIGINT if isinstance(error.__context__, KeyboardInterrupt) else signal.SIGTERM
            raise Interrupted(number, self.folder) from error

    def _brings_backbone(self) -> bool:
        """Whether a new fit starts from a model of the same method with the same backbone, whose weights it brings."""
        source = self._given.init_from.source
        return source is not None and same_backbone(source, type(self.model).__name__, self.model.hparams)

    def run_fit(self) -> None:
        """Fit; then test if asked to."""
        if self.checkpoint is None:
            self._settle_batch()
        started = time.perf_counter()
        self.trainer.fit(self.model, self.datamodule, ckpt_path=_path(self.checkpoint), weights_only=True)
        self.fit_seconds = time.perf_counter() - started
        if self.folder is not None:
            self.calibration = calibrate_after_fit(self.trainer, self.model, self.datamodule, self.folder)
            self._take_decision(attached(self.trainer))
        tested = self.run is not None and (self.run.folder / "metrics.json").exists()
        if self._given.test_after_fit and not tested:
            best = [one.best_model_path for one in attached(self.trainer) if isinstance(one, ModelCheckpoint)]
            best_path = next((path for path in best if path), None)  # None tests the last weights
            self.trainer.test(self.model, self.datamodule, ckpt_path=best_path, weights_only=True, verbose=False)
            self._keep_result(best_path)
        self._say("test", "predict --input FILE_OR_FOLDER")

    def _settle_batch(self) -> None:
        """Refuse a batch that cannot fit; keep what ``auto`` has chosen in the run's configuration."""
        chosen = settle_batch(self.model, self.datamodule, self.trainer)
        if chosen is None or self.folder is None:
            return
        content = yaml.safe_load(self.text)
        content["data"]["init_args"]["batch_size"] = chosen
        self.text = yaml.safe_dump(content, sort_keys=False)
        write_text(self.folder / "config.yaml", self.text)

    def run_validate(self) -> None:
        """Validate and print the metrics."""
        self.trainer.validate(
            self.model, self.datamodule, ckpt_path=_path(self.checkpoint), weights_only=True, verbose=False
        )
        for name, value in _find(self.trainer, AnomalyMetrics).results.items():
            print(f"val/{name:14s} {value:.4f}")
        self._say()

    def run_test(self) -> None:
        """Test."""
        self.trainer.test(
            self.model, self.datamodule, ckpt_path=_path(self.checkpoint), weights_only=True, verbose=False
        )
        if self.run is not None and self._given.get("ckpt_path") is None:
            self._keep_result(_path(self.checkpoint))
        self._say()

    def _keep_result(self, tested: str | None) -> None:
        """Write a test's result into the checkpoint of the run that was tested; None: the last one."""
        if not self.trainer.is_global_zero or self.folder is None:
            return
        path = self.folder / "checkpoints" / "last.ckpt" if tested is None else Path(tested)
        output = _find(self.trainer, AnomalyMetrics).output
        result = None if output is None else result_of(Path(output).parent)
        if result is not None and path.is_file():
            attach_result(path, result)

    def run_predict(self) -> None:
        """Predict and write the files, or calibrate with what is predicted."""
        if self.call.calibrate is not None:
            assert self.checkpoint is not None
            self.call.calibrate(self.trainer, self.model, self.datamodule, self.checkpoint)
            return
        self.trainer.predict(
            self.model, self.datamodule, ckpt_path=_path(self.checkpoint), weights_only=True, return_predictions=False
        )
        if self.trainer.is_global_zero:
            folder = _find(self.trainer, PredictionWriter).folder
            print(f"scores and maps: {folder}")
            rejected = self.datamodule.rejected
            if rejected:
                write_csv([{"problem": problem} for problem in rejected], Path(folder) / "rejected.csv", ("problem",))
                shown = [f"not scored: {problem}" for problem in rejected[:4]]
                more = [f"... and {len(rejected) - 4} more, see {folder}/rejected.csv"] if len(rejected) > 4 else []
                print("\n".join([*shown, *more]), file=sys.stderr)

    def _say(self, *next_commands: str) -> None:
        if self.trainer.is_global_zero:
            note = "   (PHANTOM data: no statement on real images)" if self.datamodule.phantom else ""
            note += "   (semi-supervised: unlabelled images were used)" if self.datamodule.unlabeled else ""
            print(f"run folder: {self.folder}{note}")
            for command in next_commands:
                print(f"next:       lightning {command} --run {self.folder}")
            source = self._given.get("ckpt_path")
            if source is None and self.subcommand != "fit":
                source = self.checkpoint
            begun = "" if source is None else f" --ckpt_path {source}"
            print(f"repeat:     lightning {self.subcommand} --config {self.folder}/config.yaml{begun}")


def _snake(class_path: str, known: Iterable[Method]) -> str:
    """Name of a class for folders: the method's name, else the class's in snake case."""
    names = {method.class_path: method.name for method in known}
    name = class_path.rpartition(".")[2]
    return names.get(class_path) or class_names().get(name) or snake(name)


def _listed(value: Any) -> Any:
    return [_listed(entry) for entry in value] if isinstance(value, list | tuple) else value


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _find(trainer: Any, kind: type[Any]) -> Any:
    return next(callback for callback in attached(trainer) if isinstance(callback, kind))


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif str(old) != str(new):
            found.append((f"{prefix}{key}".replace(".init_args", ""), old, new))
    return found


class _PlaceOutputs(Callback):
    """Tells the callbacks where the run's files go, once all processes are up."""

    def __init__(self, cli: ZooCLI) -> None:
        self.cli = cli

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the run's folder and that of this call's results; what the user has set stays."""
        run = trainer.strategy.broadcast(self.cli.folder)
        assert run is not None
        self.cli.folder = run
        name = None
        if stage == "predict" and self.cli._given.predictions.folder is None:
            name = "predictions"
        elif stage == "test" and (run / "metrics.json").exists():
            name = "test"
        made = new_folder(run, name) if name is not None and trainer.is_global_zero else run
        results = trainer.strategy.broadcast(made)
        for callback in attached(trainer):
            if isinstance(callback, PlacesOutputs):
                callback.place_outputs(run, results, stage)
            elif isinstance(callback, ModelCheckpoint) and callback.dirpath is None:  # Lightning's own
                callback.dirpath = str(run / "checkpoints")
                callback.filename = callback.filename or "best"

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the best checkpoints be those beside this one: a run may have been moved, and a file may say anything."""
        for callback in attached(trainer):
            state = checkpoint.get("callbacks", {}).get(getattr(callback, "state_key", None))
            if isinstance(callback, ModelCheckpoint) and isinstance(state, dict) and callback.dirpath is not None:
                _settle_in(state, Path(callback.dirpath))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say in ``metrics.json`` what was tested."""
        metrics = _find(trainer, AnomalyMetrics)
        assert isinstance(pl_module, AnomalyModule)
        metrics.extra = provenance(pl_module, trainer, self.cli.text, self.cli._given.seed_everything) | {
            "fit_seconds": getattr(self.cli, "fit_seconds", None),
            "peak_memory_bytes": peak_memory(pl_module.device),
        }


def _settle_in(state: dict[str, Any], folder: Path) -> None:
    """Lead the paths in a ``ModelCheckpoint``'s state into its folder; those that are not there are forgotten."""

    def moved(path: Any) -> str:
        here = folder / Path(str(path)).name
        return str(here) if path and here.is_file() else ""

    state["dirpath"] = str(folder)
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved(state.get(key))
    kept = state.get("best_k_models")
    kept = kept if isinstance(kept, dict) else {}
    state["best_k_models"] = {moved(path): score for path, score in kept.items() if moved(path)}


def peak_memory(device: torch.device) -> int:
    """Largest memory so far: of the GPU, or resident in the process (bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def quieten() -> None:
    """Leave out what the user cannot act on."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
    patterns = (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*fewer than the logging interval.*|.*is smaller than the logging interval.*",
        ".*configure_optimizers. returned .None.*",
        ".*training_step. returned .None.*",
        ".*Checkpoint directory .* exists.*",
        ".*pin_memory.*",
        ".*in eval mode at the start of training.*",
        ".*max_epochs. was not set.*",
        ".*recommended to use .self.log.*sync_dist.*",
    )
    for pattern in patterns:
        warnings.filterwarnings("ignore", pattern)
