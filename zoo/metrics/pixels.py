"""Pixel metrics of an evaluation: exact up to a number of pixels, streamed above; images that samplers repeat once."""

import torch
from torch import Tensor, distributed

from zoo.metrics.exact import ExactPixelMetrics, all_processes
from zoo.metrics.ranking import BinarySummary, Evaluated
from zoo.metrics.streaming import StreamingPixelMetrics

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

    def figures(self) -> tuple[Evaluated, tuple[Evaluated, Evaluated] | None]:
        """What the metrics are computed from, over all processes; all processes call it.

        Returns:
            tuple: the pixels evaluated, and if they were streamed the same with every figure at its certified lowest
            and at its highest.
        """
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
            return self.exact.evaluate(), None
        found = self.stream.compute()
        units, anomalous = int(self.stream.pixels.sum()), int(self.stream.positives.sum())
        value, low, high = (
            Evaluated(
                BinarySummary(
                    **{name: getattr(one, which) for name, one in found.items()},
                    threshold_at_fpr=float("nan"),
                    best_threshold=float("nan"),
                ),
                None,
                float("nan"),
                units,
                anomalous,
            )
            for which in ("value", "low", "high")
        )
        return value, (low, high)
