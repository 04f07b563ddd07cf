"""Auxiliary sources, one file each: images that synthetic anomalies are blended from.

A file holds nothing but a ``card`` (see :mod:`datamodules.registry`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.checks import Report
from datamodules.listing import NIFTI, RASTER, walk
from datamodules.overview import A_ROW, Tile, facts_of_files, write_tiles
from datamodules.reading import BadFile, read_raster, read_volume_file
from datamodules.registry import DataSet


def usage(source: DataSet, root: Path) -> str:
    """Auxiliary sources have no configuration of their own."""
    return ""


def examine(source: DataSet, root: Path, options: Mapping[str, Any] | None = None, sheet: Path | None = None) -> Report:
    """Read all files of the source.

    Args:
        source: one of this folder.
        root: any folder above its files.
        options: none of it is used.
        sheet: where a picture of up to twelve of them is written; None: nowhere.
    """
    tiles: list[Tile] = []
    listing = walk(root, NIFTI if source.images == "volumes" else RASTER)
    files = listing.files
    errors = [] if files else [f"{root}: no {source.layout} below it"]
    for file in files:
        try:
            if source.images == "volumes":
                image = read_volume_file(file, canonical=True).values[None]
            else:
                image = np.moveaxis(read_raster(file), -1, 0)
            if sheet is not None and len(tiles) < A_ROW:
                bounds = (float(image.min()), max(float(image.max()), float(image.min()) + 1e-6))
                tiles.append(Tile(image, np.zeros(image.shape[1:], bool), bounds))
        except BadFile as problem:
            errors.append(str(problem))
    if sheet is not None and tiles:
        write_tiles([tiles], sheet)
    counts = {"volumes" if source.images == "volumes" else "images": len(files)}
    return Report(counts, errors, [listing.note()] if listing.note() else [], facts_of_files(map(str, files)))
