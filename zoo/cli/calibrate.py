"""``zoo calibrate``, and the calibration at the end of a fit."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.callbacks.calibrating import Calibrating, selected_by
from zoo.checkpoints.reading import read_checkpoint
from zoo.checkpoints.saving import attach_calibration
from zoo.decision import conformal
from zoo.decision.calibration import Calibration, check, from_plain, load, newest, weights_digest
from zoo.decision.cases import RULES
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


def calibrate_after_fit(trainer: "Trainer", model: Any, data: Any, folder: Path) -> Calibration | None:
    """Calibrate the checkpoint that ``--run`` takes from held-out healthy cases that chose nothing, and keep it there.

    Args:
        trainer: that has fitted.
        model: its method; afterwards it holds the checkpoint's weights.
        data: its DataModule.
        folder: of the run.

    Returns:
        Calibration | None: None where there is nothing to calibrate, or with; the reason is printed.
    """
    checkpoint = open_run(folder).checkpoint
    if checkpoint is None or not trainer.is_global_zero:
        return None
    if trainer.world_size > 1:
        print(f"not calibrated: several processes were at work; zoo calibrate --run {folder}")
        return None
    if not len(data.dataset("calibration")):
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
    attach_calibration(checkpoint, made.plain())
    print(made.told())
    return made


def _cases(dataset: Any) -> list[str]:
    return [subject or volume for subject, volume in zip(dataset.subjects, dataset.volumes, strict=True)]


def run_calibration(
    trainer: "Trainer", model: Any, data: Any, checkpoint: Path, source: str, case_score: Any, facts: dict[str, Any]
) -> Calibration:
    """Predict what the DataModule serves, with the precision and on the kind of device of ``trainer``.

    Args:
        trainer: of the run.
        model: its method.
        data: its DataModule, told what to serve.
        checkpoint: whose weights are loaded into the model.
        source: of the healthy cases.
        case_score: see :class:`Calibration`.
        facts: further attributes of the calibration.
    """
    from lightning.pytorch import Trainer

    digest = weights_digest(read_checkpoint(checkpoint)["state_dict"])
    gather = Calibrating(case_score, source, digest, **facts)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    own = Trainer(
        accelerator=trainer.strategy.root_device.type,
        devices=1,
        precision=trainer.precision,
        logger=False,
        callbacks=[gather],
        **quiet,  # type: ignore[arg-type]
    )
    before = data.trainer
    own.predict(model, data, ckpt_path=str(checkpoint), weights_only=True, return_predictions=False)
    data.trainer, model.trainer = before, trainer
    assert gather.result is not None
    return gather.result


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
    arguments = parser.parse_args(argv)
    if arguments.healthy and arguments.check:
        raise UserError("--healthy makes a calibration, --check tries one: give one of them")
    folder = Path(arguments.run)
    run = open_run(folder)
    if run.checkpoint is None:
        raise UserError(f"{folder}: no checkpoint yet; finish it with `lightning fit --run {folder}`")
    given = arguments.check or arguments.healthy
    if given and not Path(given).expanduser().exists():
        raise UserError(f"{given}: no such folder; give one with healthy images")
    command = Command(arguments, folder)
    from zoo.cli import running

    options = ["predict", "--run", str(folder), *(["--input", given] if given else [])]
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
        source, held_out = str(arguments.check or arguments.healthy or "held out"), 0
        if data.predict_input is None:
            if not len(data.dataset("calibration")):
                raise UserError(f"{self.folder}: it held no healthy case out; give some with --healthy DIR")
            data.predict_split = "calibration"
        if arguments.case_pattern is not None:
            data.case_of = _finder("--case_pattern", arguments.case_pattern)
        known, problem = find_calibration(read_checkpoint(checkpoint), self.folder)
        score = known.case_score if arguments.check and known is not None else arguments.case_score
        phantom = bool(data.phantom) if data.predict_input is None else False
        facts = {"held_out": held_out, "phantom": phantom}
        made = run_calibration(trainer, model, data, checkpoint, Path(source).name, score, facts)
        if arguments.check:
            if known is None:
                raise UserError(problem or f"{self.folder} has no calibration to check; make one with --healthy DIR")
            self.code = _compare(known, made)
            return
        number = 1 + max((int(one.stem) for one in (self.folder / "calibrations").glob("[0-9]*.json")), default=0)
        path = self.folder / "calibrations" / f"{number:03d}.json"
        made.save(path)
        print(f"{path}: {made.told()}")


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


def _compare(known: Calibration, new: Calibration) -> int:
    """Tell whether healthy cases fit a calibration: 0 if they do, else 1."""
    m, n = len(new), len(known)
    r = conformal.rank(n, _LEVEL)
    scores = np.asarray(new.scores)
    flagged = int((conformal.p_values(known.scores, scores) <= _LEVEL + 1e-12).sum())
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
