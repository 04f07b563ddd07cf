"""Starts a fit from the weights of another model."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from zoo.checkpoints.initialising import initialise


class InitFrom(Callback):
    """Fills the model before its first step; a fit that a checkpoint continues is left alone.

    Args:
        source: checkpoint, folder or file of the original authors (:func:`~zoo.checkpoints.initialising.initialise`);
            None: the weights stay as they are.
        strict: refuse a source that does not fit the model completely.
    """

    def __init__(self, source: str | None = None, strict: bool = False) -> None:
        self.source, self.strict = source, strict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fill the model and say what was filled, new and left out."""
        if self.source is None or trainer.ckpt_path is not None:
            return
        report = initialise(pl_module, self.source, self.strict)  # type: ignore[arg-type]
        rank_zero_info(f"initialised from {self.source}: {report}")
        if trainer.is_global_zero:
            print(f"initialised from {self.source}: {report}")
