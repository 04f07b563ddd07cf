"""The layouts of the brain sets: HCP, CamCAN, IXI, BraTS 2017 to 2023, ISLES 2015 SISS, MOOD brain."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.phantoms.brain import AGEING, BRATS, HCP, ISLES, Axes, Domain, LesionKind, anatomy, grow_lesion, scan
from datamodules.phantoms.fields import BOX, streams
from datamodules.phantoms.storage import (
    Grid,
    Result,
    Settings,
    Truth,
    healthy_path,
    mask_path,
    write_csv,
    write_text,
    write_volume,
)

#: preset -> subjects of a healthy set, of BraTS, of ISLES; grid divisor of the 0.7 mm sets and of the 1 mm sets.
PRESETS = {
    "smoke": (4, 3, 3, 4, 4),
    "small": (40, 16, 12, 3, 2),
    "demo": (120, 60, 28, 3, 2),
    "full-shape": (2, 2, 2, 1, 1),
}


class Spec(NamedTuple):
    """Official grid of a set, world coordinates of the brain centre in it, and its domain."""

    grid: Grid
    centre: tuple[float, float, float]
    domain: Domain


def _grid(
    shape: tuple[int, int, int], diagonal: tuple[float, float, float], origin: tuple[float, float, float]
) -> Grid:
    affine = np.diag([*diagonal, 1.0])
    affine[:3, 3] = origin
    return Grid(shape, affine)


_BRATS = Spec(_grid((240, 240, 155), (-1, -1, 1), (0, 239, 0)), (-119.5, 119.5, 72.0), BRATS)
#: IXI's T1 is stored posterior-superior-right, 1.2 mm sagittal.
_IXI_T1 = Grid(
    (256, 256, 150), np.array([[0, 0, 1.2, -89.4], [-0.94, 0, 0, 119.8], [0, 0.94, 0, -119.8], [0, 0, 0, 1.0]])
)
SPECS = {
    "hcp": Spec(_grid((260, 311, 260), (-0.7, 0.7, 0.7), (90, -126, -72)), (0, -18, 8), HCP),
    "camcan": Spec(_grid((192, 256, 256), (1, 1, 1), (-95.5, -127.5, -127.5)), (0, 0, 0), AGEING),
    "ixi": Spec(_IXI_T1, (0, 0, 10), AGEING),
    "mood_brain": Spec(_grid((256, 256, 256), (0.7, 0.7, 0.7), (-89.25, -89.25, -89.25)), (0, 0, 0), HCP),
    "isles15": Spec(_grid((230, 230, 154), (-1, 1, 1), (114.5, -114.5, -72)), (0, 0, 0), ISLES),
    **dict.fromkeys(("brats17", "brats20", "brats21", "brats23"), _BRATS),
}
SUFFIXES = {"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair"}
SUFFIXES_2023 = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}


class Job(NamedTuple):
    """One subject."""

    place: int
    lesion: LesionKind | None


def _divisor(settings: Settings) -> int:
    fine, coarse = PRESETS[settings.preset][3:]
    return fine if settings.name in ("hcp", "mood_brain") else coarse


def jobs(settings: Settings) -> list[Job]:
    """List all subjects; one BraTS case in four is a low-grade glioma."""
    healthy, brats, isles, _, _ = PRESETS[settings.preset]
    if settings.name == "isles15":
        return [Job(place, "stroke") for place in range(isles)]
    if settings.name.startswith("brats"):
        return [Job(place, "lgg" if place % 4 == 2 else "hgg") for place in range(brats)]
    if settings.name == "mood_brain":
        return [
            *(Job(place, None) for place in range(healthy)),
            *(Job(healthy + k, "hgg" if k % 2 else None) for k in range(4)),
        ]
    return [Job(place, None) for place in range(healthy)]


class Scan(NamedTuple):
    """Volumes of one subject in right-anterior-superior order on the whole grid, with healthy twins."""

    grid: Grid
    volumes: dict[str, NDArray[np.floating[Any]]]
    twins: dict[str, NDArray[np.floating[Any]]]
    labels: NDArray[np.uint8]
    tissues: NDArray[np.uint8]


def _window(grid: Grid, centre: NDArray[np.float64], skull: bool) -> tuple[tuple[slice, slice, slice], Axes]:
    """Part of the canonical grid around the head, and its coordinates in mm from the brain centre."""
    plain = grid.canonical()
    slices, axes = [], []
    for axis, half in enumerate(BOX if skull else (86.0, 104.0, 92.0)):
        place = plain.affine[axis, 3] + plain.affine[axis, axis] * np.arange(plain.shape[axis]) - centre[axis]
        low, high = np.searchsorted(place, -half), np.searchsorted(place, half)
        slices.append(slice(int(low), int(high)))
        axes.append(place[low:high].astype(np.float32))
    return (slices[0], slices[1], slices[2]), (axes[0], axes[1], axes[2])


def acquire(
    settings: Settings, job: Job, grid: Grid, sequences: tuple[str, ...], skull: bool = False, shift: float = 0.0
) -> Scan:
    """Scan one subject on `grid`; `shift` moves the head by so many mm along all axes (another position)."""
    spec = SPECS[settings.name]
    first, again = (streams(settings.seed, settings.name, job.place) for _ in range(2))
    window, axes = _window(grid, np.array(spec.centre) + shift, skull)
    lesion = grow_lesion(first.lesion, axes, job.lesion) if job.lesion else None
    tissue = anatomy(first.anatomy, axes, spec.domain, lesion)
    contrast = 1 / settings.difficulty
    volumes = scan(first.acquisition, tissue, spec.domain, sequences, lesion, first.lesion, contrast, skull)
    twins = {}
    if lesion is not None:
        healthy = anatomy(again.anatomy, axes, spec.domain)
        twins = scan(again.acquisition, healthy, spec.domain, sequences, skull=skull)
    shape = grid.canonical().shape

    def whole(part: NDArray[Any], kind: Any) -> NDArray[Any]:
        out = np.zeros(shape, kind)
        out[window] = part
        return out

    classes = 1 + np.argmax([tissue.fluid, tissue.grey, tissue.white], axis=0)
    return Scan(
        grid,
        {key: whole(value, np.float32) for key, value in volumes.items()},
        {key: whole(value, np.float32) for key, value in twins.items()},
        whole(tissue.labels, np.uint8),
        whole(np.where(tissue.brain, classes, 0), np.uint8),
    )


def _save(root: Path, scanned: Scan, paths: dict[str, str], kind: Any, scale: float = 1.0) -> None:
    """Write the sequences named in `paths` and their twins."""
    for sequence, path in paths.items():
        pairs = [(path, scanned.volumes[sequence])]
        pairs += [(healthy_path(path), scanned.twins[sequence])] if scanned.twins else []
        for place, volume in pairs:
            values = np.rint(volume) if np.issubdtype(kind, np.integer) else volume * np.float32(scale)
            write_volume(root / place, values.astype(kind), scanned.grid)


def _hcp(root: Path, settings: Settings, job: Job, grid: Grid) -> Result:
    scanned = acquire(settings, job, grid, ("t1", "t2"))
    subject = str(100206 + 907 * job.place)
    folder = f"{subject}/T1w"
    # spline interpolation leaves a few negative voxels inside the real brains; loaders must survive them
    t2 = scanned.volumes["t2"]
    inside = np.flatnonzero(scanned.tissues)
    t2.flat[inside[:: max(1, len(inside) // 20)]] *= -0.01
    paths = {"t1": f"{folder}/T1w_acpc_dc_restore_brain.nii.gz", "t2": f"{folder}/T2w_acpc_dc_restore_brain.nii.gz"}
    _save(root, scanned, paths, np.float32)
    right = np.arange(scanned.tissues.shape[0])[:, None, None] > scanned.tissues.shape[0] // 2
    brain = scanned.tissues > 0
    # FreeSurfer numbers: fluid 24, cortex 3 / 42, white matter 2 / 41
    parts = np.select([scanned.tissues == n for n in (1, 2, 3)], [24, np.where(right, 42, 3), np.where(right, 41, 2)])
    write_volume(root / folder / "brainmask_fs.nii.gz", brain.astype(np.uint8), grid)
    for name in ("wmparc", "aparc+aseg"):
        write_volume(root / folder / f"{name}.nii.gz", parts.astype(np.int16), grid)
    ribbon = np.where(np.isin(parts, (2, 3, 41, 42)), parts, 0)
    write_volume(root / folder / "ribbon.nii.gz", ribbon.astype(np.int16), grid)
    return Result([Truth(path, 0) for path in paths.values()], {})


def _camcan(root: Path, settings: Settings, job: Job, grid: Grid) -> Result:
    scanned = acquire(settings, job, grid, ("t1", "t2"), skull=True)
    subject = f"sub-CC{110033 + 1009 * job.place:06d}"
    folder = f"cc700/mri/pipeline/release004/BIDS_20190411/anat/{subject}/anat"
    paths = {"t1": f"{folder}/{subject}_T1w.nii.gz", "t2": f"{folder}/{subject}_T2w.nii.gz"}
    _save(root, scanned, paths, np.int16)
    return Result([Truth(path, 0) for path in paths.values()], {})


def _ixi(root: Path, settings: Settings, job: Job, grid: Grid) -> Result:
    stem = f"IXI{2 + 10 * job.place:03d}-{('Guys', 'HH', 'IOP')[job.place % 3]}-{828 + 7 * job.place:04d}"
    axial = _grid((256, 256, 130), (-0.94, -0.94, 1.25), (119.8, 119.8, -80.6)).coarser(_divisor(settings))
    t1, t2 = f"{stem}-T1.nii.gz", f"{stem}-T2.nii.gz"
    _save(root, acquire(settings, job, grid, ("t1",), skull=True), {"t1": t1}, np.int16)
    _save(root, acquire(settings, job, axial, ("t2",), skull=True, shift=2.0), {"t2": t2}, np.int16)
    return Result([Truth(t1, 0), Truth(t2, 0)], {})


def _brats_case(settings: Settings, job: Job) -> tuple[str, str]:
    """Folder and file stem of a case."""
    place = job.place
    if settings.name == "brats17":
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        site = ("CBICA", "TCIA", "2013")[place % 3]
        number = {"CBICA": f"A{letters[place // 26 % 26]}{letters[place % 26]}", "TCIA": f"{101 + place}"}.get(
            site, str(2 + place)
        )
        case = f"Brats17_{site}_{number}_1"
        return f"{'LGG' if job.lesion == 'lgg' else 'HGG'}/{case}", case
    case = {
        # number 355 carries the original's misnamed segmentation
        "brats20": f"BraTS20_Training_{355 if place == 1 else 1 + place:03d}",
        "brats21": f"BraTS2021_{2 * place + place % 3:05d}",
        "brats23": f"BraTS-GLI-{2 * place:05d}-000",
    }[settings.name]
    return case, case


def _brats(root: Path, settings: Settings, job: Job, grid: Grid) -> Result:
    scanned = acquire(settings, job, grid, tuple(SUFFIXES))
    folder, case = _brats_case(settings, job)
    new = settings.name == "brats23"
    names = SUFFIXES_2023 if new else SUFFIXES
    paths = {key: f"{folder}/{case}{'-' if new else '_'}{name}.nii.gz" for key, name in names.items()}
    _save(root, scanned, paths, np.int16)
    labels = np.where(scanned.labels == 4, 3, scanned.labels) if new else scanned.labels
    segmentation = f"{folder}/{case}{'-' if new else '_'}seg.nii.gz"
    if case.endswith("_355"):
        segmentation = f"{folder}/W39_1998.09.19_Segm.nii.gz"
    write_volume(root / segmentation, labels.astype(np.uint8), grid)
    truth = [Truth(path, 1, healthy_path(path), segmentation) for path in paths.values()]
    return Result(truth, {"case": case, "grade": "LGG" if job.lesion == "lgg" else "HGG", "place": job.place})


def _isles(root: Path, settings: Settings, job: Job, grid: Grid) -> Result:
    if job.place % 2 and _divisor(settings) == 1:
        grid = Grid((grid.shape[0], grid.shape[1], grid.shape[2] - 1), grid.affine)
    scanned = acquire(settings, job, grid, ("dwi", "flair", "t1", "t2"))
    names = {"dwi": "MR_DWI", "flair": "MR_Flair", "t1": "MR_T1", "t2": "MR_T2"}
    paths = {}
    for number, (sequence, name) in enumerate(names.items()):
        stem = f"VSD.Brain.XX.O.{name}.{70613 + 6 * job.place + number}"
        paths[sequence] = f"SISS2015_Training/{1 + job.place}/{stem}/{stem}.nii"
    _save(root, scanned, paths, np.int16)
    stem = f"VSD.Brain.XX.O.OT.{70617 + 6 * job.place}"
    mask = f"SISS2015_Training/{1 + job.place}/{stem}/{stem}.nii"
    write_volume(root / mask, scanned.labels, grid)
    return Result([Truth(path, 1, healthy_path(path), mask) for path in paths.values()], {})


def _mood(root: Path, settings: Settings, job: Job, grid: Grid) -> Result:
    scanned = acquire(settings, job, grid, ("t1",))
    training = PRESETS[settings.preset][0]
    if job.place < training:
        path = f"brain_train/{job.place:05d}.nii.gz"
    else:
        path = f"toy/toy_{job.place - training}.nii.gz"
        write_volume(root / "toy_label/pixel" / Path(path).name, (scanned.labels > 0).astype(np.uint8), grid)
        write_text(root / "toy_label/sample" / f"{Path(path).name}.txt", str(int(scanned.labels.any())))
    _save(root, scanned, {"t1": path}, np.float32, 1 / max(1.0, float(scanned.volumes["t1"].max())))
    if not scanned.twins:
        return Result([Truth(path, 0)], {})
    mask = mask_path(path, ".nii.gz")
    write_volume(root / mask, (scanned.labels > 0).astype(np.uint8), grid)
    return Result([Truth(path, 1, healthy_path(path), mask)], {})


def render(root: Path, settings: Settings, job: Job) -> Result:
    """Write all files of one subject."""
    grid = SPECS[settings.name].grid.coarser(_divisor(settings))
    writers = {"hcp": _hcp, "camcan": _camcan, "ixi": _ixi, "isles15": _isles, "mood_brain": _mood}
    return writers.get(settings.name, _brats)(root, settings, job, grid)


def finish(root: Path, settings: Settings, results: list[Result]) -> None:
    """Write the tables that come with BraTS 2017 and 2020."""
    rng = np.random.default_rng([settings.seed, 2017])
    cases = [result.record for result in results]
    ages = rng.uniform(30, 80, len(cases)).round(3)
    days = rng.integers(30, 1500, len(cases))
    if settings.name == "brats17":
        rows = [(case["case"], age, day) for case, age, day in zip(cases, ages, days, strict=True)]
        write_csv(root / "survival_data.csv", ("Brats17ID", "Age", "Survival"), rows)
    if settings.name == "brats20":
        header = ("Brats20ID", "Age", "Survival_days", "Extent_of_Resection")
        extent = [(case["case"], age, day, "GTR") for case, age, day in zip(cases, ages, days, strict=True)]
        write_csv(root / "survival_info.csv", header, extent)
        columns = ("Grade", *(f"BraTS_{year}_subject_ID" for year in (2017, 2018, 2019, 2020)), "TCGA_TCIA_subject_ID")
        mapping = []
        for case in cases:
            old = "NA" if case["place"] % 2 else f"Brats17_CBICA_A{chr(65 + case['place'] % 26)}A_1"
            newer = [old.replace("Brats17", f"Brats{year}") for year in (18,)]
            mapping.append((case["grade"], old, *newer, old.replace("Brats17", "BraTS19"), case["case"], "NA"))
        write_csv(root / "name_mapping.csv", columns, mapping)
