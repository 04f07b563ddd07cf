"""Scores, maps and pictures of a whole call, kept in files until all of its cases are known."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.files import named
from zoo.metrics.shortcuts import PIXEL_STATISTICS, image_statistics
from zoo.sample import cases_of

Array = NDArray[Any]


class Row(NamedTuple):
    """One image.

    Attributes:
        name: id.
        case: unit that statistics count.
        volume: file or member that the image comes from.
        slice: in its volume, -1 for an image that is none.
        source: path, empty where unknown.
        score: as predicted.
        statistics: ``PIXEL_STATISTICS`` of the image.
        group: scanner, site, ...; empty where unknown.
        rank: process that keeps its map.
        place: of its map in that process's file, -1 for methods without maps.
        fold_scores: by the fold models of a cross-conformal calibration.
        to_file: ``(4, 4)``, see :class:`~zoo.sample.Sample`; None where unknown.
    """

    name: str
    case: str
    volume: str
    slice: int
    source: str
    score: float
    statistics: tuple[float, ...]
    group: str
    rank: int
    place: int
    fold_scores: tuple[float, ...] = ()
    to_file: Array | None = None


class Gathering:
    """Appends batches; reads images back one by one.

    Args:
        folder: of the files, which :meth:`close` removes; shared by all processes.
        rank: of this process.
        pictures: keep the images too, in 8 bits.
    """

    def __init__(self, folder: Path, rank: int = 0, pictures: bool = False) -> None:
        self.folder, self.rank, self.pictures = folder, rank, pictures
        self.rows: list[Row] = []
        self.shape: tuple[int, ...] = ()
        self.channels = 1
        self.failure: OSError | None = None  # that ended the keeping of maps; the scores are kept all the same
        self._count = 0

    def add(
        self, outputs: Any, batch: Any, value_range: tuple[float, float], fold_scores: Sequence[tuple[float, ...]] = ()
    ) -> None:
        """Keep a batch and its prediction.

        Args:
            outputs: a :class:`~zoo.module.Prediction`.
            batch: a :class:`~zoo.sample.Sample`.
            value_range: of the images, for the 8-bit pictures.
            fold_scores: of each image, by the fold models of a cross-conformal calibration.
        """
        scores = outputs.anomaly_score.detach().float().cpu().tolist()
        images = batch["image"].detach().cpu().numpy()
        inside = batch.get("foreground")
        filled = None if inside is None else inside.detach().cpu().numpy()
        found = image_statistics(images, filled)
        statistics = zip(*(found[name].tolist() for name in PIXEL_STATISTICS), strict=True)
        first = self._count
        if outputs.anomaly_map is None or self.failure is not None:
            first = -1
        else:
            try:
                self._keep(outputs.anomaly_map, images, filled, value_range)
            except OSError as error:  # a full disk
                first, self.failure = -1, error
                self.rows = [row._replace(place=-1) for row in self.rows]
                for path in self.folder.glob(f".gathered-{self.rank}-*"):
                    path.unlink(missing_ok=True)
        names = batch.get("id") or [f"{self.rank}:{len(self.rows) + row}" for row in range(len(scores))]
        volumes = batch.get("volume") or names
        cases = cases_of(batch, names)
        slices = batch["slice"].tolist() if "slice" in batch else [-1] * len(scores)
        sources, groups = batch.get("source") or [""] * len(scores), batch.get("group") or [""] * len(scores)
        grids = batch["to_file"].cpu().numpy().astype(np.float64) if "to_file" in batch else None
        columns = zip(names, cases, volumes, slices, sources, scores, statistics, groups, strict=True)
        self.rows += [
            Row(  # type: ignore[call-arg]
                *column,
                self.rank,
                -1 if first < 0 else first + number,
                fold_scores[number] if fold_scores else (),
                None if grids is None or np.isnan(grids[number]).any() else grids[number],
            )
            for number, column in enumerate(columns)
        ]

    def _keep(self, maps: torch.Tensor, images: Array, inside: Array | None, value_range: tuple[float, float]) -> None:
        values = maps.detach().float().cpu().numpy()[:, 0]
        self.shape = values.shape[1:]
        self._append("maps", np.ascontiguousarray(values, np.float32))
        bits = np.ones(values.shape, bool) if inside is None else inside[:, 0]
        self._append("inside", np.packbits(bits.reshape(len(bits), -1), axis=1))
        if self.pictures:
            low, high = value_range
            scaled = np.clip((images - low) / max(high - low, 1e-12), 0, 1) * 255
            self.channels = images.shape[1]
            self._append("pictures", np.rint(scaled).astype(np.uint8))
        self._count += len(values)

    def merge(self) -> None:
        """Know the images of all processes, each once: a sampler that evens them out repeats some."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, (self.rows, self.shape, self.channels, self.failure))
        self.rows = sorted({row.name: row for rows, *_ in parts for row in rows}.values(), key=lambda row: row.name)
        self.shape, self.channels = next(((shape, c) for _, shape, c, _ in parts if shape), ((), 1))
        self.failure = next((failure for *_, failure in parts if failure is not None), None)

    def map(self, row: Row) -> Array | None:
        """The map ``(*S)`` float32 of an image, or None."""
        if row.place < 0:
            return None
        return self._read("maps", row, np.dtype(np.float32), self.shape)

    def masked_map(self, row: Row) -> Array | None:
        """The same with -inf outside of the foreground."""
        found = self.map(row)
        if found is None:
            return None
        count = int(np.prod(self.shape))
        bits = self._read("inside", row, np.dtype(np.uint8), (-(-count // 8),))
        inside = np.unpackbits(bits, count=count).astype(bool).reshape(self.shape)
        # an empty foreground says nothing: all of the image counts
        return np.where(inside, found, -np.inf).astype(np.float32) if inside.any() else found

    def picture(self, row: Row) -> Array:
        """The image ``(*S, C)`` in [0, 1]."""
        found = self._read("pictures", row, np.dtype(np.uint8), (self.channels, *self.shape))
        return np.moveaxis(found, 0, -1).astype(np.float32) / 255

    def volumes(self) -> Iterator[tuple[str, list[Row]]]:
        """Images by volume, slices in order; an image that is no slice is alone."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.volume if row.slice >= 0 else row.name, []).append(row)
        for name, rows in found.items():
            yield name, sorted(rows, key=lambda row: row.slice)

    def stacked(self, rows: list[Row]) -> Array | None:
        """Masked maps of a volume ``(D, H, W)``, or the one of an image ``(*S)``."""
        found = [self.masked_map(row) for row in rows]
        maps = [one for one in found if one is not None]
        if not maps or len(maps) < len(found):
            return None
        return maps[0] if len(maps) == 1 and rows[0].slice < 0 else np.stack(maps)

    def close(self) -> None:
        """Remove the files."""
        for path in self.folder.glob(".gathered-*"):
            path.unlink(missing_ok=True)

    def _path(self, kind: str, rank: int) -> Path:
        return self.folder / f".gathered-{rank}-{kind}"

    def _append(self, kind: str, values: Array) -> None:
        path = self._path(kind, self.rank)
        with named(path), path.open("ab" if self._count else "wb") as file:
            file.write(values.tobytes())

    def _read(self, kind: str, row: Row, dtype: Any, shape: tuple[int, ...]) -> Array:
        count = int(np.prod(shape))
        path = self._path(kind, row.rank)
        return np.fromfile(path, dtype, count, offset=row.place * count * dtype.itemsize).reshape(shape)


def method_name(module: Any) -> str:
    """Name of a method: the registry's, or that of its class where it lives elsewhere."""
    try:
        return str(module.method().name)
    except (AttributeError, UserError):
        return type(module).__name__
