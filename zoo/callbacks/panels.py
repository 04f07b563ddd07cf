"""Pictures of the most and the least anomalous images of a test set."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.files import whole


class _Case(NamedTuple):
    score: float
    name: str
    label: int | None
    pictures: dict[str, Tensor]  # (C, H, W) on the CPU


class Panels(Callback):
    """Input, reconstruction, anomaly map and ground truth, a row an image; volumes show their most anomalous slice.

    Args:
        folder: where ``most_anomalous.png`` and ``least_anomalous.png`` go; the command line sets the run's ``panels``.
        count: rows in each of the two pictures; 0 writes none.
    """

    def __init__(self, folder: str | None = None, count: int = 4) -> None:
        self.folder, self.count = folder, count
        self._most: list[_Case] = []
        self._least: list[_Case] = []

    def place_outputs(self, run: Path, results: Path, stage: str) -> None:
        """Into ``panels``, for a test."""
        if stage == "test":
            self.folder = str(results / "panels")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        self._most, self._least = [], []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch's images that belong to the extremes so far."""
        if not self.count:
            return
        scores = outputs.anomaly_score.detach().cpu()
        order = scores.argsort(stable=True).tolist()
        for rows, kept, sign in ((order[-self.count :], self._most, -1), (order[: self.count], self._least, 1)):
            kept += [_case(row, float(scores[row]), outputs, batch) for row in rows]
            kept.sort(key=lambda case: (sign * case.score, case.name))
            del kept[self.count :]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the pictures (of the first process)."""
        if not trainer.is_global_zero or self.folder is None:
            return
        phantom = bool(getattr(getattr(trainer, "datamodule", None), "phantom", False))
        for title, cases in (("most anomalous", self._most), ("least anomalous", self._least)):
            if cases:
                name = f"{title.replace(' ', '_')}.png"
                draw(cases, ("PHANTOM DATA, " if phantom else "") + title, Path(self.folder, name))
        self._most, self._least = [], []


def _case(row: int, score: float, outputs: Any, batch: Any) -> _Case:
    tensors = {
        "input": batch["image"],
        "reconstruction": outputs.reconstruction,
        "anomaly map": outputs.anomaly_map,
        "uncertainty": outputs.uncertainty_map,
        "ground truth": batch.get("mask"),
    }
    pictures = {name: tensor[row].detach().float().cpu() for name, tensor in tensors.items() if tensor is not None}
    if pictures["input"].dim() == 4:  # (C, D, H, W)
        source = pictures.get("anomaly map", pictures["input"])
        depth = int(source.mean(dim=(0, 2, 3)).argmax())
        pictures = {name: picture[:, depth] for name, picture in pictures.items()}
    names, labels = batch.get("id"), batch.get("label")
    return _Case(score, names[row] if names else str(row), None if labels is None else int(labels[row]), pictures)


def draw(cases: list[_Case], title: str, path: Path) -> None:
    """Write one picture, a row a case; maps share one colour scale, images keep their own grey levels."""
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(name for case in cases for name in case.pictures))
    figure = Figure(figsize=(2.2 * len(columns), 2.35 * len(cases) + 0.4), layout="constrained")
    axes = figure.subplots(len(cases), len(columns), squeeze=False)
    figure.suptitle(title, fontsize=10)
    for row, case in zip(axes, cases, strict=True):
        for axis, name in zip(row, columns, strict=True):
            axis.set_axis_off()
            if name not in case.pictures:
                continue
            picture, limits = case.pictures[name], {}
            if name in ("anomaly map", "uncertainty"):
                shown = torch.stack([other.pictures[name].amax() for other in cases if name in other.pictures])
                limits = {"vmin": 0.0, "vmax": max(float(shown.max()), 1e-12), "cmap": "magma"}
            elif picture.shape[0] == 1:
                limits = {"cmap": "gray"}
            if picture.shape[0] == 3:
                low, high = float(picture.min()), float(picture.max())
                picture = (picture - min(low, 0.0)) / max(high - min(low, 0.0), 1.0)
            axis.imshow(picture.squeeze(0) if picture.shape[0] == 1 else picture.permute(1, 2, 0), **limits)
            axis.set_title(name, fontsize=7)
        truth = "" if case.label is None else (", anomalous" if case.label else ", healthy")
        row[0].set_title(f"{Path(case.name).name}\n{case.score:.4g}{truth}", fontsize=6)
    with whole(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
