"""The common metrics of every method and data set, computed once over the whole set, on CPU."""

import csv
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from zoo.errors import UserError
from zoo.metrics.functional import Array, auroc, average_precision, pixel_summary
from zoo.metrics.protocols import grouped_pixel_ap
from zoo.metrics.shortcuts import STATISTICS, image_statistics
from zoo.metrics.streaming import StreamingPixelMetrics

PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "dice_at_5fpr", "iou_at_5fpr", "best_dice", "best_iou", "pixel_aupro")


class _Item(NamedTuple):
    """One image of the evaluation; the arrays are ``(1, *S)`` or None."""

    name: str
    label: int
    score: float
    anomaly_map: Array | None
    mask: Array | None
    foreground: Array | None
    subject: str
    statistics: tuple[float, ...]


class AnomalyMetrics(Callback):
    """Image, pixel and slice metrics of validation and test.

    Up to ``max_pixels`` maps are kept (5 bytes a pixel) and all metrics are exact. Above, pixels go into a histogram of
    constant size: AUROC, AP, Dice and IoU at 5 % FPR then carry a certified interval (``intervals``), and AUPRO and the
    best Dice and IoU are nan.

    Args:
        output: path of the ``metrics.json`` written after test, with ``scores.csv`` (the records) beside it, or None.
        foreground_only: count only pixels inside ``foreground`` in the pixel and slice metrics.
        max_pixels: largest number of pixels kept per process.
        pixel_ap_group: also compute ``pixel_ap_in_groups`` after test: the mean AP of groups of so many images, as the
            multi-task paper's tables do with 20; ``pixel_ap`` always pools all pixels.

    Attributes:
        results: metrics of the last evaluation.
        intervals: lowest and highest possible value of streamed metrics.
        records: of each image of the last evaluation its ``id``, ``subject``, ``label``, ``score`` and the statistics
            that the shortcut audit needs (``mean``, ``deviation``, ``filled``).
        extra: keys merged into ``metrics.json``.
        images_per_second: of the method alone, without loading and metrics.
    """

    def __init__(
        self,
        output: str | None = None,
        foreground_only: bool = False,
        max_pixels: int = 200_000_000,
        pixel_ap_group: int | None = None,
    ) -> None:
        self.output, self.foreground_only, self.max_pixels = output, foreground_only, max_pixels
        self.pixel_ap_group = pixel_ap_group
        self.results: dict[str, float] = {}
        self.intervals: dict[str, tuple[float, float]] = {}
        self.records: list[dict[str, Any]] = []
        self.extra: dict[str, Any] = {}
        self.images_per_second = float("nan")
        self._reset()

    def _reset(self) -> None:
        self._items: list[_Item] = []
        self._pixels = 0
        self._stream: StreamingPixelMetrics | None = None
        self._maps_without_masks = False
        self._seconds = 0.0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self._reset()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self._reset()

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
        maps, masks, inside = outputs.anomaly_map, batch.get("mask"), None
        self._maps_without_masks |= maps is not None and masks is None
        if maps is None or masks is None:
            maps = masks = None
        else:
            inside = batch.get("foreground") if self.foreground_only else None
            self._pixels += maps.numel()
            if self._pixels > self.max_pixels:
                self._to_stream(maps, masks, inside)
                maps = masks = inside = None
        arrays = [
            [None] * len(scores) if part is None else list(part.detach().cpu().numpy().copy())
            for part in (None if maps is None else maps.float(), masks, inside)
        ]
        subjects = batch.get("subject") or [""] * len(scores)
        inside = batch.get("foreground")
        statistics = image_statistics(batch["image"].cpu().numpy(), None if inside is None else inside.cpu().numpy())
        rows = zip(*(values.tolist() for values in statistics.values()), strict=True)
        self._items += [_Item(*values) for values in zip(names, labels, scores, *arrays, subjects, rows, strict=True)]

    def _to_stream(self, maps: torch.Tensor, masks: torch.Tensor, inside: torch.Tensor | None) -> None:
        """Count a batch that no longer fits, and once all that was kept."""
        if self._stream is None:
            self._stream = self._stream_of_kept()
        self._stream.update(maps.cpu(), masks.cpu(), None if inside is None else inside.cpu())

    def _stream_of_kept(self) -> StreamingPixelMetrics:
        """Count the pixels that were kept, and let them go."""
        stream = StreamingPixelMetrics(sync_on_compute=False)  # processes are added up in _gather
        for number, item in enumerate(self._items):
            if item.anomaly_map is not None and item.mask is not None:
                inside = None if item.foreground is None else torch.from_numpy(item.foreground)
                stream.update(torch.from_numpy(item.anomaly_map), torch.from_numpy(item.mask), inside)
            self._items[number] = item._replace(anomaly_map=None, mask=None, foreground=None)
        return stream

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log under ``val/``."""
        self._finish(pl_module, "val/", quiet=trainer.sanity_checking)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, log, write ``metrics.json`` and print."""
        self.images_per_second = len(self._items) * trainer.world_size / max(self._seconds, 1e-9)
        self._finish(pl_module, "")
        if trainer.is_global_zero:
            if self.output is not None:
                self._write(Path(self.output))
            self._print()

    def _finish(self, module: LightningModule, prefix: str, quiet: bool = False) -> None:
        items = (
            self._gather() if torch.distributed.is_available() and torch.distributed.is_initialized() else self._items
        )
        self._items = []
        self.records = [
            {"id": item.name, "subject": item.subject, "label": int(item.label), "score": item.score}
            | dict(zip(STATISTICS, item.statistics, strict=True))
            for item in items
        ]
        self.results, reasons = self._compute(items)
        if not prefix and self.pixel_ap_group is not None:
            self.results["pixel_ap_in_groups"] = self._in_groups(items, self.pixel_ap_group)
        if reasons and not quiet:
            rank_zero_warn("metrics are nan: " + "; ".join(reasons))
        for name, value in self.results.items():
            module.log(prefix + name, value, rank_zero_only=False, sync_dist=False, batch_size=1)
        if prefix and "pixel_ap" in self.results:  # validation anomalies are synthetic: a criterion without labels
            module.log("val/synthetic_pixel_ap", self.results["pixel_ap"], batch_size=1)

    def _gather(self) -> list[_Item]:
        """The images of all processes; if one of them streams its pixels, all do."""
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self._stream is not None)
        if any(parts):
            self._stream = self._stream_of_kept() if self._stream is None else self._stream
            counts: list[Any] = [None] * len(parts)
            torch.distributed.all_gather_object(counts, (self._stream.positives, self._stream.negatives))
            self._stream.positives = torch.stack([positives for positives, _ in counts]).sum(0)
            self._stream.negatives = torch.stack([negatives for _, negatives in counts]).sum(0)
        torch.distributed.all_gather_object(parts, self._items)
        return list({item.name: item for part in parts for item in part}.values())  # samplers repeat images

    def _compute(self, items: list[_Item]) -> tuple[dict[str, float], list[str]]:
        labels, scores = np.array([item.label for item in items]), np.array([item.score for item in items])
        results = {"image_auroc": auroc(scores, labels), "image_ap": average_precision(scores, labels)}
        reasons = ["the set holds images of one class only"] if np.unique(labels).size < 2 else []
        nothing = dict.fromkeys(PIXEL_METRICS, float("nan"))
        self.intervals = {}
        if self._stream is not None:
            reasons.append(
                f"{self._pixels} pixels exceed metrics.max_pixels {self.max_pixels}: pixel metrics are streamed, "
                "pixel_aupro, best_dice and best_iou are not"
            )
            return results | nothing | self._streamed(self._stream), reasons
        kept = [item for item in items if item.anomaly_map is not None]
        if not kept:
            if self._maps_without_masks:
                reasons.append("the set has no masks (pixel metrics)")
            return results | (nothing if self._maps_without_masks else {}), reasons
        maps, masks = np.stack([item.anomaly_map for item in kept]), np.stack([item.mask for item in kept])  # type: ignore[arg-type, misc]
        inside = None if kept[0].foreground is None else np.stack([item.foreground for item in kept])  # type: ignore[misc]
        pixel, overlap = pixel_summary(maps, masks, foreground=inside)
        values = (*pixel[:4], pixel.best_dice, pixel.best_iou, overlap)
        results |= dict(zip(PIXEL_METRICS, values, strict=True))
        if np.isnan(pixel.auroc):
            reasons.append("the masks hold one class only (pixel metrics)")
        if maps.ndim == 5:
            weight = np.ones_like(masks) if inside is None else inside
            flags = (masks & weight.astype(bool)).any(axis=(1, 3, 4))
            filled = weight.any(axis=(1, 3, 4))  # a slice without foreground has no score
            means = (maps * weight).sum(axis=(1, 3, 4)) / np.maximum(weight.sum(axis=(1, 3, 4)), 1)
            results |= {"slice_auroc": auroc(means, flags, filled), "slice_ap": average_precision(means, flags, filled)}
        return results, reasons

    @staticmethod
    def _in_groups(items: list[_Item], size: int) -> float:
        kept = [item for item in sorted(items, key=lambda item: item.name) if item.anomaly_map is not None]
        if not kept or len(kept) < len(items):
            return float("nan")
        maps, masks = (np.stack(part) for part in zip(*((item.anomaly_map, item.mask) for item in kept), strict=True))  # type: ignore[arg-type]
        return grouped_pixel_ap(maps, masks.astype(bool), size)

    def _streamed(self, stream: StreamingPixelMetrics) -> dict[str, float]:
        computed = stream.compute()
        names = {"auroc": "pixel_auroc", "average_precision": "pixel_ap"}
        names |= {"dice_at_fpr": "dice_at_5fpr", "iou_at_fpr": "iou_at_5fpr"}
        self.intervals = {names[key]: (found.low, found.high) for key, found in computed.items()}
        return {names[key]: found.value for key, found in computed.items()}

    def _write(self, path: Path) -> None:
        metrics = {name: None if np.isnan(value) else value for name, value in self.results.items()}
        content = {**self.extra, "metrics": metrics, "images_per_second": self.images_per_second}
        if self.intervals:
            content["certified_intervals"] = self.intervals
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ("id", "subject", "label", "score", *STATISTICS))
            writer.writeheader()
            writer.writerows(self.records)
        partial.replace(path.with_name("scores.csv"))

    def _print(self) -> None:
        from rich.console import Console
        from rich.table import Table

        console = Console()
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
