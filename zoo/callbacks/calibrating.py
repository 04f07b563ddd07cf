"""Makes a calibration of what predictions of healthy cases give."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.callbacks.attached import attached
from zoo.callbacks.gathering import Gathering, method_name
from zoo.decision.calibration import Calibration, sorted_by_score
from zoo.decision.cases import Cases, CaseScore, group
from zoo.decision.findings import MapReference, reference
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
    """Gathers the healthy cases of one ``trainer.predict``, or of one a fold.

    Args:
        folder: for the maps until they are summarised.

    Attributes:
        fold: number of the fold that is being predicted; set by the caller.
        folds: fold of each image.
    """

    def __init__(self, folder: Path) -> None:
        self.gathering, self.fold, self.folds = Gathering(folder), 0, list[int]()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch."""
        before = len(self.gathering.rows)
        self.gathering.add(outputs, batch, (0.0, 1.0))
        self.folds += [self.fold] * (len(self.gathering.rows) - before)

    def case_scores(self, rule: CaseScore) -> Cases:
        """Scores by case.

        Raises:
            UserError: scores that are not finite.
            OSError: there was no room for the maps.
        """
        if self.gathering.failure is not None:
            raise self.gathering.failure
        rows = self.gathering.rows
        cases = group([row.case for row in rows], [row.score for row in rows], rule)
        if not np.isfinite(cases.scores).all():
            wrong = int((~np.isfinite(cases.scores)).sum())
            told = f"{wrong} of {len(cases.scores)} healthy cases have a score that is NaN or infinite"
            raise UserError(f"no calibration: {told}")
        return cases

    def maps(self, cases: Cases) -> MapReference | None:
        """What the maps of healthy cases are like; None where a case has none."""
        # every map once: cases in the order of their names, with the parts that lie in one volume together
        gathered = self.gathering
        owner = {gathered.rows[k].name: name for name, one in zip(cases.names, cases.members, strict=True) for k in one}
        maps: dict[str, list[Any]] = {name: [] for name in cases.names}
        for _, members in gathered.volumes():
            found = gathered.stacked(members)
            if found is not None:
                maps[owner[members[0].name]].append(found)
        return reference(list(maps.values())) if maps and all(maps.values()) else None

    def calibration(
        self,
        module: Any,
        trainer: Trainer,
        rule: CaseScore,
        source: str,
        weights: str,
        members: list[str],
        **facts: Any,
    ) -> Calibration:
        """Summarise.

        Args:
            module: method whose calibration it is.
            trainer: that predicted.
            rule: how a case's images become its score.
            source: where the cases are from.
            weights: SHA-256 of the method's weights.
            members: the same of each fold's model; empty without folds.
            facts: further attributes of the :class:`~zoo.decision.calibration.Calibration`.

        Raises:
            UserError: scores that are not finite.
        """
        import zoo

        rows, cases = self.gathering.rows, self.case_scores(rule)
        known = self.maps(cases)
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
        if members:
            lists["folds"] = [self.folds[one[0]] for one in cases.members]
        ordered = sorted_by_score(cases.scores, **lists)
        if known is not None:
            known = known._replace(maxima=ordered["maxima"], largest=ordered["largest"])
        return Calibration(
            scores=ordered["scores"],
            images=ordered["images"],
            groups=ordered["groups"],
            statistics={name: ordered[name] for name in PIXEL_STATISTICS if np.isfinite(ordered[name]).all()},
            maps=known,
            case_score=rule,
            source=source,
            method=method_name(module),
            weights=weights,
            image_size=list(module.image_size),
            in_channels=module.in_channels,
            value_range=[float(bound) for bound in module.hparams.get("value_range") or (0.0, 1.0)],
            precision=str(trainer.precision),
            device=module.device.type,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            version=zoo.__version__,
            folds=ordered.get("folds", []),
            members=members,
            **facts,
        )
