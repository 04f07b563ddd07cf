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


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every few minutes, when the training ends, on Ctrl-C and on SIGTERM.

    The file is written under another name and renamed, so that it is always whole. The first Ctrl-C finishes the batch,
    saves and stops; the second one stops at once.

    Args:
        folder: where ``last.ckpt`` goes; set by the command line to the run's ``checkpoints``.
        minutes: time between two checkpoints; 0 saves after every batch.
    """

    def __init__(self, folder: str | None = None, minutes: float = 5.0) -> None:
        self.folder, self.minutes = folder, minutes
        self._saved = 0.0
        self._interrupted = False
        self._handler: Any = None

    def place_outputs(self, run: Path, results: Path, stage: str) -> None:
        """Into the run's ``checkpoints``."""
        self.folder = self.folder or str(run / "checkpoints")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and listen to Ctrl-C."""
        self._saved, self._interrupted = time.monotonic(), False
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        rank_zero_info("stopping after this batch; Ctrl-C again stops at once")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save when it is time or when the process is asked to end."""
        stopping = self._interrupted or trainer.received_sigterm
        due = time.monotonic() - self._saved >= 60 * self.minutes
        if stopping or (trainer.strategy.broadcast(due) if trainer.world_size > 1 else due):
            self._save(trainer)
        if self._interrupted:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the result."""
        self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def _save(self, trainer: Trainer) -> None:
        assert self.folder is not None
        partial, final = Path(self.folder, ".partial-last.ckpt"), Path(self.folder, "last.ckpt")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            partial.replace(final)
        trainer.strategy.barrier()
        self._saved = time.monotonic()
