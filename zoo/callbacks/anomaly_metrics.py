"""The common metrics of every method and data set, computed once over the whole set, on CPU."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from zoo.callbacks.case_evaluation import Image, evaluate_cases, gather_images, lesion_candidates, told
from zoo.callbacks.case_evaluation import figures as figures_of_decision
from zoo.callbacks.members import Members
from zoo.callbacks.shortcut_audit import ShortcutAudit
from zoo.decision.calibration import Calibration
from zoo.decision.decide import Rule
from zoo.errors import UserError
from zoo.files import write_rows, write_text
from zoo.metrics.counting import Array
from zoo.metrics.functional import evaluate
from zoo.metrics.pixels import PixelTally
from zoo.metrics.protocols import Tested, figures
from zoo.metrics.ranking import Evaluated
from zoo.metrics.shortcuts import PIXEL_STATISTICS, STATISTICS, image_statistics
from zoo.metrics.table import TABLE, Level, Protocol, metrics_of
from zoo.sample import cases_of, data_of


class _Item(NamedTuple):
    """One image of the evaluation."""

    name: str
    label: int
    score: float
    subject: str
    case: str
    statistics: tuple[float, ...]  # empty outside of a test
    slices: tuple[Array, Array] | None  # scores and labels of a volume's slices
    kept: tuple[Array, Array, Array] | None  # map, mask, foreground ``(1, *S)``, for a paper's protocol alone


class AnomalyMetrics(Callback):
    """Image, pixel and slice metrics of validation and test.

    Up to ``max_pixels`` all metrics are exact: the scores are kept, 4 bytes a pixel, the first 1 GiB in memory, the
    rest in a temporary file. Above, pixels go into a histogram of constant size: AUROC, AP, Dice and IoU then carry a
    certified interval (``intervals``), and AUPRO is nan. An image that the sampler of several processes repeats counts
    once, provided that images have an ``id``.

    Args:
        output: path of the ``metrics.json`` written after test, with ``scores.csv`` (the records) beside it, or None.
        foreground_only: count only pixels inside ``foreground`` in the pixel and slice metrics.
        max_pixels: largest number of pixels that a process keeps.
        protocol: after a test also compute the figures of one or several papers' own rules, under their own names
            (:mod:`zoo.metrics.protocols`); keeps all maps and masks.
        neighbours: number of training images among which the shortcut audit of a test looks for the nearest; 0: none.

    Attributes:
        results: metrics of the last evaluation.
        intervals: lowest and highest possible value of streamed metrics.
        units: of each level the number of its units and of the anomalous ones: what chance levels rest on.
        records: of each image of the last evaluation its ``id``, ``subject``, ``case``, ``label`` and ``score``, and
            ``anomaly_score``, as ``predict`` calls the score; after a test the statistics of the shortcut audit too
            (:data:`zoo.metrics.shortcuts.STATISTICS`; nan where unknown), and ``copy_of``: the training image that it
            looks like, or empty.
        shortcuts: after a test the pixel metrics of maps that need no method, by their names.
        extra: keys merged into ``metrics.json``.
        rule: of the decisions; set by the command line, as are ``calibration``, ``members`` (the fold models of a
            cross-conformal one), ``run`` and ``problem`` (why one that is there cannot be used).
        decision: after a test, what the rule does to its cases (:mod:`zoo.callbacks.case_evaluation`).
        images_per_second: of the method alone, without loading and metrics.
    """

    def __init__(
        self,
        output: str | None = None,
        foreground_only: bool = False,
        max_pixels: int = 500_000_000,
        protocol: Protocol | list[Protocol] = "common",
        neighbours: int = 500,
    ) -> None:
        self.output, self.foreground_only, self.max_pixels = output, foreground_only, max_pixels
        named: list[Protocol] = protocol if isinstance(protocol, list) else [protocol]
        self.protocols = [one for one in named if one != "common"]
        self.neighbours = neighbours
        self.rule, self.run, self.problem = Rule(), "this model", ""
        self.calibration: Calibration | None = None
        self.members: Members | None = None
        self.decision: dict[str, Any] = {}
        self.results: dict[str, float] = {}
        self.intervals: dict[str, tuple[float, float]] = {}
        self.units: dict[str, dict[str, int]] = {}
        self.records: list[dict[str, Any]] = []
        self.shortcuts: dict[str, dict[str, float]] = {}
        self.extra: dict[str, Any] = {}
        self.images_per_second = float("nan")
        self._reset()

    def _reset(self) -> None:
        self._items: list[_Item] = []
        self._tally: PixelTally | None = None
        self._audit: ShortcutAudit | None = None
        self._healthy: Array | None = None
        self._maps_without_masks = False
        self._tested: list[Image] = []
        self._with_spacing, self._dims = False, 2
        self._seconds = 0.0

    def place_outputs(self, run: Path, results: Path, stage: str) -> None:
        """``metrics.json`` and ``scores.csv`` of a test."""
        if stage == "test":
            self.output = str(results / "metrics.json")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a protocol that the data cannot serve, before anything is trained."""
        self.check_data(data_of(trainer))

    def check_data(self, data: Any) -> None:
        """Refuse a protocol that a DataModule cannot serve.

        Raises:
            UserError: see above.
        """
        if "cradl" in self.protocols and not getattr(data, "has_cradl_region", False):
            raise UserError(
                "metrics.protocol cradl: CRADL's region is known of volumes of BraTS 2017 and ISLES 2015 alone; "
                "set data.mode volumes and data.test brats17 or isles15 (data/brats17_3d), or another protocol"
            )
        if "memmc_mae" in self.protocols and len(getattr(data, "spatial_size", ())) == 3:
            raise UserError("metrics.protocol memmc_mae: its groups are of pictures, these are volumes; leave it out")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self._reset()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation; look at the training images."""
        self._reset()
        data = data_of(trainer)
        self._audit = ShortcutAudit(data, self.neighbours, self.max_pixels, hold_last=trainer.world_size > 1)
        dataset = getattr(data, "dataset", None)
        if callable(dataset) and "memmc_mae" in self.protocols:
            self._healthy = _healthy_maps(dataset("val"), pl_module)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Start the clock of the batch."""
        self._start = time.perf_counter()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch."""
        self._collect(trainer, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch."""
        scores = outputs.anomaly_score.cpu()  # waits for the device
        self._seconds += time.perf_counter() - self._start
        self._collect(trainer, outputs._replace(anomaly_score=scores), batch)

    def _collect(self, trainer: Trainer, outputs: Any, batch: Any) -> None:
        if "label" not in batch:
            raise UserError("metrics need a label for every image: the batches of this data set have no key 'label'")
        scores, labels = outputs.anomaly_score.detach().float().cpu().tolist(), batch["label"].tolist()
        first = len(self._items)
        names = batch.get("id") or [f"{trainer.global_rank}:{first + row}" for row in range(len(scores))]
        maps, masks = outputs.anomaly_map, batch.get("mask")
        self._maps_without_masks |= maps is not None and masks is None
        slices: list[Any] = [None] * len(scores)
        kept: list[Any] = [None] * len(scores)
        if maps is not None and masks is not None:
            inside = batch.get("foreground") if self.foreground_only else None
            if self._tally is None:
                self._tally = PixelTally(self.max_pixels, hold_last=trainer.world_size > 1)
            self._tally.add(maps, masks, inside)
            if self._audit is not None:
                self._audit.count(batch["image"], masks, inside)
            if maps.ndim == 5:
                slices = _slices(maps, masks, inside)
            if self.protocols and trainer.testing:
                inside = batch.get("foreground", torch.ones_like(masks))
                arrays = (one.detach().cpu().numpy().copy() for one in (maps.float(), masks.bool(), inside.bool()))
                kept = list(zip(*arrays, strict=True))
        subjects = batch.get("subject") or [""] * len(scores)
        statistics = [()] * len(scores) if self._audit is None else self._audit.statistics(batch)
        if self._audit is not None:  # a test
            folds = [()] * len(scores) if self.members is None else self.members.scores(trainer, batch)
            self._keep_cases(outputs, batch, names, scores, folds)
        cases = cases_of(batch, names)
        rows = zip(names, labels, scores, subjects, cases, statistics, slices, kept, strict=True)
        self._items += [_Item(*row) for row in rows]

    def _keep_cases(
        self, outputs: Any, batch: Any, names: list[str], scores: list[float], folds: Sequence[tuple[float, ...]]
    ) -> None:
        """What the evaluation of the decision needs of a tested batch."""
        inside = batch.get("foreground")
        found = image_statistics(batch["image"].cpu().numpy(), None if inside is None else inside.cpu().numpy())
        statistics = zip(*(found[name].tolist() for name in PIXEL_STATISTICS), strict=True)
        groups = batch.get("group") or [""] * len(names)
        lesions = lesion_candidates(outputs, batch, self.calibration)
        labels, cases = batch["label"].tolist(), cases_of(batch, names)
        rows = zip(names, cases, labels, scores, groups, statistics, lesions, folds, strict=True)
        self._tested += [Image(*row) for row in rows]
        self._with_spacing, self._dims = "spacing" in batch, batch["image"].ndim - 2

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log under ``val/``."""
        self._finish(pl_module, "val/", quiet=trainer.sanity_checking)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, log, write ``scores.csv`` and print."""
        self.images_per_second = len(self._items) * trainer.world_size / max(self._seconds, 1e-9)
        self._finish(pl_module, "")
        tested, self._tested = gather_images(self._tested), []
        self.decision = evaluate_cases(
            tested, self.calibration, self.rule, spacing=self._with_spacing, dims=self._dims, run=self.run
        )
        for name, value in figures_of_decision(self.decision).items():
            self.results[name] = value
            pl_module.log(name, value, rank_zero_only=False, sync_dist=False, batch_size=1)
        if self.problem:
            self.decision["warnings"].insert(0, self.problem)
        if trainer.is_global_zero:
            if self.output is not None:
                self._write_scores(Path(self.output).with_name("scores.csv"))
            self._print()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``metrics.json``, after all other outputs of the test: where it is, they are."""
        if trainer.is_global_zero and self.output is not None:
            self._write(Path(self.output))

    def _finish(self, module: LightningModule, prefix: str, quiet: bool = False) -> None:
        items, reasons = self._gather()
        self._items = []
        self.records = [
            {"id": item.name, "subject": item.subject, "case": item.case, "label": int(item.label)}
            | {"score": item.score, "anomaly_score": item.score}
            | dict(zip(STATISTICS, item.statistics, strict=bool(item.statistics)))
            for item in items
        ]
        copies = None if self._audit is None else self._audit.copies
        if copies is not None:
            for record in self.records:
                record["copy_of"] = copies.get(record["id"], "")
        self.results, more = self._compute(items)
        reasons += more
        self.shortcuts = {} if self._audit is None else self._audit.figures()
        for protocol in self.protocols if not prefix else ():
            self.results |= self._by_protocol(protocol, items, data_of(module.trainer))
        if reasons and not quiet:
            rank_zero_warn("metrics: " + "; ".join(reasons))
        for name, value in self.results.items():
            module.log(prefix + name, value, rank_zero_only=False, sync_dist=False, batch_size=1)
        if prefix and "pixel_ap" in self.results:  # validation anomalies are synthetic: a criterion without labels
            module.log("val/synthetic_pixel_ap", self.results["pixel_ap"], batch_size=1)

    def _gather(self) -> tuple[list[_Item], list[str]]:
        """The images of all processes, each once, and what is wrong with them."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self._items, []
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        maps = [] if self._audit is None else list(self._audit.tallies)
        torch.distributed.all_gather_object(parts, (self._items, self._tally is not None, maps))
        rank = torch.distributed.get_rank()
        names = [[item.name for item in items] for items, _, _ in parts]
        if any(with_maps for _, with_maps, _ in parts):
            self._tally = self._tally or PixelTally(self.max_pixels)
            earlier = {name for part in names for name in part[:-1]} | {part[-1] for part in names[:rank] if part}
            if self._audit is not None:  # a process without images takes part in every count
                self._audit.know(name for _, _, known in parts for name in known)
            keep = not names[rank] or names[rank][-1] not in earlier
            for tally in (self._tally, *(() if self._audit is None else self._audit.tallies.values())):
                tally.settle(keep)
        once = list({item.name: item for items, _, _ in parts for item in items}.values())
        # a sampler that evens out processes repeats an image as the last of a process; more is not mended
        inner = [name for part in names for name in part[:-1]]
        repeated = len(inner) - len(set(inner))
        return once, [f"{repeated} images came twice and count twice in pixel metrics"] if repeated else []

    def _compute(self, items: list[_Item]) -> tuple[dict[str, float], list[str]]:
        """All metrics of the table that these images allow, and why others are nan."""
        labels, scores = np.array([item.label for item in items]), np.array([item.score for item in items])
        found: dict[Level, Evaluated] = {"image": evaluate(scores, labels)}
        reasons = ["image metrics are nan: the set holds one class only"] if found["image"].one_class else []
        self.intervals = {}
        if self._tally is not None:
            found["pixel"], bounds = self._tally.figures()
            if found["pixel"].one_class:
                reasons.append("pixel metrics are nan: the masks hold one class only")
            elif bounds is not None:
                reasons.append(self._streamed(bounds))
        slices = [item.slices for item in items if item.slices is not None]
        if slices:
            means, flags = (np.concatenate(part) for part in zip(*slices, strict=True))
            found["slice"] = evaluate(means, flags)
        self.units = {level: {"units": one.units, "anomalous": one.anomalous} for level, one in found.items()}
        results = {metric.name: metric.value(one) for level, one in found.items() for metric in metrics_of(level)}
        if self._tally is None and self._maps_without_masks:
            results |= {metric.name: float("nan") for metric in metrics_of("pixel")}
            reasons.append("pixel metrics are nan: the set has no masks")
        return results, reasons

    def _streamed(self, bounds: tuple[Evaluated, Evaluated]) -> str:
        """Keep the certified intervals; say which metrics have none."""
        known = [metric for metric in metrics_of("pixel") if "every pixel" not in metric.needs]
        self.intervals = {metric.name: (metric.value(bounds[0]), metric.value(bounds[1])) for metric in known}
        others = ", ".join(metric.name for metric in metrics_of("pixel") if metric not in known)
        told = f"more than metrics.max_pixels {self.max_pixels} in a process"
        return f"pixel metrics are streamed and {others} is nan: {told}"

    def _by_protocol(self, protocol: Protocol, items: list[_Item], data: Any) -> dict[str, float]:
        kept = [item for item in sorted(items, key=lambda item: item.name) if item.kept is not None]
        if not kept or len(kept) < len(items):
            rank_zero_warn(f"metrics.protocol {protocol} has no figures: not every image has a map and a mask")
            return {metric.name: float("nan") for metric in TABLE.values() if metric.protocol == protocol}
        maps, masks, inside = (np.stack([item.kept[part][0] for item in kept]) for part in range(3))  # type: ignore[index]
        scores = np.array([item.score for item in kept])
        region = None
        if protocol == "cradl":
            region = [data.in_cradl_region(item.name, one) for item, one in zip(kept, maps, strict=True)]
        return figures(protocol, Tested(maps, masks, scores, inside, self._healthy, region))

    def _write(self, path: Path) -> None:
        metrics = {name: None if np.isnan(value) else value for name, value in self.results.items()}
        content = {**self.extra, "metrics": metrics, "images_per_second": self.images_per_second, "units": self.units}
        content["decision"] = self.decision
        if self.shortcuts:
            content["pixel_shortcuts"] = self.shortcuts
        if self.intervals:
            content["certified_intervals"] = self.intervals
        write_text(path, json.dumps(content, indent=2) + "\n")

    def _write_scores(self, path: Path) -> None:
        known = [name for name in STATISTICS if all(np.isfinite(row[name]) for row in self.records)]
        known += [] if self.records and "copy_of" not in self.records[0] else ["copy_of"]
        columns = ("id", "subject", "case", "label", "score", "anomaly_score", *known)
        write_rows(path, columns, self.records)

    def _print(self) -> None:
        from rich.console import Console
        from rich.table import Table

        console = Console()
        for line in told(self.decision):
            print(line)
        shown = {name: f"{value:.4f}{self._range(name)}" for name, value in self.results.items()}
        if not console.is_terminal:
            print("\n".join(f"{name:14s} {value}" for name, value in shown.items()))
            return
        table = Table("metric", "value", title=f"{len(self.records)} images, {self.images_per_second:.1f} images/s")
        for name, value in shown.items():
            table.add_row(name, value)
        console.print(table)

    def _range(self, name: str) -> str:
        low, high = self.intervals.get(name, (0.0, 0.0))
        return f" (between {low:.5f} and {high:.5f})" if low != high else ""


def _slices(maps: torch.Tensor, masks: torch.Tensor, inside: torch.Tensor | None) -> list[tuple[Array, Array]]:
    """Per volume the mean of the map in each slice along its first axis, and whether the slice has a lesion."""
    scores, truth = maps.detach().double(), masks.bool()
    weight = torch.ones_like(truth) if inside is None else inside.bool()
    size = weight.sum((1, 3, 4))
    means = ((scores * weight).sum((1, 3, 4)) / size.clamp(min=1)).cpu().numpy()
    flags, filled = (truth & weight).any(4).any(3).any(1).cpu().numpy(), (size > 0).cpu().numpy()
    # a slice without foreground has no score
    return [(mean[kept], flag[kept]) for mean, flag, kept in zip(means, flags, filled, strict=True)]


def _healthy_maps(images: Any, module: LightningModule, most: int = 100) -> Array | None:
    """Maps ``(M, *S)`` of at most so many unaltered validation images, one by one; None without maps."""
    healthy = [number for number in range(len(images)) if not images[number]["label"]][:most]
    maps = [module(images[number]["image"][None].to(module.device)).anomaly_map for number in healthy]
    if not maps or maps[0] is None:
        return None
    return np.concatenate([one[:, 0].float().cpu().numpy() for one in maps])
