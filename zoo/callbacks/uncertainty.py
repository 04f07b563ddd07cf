"""Whether a method's uncertainty tells where it errs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.callbacks.attached import attached
from zoo.files import whole, write_text
from zoo.metrics.selective import RiskCoverage, risk_coverage
from zoo.sample import data_of


class UncertaintyCurves(Callback):
    """Risk against coverage of a test: the squared error of the map when the most uncertain pixels are left out.

    Writes ``uncertainty.png`` and ``uncertainty.json`` beside ``metrics.json``, for all pixels and for healthy and
    anomalous ones by themselves: where most pixels are healthy and easy, a low error of the certain ones says little,
    and a missed anomaly may be missed with certainty. Works on maps that are probabilities.

    Args:
        pixels: most pixels that count of an image, spread evenly over it.

    Attributes:
        curves: of the last test, by the name of their pixels.
    """

    def __init__(self, pixels: int = 4096) -> None:
        self.pixels = pixels
        self.curves: dict[str, RiskCoverage] = {}
        self._parts: list[np.ndarray] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        self._parts = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep some pixels of every image."""
        if outputs.uncertainty_map is None or outputs.anomaly_map is None or "mask" not in batch:
            return
        tensors = (outputs.anomaly_map, outputs.uncertainty_map, batch["mask"])
        values = np.stack([part.detach().float().cpu().flatten(1).numpy() for part in tensors])
        chosen = np.linspace(0, values.shape[2] - 1, min(self.pixels, values.shape[2])).astype(int)
        self._parts.append(values[:, :, chosen].reshape(3, -1))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, and write into the folder of the metrics (first process, of its own images)."""
        if not self._parts:
            return
        probability, doubt, truth = np.concatenate(self._parts, axis=1)
        self._parts = []
        error, anomalous = (probability - truth) ** 2, truth > 0.5
        parts = {"all pixels": np.ones_like(anomalous), "healthy pixels": ~anomalous, "anomalous pixels": anomalous}
        self.curves = {name: risk_coverage(error[part], doubt[part]) for name, part in parts.items() if part.any()}
        outputs = [one.output for one in attached(trainer) if isinstance(one, AnomalyMetrics)]
        if trainer.is_global_zero and outputs and outputs[0] is not None:
            phantom = bool(getattr(data_of(trainer), "phantom", False))
            write(self.curves, Path(outputs[0]).parent, phantom)


def write(curves: dict[str, RiskCoverage], folder: Path, phantom: bool) -> None:
    """Write figure and numbers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(curves), 3.2), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    figure.suptitle(("PHANTOM DATA: " if phantom else "") + "error of the pixels that are kept", fontsize=9)
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        axis.plot(curve.coverage, curve.risk, label="least uncertain kept")
        axis.axhline(curve.risk[0], color="grey", linestyle=":", label="kept at random")
        axis.plot(curve.coverage, curve.oracle, color="black", linewidth=0.8, label="smallest error kept")
        axis.set(xlabel="share kept", title=f"{name}, gain {curve.gain:.2f}")
        axis.title.set_fontsize(8)
    axes[0].set_ylabel("mean squared error")
    axes[0].legend(fontsize=6)
    with whole(folder / "uncertainty.png") as partial:
        figure.savefig(partial, dpi=120, format="png")
    content = {
        name: {"gain": curve.gain, "coverage": curve.coverage.round(4).tolist(), "risk": curve.risk.tolist()}
        for name, curve in curves.items()
    }
    write_text(folder / "uncertainty.json", json.dumps({"phantom": phantom, **content}, indent=1) + "\n")
