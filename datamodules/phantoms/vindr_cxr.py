"""VinDr-CXR's PhysioNet layout: 16-bit DICOM files, boxes of three radiologists, image labels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import get_encoder
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from datamodules.phantoms.chest_findings import CALIBRATED, Finding, add_findings
from datamodules.phantoms.chest_xray import DETECTORS, chest, expose
from datamodules.phantoms.fields import Array, Rng, streams
from datamodules.phantoms.storage import (
    Result,
    Settings,
    Truth,
    healthy_path,
    mask_path,
    write_csv,
    write_image,
    write_text,
)

#: preset -> train images, test images, height of the film in pixels.
PRESETS = {"smoke": (30, 12, 128), "small": (240, 120, 256), "demo": (1500, 600, 256), "full-shape": (2, 2, 2336)}
#: Share of normal images in train (as in the data set) and test (even classes estimate better on few images).
NORMAL = {"train": 0.70, "test": 0.5}
LOCAL = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
)
GLOBAL = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding")
#: Relative frequencies, rounded from the data set's counts.
FREQUENCY = {
    "Aortic enlargement": 20,
    "Cardiomegaly": 15,
    "Pleural thickening": 13,
    "Nodule/Mass": 11,
    "Pulmonary fibrosis": 10,
    "Lung Opacity": 10,
    "Pleural effusion": 9,
    "Calcification": 7,
    "Infiltration": 6,
    "ILD": 5,
    "Consolidation": 5,
    "Atelectasis": 4,
    "Pneumothorax": 3,
}
READERS = ("R8", "R9", "R10", "R8", "R9", "R10", "R1", "R2", "R3", "R4", "R5", "R6", "R7", "R11", "R12", "R16", "R17")


def prepare(settings: Settings) -> dict[str, Any]:
    """Nothing for the marker.

    Raises:
        ValueError: JPEG 2000 is asked for and there is no encoder.
    """
    if settings.jpeg2000 and not get_encoder(JPEG2000Lossless).is_available:
        raise ValueError("jpeg2000 needs an encoder: pip install pylibjpeg pylibjpeg-openjpeg")
    return {}


class Job(NamedTuple):
    """One film."""

    place: int
    split: str
    abnormal: bool


class Mark(NamedTuple):
    """A box of a reader, in pixels of the stored film."""

    name: str
    box: tuple[float, float, float, float]


def jobs(settings: Settings) -> list[Job]:
    """List all films of the preset."""
    train, test, _ = PRESETS[settings.preset]
    rows = []
    for split, count in (("train", train), ("test", test)):
        rows += [(split, number >= round(count * NORMAL[split])) for number in range(count)]
    return [Job(index, *row) for index, row in enumerate(rows)]


def _identifier(settings: Settings, job: Job) -> str:
    return hashlib.md5(f"vindr_cxr/{settings.seed}/{job.place}".encode(), usedforsecurity=False).hexdigest()


def _choose(rng: Rng) -> tuple[str, ...]:
    """One to three findings."""
    weights = np.array(list(FREQUENCY.values()), float)
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    return tuple(str(name) for name in rng.choice(list(FREQUENCY), count, replace=False, p=weights / weights.sum()))


def _film(settings: Settings, job: Job, size: int) -> tuple[Array, Array | None, list[Finding]]:
    """Render on a square grid: film, healthy twin of an abnormal one, findings."""
    first, again = (streams(settings.seed, "vindr_cxr", job.place) for _ in range(2))
    person, detector = chest(first.anatomy, size), DETECTORS["flat_panel"]
    if not job.abnormal:
        return expose(first.acquisition, person.attenuation, person, detector), None, []
    names = _choose(first.lesion)
    sick, found = add_findings(first.lesion, person, lambda: again.anatomy, names, CALIBRATED / settings.difficulty)
    twin = expose(again.acquisition, person.attenuation, person, detector)
    return expose(first.acquisition, sick, person, detector), twin, found


class Header(NamedTuple):
    """How a film is stored: the variety real headers show."""

    bits: int
    inverted: bool
    window: str
    syntax: str
    margin: int


def _header(rng: Rng, height: int, jpeg2000: bool) -> Header:
    bits = 14 if rng.random() < 0.05 else 12
    inverted = bool(rng.random() < 0.15)
    window = str(rng.choice(["single", "several", "absent"], p=[0.6, 0.15, 0.25]))
    syntax = RLELossless if rng.random() < 0.05 else ExplicitVRLittleEndian
    syntax = JPEG2000Lossless if jpeg2000 else syntax
    return Header(bits, inverted, window, syntax, int(rng.integers(0, height // 12 + 1)))


def _write_dicom(path: Path, film: Array, header: Header, uid: str) -> None:
    """Write values in [0, 1] as stored pixels of `header.bits`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    top = 2**header.bits - 1
    stored = np.rint((1 - film if header.inverted else film) * top * 0.9 + top * 0.04).astype(np.uint16)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.ImageComments = "DX", "synthetic phantom"
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = "MONOCHROME1" if header.inverted else "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.PixelSpacing = [f"{430 / stored.shape[0]:.4f}"] * 2
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, header.bits, header.bits - 1
    if header.window != "absent":
        centre, width = (top + 1) // 2, top + 1
        several = header.window == "several"
        data.WindowCenter = [centre, centre + 200] if several else centre
        data.WindowWidth = [width, width // 2] if several else width
    if header.window == "single":
        data.RescaleIntercept, data.RescaleSlope = 0, 1
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OW"
    if header.syntax != ExplicitVRLittleEndian:
        data.compress(header.syntax, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)


def _fit(values: NDArray[Any], height: int, margin: int) -> NDArray[Any]:
    """Cut the sides of a square film and bring it to `height` rows."""
    cut = round(margin * len(values) / height)
    values = values[:, cut : values.shape[1] - cut]
    if len(values) == height:
        return values
    kind = Image.Resampling.NEAREST if values.dtype == bool else Image.Resampling.BICUBIC
    image = Image.fromarray(values.astype(np.uint8) if values.dtype == bool else values)
    sized = np.asarray(image.resize((height - 2 * margin, height), kind))
    return sized > 0 if values.dtype == bool else np.clip(sized, 0, 1)


def _read(rng: Rng, truth: list[Mark], shape: tuple[int, int], miss: float, jitter: float) -> list[Mark]:
    """One reader's boxes: some findings missed, borders a little off."""
    out = []
    for name, box in truth:
        seen = rng.random() >= miss
        sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
        moved = np.array(box) + rng.normal(0, jitter, 4) * sides
        limit = np.array([shape[1], shape[0]] * 2, float)
        low = np.clip(moved, 0, limit)
        if seen and low[2] - low[0] >= 2 and low[3] - low[1] >= 2:
            out.append(Mark(name, (float(low[0]), float(low[1]), float(low[2]), float(low[3]))))
    return out


def _readers(rng: Rng, job: Job, truth: list[Mark], shape: tuple[int, int]) -> list[tuple[str, list[Mark], str]]:
    """Reader, boxes and global label; the test set has one consensus reading."""
    if job.split == "test":
        return [("", _read(rng, truth, shape, 0.0, 0.01) or truth, "")]
    names = rng.permutation(sorted(set(READERS)) if rng.random() < 0.3 else ["R8", "R9", "R10"])[:3]
    # some healthy-looking films carry a global label only: any-reader and Kaggle rules then disagree
    only_global = not job.abnormal and job.place % 80 == 7
    out = []
    for position, name in enumerate(names):
        marks = _read(rng, truth, shape, 0.2, 0.04)
        out.append((str(name), marks, "Other diseases" if only_global and position == 0 else ""))
    if truth and sum(bool(marks) for _, marks, _ in out) < 2:
        out = [(name, marks or truth, label) for name, marks, label in out]
    return out


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one film, its mask and twin if abnormal, and return what the readers say."""
    height = PRESETS[settings.preset][2]
    film, twin, found = _film(settings, job, min(height, 1024))
    rng = streams(settings.seed, "vindr_cxr", job.place).annotation
    header, key = _header(rng, height, settings.jpeg2000), _identifier(settings, job)
    path, uid = f"{job.split}/{key}.dicom", f"2.25.{int(key, 16)}"
    _write_dicom(root / path, _fit(film, height, header.margin), header, uid)
    masks = [Finding(finding.name, _fit(finding.mask, height, header.margin)) for finding in found]
    shape = (height, height - 2 * header.margin)
    marks = []
    for name, mask in masks:
        if mask.any():
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            marks.append(Mark(name, (float(box[0]), float(box[1]), float(box[2]), float(box[3]))))
    record = {"key": key, "split": job.split, "readings": _readers(rng, job, marks, shape)}
    if twin is None:
        return Result([Truth(path, 0)], record)
    place = mask_path(path, ".png")
    union = np.any([mask for _, mask in masks], axis=0) if masks else np.zeros(shape, bool)
    _write_dicom(root / healthy_path(path), _fit(twin, height, header.margin), header, uid)
    write_image(root / place, union.astype(np.uint8) * 255)
    return Result([Truth(path, 1, healthy_path(path), place)], record)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the four tables, licence note, checksums and the tag supplement."""
    for split in ("train", "test"):
        boxes: list[tuple[object, ...]] = []
        labels: list[tuple[object, ...]] = []
        for key, reader, marks, extra in _readings(results, split):
            who = (key, reader) if split == "train" else (key,)
            names = {mark.name for mark in marks} | ({extra} if extra else set())
            boxes += [(*who, mark.name, *(round(value, 3) for value in mark.box)) for mark in marks]
            boxes += [] if marks else [(*who, extra or "No finding", "", "", "", "")]
            names = names or {"No finding"}
            labels.append((*who, *(int(name in names) for name in (*LOCAL, *GLOBAL))))
        who_columns = ("image_id", "rad_id") if split == "train" else ("image_id",)
        spelt = tuple("Other disease" if split == "test" and name == "Other diseases" else name for name in GLOBAL)
        corner = ("class_name", "x_min", "y_min", "x_max", "y_max")
        write_csv(root / f"annotations/annotations_{split}.csv", (*who_columns, *corner), boxes)
        write_csv(root / f"annotations/image_labels_{split}.csv", (*who_columns, *LOCAL, *spelt), labels)
    write_text(root / "LICENSE.txt", "Synthetic phantom in the layout of VinDr-CXR; contains no patient data.\n")
    (root / "supplemental_file_DICOM_tags.pdf").write_bytes(_EMPTY_PDF)
    sums = [(path.relative_to(root).as_posix(), path) for path in sorted(root.rglob("*")) if path.is_file()]
    lines = [f"{_sha256(path)} {name}" for name, path in sums if not name.startswith(("_", "SHA"))]
    write_text(root / "SHA256SUMS.txt", "\n".join(lines) + "\n")


def _readings(results: list[Result], split: str) -> list[tuple[str, str, list[Mark], str]]:
    records = [result.record for result in results if result.record["split"] == split]
    return [(record["key"], *reading) for record in records for reading in record["readings"]]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_EMPTY_PDF = b"%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n\
trailer<</Root 1 0 R>>\n%%EOF\n"
