"""Tells experiment trackers what a run is: Weights & Biases, TensorBoard, MLflow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from zoo.checkpoints.marks import result_of


class Tracking(Callback):
    """Logs the whole configuration at the start, and after a test what is known of the weights, intervals and panels.

    The common metrics are logged by the method itself; the CSV files of a run beside ``config.yaml`` need nothing more.

    Args:
        config: of the run: model, data, trainer and all else.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = {key: value for key, value in config.items() if value is not None}
        self._results: Path | None = None

    def place_outputs(self, run: Path, results: Path, stage: str) -> None:
        """Know where a test writes."""
        self._results = results if stage == "test" else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the configuration."""
        self._log_config(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the configuration."""
        self._log_config(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log marks, intervals and panels, once the other callbacks have written them."""
        trackers = _trackers(trainer)
        if not trackers or self._results is None or not trainer.is_global_zero:
            return
        result = result_of(self._results) or {}
        bounds = {
            f"{name}_{side}": value
            for name, pair in result.get("intervals", {}).items()
            for side, value in zip(("low", "high"), pair, strict=True)
        }
        marks = pl_module.marks.plain()  # type: ignore[operator, union-attr]
        panels = sorted((self._results / "panels").glob("*.png"))
        for tracker in trackers:
            _log_marks(tracker, {**marks, "results": [result]}, trainer.global_step)
            tracker.log_metrics(bounds, step=trainer.global_step)
            _log_panels(tracker, panels, trainer.global_step)

    def _log_config(self, trainer: Trainer) -> None:
        for tracker in _trackers(trainer):
            tracker.log_hyperparams(self.config)


def _trackers(trainer: Trainer) -> list[Any]:
    return [logger for logger in trainer.loggers if not isinstance(logger, CSVLogger)]


def _log_marks(tracker: Any, marks: dict[str, Any], step: int) -> None:
    if isinstance(tracker, TensorBoardLogger):  # its settings are written once
        text = json.dumps(marks, indent=1).replace("\n", "\n    ")
        tracker.experiment.add_text("marks", f"    {text}", step)
    else:
        tracker.log_hyperparams({"marks": marks})


def _log_panels(tracker: Any, panels: list[Path], step: int) -> None:
    if not panels:
        return
    if isinstance(tracker, WandbLogger):
        tracker.log_image("panels", [str(path) for path in panels], caption=[path.stem for path in panels])
    elif isinstance(tracker, TensorBoardLogger):
        from PIL import Image

        for path in panels:
            tracker.experiment.add_image(f"panels/{path.stem}", np.asarray(Image.open(path)), step, dataformats="HWC")
    elif isinstance(tracker, MLFlowLogger):
        for path in panels:
            tracker.experiment.log_artifact(tracker.run_id, str(path), "panels")
