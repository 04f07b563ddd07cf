"""Where a cell stands: written by its process into ``progress.json``, read by the runner's table."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.files import write_text
from zoo.metrics.functional import evaluate
from zoo.metrics.table import PRIMARY, TABLE
from zoo.module import AnomalyModule

SECONDS = 1.0


class Progress(Callback):
    """Writes stage, epoch, batches, time left in the stage and the first metric so far, at most once a second.

    During training the metric is that of the last validation (synthetic anomalies), during the test that of the images
    seen so far. What cannot be written is left out: progress never fails a cell.

    Args:
        folder: of the cell.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "progress.json"
        self._written = self._started = 0.0
        self._first = 0
        self._seen: tuple[list[float], list[int]] = ([], [])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a resumed training does not count what was done before."""
        self._started, self._first = time.monotonic(), trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Tell the batch of the whole fit."""
        assert isinstance(pl_module, AnomalyModule)
        if not self._due(trainer):
            return
        now = pl_module.staging.progress
        stage = "fit" if now.stages == 1 else f"fit {now.stage}/{now.stages}"
        value = trainer.callback_metrics.get(f"val/{PRIMARY}")
        known = None if value is None else float(value)
        self._write(stage, now.done, now.total, known, epoch=trainer.current_epoch)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell that the training waits for a validation."""
        self._begin()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        """Tell the batch."""
        if self._due(trainer):
            self._write("validate", int(arguments[2]) + 1, _total(trainer.num_val_batches), None, trainer.current_epoch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the clock back to the training."""
        self._started, self._first = time.monotonic(), trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the test."""
        self._begin()
        self._seen = ([], [])

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Tell the batch and the metric so far."""
        self._seen[0].extend(outputs.anomaly_score.detach().float().cpu().tolist())
        self._seen[1].extend(batch["label"].tolist())
        if self._due(trainer):
            value = TABLE[PRIMARY].value(evaluate(self._seen[0], self._seen[1]))
            self._write("test", batch_idx + 1, _total(trainer.num_test_batches), value if value == value else None)

    def _begin(self) -> None:
        self._started, self._first = time.monotonic(), 0

    def _due(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and time.monotonic() - self._written >= SECONDS

    def _write(self, stage: str, done: int, total: int, value: float | None, epoch: int | None = None) -> None:
        self._written = time.monotonic()
        new = done - self._first
        left = (self._written - self._started) / new * (total - done) if new > 0 else None
        content = {"stage": stage, "epoch": epoch, "done": done, "total": total, "left": left, PRIMARY: value}
        with contextlib.suppress(OSError):
            write_text(self.path, json.dumps(content))


def _total(batches: Any) -> int:
    return int(sum(batches)) if isinstance(batches, list) else int(batches)
