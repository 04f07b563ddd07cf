"""The common metrics of every method and data set, computed once over the whole set, on CPU."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from zoo.metrics.functional import Array, aupro, auroc, average_precision, binary_summary


class AnomalyMetrics(Callback):
    """Image, pixel and slice metrics of validation and test.

    Maps are kept as float32 on CPU (5 bytes a pixel with the mask). Above ``max_pixels`` they are dropped and the pixel
    metrics are nan with a warning.

    Args:
        output: path of the ``metrics.json`` written after test, or None.
        foreground_only: count only pixels inside ``foreground`` in the pixel metrics.
        max_pixels: largest number of pixels kept per process.

    Attributes:
        results: metrics of the last evaluation.
        records: ``id``, ``label`` and ``score`` of each image of the last evaluation.
        extra: keys merged into ``metrics.json``.
    """

    def __init__(self, output: str | None = None, foreground_only: bool = False, max_pixels: int = 200_000_000) -> None:
        self.output, self.foreground_only, self.max_pixels = output, foreground_only, max_pixels
        self.results: dict[str, float] = {}
        self.records: list[dict[str, Any]] = []
        self.extra: dict[str, Any] = {}
        self.images_per_second = float("nan")
        self._reset()

    def _reset(self) -> None:
        self._items: list[tuple[str, int, float, Array | None, Array | None, Array | None]] = []
        self._pixels = 0
        self._start = time.perf_counter()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self._reset()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self._reset()

    def _collect(self, outputs: Any, batch: Any) -> None:
        score = outputs.anomaly_score.detach().float().cpu().tolist()
        count, offset = len(score), len(self._items)
        ids = batch.get("id") or [f"{offset + i}" for i in range(count)]
        labels = batch["label"].tolist()
        parts: list[Any] = [None, None, None]
        if outputs.anomaly_map is not None and "mask" in batch:
            self._pixels += outputs.anomaly_map.numel()
            if self._pixels <= self.max_pixels:
                parts[0] = outputs.anomaly_map.detach().float().cpu().numpy()
                parts[1] = batch["mask"].cpu().numpy()
                if self.foreground_only and "foreground" in batch:
                    parts[2] = batch["foreground"].cpu().numpy()
            else:
                self._items = [(*item[:3], None, None, None) for item in self._items]
        for i in range(count):
            arrays = (None if part is None else part[i].copy() for part in parts)
            self._items.append((ids[i], int(labels[i]), score[i], *arrays))  # type: ignore[arg-type]

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch."""
        self._collect(outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch."""
        self._collect(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log under ``val/``."""
        self._finish(pl_module, "val/", quiet=trainer.sanity_checking)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, log, write ``metrics.json`` and print."""
        seconds, seen = time.perf_counter() - self._start, len(self._items)
        self.images_per_second = seen * trainer.world_size / max(seconds, 1e-9)
        self._finish(pl_module, "")
        if trainer.is_global_zero:
            if self.output is not None:
                self._write(Path(self.output))
            self._print()

    def _finish(self, module: LightningModule, prefix: str, quiet: bool = False) -> None:
        items = self._items
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, items)
            items = list({item[0]: item for part in gathered for item in part}.values())  # samplers repeat images
        self._items = []
        self.records = [{"id": item[0], "label": item[1], "score": item[2]} for item in items]
        self.results, reasons = self._compute(items)
        if reasons and not quiet:
            rank_zero_warn("metrics are nan where " + "; ".join(reasons))
        for name, value in self.results.items():
            module.log(prefix + name, value, rank_zero_only=False, sync_dist=False, batch_size=1)

    def _compute(self, items: list[Any]) -> tuple[dict[str, float], list[str]]:
        labels, scores = np.array([i[1] for i in items]), np.array([i[2] for i in items])
        results = {"image_auroc": auroc(scores, labels), "image_ap": average_precision(scores, labels)}
        reasons = ["the set holds images of one class only"] if np.unique(labels).size < 2 else []
        if self._pixels > self.max_pixels:
            reasons.append(f"{self._pixels} pixels exceed max_pixels={self.max_pixels} (pixel metrics)")
        kept = [item for item in items if item[3] is not None]
        names = ("pixel_auroc", "pixel_ap", "dice_at_5fpr", "iou_at_5fpr", "best_dice", "best_iou", "pixel_aupro")
        if not kept:
            return {**results, **({name: float("nan") for name in names} if self._pixels else {})}, reasons
        maps, masks = (np.stack([item[k] for item in kept]) for k in (3, 4))
        inside = None if kept[0][5] is None else np.stack([item[5] for item in kept])
        pixel = binary_summary(maps, masks, foreground=inside)
        values = (*pixel[:4], pixel.best_dice, pixel.best_iou, aupro(maps, masks, foreground=inside))
        results |= dict(zip((*names[:6], names[6]), values, strict=True))
        if np.isnan(pixel.auroc):
            reasons.append("the masks hold one class only (pixel metrics)")
        if maps.ndim == 5:
            flags, means = masks.any(axis=(1, 3, 4)), maps.mean(axis=(1, 3, 4))
            results |= {"slice_auroc": auroc(means, flags), "slice_ap": average_precision(means, flags)}
        return results, reasons

    def _write(self, path: Path) -> None:
        metrics = {name: None if np.isnan(value) else value for name, value in self.results.items()}
        content = {**self.extra, "metrics": metrics, "images_per_second": self.images_per_second}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)

    def _print(self) -> None:
        from rich.console import Console
        from rich.table import Table

        console = Console()
        if not console.is_terminal:
            print("\n".join(f"{name:14s} {value:.4f}" for name, value in self.results.items()))
            return
        table = Table("metric", "value", title=f"{len(self.records)} images, {self.images_per_second:.1f} images/s")
        for name, value in self.results.items():
            table.add_row(name, f"{value:.4f}")
        console.print(table)
