"""MOOD, brain part (Zimmerer et al., IEEE TMI 2022): healthy brains, 256^3 voxels in [0, 1]."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.brain.trees import one_a_volunteer, volumes
from datamodules.reading import BadFile
from datamodules.records import Record

card = {
    "title": "healthy brains",
    "access": "synapse.org syn21343101",
    "licence": "by registration, terms of the challenge",
    "layout": "brain_train/*.nii.gz",
    "steps": (
        "sign in at synapse.org and join the challenge syn21343101",
        "fetch brain_train.zip from its files",
    ),
    "official": {"volumes": 800},
    "phantom": "mood_brain",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "the number of the file",
    "protocol": "the challenge tests on hidden cases",
    "leaks": "believed to stem from HCP: do not test on it after training on HCP",
    "role": "healthy",
    "sequences": (),
}


def find(root: Path, sequence: str, problems: list[BadFile]) -> Iterator[Record]:
    """The training volumes, whatever the sequence: the files do not say which one they are."""
    paths = volumes(root, "brain_train/*.nii*")
    return one_a_volunteer(root, paths, lambda path: path.name.split(".")[0], sequence, problems)
