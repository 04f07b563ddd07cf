"""Human Connectome Project, young adults (Van Essen et al., NeuroImage 2013): healthy brains, 0.7 mm."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datamodules.brain.trees import one_a_volunteer, volumes
from datamodules.reading import BadFile
from datamodules.records import Record

card = {
    "title": "healthy brains, T1 T2, 0.7 mm",
    "access": "humanconnectome.org (terms of use)",
    "licence": "Open Access Data Use Terms, accepted by each person",
    "layout": "<id>/T1w/T2w_acpc_dc_restore_brain.nii.gz",
    "steps": (
        "register at db.humanconnectome.org (ConnectomeDB) and accept the Open Access Data Use Terms",
        "fetch the package Structural Preprocessed of the subjects",
    ),
    "official": {"volumes": 1113},
    "phantom": "hcp",
    "config": "data/brats17",
    "images": "slices or volumes",
    "subject": "the number of six digits",
    "protocol": "multi-task paper: T2, all subjects, 2 mm",
    "leaks": "twins and siblings are among the subjects; which ones is restricted data",
    "role": "healthy",
    "default": True,
    "sequences": ("t1", "t2"),
}
_BRAIN = "_acpc_dc_restore_brain.nii.gz"


def find(root: Path, sequence: str, problems: list[BadFile]) -> Iterator[Record]:
    """T1w or T2w volumes; a T2w volume needs the T1w one of its subject beside it."""
    kind = f"{sequence.upper()}w"
    paths = volumes(root, f"{kind}_acpc_dc_restore_brain.nii*")
    seen: set[str] = set()
    for record in one_a_volunteer(root, paths, _subject, sequence, problems):
        seen.add(record.subject)
        path = Path(record.image)
        other = path.with_name(path.name.replace("T2w", "T1w"))
        if not other.is_file():
            problems.append(_absent(path, record.subject, other.name))
        else:
            yield replace(record, companions=() if other == path else (str(other),))
    if sequence == "t2" and seen:
        for path in volumes(root, "T1w_acpc_dc_restore_brain.nii*"):
            if _subject(path) not in seen:
                missing = path.name.replace("T1w", "T2w")
                problems.append(_absent(path.with_name(missing), _subject(path), missing))
    unstripped = [] if paths else volumes(root, f"{kind}_acpc_dc_restore.nii*")
    if unstripped:
        problems.append(BadFile(unstripped[0], "this file has a skull", f"fetch {kind}{_BRAIN} instead"))


def _absent(path: Path, subject: str, name: str) -> BadFile:
    return BadFile(path, f"subject {subject} has no {name}", "fetch it or remove the subject")


def _subject(path: Path) -> str:
    return next((part for part in reversed(path.parts) if re.fullmatch(r"\d{6}", part)), path.parent.name)
