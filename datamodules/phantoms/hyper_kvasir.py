"""Hyper-Kvasir's layout (`labeled-images`, `segmented-images`) and the repacked Colon_AD_public layout."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.phantoms.colonoscopy import frames
from datamodules.phantoms.fields import streams
from datamodules.phantoms.storage import TRUTH, Result, Settings, Truth, healthy_path, write_csv, write_image

#: preset -> healthy frames, polyp frames, frames of each other class, frame height (None: official sizes).
PRESETS: dict[str, tuple[int, int, int, int | None]] = {
    "smoke": (32, 12, 1, 128),
    "small": (260, 100, 2, 256),
    "demo": (1050, 500, 4, 256),
    "full-shape": (5, 2, 1, None),
}
#: (height, width) of common official images.
SIZES = ((529, 622), (576, 720), (576, 768), (1024, 1280), (1072, 1920))
#: Contrast at difficulty 1, from the baselines of `benchmarks/phantom_difficulty.py`.
CALIBRATED = 1.5
LOWER, UPPER = "lower-gi-tract", "upper-gi-tract"
OTHER = (
    (LOWER, "anatomical-landmarks", "ileum"),
    (LOWER, "anatomical-landmarks", "retroflex-rectum"),
    (LOWER, "pathological-findings", "hemorrhoids"),
    *((LOWER, "pathological-findings", f"ulcerative-colitis-grade-{g}") for g in ("0-1", "1", "1-2", "2", "2-3", "3")),
    (LOWER, "quality-of-mucosal-views", "bbps-0-1"),
    (LOWER, "quality-of-mucosal-views", "impacted-stool"),
    (LOWER, "therapeutic-interventions", "dyed-lifted-polyps"),
    (LOWER, "therapeutic-interventions", "dyed-resection-margins"),
    (UPPER, "anatomical-landmarks", "pylorus"),
    (UPPER, "anatomical-landmarks", "retroflex-stomach"),
    (UPPER, "anatomical-landmarks", "z-line"),
    (UPPER, "pathological-findings", "barretts"),
    (UPPER, "pathological-findings", "barretts-short-segment"),
    (UPPER, "pathological-findings", "esophagitis-a"),
    (UPPER, "pathological-findings", "esophagitis-b-d"),
)
CECUM = (LOWER, "anatomical-landmarks", "cecum")
CLEAN = (LOWER, "quality-of-mucosal-views", "bbps-2-3")
POLYPS = (LOWER, "pathological-findings", "polyps")


class Job(NamedTuple):
    """One frame: its number among all frames, its official class, and its number among those of its kind."""

    place: int
    organ: str
    group: str
    finding: str
    number: int


def jobs(settings: Settings) -> list[Job]:
    """List all frames of the preset."""
    healthy, with_polyp, others, _ = PRESETS[settings.preset]
    classes = [(CECUM if number % 15 < 7 else CLEAN, number) for number in range(healthy)]
    classes += [(POLYPS, number) for number in range(with_polyp)]
    if settings.layout == "official":
        classes += [(kind, number) for kind in OTHER for number in range(others)]
        classes += [(("unlabeled-images", "", ""), number) for number in range(2 * others)]
    return [Job(index, *kind, number) for index, (kind, number) in enumerate(classes)]


def _stem(settings: Settings, index: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"hyper_kvasir/{settings.seed}/{index}"))


def _paths(settings: Settings, job: Job, stem: str) -> list[str]:
    """Official places of a frame, the main one first (segmented images also lie among the labelled polyps)."""
    if settings.layout == "igd":
        if job.finding == "polyps":
            return [f"Colon_AD_public/test_set/abnormal_test/{stem}.jpg"]
        training = PRESETS[settings.preset][0] * 1600 // 2100
        folder = "train_set" if job.number < training else "test_set/normal_test"
        return [f"Colon_AD_public/{folder}/{stem}.jpg"]
    if job.organ == "unlabeled-images":
        return [f"unlabeled-images/images/{stem}.jpg"]
    labelled = f"labeled-images/{job.organ}/{job.group}/{job.finding}/{stem}.jpg"
    return [f"segmented-images/images/{stem}.jpg", labelled] if job.finding == "polyps" else [labelled]


def _boxes(mask: NDArray[np.bool_]) -> list[dict[str, int | str]]:
    found = ndimage.find_objects(ndimage.label(mask)[0])
    return [
        {"label": "polyp", "xmin": c.start, "ymin": r.start, "xmax": c.stop, "ymax": r.stop}
        for r, c in found
        if (r.stop - r.start) * (c.stop - c.start) >= 16
    ]


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write one frame with its mask, twin and field of view."""
    draw = (streams(settings.seed, "hyper_kvasir", job.place), streams(settings.seed, "hyper_kvasir", job.place))
    choice = draw[0].annotation
    size = SIZES[int(choice.integers(3 if PRESETS[settings.preset][3] else len(SIZES)))]
    height = PRESETS[settings.preset][3] or size[0]
    shape = (height, round(size[1] * height / size[0]))
    stool, inset, quality = choice.random(), bool(choice.random() < 0.25), int(choice.integers(85, 96))
    dirty = stool < {"bbps-0-1": 0.9, "impacted-stool": 1.0}.get(job.finding, 0.15)
    polyp = job.finding == "polyps"
    frame, twin, mask, visible = frames(
        draw, shape, polyp=polyp, dirty=dirty, inset=inset, contrast=CALIBRATED / settings.difficulty
    )
    stem = _stem(settings, job.place)
    paths = _paths(settings, job, stem)
    write_image(root / paths[0], frame, quality)
    for copy in paths[1:]:
        (root / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / paths[0], root / copy)
    write_image(root / TRUTH / "foreground" / f"{paths[0].removesuffix('.jpg')}.png", visible.astype(np.uint8) * 255)
    record = {"stem": stem, "job": job, "shape": shape, "boxes": _boxes(mask)}
    if twin is None:
        return Result([Truth(paths[0], 0)], record)
    official = settings.layout == "official"
    # the original masks are JPEG files as well, with grey rims that loaders must threshold
    place = f"segmented-images/masks/{stem}.jpg" if official else f"{TRUTH}/masks/{paths[0].removesuffix('.jpg')}.png"
    write_image(root / place, np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=2), 90)
    write_image(root / healthy_path(paths[0]), twin, quality)
    return Result([Truth(paths[0], 1, healthy_path(paths[0]), place)], record)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the label table and the bounding boxes."""
    if settings.layout == "igd":
        return
    rows, boxes = [], {}
    for _, record in results:
        job, stem = record["job"], record["stem"]
        if job.organ != "unlabeled-images":
            rows.append((stem, "Lower GI" if job.organ == LOWER else "Upper GI", job.finding, job.group))
        if job.finding == "polyps":
            boxes[stem] = {"height": record["shape"][0], "width": record["shape"][1], "bbox": record["boxes"]}
    header = ("Video file", "Organ", "Finding", "Classification")
    write_csv(root / "labeled-images/image-labels.csv", header, rows)
    (root / "segmented-images/bounding-boxes.json").write_text(json.dumps(boxes, indent=1) + "\n")
