"""Gathers predictions and, when all are there, decides and writes: see :mod:`zoo.callbacks.results`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.callbacks.gathering import Gathering, method_name
from zoo.callbacks.members import Members
from zoo.callbacks.results import Context, Format, MapForm, write_results
from zoo.decision.calibration import Calibration
from zoo.decision.decide import Rule
from zoo.errors import UserError
from zoo.sample import data_of


class PredictionWriter(Callback):
    """Writes what ``predict`` finds.

    ``scores.csv`` has a line per image, ``cases.csv`` one per case with percentile, p-value and decision,
    ``components.csv`` one per finding; ``decision.json`` says by which rule and calibration, ``predictions.html`` is
    the worklist. Raw maps are float32 ``.npy``, or 16-bit ``.png`` between their smallest and largest value; slices
    of a NIfTI file that the data set serves as they are stored become one NIfTI file with the same header.

    Args:
        folder: a new folder; set by the command line if None.
        maps: form of the raw maps: ``npy``, ``png`` or ``none``.
        formats: files beside the tables: ``png`` overlays, ``nifti`` percentile maps and masks, ``html``; on request
            DICOM ``seg``, ``sr``, ``pm`` and ``sc``.

    Attributes:
        rule: of the decisions.
        calibration: of the model, None: nothing is decided.
        members: the fold models of a cross-conformal calibration, else None.
        run: name of run or checkpoint, for messages.
        problem: why a calibration that is there cannot be used, empty if none.
    """

    def __init__(
        self,
        folder: str | None = None,
        maps: MapForm = "npy",
        formats: Sequence[Format] = ("png", "nifti", "html"),
    ) -> None:
        unknown = [one for one in formats if one not in get_args(Format)]
        if unknown:
            raise UserError(f"predictions.formats: {unknown[0]} is none of {', '.join(get_args(Format))}")
        self.folder, self.maps, self.formats = folder, maps, tuple(formats)
        self.rule, self.run, self.problem = Rule(), "this model", ""
        self.calibration: Calibration | None = None
        self.members: Members | None = None
        self._gathering: Gathering | None = None

    def place_outputs(self, run: Path, results: Path, stage: str) -> None:
        """Into a new folder of the run, for a prediction."""
        if stage == "predict":
            self.folder = self.folder or str(results)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be written.
        """
        assert self.folder is not None
        try:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--predictions.folder {self.folder}: cannot be written ({error.strerror})") from error
        self._gathering = Gathering(Path(self.folder), trainer.global_rank, pictures=bool(self.formats))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch."""
        assert self._gathering is not None
        folds = [] if self.members is None else self.members.scores(trainer, batch)
        self._gathering.add(outputs, batch, tuple(pl_module.hparams.get("value_range") or (0.0, 1.0)), folds)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no files that only this call could have read."""
        if self._gathering is not None:
            self._gathering.close()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide and write (of the first process)."""
        import zoo

        assert self.folder is not None
        assert self._gathering is not None
        gathering, self._gathering = self._gathering, None
        gathering.merge()
        if not trainer.is_global_zero:
            return
        data = data_of(trainer)
        context = Context(
            Path(self.folder),
            method_name(pl_module),
            zoo.__version__,
            run=self.run,
            calibration=self.calibration,
            rule=self.rule,
            formats=self.formats,
            maps=self.maps,
            phantom=bool(getattr(data, "phantom", False)) and getattr(data, "predict_input", None) is None,
            warnings=[self.problem] if self.problem else [],
        )
        context.original = getattr(data, "original", context.original)
        context.members = getattr(data, "members", context.members)
        try:
            decisions = write_results(gathering, context)
        finally:
            gathering.close()
        if gathering.failure is not None:  # the tables are written
            raise gathering.failure
        for row in gathering.rows[:10]:
            print(f"{row.score:12.6g}  {row.name}")
        if len(gathering.rows) > 10:
            print(f"... and {len(gathering.rows) - 10} more")
        words = [one.decision for one in decisions.cases]
        counts = [f"{words.count(word)} {word}" for word in ("flagged", "not flagged", "not decided") if word in words]
        print(f"{len(words)} cases: {', '.join(counts)}")
        for line in decisions.warnings:
            print(f"note: {line}")
