"""Early stopping by optimiser steps."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

import zoo
from zoo.callbacks.step_patience import StepPatience
from zoo.errors import UserError


class Scripted(zoo.AnomalyModule):
    """Logs the validation losses that it is told, one per epoch of four steps."""

    def __init__(self, losses):
        super().__init__()
        self.layer, self.losses = torch.nn.Linear(1, 1), losses

    def configure_model(self):
        pass

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.losses[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def on_save_checkpoint(self, checkpoint):
        pass

    on_load_checkpoint = on_save_checkpoint


def fit(trainer, losses, **resume):
    loader = DataLoader(torch.rand(4, 1), batch_size=1)
    trainer.fit(Scripted(losses), loader, DataLoader(torch.rand(1, 1)), **resume)
    return trainer.global_step


def test_counts_steps_since_the_best(quiet_trainer):
    losses = [3.0, 1.0, 2.0, 2.0, 1.5, 0.5, 0.1]  # best after 8 steps, then worse at 12, 16 and 20
    assert fit(quiet_trainer(max_epochs=7, callbacks=[StepPatience(steps=7)]), losses) == 16
    assert fit(quiet_trainer(max_epochs=7, callbacks=[StepPatience(steps=8)]), losses) == 20, "more than, not at least"
    assert fit(quiet_trainer(max_epochs=7, callbacks=[StepPatience(steps=12)]), losses) == 28
    rising = [-value for value in losses]
    assert fit(quiet_trainer(max_epochs=7, callbacks=[StepPatience(steps=7, mode="max")]), rising) == 16


def test_patience_goes_on_after_a_resume(quiet_trainer, tmp_path):
    losses = [3.0, 1.0, 2.0, 2.0, 1.5, 0.5, 0.1]
    saved = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    fit(quiet_trainer(max_epochs=3, callbacks=[StepPatience(steps=7), saved], enable_checkpointing=True), losses)
    trainer = quiet_trainer(max_epochs=7, callbacks=[StepPatience(steps=7)])
    assert fit(trainer, losses, ckpt_path=tmp_path / "last.ckpt", weights_only=True) == 16


def test_unknown_values_are_told(quiet_trainer):
    with pytest.raises(UserError, match=r"val/los: no such value is logged; there are .*val/loss"):
        fit(quiet_trainer(max_epochs=1, callbacks=[StepPatience("val/los")]), [1.0])
