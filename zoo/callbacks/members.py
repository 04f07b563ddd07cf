"""The models of a cross-conformal calibration: each scores every new case."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from zoo.checkpoints.loading import load_pretrained
from zoo.decision.calibration import Calibration, weights_digest
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.module import AnomalyModule


def folder_of(calibration: Path) -> Path:
    """Where the models of a calibration's file lie."""
    return calibration.with_name(f"{calibration.stem}-folds")


class Members:
    """Loads the models when the first batch comes.

    Args:
        folder: of ``0.ckpt``, ``1.ckpt``, ...
        calibration: that they belong to.
    """

    def __init__(self, folder: Path, calibration: Calibration) -> None:
        self.folder, self.calibration = folder, calibration
        self._models: list[AnomalyModule] = []

    def models(self) -> "list[AnomalyModule]":
        """The models, on the CPU until they are used.

        Raises:
            UserError: one is missing, damaged, or of other weights than the calibration's.
        """
        if not self._models:
            for number, digest in enumerate(self.calibration.members):
                path = self.folder / f"{number}.ckpt"
                model = load_pretrained(path)
                if weights_digest(model.state_dict()) != digest:
                    raise UserError(f"{path}: other weights than the calibration's: run zoo calibrate --cross again")
                self._models.append(model)
        return self._models

    def scores(self, trainer: Trainer, batch: Any) -> list[tuple[float, ...]]:
        """Scores of a batch's images, one of each model, with the trainer's precision.

        Args:
            trainer: that predicts or tests.
            batch: on the trainer's device.
        """
        precision, found = trainer.precision_plugin, []
        for model in self.models():
            with precision.forward_context():
                given = precision.convert_module(model.to(batch["image"].device))
                found.append(given(batch["image"], batch.get("foreground")).anomaly_score.float())
        columns: list[list[float]] = torch.stack(found, 1).cpu().tolist()
        return [tuple(row) for row in columns]
