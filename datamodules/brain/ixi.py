"""IXI (brain-development.org): healthy brains from three scanners, with their skull."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.brain.trees import one_a_volunteer, volumes
from datamodules.reading import BadFile
from datamodules.records import Record

card = {
    "title": "healthy brains, T1 T2",
    "access": "brain-development.org",
    "licence": "CC BY-SA 3.0",
    "layout": "IXI*-T1.nii.gz, skull-stripped",
    "official": {},
    "phantom": "ixi",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "IXI###",
    "protocol": "",
    "leaks": "T1 and T2 are not on one grid; the hospital in the name tells the scanner",
    "role": "healthy",
    "sequences": ("t1", "t2"),
    "skull": True,
}


def find(root: Path, sequence: str, problems: list[BadFile]) -> Iterator[Record]:
    """T1 or T2 volumes of the flat folder."""
    paths = volumes(root, f"IXI*-{sequence.upper()}*.nii*")
    return one_a_volunteer(root, paths, lambda path: path.name.split("-")[0], sequence, problems)
