"""Pixel metrics in constant memory, with a certified error interval."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

_SHIFT = 14  # 18 bits of the float32 pattern are kept: sign, exponent and 9 bits of mantissa
_HALF = 1 << (31 - _SHIFT)  # bins of one sign: positive ones first, each half from small to large magnitude
_INFINITE = 0x7F800000 >> _SHIFT  # first bin of a half that holds infinities and NaN
_CHUNK = 1 << 20  # pixels counted at a time
FIGURES = ("auroc", "average_precision", "dice_at_fpr", "best_dice", "iou_at_fpr", "best_iou")


class Certified(NamedTuple):
    """A figure and the interval that holds the exact one, whatever the order within a bin."""

    value: float
    low: float
    high: float


class StreamingPixelMetrics(Metric):
    """AUROC, AP, Dice and IoU from a histogram over float patterns.

    Bins follow the leading 18 bits of the float32 score, 512 to an octave, so that no range has to be known and no
    outlier spoils the resolution. State: two integer vectors (4 MiB), summed over processes. Works on any device.
    A sampler that repeats images to even out processes makes them count twice: the caller has to leave them out.

    Args:
        fpr: false-positive rate of ``dice_at_fpr`` and ``iou_at_fpr``.
    """

    full_state_update = False
    pixels: Tensor
    positives: Tensor

    def __init__(self, fpr: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fpr = fpr
        for name in ("pixels", "positives"):
            self.add_state(name, torch.zeros(2 * _HALF, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, foreground: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            scores: any shape, finite; converted to float32.
            labels: same shape, 0/1 or bool.
            foreground: same shape, bool; elements outside are ignored.

        Raises:
            ValueError: scores that are not finite, or labels neither 0 nor 1, with their number.
        """
        if foreground is not None:
            scores, labels = scores[foreground.bool()], labels[foreground.bool()]
        if labels.dtype != torch.bool and (bad := int(((labels != 0) & (labels != 1)).sum())):
            raise ValueError(f"{bad} of {labels.numel()} labels are neither 0 nor 1")
        patterns = scores.detach().float().flatten().view(torch.int32)
        truth = labels.flatten().bool()
        for start in range(0, len(patterns), _CHUNK):
            bins = (patterns[start : start + _CHUNK] >> _SHIFT).bitwise_and_(2 * _HALF - 1)
            _count(self.pixels, bins)
            _count(self.positives, _chosen(bins, truth[start : start + _CHUNK]))
        if bad := int(self.pixels.view(2, -1)[:, _INFINITE:].sum()):
            raise ValueError(f"{bad} of {scores.numel()} scores are NaN or infinite: scores must be finite")

    def compute(self) -> dict[str, Certified]:
        """``auroc``, ``average_precision`` and Dice and IoU ``*_at_fpr`` and ``best_*``; nan where a class is missing.

        The values of Dice and IoU are those of a threshold at a bin's edge: the lowest that keeps the rate, or the
        best. Their intervals hold those of the exact threshold, which may lie inside a bin.
        """
        pixels, positives = _descending(self.pixels), _descending(self.positives)
        occupied = pixels.nonzero().flatten()
        hits, wrong = positives[occupied].double(), (pixels - positives)[occupied].double()
        n, m = hits.sum(), wrong.sum()
        if not n or not m:
            nothing = Certified(float("nan"), float("nan"), float("nan"))
            return dict.fromkeys(FIGURES, nothing)
        before_hits, before_wrong = hits.cumsum(0) - hits, wrong.cumsum(0) - wrong
        sure = (hits * (m - before_wrong - wrong)).sum() / (n * m)
        open_pairs = (hits * wrong).sum() / (n * m)
        low, middle, high = (
            float((_bin_precision(before_hits, before_wrong, hits, wrong, place)).sum() / n)
            for place in (1.0, 0.5, 0.0)
        )
        dice = self._dice(before_hits + hits, before_wrong + wrong)
        # no threshold inside a bin is better than all of its positives without any of its negatives
        edges, bound = (
            float((2 * (before_hits + hits) / (before_hits + hits + false + n)).max())
            for false in (before_wrong + wrong, before_wrong)
        )
        best = Certified(edges, edges, bound)
        area = Certified(float(sure + open_pairs / 2), float(sure), float(sure + open_pairs))
        overlaps = (Certified(*(figure / (2 - figure) for figure in one)) for one in (dice, best))
        return dict(zip(FIGURES, (area, Certified(middle, low, high), dice, best, *overlaps), strict=True))

    def _dice(self, hits: Tensor, wrong: Tensor) -> Certified:
        n, m = float(hits[-1]), float(wrong[-1])
        allowed = math.floor(self.fpr * m + 1e-9)
        kept = int((wrong <= allowed).sum())  # bins that may be called anomalous as a whole
        hit, false = (float(hits[kept - 1]), float(wrong[kept - 1])) if kept else (0.0, 0.0)
        if kept == len(hits):
            return Certified(*[2 * hit / (hit + false + n)] * 3)
        most = float(hits[kept])
        return Certified(2 * hit / (hit + false + n), 2 * hit / (hit + allowed + n), 2 * most / (most + false + n))


def _count(histogram: Tensor, bins: Tensor) -> None:
    if bins.numel() < _HALF // 8:  # going through all bins is dearer than the few
        histogram.scatter_add_(0, bins.long(), torch.ones_like(bins, dtype=torch.int64))
    else:
        counts = torch.bincount(bins)
        histogram[: len(counts)] += counts


def _chosen(bins: Tensor, truth: Tensor) -> Tensor:
    if bins.device.type == "cpu":  # numpy selects nine times faster
        return torch.from_numpy(bins.numpy()[truth.numpy()])
    return bins[truth]


def _descending(histogram: Tensor) -> Tensor:
    """From the highest score down, both zeros in one bin."""
    positive, negative = histogram[:_HALF].clone(), histogram[_HALF:].clone()
    positive[0] += negative[0]
    negative[0] = 0
    return torch.cat((positive.flip(0), negative))


def _bin_precision(before_hits: Tensor, before_wrong: Tensor, hits: Tensor, wrong: Tensor, place: float) -> Tensor:
    """Sum of the precision at each positive of each bin, with the share ``place`` of the bin's negatives before them.

    ``sum_{k=1..h} (H + k) / (H + k + F)`` by the digamma function: ``h - F (psi(H+h+F+1) - psi(H+F+1))``.
    """
    false = before_wrong + place * wrong
    gap = torch.digamma(before_hits + hits + false + 1) - torch.digamma(before_hits + false + 1)
    return hits - false * gap
