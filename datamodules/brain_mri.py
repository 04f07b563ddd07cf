"""Brain MRI: trained on healthy volunteers (HCP, Cam-CAN, IXI, MOOD), tested on tumours (BraTS) or strokes (ISLES)."""

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.base import AnomalyDataModule
from datamodules.cache import Prepared
from datamodules.preprocessing import (
    ATLAS_SLICES,
    fae_equalise,
    fae_labels,
    fae_slices,
    multi_task_brain,
    pad_evenly,
    plain,
    simple_brain,
    to_atlas_grid,
)
from datamodules.reading import NIFTI, Array, BadFile, is_hidden, read_nifti, suffix
from datamodules.records import Record, held_out
from zoo.errors import UserError

Sequence = Literal["t1", "t2", "flair"]
Healthy = Literal["hcp", "camcan", "ixi", "mood_brain"]
Ill = Literal["brats17", "brats20", "brats21", "brats23", "isles15"]

_BRATS = {"brats17": "Brats17_", "brats20": "BraTS20_", "brats21": "BraTS2021_", "brats23": "BraTS-GLI-"}
_BRATS_WORDS = {"t1": ("t1", "t1n"), "t2": ("t2", "t2w"), "flair": ("flair", "t2f")}
_ISLES_WORDS = {"t1": "T1", "t2": "T2", "flair": "Flair"}
MODEL_GRID = (80, 112, 80)
MAX_BRAIN_SHARE = 0.45
Unstripped = Literal["refuse", "strip"]


class BrainMRI(AnomalyDataModule):
    """Brain MRI as slices or volumes.

    ``mode: slices`` is the preprocessing of the feature autoencoder: the central 80 mm of the SRI24 grid, squared,
    resized, equalised inside the brain; [0, 1]. ``mode: volumes`` is that of the multi-task paper: 1 mm, z-scores over
    the brain,
    cropped, halved, padded to 80 x 112 x 80 (z, y, x with x to the left); about [-5, 5], background 0.

    Axes and spacing come from the headers. Volumes should be skull-stripped (``unstripped``); nothing is registered:
    volumes that are not on the SRI24 grid are placed by the middle of the brain.

    ``root`` holds the data sets anywhere below it, in their official trees; ``train_root`` and ``test_root`` name other
    places. Without any of them, phantoms of both are generated.
    """

    phantom_name = "brain_mri"

    def __init__(
        self,
        *,
        root: str | None = None,
        train: Healthy = "hcp",
        test: Ill = "brats20",
        sequence: Sequence = "t1",
        mode: Literal["slices", "volumes"] = "slices",
        unstripped: Unstripped = "refuse",
        train_root: str | None = None,
        test_root: str | None = None,
        **common: Any,
    ) -> None:
        """Remember the arguments.

        Args:
            root: folder above both data sets.
            train: the healthy volunteers.
            test: the patients.
            sequence: ``t1``, ``t2`` or ``flair``.
            mode: ``slices`` (2-D, 128 x 128 by default) or ``volumes`` (3-D, 80 x 112 x 80 by default).
            unstripped: ``refuse`` heads with skull, or ``strip`` them with a rough mask.
            train_root: folder of the healthy volunteers, if not below ``root``.
            test_root: folder of the patients, if not below ``root``.
            **common: see :class:`AnomalyDataModule`.
        """
        places = [place for place in (root, train_root, test_root) if place is not None]
        super().__init__(root=places[0] if places else None, **common)
        if sequence == "flair" and train in ("hcp", "ixi", "camcan"):
            raise UserError(f"data.train {train} has no FLAIR; use sequence t1 or t2, or train mood_brain")
        if root is None and (train_root is None) != (test_root is None):
            raise UserError("data.train_root and data.test_root belong together; give both, or data.root")
        self.train, self.test, self.sequence, self.mode = train, test, sequence, mode
        self.unstripped: Unstripped = unstripped
        self.train_root = None if train_root is None else Path(train_root).expanduser()
        self.test_root = None if test_root is None else Path(test_root).expanduser()
        if mode == "volumes":
            self.value_range, self.stored_range = (-5.0, 5.0), None

    @property
    def name(self) -> str:  # type: ignore[override]
        """Test set, sequence and mode, for example ``brats20_t1``."""
        return f"{self.test}_{self.sequence}" + ("" if self.mode == "slices" else "_3d")

    @property
    def spatial_size(self) -> tuple[int, ...]:
        """``(H, W)`` or ``(D, H, W)``."""
        if self.image_size is None:
            return (128, 128) if self.mode == "slices" else MODEL_GRID
        size = self.image_size
        dims = 2 if self.mode == "slices" else 3
        size = (size,) * dims if isinstance(size, int) else tuple(size)
        if len(size) != dims:
            raise UserError(f"data.image_size {size} has {len(size)} sides, mode {self.mode} needs {dims}")
        return size

    def write_phantom(self, root: Path) -> None:
        """Both data sets, each in a folder of its own."""
        from datamodules import phantoms

        root.mkdir(parents=True, exist_ok=True)
        for name in (self.train, self.test):
            phantoms.write(name, root / name, preset=self.phantom_preset, seed=self.seed)
        (root / "PHANTOM_DATA.json").write_bytes((root / self.test / "PHANTOM_DATA.json").read_bytes())

    @property
    def phantom_key(self) -> str:
        """Both data sets and the preset."""
        return f"{self.train}-{self.test}-{self.phantom_preset}"

    def index(self, root: Path) -> list[Record]:
        """All healthy volunteers to train (a share held out), all patients to test."""
        train_root, test_root = self.train_root or root, self.test_root or root
        problems: list[BadFile] = []
        healthy = list(find_healthy(train_root, self.train, self.sequence, problems))
        if not healthy and not problems:
            raise UserError(_nothing(train_root, self.train, self.sequence))
        patients = list(find_patients(test_root, self.test, self.sequence, problems))
        self.report(problems)
        if not patients:
            raise UserError(_nothing(test_root, self.test, self.sequence))
        val = held_out([record.subject for record in healthy], self.val_fraction, self.seed)
        divided = [
            Record(**{**vars(record), "split": "val" if record.subject in val else "train"}) for record in healthy
        ]
        return divided + patients

    def preprocessing(self) -> Callable[[Record], Prepared]:
        """Of the feature autoencoder or of the multi-task paper."""
        if self.mode == "slices":
            return partial(prepare_slices, size=self.spatial_size, unstripped=self.unstripped)
        return partial(prepare_volume, size=self.spatial_size, unstripped=self.unstripped)

    @property
    def channels(self) -> int:
        """One sequence."""
        return 1

    @property
    def parameters(self) -> dict[str, Any]:
        """Mode, size and stripping."""
        return plain({"mode": self.mode, "size": self.spatial_size, "unstripped": self.unstripped})


def _nothing(root: Path, name: str, sequence: str) -> str:
    if name == "isles15" and any(root.rglob("VSD.Brain*")):
        return f"{root}: no case with ground truth (OT): testing data has none; give the training data of ISLES 2015"
    return f"{root}: no {sequence} volume of {name} below it; give the folder of the official tree (`zoo data list`)"


def _volumes(root: Path, pattern: str) -> list[Path]:
    """Volumes below ``root`` by a pattern of their names, which may be spelled in any case (``.NII.GZ``)."""
    folder, _, name = pattern.rpartition("/")
    return sorted(
        path
        for path in root.rglob(f"{folder}/*" if folder else "*")
        if suffix(path) in NIFTI and fnmatchcase(path.name.lower(), name.lower())
        if path.is_file() and not is_hidden(path) and "_phantom_truth" not in path.parts
    )


def find_healthy(root: Path, name: Healthy, sequence: Sequence, problems: list[BadFile]) -> Iterator[Record]:
    """Volumes of healthy volunteers in their official trees; what is wrong is added to ``problems``."""
    first: dict[str, Path] = {}
    for path in _volumes(root, _healthy_pattern(name, sequence)):
        subject = _subject(path, name)
        if first.setdefault(subject, path) != path:
            found = f"a second {sequence} volume of {subject}, the first is {first[subject].name}"
            problems.append(BadFile(path, found, "keep one run of one session a subject"))
            continue
        companions = []
        if name == "hcp":
            other = path.with_name(path.name.replace("T2w", "T1w") if sequence == "t2" else path.name)
            if not other.is_file():
                problems.append(
                    BadFile(path, f"subject {subject} has no {other.name}", "fetch it or remove the subject")
                )
                continue
            companions = [str(other)] if other != path else []
        yield Record(
            path.relative_to(root).as_posix(), str(path), "train", 0, f"{name}:{subject}", companions=tuple(companions)
        )
    if name == "hcp" and sequence == "t2" and first:
        for path in _volumes(root, _healthy_pattern(name, "t1")):
            if _subject(path, name) not in first:
                missing = path.name.replace("T1w", "T2w")
                found = f"subject {_subject(path, name)} has no {missing}"
                problems.append(BadFile(path.with_name(missing), found, "fetch it or remove the subject"))
    if name == "hcp":
        unstripped = _volumes(root, f"{sequence.upper()}w_acpc_dc_restore.nii*")
        if unstripped and not _volumes(root, _healthy_pattern(name, sequence)):
            wanted = f"{sequence.upper()}w_acpc_dc_restore_brain.nii.gz"
            problems.append(BadFile(unstripped[0], "this file has a skull", f"fetch {wanted} instead"))


def _healthy_pattern(name: Healthy, sequence: Sequence) -> str:
    if name == "hcp":
        return f"{sequence.upper()}w_acpc_dc_restore_brain.nii*"
    if name == "camcan":
        return f"sub-CC*{sequence.upper()}w*.nii*"
    if name == "ixi":
        return f"IXI*-{sequence.upper()}*.nii*"
    return "brain_train/*.nii*"


def _subject(path: Path, name: Healthy) -> str:
    if name == "hcp":
        return next((part for part in reversed(path.parts) if re.fullmatch(r"\d{6}", part)), path.parent.name)
    if name == "camcan":
        return path.name.split("_")[0]
    return path.name.split("-")[0] if name == "ixi" else path.name.split(".")[0]


def find_patients(root: Path, name: Ill, sequence: Sequence, problems: list[BadFile]) -> Iterator[Record]:
    """Volumes of patients with their ground truth; what is wrong is added to ``problems``."""
    cases = _isles_cases(root) if name == "isles15" else _brats_cases(root, _BRATS[name])
    for case in cases:
        if name == "isles15":
            image, other = (_isles_file(case, f"MR_{word}") for word in (_ISLES_WORDS[sequence], "T1"))
            truth = _isles_file(case, "OT")
        else:
            image, other = (_brats_file(case, _BRATS_WORDS[one]) for one in (sequence, "t1"))
            truth = _brats_file(case, ("seg",)) or next(iter(_volumes(case, "*Segm.nii*")), None)
        if truth is None:
            remedy = "validation and testing data have none, give the training data"
            problems.append(BadFile(case, "no ground truth", remedy))
        elif image is None:
            problems.append(BadFile(case, f"no {sequence} volume", "fetch the case again"))
        else:
            companions = (str(other),) if other is not None and other != image else ()
            subject = f"{name}:{case.name}"
            relative = image.relative_to(root).as_posix()
            yield Record(relative, str(image), "test", 1, subject, str(truth), companions=companions)


def _brats_cases(root: Path, prefix: str) -> list[Path]:
    found = [path for path in root.rglob(f"{prefix}*") if path.is_dir() and "_phantom_truth" not in path.parts]
    return sorted(path for path in found if any(suffix(file) in NIFTI for file in path.iterdir()))


def _brats_file(case: Path, words: tuple[str, ...]) -> Path | None:
    for path in sorted(case.iterdir()):
        stem = path.name[: -len(suffix(path))] if suffix(path) in NIFTI else ""
        if not is_hidden(path) and re.split(r"[_-]", stem)[-1] in words:
            return path
    return None


def _isles_cases(root: Path) -> list[Path]:
    found = {path.parent for path in root.rglob("VSD.Brain*MR_T2*") if path.is_dir()}
    return sorted((p for p in found if "_phantom_truth" not in p.parts), key=lambda p: (p.parent, p.name.zfill(4)))


def _isles_file(case: Path, word: str) -> Path | None:
    for folder in sorted(case.iterdir()):
        if folder.is_dir() and word in folder.name.split("."):
            files = [path for path in sorted(folder.iterdir()) if suffix(path) in NIFTI and not is_hidden(path)]
            if files:
                return files[0]
    return None


def read_volume(record: Record, unstripped: Unstripped = "refuse") -> tuple[Array, Array, Array | None]:
    """Volume, affine and segmentation in canonical axes.

    Raises:
        BadFile: not decodable, constant, a head with skull (unless it is to be stripped), or a segmentation on another
            grid.
    """
    volume, affine = read_nifti(record.image, canonical=True)
    if volume.min() == volume.max():
        raise BadFile(record.image, "a constant volume", "fetch it again")
    share = float((volume != 0).mean())
    if share > MAX_BRAIN_SHARE and unstripped == "strip":
        volume = np.where(simple_brain(volume, np.linalg.norm(affine[:3, :3], axis=0)), volume, 0)
    elif share > MAX_BRAIN_SHARE:
        found = f"{share:.0%} of the voxels are not 0, a brain takes about 20 %: looks unstripped"
        raise BadFile(record.image, found, "give the skull-stripped volume, or set unstripped: strip")
    if record.mask is None:
        return volume, affine, None
    truth, other = read_nifti(record.mask, canonical=True)
    if truth.shape != volume.shape or not np.allclose(other[:3, :3], affine[:3, :3], atol=1e-2):
        found = f"grid {truth.shape}, its image has {volume.shape}"
        raise BadFile(record.mask, found, "give the segmentation of this volume")
    return volume, affine, _labels(record, np.rint(truth).astype(np.int16))


def _labels(record: Record, truth: Array) -> Array:
    name = record.subject.split(":")[0]
    known = {"brats23": (0, 1, 2, 3), "isles15": (0, 1)}.get(name, (0, 1, 2, 4))
    odd = sorted(set(np.unique(truth).tolist()) - set(known))
    if odd and name in (*_BRATS, "isles15"):
        expected = ", ".join(map(str, known))
        raise BadFile(record.mask or "", f"label {odd[0]}, {name} has {expected}", "give the files of that year")
    if not truth.any():
        raise BadFile(record.mask or "", "an empty ground truth", "fetch the case again or remove it")
    return truth


def prepare_slices(record: Record, *, size: tuple[int, ...], unstripped: Unstripped) -> Prepared:
    """The 80 central slices of one volume.

    Args:
        record: volume and segmentation.
        size: ``(H, W)``.
        unstripped: what to do with heads.

    Raises:
        BadFile: not decodable, with skull, or a segmentation on another grid.
    """
    volume, affine, truth = read_volume(record, unstripped)
    brain = volume != 0
    target = (size[0], size[1])
    images = fae_equalise(fae_slices(to_atlas_grid(volume, affine, brain), target))
    mask = None if truth is None else fae_labels(to_atlas_grid(truth, affine, brain), target)
    labels = None if mask is None else tuple(int(one.any()) for one in mask)
    spacing = (240 / target[0], 240 / target[1])
    return Prepared(images[:, None], mask, images > 0, labels, tuple(range(*ATLAS_SLICES)), spacing)


def prepare_volume(record: Record, *, size: tuple[int, ...], unstripped: Unstripped) -> Prepared:
    """One volume at 2 mm.

    Args:
        record: volume, segmentation and the other sequence that helps to find the bounding box.
        size: ``(D, H, W)``; other sizes than 80 x 112 x 80 are resampled from there.
        unstripped: what to do with heads.

    Raises:
        BadFile: not decodable, with skull, or files on different grids.
    """
    from scipy.ndimage import binary_fill_holes

    volume, affine, truth = read_volume(record, unstripped)
    volumes = [volume]
    for path in record.companions:
        other, frame = read_nifti(path, canonical=True)
        if other.shape != volume.shape:
            raise BadFile(path, f"grid {other.shape}, {Path(record.image).name} has {volume.shape}", "fetch both again")
        if not np.allclose(frame[:3, :3], affine[:3, :3], atol=1e-2):
            found = f"another voxel size or direction than {Path(record.image).name}"
            raise BadFile(path, found, "give both sequences on one grid")
        volumes.append(other)
    to_zyx = (2, 1, 0)
    sequences = np.stack([one[::-1].transpose(to_zyx) for one in volumes])  # canonical x points right, the paper's left
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if np.ptp(spacing) > 0.01 * spacing.mean():
        sequences, truth = _isotropic(sequences, truth, spacing)
    elif truth is not None:
        truth = truth[::-1].transpose(to_zyx)
    low, labels = multi_task_brain(sequences, truth, float(spacing.min()))
    image = pad_evenly(low[0], MODEL_GRID)
    mask = None if labels is None else pad_evenly(labels, MODEL_GRID) != 0
    image, mask = _to_size(image, mask, size)
    foreground = binary_fill_holes(image != 0)
    grid = tuple(2.0 * full / side for full, side in zip(MODEL_GRID, size, strict=True))
    label = None if mask is None else (int(mask.any()),)
    planes = None if mask is None else mask[None]
    return Prepared(image.astype(np.float32)[None, None], planes, foreground[None], label, None, grid)


def _isotropic(sequences: Array, truth: Array | None, spacing: Array) -> tuple[Array, Array | None]:
    from scipy.ndimage import zoom

    factors = (spacing / spacing.min())[::-1]
    brains = np.stack([zoom(one, factors, order=1, grid_mode=True, mode="nearest") for one in sequences])
    labels = (
        None
        if truth is None
        else zoom(truth[::-1].transpose(2, 1, 0), factors, order=0, grid_mode=True, mode="nearest")
    )
    return brains, labels


def _to_size(image: Array, mask: Array | None, size: tuple[int, ...]) -> tuple[Array, Array | None]:
    from skimage.transform import resize

    if image.shape == tuple(size):
        return image, mask
    inside = resize((image != 0).astype(np.float64), size, order=1, anti_aliasing=True) >= 0.5
    image = np.where(inside, resize(image, size, order=1, anti_aliasing=True, preserve_range=True), 0)
    return image, None if mask is None else resize(mask.astype(np.float64), size, order=1, anti_aliasing=True) > 0.4
