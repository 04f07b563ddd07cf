"""``zoo calibrate``, and the calibration at the end of a fit."""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.callbacks.calibrating import Calibrating, selected_by
from zoo.callbacks.members import Members, folder_of
from zoo.checkpoints.loading import load_pretrained
from zoo.checkpoints.reading import read_checkpoint
from zoo.checkpoints.saving import attach_calibration
from zoo.decision import conformal
from zoo.decision.calibration import Calibration, check, from_plain, load, newest, weights_digest
from zoo.decision.cases import RULES, CaseScore
from zoo.errors import UserError
from zoo.run_folder import open_run

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_LEVEL = 0.05


def find_calibration(content: Mapping[str, Any], folder: Path | None) -> tuple[Calibration | None, str]:
    """The newest calibration of a run's folder, else the one in its checkpoint.

    Args:
        content: of the checkpoint.
        folder: of the run, or None.

    Returns:
        tuple: the calibration or None, and why one that is there does not belong to the weights.

    Raises:
        UserError: a damaged calibration.
    """
    path = None if folder is None else newest(folder)
    header = content.get("uad_zoo")
    kept = header.get("calibration") if isinstance(header, Mapping) else None
    if path is None and kept is None:
        return None, ""
    source = "the checkpoint's calibration" if path is None else str(path)
    found = from_plain(kept, "the checkpoint") if path is None else load(path)
    size = content.get("hyper_parameters", {}).get("image_size")
    try:
        check(found, weights_digest(content["state_dict"]), size, source)
    except UserError as error:
        return None, str(error)
    return found, ""


def members_of(calibration: Calibration | None, folder: Path | None) -> Members | None:
    """The fold models of the newest calibration of a run's folder; None where it needs none."""
    path = None if folder is None else newest(folder)
    return Members(folder_of(path), calibration) if calibration is not None and calibration.members and path else None


def calibrate_after_fit(trainer: "Trainer", model: Any, data: Any, folder: Path) -> Calibration | None:
    """Calibrate the checkpoint that ``--run`` takes from held-out healthy cases that chose nothing, and keep it there.

    Several processes each predict all of them: these are few, and the processes come to the same.

    Args:
        trainer: that has fitted.
        model: its method; afterwards it holds the checkpoint's weights.
        data: its DataModule.
        folder: of the run.

    Returns:
        Calibration | None: None where there is nothing to calibrate, or with; the reason is printed.
    """
    checkpoint = open_run(folder).checkpoint
    if checkpoint is None:
        return None
    if not len(data.dataset("calibration")):
        if trainer.is_global_zero:
            print(
                "no calibration: validation used training images, whose scores are too low; give healthy ones: "
                f"zoo calibrate --run {folder} --healthy DIR"
            )
        return None
    chosen = selected_by(trainer)
    data.predict_split = "calibration"
    held_out = len(set(_cases(data.dataset("calibration"))) | set(_cases(data.dataset("val"))))
    facts = {"selected_by": chosen, "held_out": held_out, "phantom": bool(data.phantom), "data": data.fingerprint()}
    try:
        source = "half of the held out" if chosen else "held out"
        made = run_calibration(trainer, model, data, checkpoint, source, "max", facts)
    finally:
        data.predict_split = None
    made = trainer.strategy.broadcast(made)
    if trainer.is_global_zero:
        attach_calibration(checkpoint, made.plain())
        print(made.told())
    return made


def _cases(dataset: Any) -> list[str]:
    return [subject or volume for subject, volume in zip(dataset.subjects, dataset.volumes, strict=True)]


def run_calibration(
    trainer: "Trainer", model: Any, data: Any, checkpoint: Path, source: str, rule: CaseScore, facts: dict[str, Any]
) -> Calibration:
    """Predict what the DataModule serves, with the precision and on the kind of device of ``trainer``.

    Args:
        trainer: of the run.
        model: its method.
        data: its DataModule, told what to serve.
        checkpoint: whose weights are loaded into the model.
        source: of the healthy cases.
        rule: how a case's images become its score.
        facts: further attributes of the calibration.
    """
    digest = weights_digest(read_checkpoint(checkpoint)["state_dict"])
    with tempfile.TemporaryDirectory(prefix="uad-zoo-") as scratch:
        gather = Calibrating(Path(scratch))
        own = _trainer_like(trainer, gather)
        _run_with(trainer, model, data, lambda: _predict(own, model, data, str(checkpoint)))
        return gather.calibration(model, own, rule, source, digest, [], **facts)


def _predict(own: "Trainer", model: Any, data: Any, checkpoint: str | None = None) -> None:
    own.predict(model, data, ckpt_path=checkpoint, weights_only=True, return_predictions=False)


def _trainer_like(trainer: "Trainer", gather: Calibrating, **options: Any) -> "Trainer":
    """A quiet trainer of one process on the device of this one."""
    from lightning.pytorch import Trainer

    device = trainer.strategy.root_device
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        precision=trainer.precision,
        logger=False,
        callbacks=[gather],
        **{**quiet, **options},
    )


def _run_with(trainer: "Trainer", model: Any, data: Any, act: Callable[[], None]) -> None:
    """Lend model and data to another trainer."""
    before = data.trainer
    try:
        act()
    finally:
        data.trainer, model.trainer = before, trainer


# ---- few images -----------------------------------------------------------------------------------------------------


def run_cross(
    trainer: "Trainer", data: Any, checkpoint: Path, count: int, rule: CaseScore, folder: Path, facts: dict[str, Any]
) -> Calibration:
    """Fit a model without each fold of the healthy cases, and let it score that fold.

    Args:
        trainer: of the run.
        data: its DataModule.
        checkpoint: of the run's method, which must be fitted by passes over the images.
        count: of folds.
        rule: how a case's images become its score.
        folder: new, for the models.
        facts: further attributes of the calibration.

    Raises:
        UserError: a method that is trained by gradients, or fewer cases than folds.
    """
    from datamodules.records import hash_order

    reference = load_pretrained(checkpoint)
    if type(reference).fitting != "single_pass":
        raise UserError(
            f"--cross {count}: {type(reference).__name__} is trained by gradients, which would be done {count} times; "
            "it is for methods that pass once over the images. Give healthy cases: --healthy DIR"
        )
    groups = {group[0]: group for group in data.healthy_groups()}
    if not 2 <= count <= len(groups):
        raise UserError(f"--cross {count}: needs 2 to {len(groups)} folds, there are {len(groups)} healthy cases")
    order = hash_order(groups, data.seed)
    folder.mkdir(parents=True)
    digests = []
    with tempfile.TemporaryDirectory(prefix="uad-zoo-") as scratch:
        gather = Calibrating(Path(scratch))
        data.predict_split = "calibration"
        for number in range(count):
            held = {name for first in order[number::count] for name in groups[first]}
            data.assign([name for group in groups.values() for name in group if name not in held], held)
            model = load_pretrained(checkpoint)  # the fit forgets what was collected, and keeps the backbone
            model.calibration = None
            gather.fold = number
            limits = {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps, "limit_val_batches": 0}
            own = _trainer_like(trainer, gather, **limits)

            def fit_and_predict(own: Any = own, model: Any = model) -> None:
                own.fit(model, data)
                own.save_checkpoint(folder / f"{gather.fold}.ckpt", weights_only=True)
                _predict(own, model, data)

            _run_with(trainer, model, data, fit_and_predict)
            digests.append(weights_digest(read_checkpoint(folder / f"{number}.ckpt")["state_dict"]))
        data.assign()
        data.predict_split = None
        digest = weights_digest(reference.state_dict())
        return gather.calibration(model, own, rule, f"{count} folds", digest, digests, **facts)


# ---- the command ----------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> int:
    """Run ``zoo calibrate``.

    Args:
        argv: arguments after the command.

    Returns:
        int: 0, or 1 where ``--check`` finds that the calibration does not fit.

    Raises:
        UserError: no run, no healthy images, or none that can be read.
    """
    parser = argparse.ArgumentParser(prog="zoo calibrate", description="calibrate a run on healthy images")
    parser.add_argument("--run", required=True, metavar="FOLDER", help="run folder")
    parser.add_argument("--healthy", metavar="DIR", help="healthy images; default: the run's own held-out cases")
    parser.add_argument("--case_pattern", metavar="RE", help="finds the patient in a file's path; one group")
    parser.add_argument(
        "--case_score", choices=tuple(RULES), default="max", help="how a case's images become its score"
    )
    parser.add_argument("--check", metavar="DIR", help="other healthy images: does the calibration fit them?")
    parser.add_argument("--trust", action="store_true", help="the run is your own and may name any class")
    parser.add_argument(
        "--cross", type=int, metavar="K", help="few images, methods of a single pass: K models, each without a K-th"
    )
    arguments = parser.parse_args(argv)
    given = [f"--{name}" for name in ("healthy", "check", "cross") if getattr(arguments, name)]
    if len(given) > 1:
        told = "--healthy and --cross make a calibration, --check tries one"
        raise UserError(f"{told}: give one of them, not {' and '.join(given)}")
    folder = Path(arguments.run)
    run = open_run(folder)
    if run.checkpoint is None:
        raise UserError(f"{folder}: no checkpoint yet; finish it with `lightning fit --run {folder}`")
    place = arguments.check or arguments.healthy
    if place and not Path(place).expanduser().exists():
        raise UserError(f"{place}: no such folder; give one with healthy images")
    command = Command(arguments, folder)
    from zoo.cli import running

    options = ["predict", "--run", str(folder), *(["--input", place] if place else [])]
    options += ["--trust"] if arguments.trust else []
    running.main(options, calibrate=command)
    return command.code


class Command:
    """What ``zoo calibrate`` does with a loaded run.

    Args:
        arguments: of the command line.
        folder: of the run.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder, self.code = arguments, folder, 0

    def __call__(self, trainer: "Trainer", model: Any, data: Any, checkpoint: Path) -> None:
        """Predict the healthy cases; make a calibration, or compare."""
        arguments = self.arguments
        if arguments.case_pattern is not None:
            data.case_of = _finder("--case_pattern", arguments.case_pattern)
        if arguments.check:
            self.code = self._check(trainer, model, data, checkpoint)
            return
        number = 1 + max((int(one.stem) for one in (self.folder / "calibrations").glob("[0-9]*.json")), default=0)
        path = self.folder / "calibrations" / f"{number:03d}.json"
        facts: dict[str, Any] = {"phantom": bool(data.phantom) if data.predict_input is None else False}
        if arguments.cross:
            made = run_cross(
                trainer, data, checkpoint, arguments.cross, arguments.case_score, new_folder_of(path), facts
            )
        else:
            if data.predict_input is None:
                if not len(data.dataset("calibration")):
                    raise UserError(f"{self.folder}: it held no healthy case out; give some with --healthy DIR")
                data.predict_split = "calibration"
            source = Path(arguments.healthy or "held out").name
            made = run_calibration(trainer, model, data, checkpoint, source, arguments.case_score, facts)
        made.save(path)
        print(f"{path}: {made.told()}")

    def _check(self, trainer: "Trainer", model: Any, data: Any, checkpoint: Path) -> int:
        """Score other healthy cases by the run's model, or by each of a cross-conformal calibration, and compare."""
        known, problem = find_calibration(read_checkpoint(checkpoint), self.folder)
        if known is None:
            raise UserError(problem or f"{self.folder} has no calibration to check; make one with --healthy DIR")
        source = Path(self.arguments.check).name
        members = members_of(known, self.folder)
        if members is None:
            return _compare(known, run_calibration(trainer, model, data, checkpoint, source, known.case_score, {}), [])
        by_fold: list[Any] = []
        for member in members.models():
            with tempfile.TemporaryDirectory(prefix="uad-zoo-") as scratch:
                gather = Calibrating(Path(scratch))
                own = _trainer_like(trainer, gather)

                def predict(own: Any = own, member: Any = member) -> None:
                    _predict(own, member, data)

                _run_with(trainer, member, data, predict)
                by_fold.append(gather.case_scores(known.case_score).scores)
                made = gather.calibration(member, own, known.case_score, source, known.weights, [])
        return _compare(known, made, by_fold)


def new_folder_of(path: Path) -> Path:
    """Where the models of a new calibration go; what a stopped command left there is removed."""
    import shutil

    folder = folder_of(path)
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _finder(option: str, pattern: str) -> Any:
    import re

    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{option} {pattern}: no regular expression ({error})") from error
    if found.groups != 1:
        raise UserError(f"{option} {pattern}: one group is expected, found {found.groups}")

    def find(name: str) -> str:
        match = found.search(name)
        if match is None:
            raise UserError(f"{option} {pattern}: finds nothing in {name}")
        return match[1] or ""

    return find


def _compare(known: Calibration, new: Calibration, by_fold: list[Any]) -> int:
    """Tell whether healthy cases fit a calibration: 0 if they do, else 1."""
    m, n = len(new), len(known)
    r = conformal.rank(n, _LEVEL)
    scores = np.asarray(new.scores)
    p = conformal.p_values(known.scores, scores)
    if by_fold:
        scores = conformal.dealt(by_fold)
        p = conformal.cross_p_values(known.by_fold(np.ones(n, bool)), by_fold)
    flagged = int((p <= _LEVEL + 1e-12).sum())
    low, high = conformal.flagged_range(m, n, r)
    inside = low <= flagged <= high
    print(f"{flagged} of {m} healthy cases at p <= {_LEVEL:g}; {low} to {high} are to be expected (99 %)")
    drift = conformal.drift(known.scores, scores, known.statistics, new.statistics)
    fits = not drift.tested or drift.all_scores >= conformal.DRIFT_LEVEL
    if drift.tested:
        changed = "".join(f", {name} p = {p:.1g}" for name, p in drift.changed_statistics.items())
        print(f"scores differ with p = {drift.all_scores:.2g}{changed}")
    else:
        print(f"too few cases for a test of all scores ({conformal.DRIFT_MINIMUM} are needed)")
    print("the calibration fits" if inside and fits else "the calibration does not fit: zoo calibrate --healthy DIR")
    return 0 if inside and fits else 1
