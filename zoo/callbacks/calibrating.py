"""Makes a calibration of what a prediction of healthy cases gives."""

import datetime
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.callbacks.attached import attached
from zoo.callbacks.gathering import Gathering, method_name
from zoo.decision.calibration import Calibration, sorted_by_score
from zoo.decision.cases import CaseScore, group
from zoo.decision.findings import reference
from zoo.errors import UserError
from zoo.metrics.shortcuts import PIXEL_STATISTICS
from zoo.sample import data_of


class ReserveCalibration(Callback):
    """Before a fit: half of the held-out cases calibrate alone where validation on the others chooses something."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for what monitors the validation."""
        data = data_of(trainer)
        if data is not None and hasattr(data, "reserve_calibration") and selected_by(trainer):
            data.reserve_calibration()


def selected_by(trainer: Trainer) -> str:
    """What is chosen by validation: names of callbacks and schedulers with what they monitor; empty if nothing."""
    found = [(type(one).__name__, str(getattr(one, "monitor", None))) for one in attached(trainer)]
    found += [(type(one.scheduler).__name__, str(one.monitor)) for one in trainer.lr_scheduler_configs]
    return ", ".join(f"{name} {monitor}" for name, monitor in found if monitor.startswith("val/"))


class Calibrating(Callback):
    """Gathers the healthy cases of one ``trainer.predict``.

    Args:
        case_score: how a case's images become its score.
        source: where the cases are from.
        weights: SHA-256 of the weights.
        facts: further attributes of the :class:`~zoo.decision.calibration.Calibration`.

    Attributes:
        result: after the prediction.
    """

    def __init__(self, case_score: CaseScore, source: str, weights: str, **facts: Any) -> None:
        self.case_score, self.source, self.weights, self.facts = case_score, source, weights, facts
        self.result: Calibration | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room for the maps."""
        self._folder = tempfile.TemporaryDirectory(prefix="uad-zoo-")
        self._gathering = Gathering(Path(self._folder.name))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch."""
        self._gathering.add(outputs, batch, (0.0, 1.0))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Summarise.

        Raises:
            UserError: scores that are not finite.
        """
        import zoo

        with self._folder:
            gathered: Any = self._gathering
            rows = gathered.rows
            cases = group([row.case for row in rows], [row.score for row in rows], self.case_score)
            if not np.isfinite(cases.scores).all():
                wrong = int((~np.isfinite(cases.scores)).sum())
                told = f"{wrong} of {len(cases.scores)} healthy cases have a score that is NaN or infinite"
                raise UserError(f"no calibration: {told}")
            # every map once: cases in the order of their names, with the parts that lie in one volume together
            owner = {
                row.name: name
                for name, one in zip(cases.names, cases.members, strict=True)
                for row in (rows[k] for k in one)
            }
            maps: dict[str, list[Any]] = {name: [] for name in cases.names}
            for _, members in gathered.volumes():
                found = gathered.stacked(members)
                if found is not None:
                    maps[owner[members[0].name]].append(found)
            with_maps = bool(maps) and all(maps.values())
            known = reference(list(maps.values())) if with_maps else None
        means = np.array([row.statistics for row in rows])
        lists: dict[str, list[Any]] = {
            "images": [len(one) for one in cases.members],
            "groups": [rows[one[0]].group for one in cases.members],
            **{
                name: [float(means[one, column].mean()) for one in cases.members]
                for column, name in enumerate(PIXEL_STATISTICS)
            },
        }
        if known is not None:
            lists |= {"maxima": known.maxima, "largest": known.largest}
        ordered = sorted_by_score(cases.scores, **lists)
        if known is not None:
            known = known._replace(maxima=ordered["maxima"], largest=ordered["largest"])
        module: Any = pl_module
        self.result = Calibration(
            scores=ordered["scores"],
            images=ordered["images"],
            groups=ordered["groups"],
            statistics={name: ordered[name] for name in PIXEL_STATISTICS if np.isfinite(ordered[name]).all()},
            maps=known,
            case_score=self.case_score,
            source=self.source,
            method=method_name(module),
            weights=self.weights,
            image_size=list(module.image_size),
            in_channels=module.in_channels,
            value_range=[float(bound) for bound in module.hparams.get("value_range") or (0.0, 1.0)],
            precision=str(trainer.precision),
            device=module.device.type,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            version=zoo.__version__,
            **self.facts,
        )
