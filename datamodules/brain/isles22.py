"""ISLES 2022 (Hernandez Petzsche et al., Scientific Data 2022): acute strokes; FLAIR on a grid of its own, DWI, ADC."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.brain.trees import Case, volumes, with_outlines
from datamodules.reading import BadFile
from datamodules.records import Record

card = {
    "title": "acute strokes, FLAIR DWI ADC with outlines",
    "access": "zenodo.org 7960856",
    "licence": "CC BY 4.0",
    "layout": "sub-strokecase*/ses-0001/anat and derivatives",
    "official": {"volumes": 250},
    "phantom": "isles22",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "sub-strokecase####",
    "leaks": "outlined on DWI: what FLAIR does not show yet counts as missed",
    "role": "ill",
    "sequences": ("flair",),
    "labels": (0, 1),
    "resampled": True,
    "lesion_free": True,
}


def find(root: Path, sequence: str, problems: list[BadFile]) -> Iterator[Record]:
    """FLAIR volumes with the outline, which was drawn on DWI."""
    truths = {path.name.split("_")[0]: path for path in volumes(root, "sub-strokecase*_msk.nii*")}
    cases = (
        Case(path.parent, path.name.split("_")[0], path, None, truths.get(path.name.split("_")[0]))
        for path in volumes(root, f"sub-strokecase*_{sequence.upper()}.nii*")
    )
    return with_outlines(root, cases, sequence, problems)
