"""Pixel metrics of an evaluation: exact up to a number of pixels, streamed above; images that samplers repeat once."""

import torch
from torch import Tensor, distributed

from zoo.metrics.exact import ExactPixelMetrics, all_processes
from zoo.metrics.streaming import StreamingPixelMetrics

NAMES = {
    "auroc": "pixel_auroc",
    "average_precision": "pixel_ap",
    "dice_at_fpr": "dice_at_5fpr",
    "iou_at_fpr": "iou_at_5fpr",
    "best_dice": "best_dice",
    "best_iou": "best_iou",
    "aupro": "pixel_aupro",
}
Images = tuple[Tensor, Tensor, Tensor | None]


class PixelTally:
    """Counts the pixels of this process's images.

    Args:
        max_pixels: of this process; above, pixels go into a histogram, and AUPRO is nan.
        hold_last: the last image waits for :meth:`settle`: over processes it may be one that another process has.
    """

    def __init__(self, max_pixels: int, hold_last: bool = False) -> None:
        self.max_pixels, self.hold_last = max_pixels, hold_last
        self.pixels = 0
        self.exact = ExactPixelMetrics()
        self.stream: StreamingPixelMetrics | None = None
        self._waiting: Images | None = None

    def add(self, maps: Tensor, masks: Tensor, foreground: Tensor | None) -> None:
        """Add a batch ``(B, 1, *S)``; pixels outside ``foreground`` do not count."""
        self.settle(keep=True)
        maps, masks = maps.detach().float().cpu(), masks.detach().bool().cpu()
        inside = None if foreground is None else foreground.detach().bool().cpu()
        if self.hold_last:
            last = None if inside is None else inside[-1:].clone()
            self._waiting = (maps[-1:].clone(), masks[-1:].clone(), last)
            maps, masks, inside = maps[:-1], masks[:-1], None if inside is None else inside[:-1]
        if len(maps):
            self._count(maps, masks, inside)

    def settle(self, keep: bool) -> None:
        """Count the image that waits, or forget it."""
        if self._waiting is not None and keep:
            self._count(*self._waiting)
        self._waiting = None

    def _count(self, maps: Tensor, masks: Tensor, inside: Tensor | None) -> None:
        self.pixels += maps.numel()
        if self.stream is None and self.pixels > self.max_pixels:
            self._to_stream()
        if self.stream is None:
            self.exact.update(maps, masks, inside)
        else:
            self.stream.update(maps, masks, inside)

    def _to_stream(self) -> None:
        self.stream = StreamingPixelMetrics(sync_on_compute=False)
        for scores, label in [(part, False) for part in self.exact.negatives()] + [(p, True) for p in self.exact.hits]:
            self.stream.update(scores, torch.full(scores.shape, label))
        self.exact.reset()

    def figures(self) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        """Metrics by name over all processes, and the certified intervals of streamed ones; all processes call it."""
        if distributed.is_available() and distributed.is_initialized():
            flags: list[bool] = [False] * distributed.get_world_size()
            distributed.all_gather_object(flags, self.stream is not None)
            if any(flags) and self.stream is None:
                self._to_stream()
            if self.stream is not None:
                total = all_processes().total
                for name in ("pixels", "positives"):
                    summed = total(getattr(self.stream, name).numpy())
                    setattr(self.stream, name, torch.from_numpy(summed))
        if self.stream is None:
            exact = self.exact.compute()
            figures = {**exact.binary._asdict(), "aupro": exact.aupro}
            return {NAMES[key]: value for key, value in figures.items() if key in NAMES}, {}
        found = self.stream.compute()
        values = dict.fromkeys(NAMES.values(), float("nan")) | {NAMES[key]: one.value for key, one in found.items()}
        return values, {NAMES[key]: (one.low, one.high) for key, one in found.items()}
