"""What a test set gives away without any learning: statistics of its images, maps without a method, known copies."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from zoo.metrics.counting import Array
from zoo.metrics.pixels import PixelTally
from zoo.metrics.shortcuts import (
    FILE_STATISTICS,
    PIXEL_STATISTICS,
    file_statistics,
    image_statistics,
    nearest_neighbour_distance,
    pixel_shortcuts,
    pooled,
)
from zoo.metrics.table import metrics_of

_MAX_PIXELS = 20_000_000  # kept exactly for each map; more are streamed


class ShortcutAudit:
    """Collects, beside a method's test, what needs no method.

    Args:
        data: the DataModule: its ``dataset("train")`` and ``near_copies()`` are asked where it has them.
        neighbours: number of training images that are looked at, spread evenly; 0: none.
        max_pixels: above, the pixel metrics of the maps are streamed.
        hold_last: see :class:`~zoo.metrics.pixels.PixelTally`.

    Attributes:
        copies: id of a test image -> id of the training image that it looks like; None where that is not known.
    """

    def __init__(self, data: Any, neighbours: int, max_pixels: int, hold_last: bool) -> None:
        self.max_pixels, self.hold_last = min(max_pixels, _MAX_PIXELS), hold_last
        self.tallies: dict[str, PixelTally] = {}
        self._neighbours: Array | None = None
        self._moments: tuple[Array, Array] | None = None
        dataset, copies = getattr(data, "dataset", None), getattr(data, "near_copies", None)
        self.copies = {one.test: one.train for one in copies()} if callable(copies) else None
        if callable(dataset) and neighbours:
            self._look_at(dataset("train"), neighbours)

    def _look_at(self, images: Any, neighbours: int) -> None:
        chosen = np.linspace(0, len(images) - 1, min(neighbours, len(images))).astype(int).tolist()
        parts, total, squares = [], np.zeros(1), np.zeros(1)
        for position in chosen:
            image = images[position]["image"].numpy()
            parts.append(pooled(image[None]))
            total, squares = total + image.astype(np.float64), squares + image.astype(np.float64) ** 2
        if parts:
            mean = total / len(parts)
            self._neighbours = np.concatenate(parts)
            self._moments = mean, np.sqrt(np.maximum(squares / len(parts) - mean**2, 0))

    def statistics(self, batch: Any) -> list[tuple[float, ...]]:
        """Values of every image of a batch by the names of ``STATISTICS``; nan where unknown."""
        image, inside = batch["image"].cpu().numpy(), batch.get("foreground")
        found = image_statistics(image, None if inside is None else inside.cpu().numpy())
        sources: Sequence[str] | None = batch.get("source")
        unknown = (float("nan"),) * len(FILE_STATISTICS)
        files = np.array([unknown] * len(image) if sources is None else [file_statistics(one) for one in sources])
        distances = np.full(len(image), np.nan)
        if self._neighbours is not None:
            distances = nearest_neighbour_distance(image, self._neighbours)
        columns = [*(found[name] for name in PIXEL_STATISTICS), *files.T, distances]
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def count(self, image: Tensor, masks: Tensor, inside: Tensor | None) -> None:
        """Count the pixels of a batch under every map that needs no method."""
        pixels = image.detach().float().cpu().numpy()
        known = self._moments is not None and self._moments[0].shape == pixels.shape[1:]
        for name, maps in pixel_shortcuts(pixels, self._moments if known else None).items():
            self.know([name])
            self.tallies[name].add(from_numpy(np.ascontiguousarray(maps)), masks, inside)

    def know(self, names: Iterable[str]) -> None:
        """Be ready to count the pixels of maps of these names."""
        for name in names:
            self.tallies.setdefault(name, PixelTally(self.max_pixels, self.hold_last))

    def figures(self) -> dict[str, dict[str, float]]:
        """The pixel metrics of every map, over all processes; all processes call it. Without those that are nan."""
        figures = {}
        for name in sorted(self.tallies):
            found, _ = self.tallies[name].figures()
            values = {metric.name: metric.value(found) for metric in metrics_of("pixel")}
            figures[name] = {key: value for key, value in values.items() if not np.isnan(value)}
        return figures
