"""A checkpoint to resume from, whatever happens to the process."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from zoo.checkpoints.saving import WholeFileIO


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every few minutes, when the training ends, on Ctrl-C and on SIGTERM.

    Checkpoints are written under another name and renamed, so that they are always whole. Ctrl-C and SIGTERM finish the
    batch of training or validation, save and stop; a second Ctrl-C stops at once.

    Args:
        folder: where ``last.ckpt`` goes; set by the command line to the run's ``checkpoints``.
        minutes: time between two checkpoints; 0 saves after every batch.
    """

    def __init__(self, folder: str | None = None, minutes: float = 5.0) -> None:
        self.folder, self.minutes = folder, minutes
        self._saved = 0.0
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def place_outputs(self, run: Path, results: Path, stage: str) -> None:
        """Into the run's ``checkpoints``."""
        self.folder = self.folder or str(run / "checkpoints")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let this and all other checkpoints of the fit be written whole."""
        if stage == "fit":
            trainer.strategy.checkpoint_io = WholeFileIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and listen to Ctrl-C and SIGTERM."""
        self._saved, self._signal = time.monotonic(), None
        if threading.current_thread() is threading.main_thread():
            self._handlers = {one: signal.signal(one, self._on_signal) for one in (signal.SIGINT, signal.SIGTERM)}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        if number == signal.SIGINT:
            rank_zero_info("stopping after this batch; Ctrl-C again stops at once")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save when it is time or when the process is asked to end.

        Not while gradients are accumulated, which a checkpoint does not keep; and after the last batch only in
        :meth:`on_train_end`, once the validation that is still to come is done.
        """
        stop, due = self._signal is not None, time.monotonic() - self._saved >= 60 * self.minutes
        if trainer.world_size > 1:  # all processes, or they would wait for one another
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            due = trainer.strategy.broadcast(due)
        if (stop or due) and self._may_save(trainer):
            self._save(trainer)
            if stop:
                self._stop()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """A long validation does not keep a request to end waiting; resumed, it starts from its beginning."""
        if self._signal is not None and trainer.world_size == 1 and not trainer.sanity_checking:
            if self._may_save(trainer):
                self._save(trainer)
            self._stop()

    def _may_save(self, trainer: Trainer) -> bool:
        loop = trainer.fit_loop
        return not loop.epoch_loop._should_accumulate() and not (trainer.should_stop and loop._can_stop_early)

    def _stop(self) -> None:
        raise KeyboardInterrupt if self._signal == signal.SIGINT else SIGTERMException

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the result."""
        self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _save(self, trainer: Trainer) -> None:
        assert self.folder is not None
        trainer.save_checkpoint(Path(self.folder, "last.ckpt"), weights_only=False)
        self._saved = time.monotonic()
