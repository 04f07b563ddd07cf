"""Malformed downloads of the four families, each with the whole message that the user reads.

What every data set shares (roots, empty files, web pages) is in ``test_bad_input.py``, decoding in ``test_reading.py``,
list files and splits in ``test_families.py``.
"""

import json
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from datamodules import BrainMRI, CovidX, HyperKvasir, VinDrCXR, phantoms
from datamodules.brain import find_volumes
from datamodules.brain.preparing import prepare_slices, prepare_volume, read_volume
from datamodules.commands import main
from datamodules.hyper_kvasir import box_notes, prepare_frame
from datamodules.reading import BadFile, read_dicom, read_nifti
from datamodules.records import Record
from datamodules.vindr_cxr import overhang_notes, prepare_film, read_boxes
from zoo.errors import UserError

Case = tuple[Callable[[], Any], str]


def _head(step: float = 8.0, **changes: Any) -> nib.Nifti1Image:
    size = np.rint(np.array([200, 240, 170]) / step).astype(int)
    grid = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * step for n in size], indexing="ij"), -1)
    inside = ((grid / [66, 84, 62]) ** 2).sum(-1) < 1
    values = np.where(inside, 100 + 10 * np.cos(grid[..., 0] / 9), 0).astype(np.float32)
    return nib.Nifti1Image(changes.get("values", values), np.diag([step, step, step, 1.0]))


def _save(image: nib.Nifti1Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def _segmented(tmp_path: Path, labels: Any) -> tuple[Path, Path]:
    image = _head()
    truth = np.zeros(image.shape, np.float32)
    truth[12, 14, 10] = labels
    return _save(image, tmp_path / "x.nii.gz"), _save(nib.Nifti1Image(truth, image.affine), tmp_path / "seg.nii.gz")


def _film(path: Path, pixels: Any, bits: int = 12, **tags: Any) -> Path:
    import pydicom
    from pydicom.data import get_testdata_file
    from pydicom.uid import ExplicitVRLittleEndian

    header = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pixels = np.asarray(pixels, np.uint16)
    header.Rows, header.Columns = pixels.shape[-2:]
    header.BitsStored, header.HighBit, header.PixelRepresentation = bits, bits - 1, 0
    header.PixelData = pixels.tobytes()
    for key, value in tags.items():
        setattr(header, key, value)
    header.save_as(path)
    return path


def _ramp() -> Any:
    return np.arange(40 * 32).reshape(40, 32) * 3


# ---- brains -------------------------------------------------------------------------------------------------------


def _no_orientation(tmp_path: Path) -> Case:
    image = _head()
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    path = _save(image, tmp_path / "x.nii.gz")
    message = f"{path}: no orientation (sform and qform codes are 0); export it again with its orientation"
    return lambda: read_nifti(path, canonical=True), message


def _unstripped(tmp_path: Path) -> Case:
    path = _save(_head(values=np.full((25, 30, 21), 7, np.float32) + np.arange(21)), tmp_path / "x.nii.gz")
    message = (
        f"{path}: 100% of the voxels are not 0, a brain takes about 20 %: looks unstripped; "
        "give the skull-stripped volume, or set unstripped: strip or hd-bet"
    )
    return lambda: read_volume(Record("x", str(path))), message


def _skull_file(tmp_path: Path) -> Case:
    path = _save(_head(), tmp_path / "100206" / "T1w" / "T1w_acpc_dc_restore.nii.gz")
    message = f"{path}: this file has a skull; fetch T1w_acpc_dc_restore_brain.nii.gz instead"
    return lambda: _raise(find_volumes, tmp_path, "hcp", "t1"), message


def _raise(find: Any, *arguments: Any) -> None:
    problems: list[BadFile] = []
    list(find(*arguments, problems))
    for problem in problems:
        raise problem


def _absent_sequence(tmp_path: Path) -> Case:
    for subject, names in (("100206", ("T1w", "T2w")), ("100307", ("T1w",))):
        for name in names:
            _save(_head(), tmp_path / subject / "T1w" / f"{name}_acpc_dc_restore_brain.nii.gz")
    name = "T2w_acpc_dc_restore_brain.nii.gz"
    message = f"{tmp_path}/100307/T1w/{name}: subject 100307 has no {name}; fetch it or remove the subject"
    return lambda: _raise(find_volumes, tmp_path, "hcp", "t2"), message


def _two_shapes(tmp_path: Path) -> Case:
    path, other = _save(_head(), tmp_path / "t2.nii.gz"), _save(_head(4.0), tmp_path / "t1.nii.gz")
    record = Record("x", str(path), companions=(str(other),))
    message = f"{other}: grid (50, 60, 42), t2.nii.gz has (25, 30, 21); fetch both again"
    return lambda: prepare_volume(record, size=(80, 112, 80), unstripped="refuse"), message


def _two_directions(tmp_path: Path) -> Case:
    image = _head()
    tilted = image.affine @ np.array([[1, 0.2, 0, 0], [-0.2, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    path = _save(image, tmp_path / "t2.nii.gz")
    other = _save(nib.Nifti1Image(image.dataobj, tilted), tmp_path / "t1.nii.gz")
    record = Record("x", str(path), companions=(str(other),))
    message = f"{other}: another voxel size or direction than t2.nii.gz; give both sequences on one grid"
    return lambda: prepare_volume(record, size=(80, 112, 80), unstripped="refuse"), message


def _moved(image: nib.Nifti1Image, *millimetres: float) -> nib.Nifti1Image:
    affine = image.affine.copy()
    affine[:3, 3] += millimetres
    return nib.Nifti1Image(np.asarray(image.dataobj), affine)


def _two_places(tmp_path: Path) -> Case:
    path, other = _save(_head(), tmp_path / "t2.nii.gz"), _save(_moved(_head(), 0, 0, 40), tmp_path / "t1.nii.gz")
    record = Record("x", str(path), companions=(str(other),))
    message = f"{other}: another place or direction than t2.nii.gz, 40.0 mm apart; resample it to the grid of t2.nii.gz"
    return lambda: prepare_volume(record, size=(80, 112, 80), unstripped="refuse"), message


def _truth_elsewhere(tmp_path: Path) -> Case:
    path, seg = _segmented(tmp_path, 1)
    _save(_moved(nib.load(seg), 5, 0, 0), seg)
    message = f"{seg}: another place or direction than its image, 5.0 mm apart; resample it to the grid of its image"
    return lambda: read_volume(Record("x", str(path), mask=str(seg))), message


def _not_numbers(tmp_path: Path) -> Case:
    values = np.asarray(_head().dataobj).copy()
    values[12, 14, 10] = np.nan
    path = _save(_head(values=values), tmp_path / "x.nii.gz")
    message = f"{path}: 1 values are NaN or infinite; export the volume again"
    return lambda: read_volume(Record("x", str(path))), message


def _constant(tmp_path: Path) -> Case:
    path = _save(_head(values=np.zeros((4, 4, 4), np.float32)), tmp_path / "x.nii.gz")
    return lambda: read_volume(Record("x", str(path))), f"{path}: a constant volume; fetch it again"


def _label_of_another_year(tmp_path: Path) -> Case:
    path, seg = _segmented(tmp_path, 3)
    record = Record("x", str(path), subject="brats20:one", mask=str(seg))
    return lambda: read_volume(record), f"{seg}: label 3, brats20 has 0, 1, 2, 4; give the files of that year"


def _empty_truth(tmp_path: Path) -> Case:
    path, seg = _segmented(tmp_path, 0)
    record = Record("x", str(path), subject="isles15:one", mask=str(seg))
    return lambda: read_volume(record), f"{seg}: an empty ground truth; fetch the case again or remove it"


def _other_grid(tmp_path: Path) -> Case:
    path, _ = _segmented(tmp_path, 1)
    seg = _save(_head(4.0), tmp_path / "seg.nii.gz")
    message = f"{seg}: grid (50, 60, 42), its image has (25, 30, 21); give the segmentation of this volume"
    return lambda: read_volume(Record("x", str(path), mask=str(seg))), message


def _brats(tmp_path: Path, *names: str) -> Path:
    for name in names:
        _save(_head(), tmp_path / "BraTS20_Training_001" / f"BraTS20_Training_001_{name}.nii.gz")
    return tmp_path / "BraTS20_Training_001"


def _validation_case(tmp_path: Path) -> Case:
    case = _brats(tmp_path, "t1", "t1ce", "t2", "flair")
    message = f"{case}: no ground truth; validation and testing data have none, give the training data"
    return lambda: _raise(find_volumes, tmp_path, "brats20", "t2"), message


def _absent_modality(tmp_path: Path) -> Case:
    case = _brats(tmp_path, "t1", "t1ce", "flair", "seg")
    return lambda: _raise(find_volumes, tmp_path, "brats20", "t2"), f"{case}: no t2 volume; fetch the case again"


def _isles_without_truth(tmp_path: Path) -> Case:
    case = tmp_path / "SISS2015_Testing" / "1"
    for word in ("MR_T1.1", "MR_T2.2", "MR_Flair.3", "MR_DWI.4"):
        _save(_head(), case / f"VSD.Brain.XX.O.{word}" / f"VSD.Brain.XX.O.{word}.nii")
    message = f"{case}: no ground truth; validation and testing data have none, give the training data"
    return lambda: _raise(find_volumes, tmp_path, "isles15", "t2"), message


def _two_runs(tmp_path: Path) -> Case:
    folder = tmp_path / "sub-CC110033" / "anat"
    for run in ("01", "02"):
        path = _save(_head(), folder / f"sub-CC110033_ses-1_run-{run}_T1w.nii.gz")
    first = "sub-CC110033_ses-1_run-01_T1w.nii.gz"
    message = f"{path}: a second t1 volume of sub-CC110033, the first is {first}; keep one run of one session a subject"
    return lambda: _raise(find_volumes, tmp_path, "camcan", "t1"), message


def _same_volunteer_twice(tmp_path: Path) -> Case:
    for site in ("Guys-0828", "HH-1300"):
        path = _save(_head(), tmp_path / f"IXI002-{site}-T1.nii.gz")
    message = (
        f"{path}: a second t1 volume of IXI002, the first is IXI002-Guys-0828-T1.nii.gz; "
        "keep one run of one session a subject"
    )
    return lambda: _raise(find_volumes, tmp_path, "ixi", "t1"), message


def _time_series(tmp_path: Path) -> Case:
    path = _save(_head(values=np.ones((4, 4, 4, 2), np.float32)), tmp_path / "x.nii.gz")
    message = f"{path}: a NIfTI of shape (4, 4, 4, 2); one 3-D volume a file is expected"
    return lambda: read_nifti(path, canonical=True), message


def _empty_volume_file(tmp_path: Path) -> Case:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(b"")
    return lambda: read_nifti(path, canonical=True), (
        f"{path}: 0 bytes; the download was interrupted, fetch the file again"
    )


# ---- chest films --------------------------------------------------------------------------------------------------


def _too_many_bits(tmp_path: Path) -> Case:
    path = _film(tmp_path / "x.dicom", _ramp() + 1000, bits=12)
    message = f"{path}: values up to 4837, but BitsStored 12 allows 4095; correct the header or fetch the file again"
    return lambda: read_dicom(path), message


def _several_frames(tmp_path: Path) -> Case:
    path = _film(tmp_path / "x.dicom", np.stack([_ramp()] * 3), NumberOfFrames=3)
    return lambda: read_dicom(path), f"{path}: a DICOM of 3 frames; one grey film a file is expected"


def _colour_film(tmp_path: Path) -> Case:
    path = _film(tmp_path / "x.dicom", np.stack([_ramp()] * 3), SamplesPerPixel=3, PhotometricInterpretation="RGB")
    message = f"{path}: a colour DICOM (RGB, 3 samples a pixel); one grey film a file is expected"
    return lambda: read_dicom(path), message


def _no_pixels(tmp_path: Path) -> Case:
    import pydicom

    path = _film(tmp_path / "x.dicom", _ramp())
    header = pydicom.dcmread(path)
    del header.PixelData
    header.save_as(path)
    message = f"{path}: a DICOM header without PixelData; the download was interrupted, fetch the file again"
    return lambda: read_dicom(path), message


def _login_page(tmp_path: Path) -> Case:
    path = tmp_path / "x.dicom"
    path.write_text("\n<!DOCTYPE html><html><body>please log in</body></html>")
    message = f"{path}: an HTML page; the download expired or needs a login, fetch the file again"
    return lambda: read_dicom(path), message


def _box_outside(tmp_path: Path) -> Case:
    path = _film(tmp_path / "x.dicom", _ramp())
    record = Record("x", str(path), boxes=((2.0, 2.0, 9.0, 9.0), (40.0, 1.0, 60.0, 20.0)))
    message = f"{path}: box [40.0, 1.0, 60.0, 20.0] lies outside the film of 32 x 40; give boxes in pixels of this film"
    return lambda: prepare_film(record, size=(16, 16)), message


def _constant_film(tmp_path: Path) -> Case:
    path = _film(tmp_path / "x.dicom", np.full((40, 32), 7))
    return lambda: prepare_film(Record("x", str(path)), size=(16, 16)), (
        f"{path}: all pixels are equal; fetch the file again"
    )


def _deep_colour(tmp_path: Path) -> Case:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(8 * 6) for _ in range(8)))
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    path = tmp_path / "train" / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "test" / "b.png")
    (tmp_path / "train.txt").write_text("1 a.png negative rsna\n")
    (tmp_path / "test.txt").write_text("2 b.png positive rsna\n")
    data = CovidX(root=str(tmp_path), cache_dir=str(tmp_path / "c"), image_size=8)
    return data.setup, f"{path}: a 16-bit PNG with colour or alpha; save it as 16-bit TIFF or grey PNG"


# ---- colonoscopy --------------------------------------------------------------------------------------------------


def _kvasir(tmp_path: Path) -> Path:
    shutil.copytree(_phantom("hyper_kvasir", tmp_path), tmp_path / "hk")
    return tmp_path / "hk"


def _phantom(name: str, tmp_path: Path) -> Path:
    root = tmp_path.parent / f"phantom-{name}"
    phantoms.write(name, root)
    return root


def _orphaned_outline(tmp_path: Path) -> Case:
    root = _kvasir(tmp_path)
    image = sorted((root / "segmented-images" / "images").iterdir())[0]
    image.unlink()
    message = (
        f"{root}/segmented-images/masks/{image.name}: no image {image.name} in {image.parent}; "
        "unpack segmented-images again"
    )
    return HyperKvasir(root=str(root), cache_dir=str(tmp_path / "c"), image_size=32).setup, message


def _black_outline(tmp_path: Path) -> Case:
    Image.fromarray(np.full((20, 24, 3), 90, np.uint8)).save(tmp_path / "i.jpg")
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(tmp_path / "m.jpg")
    record = Record("i", str(tmp_path / "i.jpg"), mask=str(tmp_path / "m.jpg"))
    message = f"{tmp_path}/m.jpg: an empty mask; remove it with its image, or move the image to the normal ones"
    return lambda: prepare_frame(record, size=(16, 16), crop="none", imagenet=False), message


def _turned_outline(tmp_path: Path) -> Case:
    exif = Image.Exif()
    exif[0x0112] = 6  # the frame is shown turned by 90 degrees, its outline was drawn on the stored one
    Image.fromarray(np.full((20, 24, 3), 90, np.uint8)).save(tmp_path / "i.jpg", exif=exif)
    Image.fromarray(np.full((20, 24, 3), 255, np.uint8)).save(tmp_path / "m.jpg")
    record = Record("i", str(tmp_path / "i.jpg"), mask=str(tmp_path / "m.jpg"))
    message = f"{tmp_path}/m.jpg: a mask of 20x24, its image {tmp_path}/i.jpg is 24x20; give matching files"
    return lambda: prepare_frame(record, size=(16, 16), crop="none", imagenet=False), message


# ---- roots --------------------------------------------------------------------------------------------------------


def _root(make: Any, root: Path, expected: str) -> Case:
    return make(root=str(root), cache_dir=str(root.parent / "cache")).setup, expected


def _covidx_too_high(tmp_path: Path) -> Case:
    root = _phantom("covidx", tmp_path)
    (tmp_path / "zip").mkdir()
    shutil.copytree(root, tmp_path / "zip" / "covidx" / "covidx")
    found = tmp_path / "zip" / "covidx" / "covidx"
    message = f"{tmp_path}/zip: no train.txt of COVIDx there; found {found}/train.txt: pass {found}"
    return _root(CovidX, tmp_path / "zip", message)


def _vindr_too_low(tmp_path: Path) -> Case:
    (tmp_path / "v" / "annotations").mkdir(parents=True)
    (tmp_path / "v" / "train").mkdir()
    message = (
        f"{tmp_path}/v/train: no annotations of VinDr-CXR there; found {tmp_path}/v/annotations: pass {tmp_path}/v"
    )
    return _root(VinDrCXR, tmp_path / "v" / "train", message)


def _empty_root(tmp_path: Path) -> Case:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    message = (
        f"{tmp_path}/a/b/c: no labeled-images of Hyper-Kvasir there (found nothing); "
        "give the folder that holds labeled-images"
    )
    return _root(HyperKvasir, tmp_path / "a" / "b" / "c", message)


def _brain_root_without_patients(tmp_path: Path) -> Case:
    for name in ("T1w", "T2w"):
        _save(_head(), tmp_path / "b" / "100206" / "T1w" / f"{name}_acpc_dc_restore_brain.nii.gz")
    message = (
        f"{tmp_path}/b: no t1 volume of brats20 below it, 2 other volumes are there, such as "
        "100206/T1w/T1w_acpc_dc_restore_brain.nii.gz; they look like hcp; `zoo data list` shows the official trees"
    )
    return _root(BrainMRI, tmp_path / "b", message)


CASES = [
    *(
        _no_orientation,
        _unstripped,
        _skull_file,
        _absent_sequence,
        _two_shapes,
        _two_directions,
        _two_places,
        _truth_elsewhere,
        _not_numbers,
        _constant,
    ),
    *(_label_of_another_year, _empty_truth, _other_grid, _validation_case, _absent_modality, _isles_without_truth),
    *(_two_runs, _same_volunteer_twice, _time_series, _empty_volume_file),
    *(_too_many_bits, _several_frames, _colour_film, _no_pixels, _login_page, _box_outside, _constant_film),
    *(_deep_colour, _orphaned_outline, _black_outline, _turned_outline),
    *(_covidx_too_high, _vindr_too_low, _empty_root, _brain_root_without_patients),
]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__.strip("_"))
def test_the_message_says_what_is_wrong(make: Callable[[Path], Case], tmp_path: Path) -> None:
    call, expected = make(tmp_path)
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value) == expected


# ---- what is mended instead of refused -----------------------------------------------------------------------------


def test_negative_voxels_belong_to_the_brain(tmp_path: Path) -> None:
    values = np.asarray(_head().dataobj).copy()
    values[10:14, 14, 10] = -0.5
    path = _save(_head(values=values), tmp_path / "x.nii.gz")
    prepared = prepare_slices(Record("x", str(path)), size=(60, 60), unstripped="refuse")
    whole = prepare_slices(Record("x", str(_save(_head(), path))), size=(60, 60), unstripped="refuse")
    assert prepared.foreground is not None
    assert whole.foreground is not None
    assert prepared.foreground.sum() >= 0.99 * whole.foreground.sum()


def test_a_slice_less_changes_nothing_else(tmp_path: Path) -> None:
    spec_shape = (58, 58, 39)
    values = np.zeros(spec_shape, np.float32)
    values[15:43, 12:46, 6:36] = np.random.default_rng(0).uniform(50, 99, (28, 34, 30))
    prepared = []
    for shape in (spec_shape, (58, 58, 38)):  # a quarter of ISLES' 154 and 153 slices
        image = nib.Nifti1Image(values[:, :, : shape[2]], np.diag([-4.0, 4, 4, 1]))
        record = Record("x", str(_save(image, tmp_path / "x.nii")))
        prepared.append(prepare_slices(record, size=(64, 64), unstripped="refuse").image)
    assert prepared[0].shape == (80, 1, 64, 64)
    np.testing.assert_array_equal(prepared[0], prepared[1])


def test_the_year_2023_and_both_file_endings_are_read(tmp_path: Path) -> None:
    path, seg = _segmented(tmp_path, 3)
    truth = read_volume(Record("x", str(path), subject="brats23:one", mask=str(seg)))[2]
    assert truth is not None
    assert truth.max() == 3
    for folder, ending in (("HGG", ".nii"), ("", ".nii.gz")):  # the level of grades may be missing
        case = tmp_path / "b" / folder / f"Brats17_TCIA_{len(ending)}_1"
        for name in ("t1", "t2", "seg"):
            _save(_head(), case / f"{case.name}_{name}{ending}")
    problems: list[BadFile] = []
    assert len(list(find_volumes(tmp_path / "b", "brats17", "t2", problems))) == 2
    assert not problems


def test_a_volume_of_another_name_in_its_folder_is_found(tmp_path: Path) -> None:
    for word in ("MR_T1.1", "MR_T2.2", "OT.5"):
        _save(_head(), tmp_path / "01" / f"VSD.Brain.XX.O.{word}" / "renamed.nii")
    (record,) = find_volumes(tmp_path, "isles15", "t2", [])
    assert record.image.endswith("MR_T2.2/renamed.nii")


@pytest.mark.parametrize("ending", [".NII.GZ", ".NII"])
def test_endings_in_upper_case_are_read(ending: str, tmp_path: Path) -> None:
    names = {
        "hcp": "100206/T1w/T1w_acpc_dc_restore_brain",
        "ixi": "IXI002-Guys-0828-T1",
        "camcan": "sub-CC110033/anat/sub-CC110033_T1w",
        "mood_brain": "brain_train/00000",
    }
    for name, stem in names.items():
        plain = _save(_head(), tmp_path / name / f"{stem}{ending.lower()}")
        path = plain.rename(plain.with_name(plain.name.removesuffix(ending.lower()) + ending))
        (record,) = find_volumes(tmp_path / name, name, "t1", [])  # type: ignore[arg-type]
        assert record.image == str(path)
        assert read_volume(record)[0].shape == _head().shape


def test_sequences_of_a_volunteer_in_different_frames_show_the_same_anatomy(tmp_path: Path) -> None:
    """IXI stores T1 sagittal and T2 axial, each with an origin of its own; only the headers relate them."""
    shape, step = np.array([100, 120, 85]), 2.0
    grid = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * step for n in shape], indexing="ij"), -1)
    brain = ((grid / [66, 84, 62]) ** 2).sum(-1) < 1
    spot = ((grid - [-30, 40, 10]) ** 2).sum(-1) < 14**2  # left, in front
    values = np.where(brain, np.where(spot, 300.0, 100.0 + grid[..., 1] / 9), 0).astype(np.float32)
    axial = nib.Nifti1Image(
        values[::-1, ::-1], np.array([[-2.0, 0, 0, 80], [0, -2, 0, 90], [0, 0, 2, -60], [0, 0, 0, 1]])
    )
    sagittal = nib.Nifti1Image(
        values[:, ::-1].transpose(1, 2, 0), np.array([[0, 0, 2.0, -99], [-2, 0, 0, 119], [0, 2, 0, -84], [0, 0, 0, 1]])
    )
    shown = []
    for number, image in enumerate((axial, sagittal)):
        path = _save(image, tmp_path / f"{number}.nii.gz")
        shown.append(prepare_slices(Record("x", str(path)), size=(64, 64), unstripped="refuse").image[:, 0])
    np.testing.assert_allclose(shown[0], shown[1], atol=1e-5)
    one = shown[0][45]
    bright = np.argwhere(one > 0.97 * one.max()).mean(0)
    inside = np.argwhere(one > 0).mean(0)
    assert np.hypot(*(bright - inside)) > 8


def test_bids_entities_are_no_subjects(tmp_path: Path) -> None:
    for subject in ("sub-CC110033", "sub-CC110037"):
        _save(_head(), tmp_path / subject / "ses-1" / "anat" / f"{subject}_ses-1_run-01_T2w.nii.gz")
    records = list(find_volumes(tmp_path, "camcan", "t2", []))
    assert [record.subject for record in records] == ["camcan:sub-CC110033", "camcan:sub-CC110037"]


def test_unequal_pixel_spacing_follows_the_film(tmp_path: Path) -> None:
    path = _film(tmp_path / "x.dicom", _ramp(), PixelSpacing=[0.2, 0.1])
    prepared = prepare_film(Record("x", str(path)), size=(20, 8))
    np.testing.assert_allclose(prepared.spacing, (0.4, 0.4))


def test_boxes_beyond_the_film_are_cut_and_counted(tmp_path: Path) -> None:
    path = _film(tmp_path / "x.dicom", _ramp())
    record = Record("train/x.dicom", str(path), boxes=((-4.0, 10.0, 16.0, 60.0), (0.0, 0.0, 32.5, 40.5)))
    mask = prepare_film(record, size=(40, 32)).mask
    assert mask is not None
    assert mask.shape == (1, 40, 32)
    assert overhang_notes([record]) == ["1 boxes reach beyond their film and are cut there, first train/x.dicom"]


def test_both_spellings_of_other_diseases_have_no_box(tmp_path: Path) -> None:
    rows = ["image_id,class_name,x_min,y_min,x_max,y_max", "a,Other diseases,,,,", "b,Other disease,,,,"]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    assert read_boxes(tmp_path / "a.csv") == ({"a": (), "b": ()}, [])


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_frames_of_other_colour_kinds_become_rgb(tmp_path: Path, mode: str) -> None:
    frame = np.random.default_rng(0).integers(60, 200, (20, 24, 3), np.uint8)
    Image.fromarray(frame).convert(mode).save(tmp_path / "i.jpg")
    prepared = prepare_frame(Record("i", str(tmp_path / "i.jpg")), size=(16, 16), crop="none", imagenet=False)
    assert prepared.image.shape == (1, 3, 16, 16)
    assert 0.2 < prepared.image.mean() < 0.8


def test_boxes_and_images_are_paired(tmp_path: Path) -> None:
    root = _kvasir(tmp_path)
    assert box_notes(root) == []
    path = root / "segmented-images" / "bounding-boxes.json"
    boxes = json.loads(path.read_text())
    first = min(boxes)
    boxes["other"] = boxes.pop(first)
    path.write_text(json.dumps(boxes))
    assert box_notes(root) == [
        f"{path}: 1 images are not in it, first {first}",
        f"{path}: 1 entries have no image, first other",
    ]


def test_covidx_check_counts_what_the_lists_do_not_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "c"
    shutil.copytree(_phantom("covidx", tmp_path), root)
    (root / "PHANTOM_DATA.json").unlink()
    lines = (root / "train.txt").read_text().splitlines()
    (root / "train.txt").write_text("\r\n".join([*lines, lines[0]]) + "\r\n")
    shutil.copy(root / "test" / (root / "test.txt").read_text().split()[1], root / "train" / "stray.png")
    assert main(["check", "covidx", "--root", str(root), "--json", "--cache_dir", str(tmp_path / "cache")]) == 0
    notes = json.loads(capsys.readouterr().out)["warnings"]
    assert notes[-3:] == [
        "1 files are in no list",
        "1 lines name a file a second time",
        "no official version has 29 + 16 lines",
    ]


def test_counts_unlike_the_official_ones_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "hk"
    shutil.copytree(_phantom("hyper_kvasir", tmp_path), root)
    (root / "PHANTOM_DATA.json").unlink()
    assert main(["check", "hyper_kvasir", "--root", str(root), "--json", "--cache_dir", str(tmp_path / "cache")]) == 0
    notes = json.loads(capsys.readouterr().out)["warnings"]
    assert "healthy: found 33 of 2,166; partial download? figures are not comparable" in notes
    assert "anomalous: found 12 of 1,000; partial download? figures are not comparable" in notes


def test_covidx_val_list_validates(tmp_path: Path) -> None:
    for split, lines in {
        "train": [f"p{i} t{i}.png negative rsna" for i in range(8)],
        "val": ["v a.png negative rsna", "w b.png positive ricord"],
        "test": ["x x.png negative rsna", "y y.png positive ricord"],
    }.items():
        (tmp_path / "r" / split).mkdir(parents=True)
        (tmp_path / "r" / f"{split}.txt").write_text("\n".join(lines))
        for line in lines:
            picture = np.random.default_rng(len(line)).integers(0, 255, (24, 24), np.uint8)
            picture[0, :4] = np.frombuffer(line[:4].encode(), np.uint8)
            Image.fromarray(picture).save(tmp_path / "r" / split / line.split()[1])
    data = CovidX(root=str(tmp_path / "r"), cache_dir=str(tmp_path / "c"), image_size=24)
    data.setup()
    ids = {split: data.dataset(split).ids for split in ("train", "val", "test")}
    assert ids["val"] == ["val/a.png"]
    assert len(ids["train"]) == 8
    (tmp_path / "r" / "val.txt").write_text("p0 t0.png negative rsna\n")
    expected = re.escape(f"{tmp_path}/r/val.txt:1: t0.png is in train.txt too; use lists of one version")
    with pytest.raises(UserError, match=expected):
        CovidX(root=str(tmp_path / "r"), cache_dir=str(tmp_path / "c"), image_size=24).setup()
