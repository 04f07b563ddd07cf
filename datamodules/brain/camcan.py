"""Cam-CAN (Taylor et al., NeuroImage 2017): healthy brains of all ages, 1 mm, with their skull."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.brain.trees import one_a_volunteer, volumes
from datamodules.reading import BadFile
from datamodules.records import Record

card = {
    "title": "healthy brains, T1 T2",
    "access": "camcan-archive.mrc-cbu.cam.ac.uk",
    "licence": "by application, research only",
    "layout": "sub-CC*/anat/sub-CC*_T1w*.nii.gz, skull-stripped",
    "steps": (
        "apply at camcan-archive.mrc-cbu.cam.ac.uk/dataaccess with your institution and purpose",
        "fetch the anatomical images that the letter of approval names",
    ),
    "official": {},
    "phantom": "camcan",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "sub-CC######; one run of one session is used",
    "protocol": "feature autoencoder: T1, stripped with ROBEX, registered to SRI24",
    "leaks": "18 to 88 years: more atrophy and white-matter lesions than in younger volunteers",
    "role": "healthy",
    "sequences": ("t1", "t2"),
    "skull": True,
}


def find(root: Path, sequence: str, problems: list[BadFile]) -> Iterator[Record]:
    """T1w or T2w volumes of the BIDS tree."""
    paths = volumes(root, f"sub-CC*{sequence.upper()}w*.nii*")
    return one_a_volunteer(root, paths, lambda path: path.name.split("_")[0], sequence, problems)
