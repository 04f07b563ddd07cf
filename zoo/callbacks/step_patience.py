"""Early stopping that counts optimiser steps instead of validations."""

from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.errors import UserError


class StepPatience(Callback):
    """Stops when the monitored value has not improved for more than so many optimiser steps.

    Looked at after each validation. Baugh et al. (MICCAI 2023) stop 5,000 steps after the lowest validation loss.

    Args:
        monitor: name of the logged value.
        steps: patience.
        mode: ``min`` or ``max``: what is better.
    """

    def __init__(self, monitor: str = "val/loss", steps: int = 5000, mode: Literal["min", "max"] = "min") -> None:
        self.monitor, self.steps, self.mode = monitor, steps, mode
        self.best: float | None = None
        self.best_step = 0

    @property
    def state_key(self) -> str:
        """One state for each monitored value."""
        return f"StepPatience[{self.monitor},{self.mode}]"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note an improvement, or stop.

        Raises:
            UserError: nothing of the name is logged.
        """
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise UserError(f"StepPatience.monitor {self.monitor}: no such value is logged; there are {known}")
        value = float(trainer.callback_metrics[self.monitor])
        if self.best is None or (value < self.best if self.mode == "min" else value > self.best):
            self.best, self.best_step = value, trainer.global_step
        elif trainer.global_step - self.best_step > self.steps:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Best value and its step."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
