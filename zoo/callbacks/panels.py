"""Pictures of the most and the least anomalous images of a test set, one a case."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.decision.calibration import Calibration
from zoo.decision.findings import display_level
from zoo.decision.overlay import colours
from zoo.files import whole
from zoo.sample import cases_of, data_of


class _Case(NamedTuple):
    score: float
    name: str
    case: str
    label: int | None
    pictures: dict[str, Tensor]  # (C, H, W) on the CPU


class Panels(Callback):
    """Input, reconstruction, anomaly map and ground truth, a row a case.

    Of a case's images the most unusual one is shown, or the least; 3-D volumes show their most anomalous slice.

    Args:
        folder: where ``most_anomalous.png`` and ``least_anomalous.png`` go; the command line sets the run's ``panels``.
        count: rows in each of the two pictures; 0 writes none.

    Attributes:
        calibration: of the model: maps then have the colours of the overlays of ``predict``; else they share the range
            of the maps in the picture, and say so.
    """

    def __init__(self, folder: str | None = None, count: int = 4) -> None:
        self.folder, self.count = folder, count
        self.calibration: Calibration | None = None
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
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Keep the batch's images that belong to the extremes so far."""
        if not self.count:
            return
        scores = outputs.anomaly_score.detach().cpu()
        names = batch.get("id") or [f"{batch_idx}:{row}" for row in range(len(scores))]
        cases = cases_of(batch, names)
        order = scores.argsort(stable=True).tolist()
        for rows, kept, sign in ((order[::-1], self._most, -1), (order, self._least, 1)):
            first: dict[str, int] = {}
            for row in rows:
                first.setdefault(cases[row], row)
            chosen = list(first.values())[: self.count]
            kept += [_case(row, float(scores[row]), names[row], cases[row], outputs, batch) for row in chosen]
            best: dict[str, _Case] = {}
            for one in sorted(kept, key=lambda one: (sign * one.score, one.name)):
                best.setdefault(one.case, one)
            kept[:] = list(best.values())[: self.count]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the pictures (of the first process)."""
        if not trainer.is_global_zero or self.folder is None:
            return
        phantom = bool(getattr(data_of(trainer), "phantom", False))
        for title, cases in (("most anomalous", self._most), ("least anomalous", self._least)):
            if cases:
                name = f"{title.replace(' ', '_')}.png"
                known = None if self.calibration is None else self.calibration.maps
                quantiles = None if known is None else known.quantiles
                draw(cases, ("PHANTOM DATA, " if phantom else "") + title, Path(self.folder, name), quantiles)
        self._most, self._least = [], []


def _case(row: int, score: float, name: str, case: str, outputs: Any, batch: Any) -> _Case:
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
    labels = batch.get("label")
    return _Case(score, name, case, None if labels is None else int(labels[row]), pictures)


def draw(cases: list[_Case], title: str, path: Path, quantiles: Sequence[float] | None = None) -> None:
    """Write one picture, a row a case; maps share one colour scale, images keep their own grey levels.

    Args:
        cases: rows.
        title: above them.
        path: of the new PNG.
        quantiles: of healthy pixels: maps then have the colours of overlays, dark below the 90th percentile; None: from
            the smallest to the largest value shown.
    """
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
            if name == "anomaly map" and quantiles is not None:
                level = display_level(picture[0].numpy(), quantiles)
                picture = torch.from_numpy(colours(level) / 255 * (level > 0)[..., None]).movedim(-1, 0)
            elif name in ("anomaly map", "uncertainty"):
                limits = _range([other.pictures[name] for other in cases if name in other.pictures]) | {"cmap": "magma"}
            elif picture.shape[0] == 1:
                limits = {"cmap": "gray"}
            if picture.shape[0] == 3 and name != "anomaly map":
                low, high = float(picture.min()), float(picture.max())
                picture = (picture - min(low, 0.0)) / max(high - min(low, 0.0), 1.0)
            axis.imshow(picture.squeeze(0) if picture.shape[0] == 1 else picture.permute(1, 2, 0), **limits)
            scale = (
                "" if name != "anomaly map" else " (range of these)" if quantiles is None else " (healthy 90 % to max)"
            )
            axis.set_title(name + scale, fontsize=7)
        truth = "" if case.label is None else (", anomalous" if case.label else ", healthy")
        row[0].set_title(f"{Path(case.name).name}\n{case.score:.4g}{truth}", fontsize=6)
    with whole(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


def _range(pictures: Sequence[Tensor]) -> dict[str, Any]:
    """Smallest and largest value, whatever their sign."""
    low, high = (float(bound) for bound in torch.stack([torch.stack(one.aminmax()) for one in pictures]).aminmax())
    return {"vmin": low, "vmax": high if high > low else low + 1e-12}
