"""Progress where a bar would fill a log file."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class PlainProgress(Callback):
    """At most ten lines of progress over a training, for output that is no terminal."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember time and place."""
        self._start, self._first = time.monotonic(), trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Print when a tenth of the training is over."""
        now = pl_module.staging.progress
        total, done = now.total, now.done
        if not trainer.is_global_zero or done * 10 // total == (done - 1) * 10 // total:
            return
        seconds = time.monotonic() - self._start
        left = seconds / max(done - self._first, 1) * (total - done)
        loss = trainer.callback_metrics.get("train/loss")
        value = "" if loss is None else f"  loss {float(loss):.4g}"
        print(f"fit {done}/{total} batches{value}  {seconds:.0f} s, about {max(left, 0):.0f} s left", flush=True)
