"""COVIDx CXR's layout: `train/`, `test/` and their list files in the binary 8B or the three-class 8A form."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.phantoms.chest_findings import add_findings
from datamodules.phantoms.chest_xray import DETECTORS, Mask, chest, expose
from datamodules.phantoms.fields import Array, Rng, streams
from datamodules.phantoms.storage import Result, Settings, Truth, healthy_path, mask_path, write_image, write_text

#: preset -> train negatives, train positives, test negatives, test positives, image side.
PRESETS = {
    "smoke": (24, 4, 8, 8, 128),
    "small": (200, 20, 60, 60, 256),
    "demo": (1600, 100, 100, 100, 256),
    "full-shape": (2, 1, 1, 1, 1024),
}
#: Sources and their shares when all labels come from the same places.
MIXED = (("rsna", 0.5), ("ricord", 0.3), ("cohen", 0.2))


class Job(NamedTuple):
    """One image."""

    place: int
    split: str
    positive: bool
    pneumonia: bool = False

    @property
    def findings(self) -> tuple[str, ...]:
        """What is painted into the lungs."""
        if self.pneumonia:
            return ("Consolidation", "Infiltration")
        return ("COVID-19",) if self.positive else ()


def jobs(settings: Settings) -> list[Job]:
    """List all images of the preset."""
    *counts, _ = PRESETS[settings.preset]
    groups = (("train", False), ("train", True), ("test", False), ("test", True))
    rows = [group for group, count in zip(groups, counts, strict=True) for _ in range(count)]
    listed = [Job(index, *group) for index, group in enumerate(rows)]
    if settings.layout == "8A":  # pneumonia of other causes: an eighth of the training list, a third of the test list
        added = ["train"] * max(2, counts[0] // 8) + ["test"] * counts[2]
        listed += [Job(len(rows) + index, split, False, True) for index, split in enumerate(added)]
    return listed


def _source(rng: Rng, settings: Settings, job: Job) -> str:
    drawn = str(rng.choice([name for name, _ in MIXED], p=[share for _, share in MIXED]))
    if not settings.source_shift:
        return drawn
    if job.split == "test":
        return "ricord" if job.positive else "rsna"
    return ("ricord" if drawn != "cohen" else drawn) if job.positive else ("rsna" if drawn != "cohen" else drawn)


def _entry(rng: Rng, job: Job, source: str) -> tuple[str, str]:
    """Patient and file name as the source spells them, with its blanks and upper-case extensions."""
    number = job.place
    key = "".join(f"{value:02x}" for value in rng.bytes(16))
    if source == "ricord":
        return f"419639-{number:06d}", f"MIDRC-RICORD-1C-419639-{number:06d}-{key[:5]}-0.png"
    if source == "rsna":
        patient = f"{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:]}"
        return patient, f"{patient}.png"
    if job.positive and number % 2:
        return f"COVID {number}", f"COVID({number}).png"
    extension = ("jpg", "jpeg", "PNG", "JPG")[number % 4]
    return str(100 + number), f"{key[:8]}-cohen-{number}.{extension}"


def _marks(rng: Rng, film: Array, source: str) -> Array:
    """Burn in what such films carry: a side marker, and for published figures a pale border."""
    out = film.copy()
    size = len(film)
    if rng.random() < 0.5:
        unit, (row, column) = max(1, size // 96), (rng.uniform(0.04, 0.1, 2) * size).astype(int)
        column = size - 6 * unit - column
        out[row : row + 7 * unit, column : column + unit] = 0.97
        out[row + 6 * unit : row + 7 * unit, column : column + 4 * unit] = 0.97
    if source == "cohen" and rng.random() < 0.3:
        edge = max(1, size // 64)
        for border in (out[:edge], out[-edge:], out[:, :edge], out[:, -edge:]):
            border[:] = 0.9
    return out


@functools.lru_cache(maxsize=2)
def _names(settings: Settings) -> dict[int, tuple[str, str, str]]:
    """Source, patient and file of every image."""
    out = {}
    for job in jobs(settings):
        rng = streams(settings.seed, "covidx", job.place).annotation
        source = _source(rng, settings, job)
        out[job.place] = (source, *_entry(rng, job, source))
    return out


def films(settings: Settings, job: Job, size: int, source: str) -> tuple[Array, Array | None, Mask]:
    """Render one film, the healthy twin of a positive one, and the mask of the opacities."""
    first, again = (streams(settings.seed, "covidx", job.place) for _ in range(2))
    person = chest(first.anatomy, size)
    detector = DETECTORS[source]
    if not job.findings:
        return expose(first.acquisition, person.attenuation, person, detector), None, np.zeros((size, size), bool)
    contrast = 1 / settings.difficulty
    sick, found = add_findings(first.lesion, person, lambda: again.anatomy, job.findings, contrast)
    mask = np.any([finding.mask for finding in found], axis=0) if found else np.zeros((size, size), bool)
    twin = expose(again.acquisition, person.attenuation, person, detector)
    return expose(first.acquisition, sick, person, detector), twin, mask


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one film and, if positive, its mask and twin."""
    source, patient, name = _names(settings)[job.place]
    size = PRESETS[settings.preset][-1]
    film, twin, mask = films(settings, job, min(size, 512), source)
    rng = np.random.default_rng([settings.seed, job.place, 1])
    rotation = rng.bit_generator.state
    path = f"{job.split}/{name}"

    def save(place: str, values: Array) -> None:
        rng.bit_generator.state = rotation
        pixels = (_marks(rng, values, source) * 255).astype(np.uint8)
        write_image(root / place, _sized(pixels, size, source), 92)

    save(path, film)
    label = "positive" if job.positive else "negative"
    if settings.layout == "8A":
        label = "COVID-19" if job.positive else "pneumonia" if job.pneumonia else "normal"
    record = {"split": job.split, "line": f"{patient} {name} {label} {source}"}
    if twin is None:
        return Result([Truth(path, 0)], record)
    place = mask_path(path, ".png")
    save(healthy_path(path), twin)
    write_image(root / place, np.asarray(Image.fromarray(mask).resize((size, size))).astype(np.uint8) * 255)
    return Result([Truth(path, 1, healthy_path(path), place)], record)


def _sized(pixels: NDArray[np.uint8], size: int, source: str) -> NDArray[np.uint8]:
    """Bring a film to the side of the preset; published figures are colour files."""
    if len(pixels) != size:
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    return np.repeat(pixels[..., None], 3, axis=2) if source == "cohen" else pixels


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the list files: patient, file, label, source, separated by blanks."""
    for split in ("train", "test"):
        lines = [result.record["line"] for result in results if result.record["split"] == split]
        write_text(root / f"{split}.txt", "\n".join(lines) + "\n")
