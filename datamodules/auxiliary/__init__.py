"""Auxiliary sources, one file each: images that synthetic anomalies are blended from.

A file holds nothing but a ``card`` (see :mod:`datamodules.registry`).
"""

from pathlib import Path

from datamodules.checks import Report
from datamodules.listing import NIFTI, RASTER, walk
from datamodules.reading import BadFile, read_raster, read_volume_file
from datamodules.registry import DataSet


def usage(source: DataSet, root: Path) -> str:
    """Auxiliary sources have no configuration of their own."""
    return ""


def examine(source: DataSet, root: Path) -> Report:
    """Read all files of the source."""
    listing = walk(root, NIFTI if source.images == "volumes" else RASTER)
    files = listing.files
    errors = [] if files else [f"{root}: no {source.layout} below it"]
    for file in files:
        try:
            if source.images == "volumes":
                read_volume_file(file, canonical=True)
            else:
                read_raster(file)
        except BadFile as problem:
            errors.append(str(problem))
    return Report(
        {"volumes" if source.images == "volumes" else "images": len(files)},
        errors,
        [listing.note()] if listing.note() else [],
    )
