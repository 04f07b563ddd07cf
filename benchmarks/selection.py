"""How much a choice of the checkpoint without labels loses: the test's metric at every validation of a training."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.door import is_number, read_json
from zoo.files import write_text
from zoo.metrics.functional import auroc, evaluate
from zoo.metrics.table import PRIMARY, TABLE

FILE = "selection.json"
_CRITERIA = ("val/synthetic_pixel_ap", f"val/{PRIMARY}")  # the first that a method has


class Selection(Callback):
    """Scores the test set at every validation and writes ``selection.json``; nothing of it reaches the training.

    Beside the criterion of the synthetic validation stands AUCp (Rahman Siddiquee et al. 2026): the AUROC of held-out
    healthy images against a mix of unknown health, here the test images without their labels: a transductive choice.

    Args:
        folder: of the cell.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.points: list[dict[str, float | None]] = read_json(self.path).get("points", [])  # of a resumed training
        self._healthy: list[float] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        self._healthy = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the scores of healthy images."""
        scores = outputs.anomaly_score.detach().float().cpu().numpy()
        self._healthy += scores[batch["label"].cpu().numpy() == 0].tolist()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the test set as it would be now."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        module: Any = pl_module
        scores, labels = [], []
        for batch in trainer.datamodule.test_dataloader():  # type: ignore[attr-defined]
            batch = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
            with torch.no_grad():
                prediction = module.test_step(batch, 0)
            scores.append(prediction.anomaly_score.float().cpu().numpy())
            labels.append(batch["label"].cpu().numpy())
        if not trainer.is_global_zero:
            return
        test = np.concatenate(scores)
        mix = np.concatenate([np.array(self._healthy, np.float32), test])
        found: dict[str, float | None] = {"step": trainer.global_step}
        for name in _CRITERIA:
            value = trainer.callback_metrics.get(name)
            found[name] = None if value is None else _known(float(value))
        found["aucp"] = _known(auroc(mix, np.arange(len(mix)) >= len(self._healthy)))
        found[PRIMARY] = _known(TABLE[PRIMARY].value(evaluate(test, np.concatenate(labels))))
        self.points = [point for point in self.points if (point["step"] or 0) < trainer.global_step] + [found]
        write_text(self.path, json.dumps({"points": self.points}, indent=1) + "\n")


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


class Choice(NamedTuple):
    """The first metric on the test set at checkpoints of one training.

    Attributes:
        synthetic: chosen by the synthetic validation.
        last: the last.
        aucp: chosen by AUCp: transductive, for it sees the test images without their labels.
        oracle: best on the test: an upper bound, chosen with the labels.
    """

    synthetic: float
    last: float
    aucp: float
    oracle: float


def read_choice(folder: Path) -> Choice | None:
    """What each way of choosing leads to; None without ``selection.json`` or with fewer than two checkpoints."""
    told = read_json(folder / FILE).get("points", [])
    points = [point for point in told if _is_point(point)] if isinstance(told, list) else []
    if len(points) < 2:
        return None
    values = [float(point[PRIMARY]) for point in points]
    criterion = next((name for name in _CRITERIA if all(p.get(name) is not None for p in points)), None)
    nothing = float("nan")
    return Choice(
        nothing if criterion is None else _first_best(points, criterion),
        values[-1],
        _first_best(points, "aucp") if all(point.get("aucp") is not None for point in points) else nothing,
        max(values),
    )


def _is_point(point: Any) -> bool:
    """Whether an entry of the file is a checkpoint with its first metric."""
    known = [] if not isinstance(point, dict) else [value for value in point.values() if value is not None]
    return bool(known) and point.get(PRIMARY) is not None and all(is_number(value) for value in known)


def _first_best(points: list[dict[str, Any]], criterion: str) -> float:
    best = int(np.argmax([point[criterion] for point in points]))
    return float(points[best][PRIMARY])
