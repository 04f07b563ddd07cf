"""DICOM files of one series are the slices of a volume, and files of one patient belong to one case."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.listing import kind
from datamodules.reading.films import refuse_inflation
from datamodules.records import Record

_TAGS = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient"),
    *("Rows", "Columns"),
)


class _Header(NamedTuple):
    subject: str
    series: str  # empty for a picture that is no slice
    position: float


def with_series(records: Sequence[Record]) -> list[Record]:
    """Records with the series of DICOM slices joined to one volume each, and patients as subjects.

    A series is joined where its slices tell their position and orientation, are of one size and have no mask of their
    own. The record's image is the first file along the normal of the slices, its companions are the others in order.

    Args:
        records: one a file; a subject that is known already stays.

    Returns:
        list: in the order of the first files.
    """
    found: list[Record] = []
    groups: dict[tuple[str, str, int], list[tuple[float, Record]]] = {}
    for record in records:
        header = _header(record.image) if kind(record.image) == ".dcm" and not record.companions else None
        if header is not None:
            record = replace(record, subject=record.subject or header.subject)
        if header is None or not header.series or record.mask is not None:
            found.append(record)
        else:
            groups.setdefault((header.series, record.split, record.label), []).append((header.position, record))
    folders = [str(Path(members[0][1].id).parent) for members in groups.values()]
    for (series, _, _), members in groups.items():
        ordered = [record for _, record in sorted(members, key=lambda one: (one[0], one[1].id))]
        if len(ordered) == 1:
            found += ordered
            continue
        folder = str(Path(ordered[0].id).parent)
        name = Path(ordered[0].id).parent.as_posix()
        if folders.count(folder) > 1 or name == ".":
            name = (Path(name) / f"series-{series.rpartition('.')[2][-12:]}").as_posix()
        others = tuple(record.image for record in ordered[1:])
        found.append(replace(ordered[0], id=name, companions=others))
    return sorted(found, key=lambda record: record.image)


def _header(path: str) -> _Header | None:
    """What a header says of patient and place; None for what cannot be read, which is told when it is decoded."""
    import pydicom

    try:
        refuse_inflation(path)
        header: Any = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
        subject = str(header.get("PatientID") or header.get("StudyInstanceUID") or "")
        place, plane = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
        if not place or not plane or not header.get("SeriesInstanceUID"):
            return _Header(subject, "", 0.0)
        row, column = np.reshape(np.asarray(plane, float), (2, 3))
        series = f"{header.get('Rows')}x{header.get('Columns')}.{header.SeriesInstanceUID}"
        return _Header(subject, series, round(float(np.cross(row, column) @ np.asarray(place, float)), 4))
    except Exception:  # pydicom decodes fields when they are asked for, and raises many types
        return None
