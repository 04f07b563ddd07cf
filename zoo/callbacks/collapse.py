"""Tells when a discriminator has stopped to teach its generator."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

_REAL, _FAKE = "_real", "_fake"
_SURE = 1e-3
_BLIND = 1e-4
_APART = 1e-2
_PATIENCE = 5  # epochs in which a new discriminator may be blind


class TellCollapse(Callback):
    """After each epoch, warns once about every discriminator that is always right or cannot tell anything apart.

    Either way its gradient says nothing to the generator; a Wasserstein critic (``..._critic``) may be as right as it
    can. One that starts blind gets five epochs. Reads the means that :func:`zoo.nn.adversarial.log_players` logs.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._learnt: set[str] = set()  # those that could once tell real from fake

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the means of the epoch."""
        metrics: dict[str, Any] = trainer.callback_metrics
        for key in [key for key in metrics if key.startswith("train/") and key.endswith(_REAL)]:
            name = key.removesuffix(_REAL)
            real, fake = float(metrics[key]), float(metrics.get(name + _FAKE, 0.5))
            if abs(real - fake) > _APART:
                self._learnt.add(name)
            late = name in self._learnt or trainer.current_epoch + 1 >= _PATIENCE
            if name in self._told:
                continue
            if real > 1 - _SURE and fake < _SURE and not name.endswith("critic"):
                state, remedy = "is always right", "lower its learning rate or its width"
            elif abs(real - fake) < _BLIND and late:
                state, remedy = "cannot tell real from fake", "train longer, or raise its learning rate"
            else:
                continue
            self._told.add(name)
            rank_zero_warn(
                f"{type(pl_module).__name__}, epoch {trainer.current_epoch}: {name.removeprefix('train/')} {state} "
                f"(mean realness of real images {real:.4f}, of generated ones {fake:.4f}), so the generator learns "
                f"nothing from it; {remedy}"
            )
