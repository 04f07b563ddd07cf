"""Maps go back into the file: what a data set crops, turns, resamples and pads has an inverse."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datamodules import Folder
from datamodules.brain.preparing import prepare_slices, prepare_volume
from datamodules.folder import prepare_file
from datamodules.records import Record
from zoo.decision.nifti import on_grid

TURNS = [
    np.diag([1.0, 1, 1]),
    np.diag([-1.0, -1, 1]),
    np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]]),
    np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]),
]


def head(folder: Path, turn: np.ndarray, spacing: tuple[float, ...], shape: tuple[int, ...]):
    """A brain with a lesion, both as files of one grid, and the lesion."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    middle, radius = np.array(shape) / 2, np.array(shape) * 0.33
    brain = (((places - middle) / radius) ** 2).sum(-1) < 1
    lesion = ((((places - middle) * spacing) - [9, -12, 6]) ** 2).sum(-1) < 15**2
    values = np.where(brain, 100 + places @ [1.0, 2, 3] / 5, 0).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = [-70, -80, -60]
    for name, array in (("image", values), ("truth", (lesion & brain).astype(np.float32))):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    files = str(folder / "image.nii.gz"), str(folder / "truth.nii.gz")
    return Record("x", files[0], mask=files[1]), lesion & brain


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def centre(weights: np.ndarray) -> np.ndarray:
    return np.array([(weights * axis).sum() / weights.sum() for axis in np.indices(weights.shape)])


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    ("spacing", "shape"), [((2.0, 2.0, 2.0), (70, 84, 60)), ((1.6, 2.0, 3.0), (90, 80, 44))], ids=("even", "uneven")
)
@pytest.mark.parametrize("mode", ["slices", "volumes"])
def test_lesions_come_back_to_where_they_were(tmp_path, turn, spacing, shape, mode):
    record, lesion = head(tmp_path, turn, spacing, shape)
    if mode == "slices":
        found = prepare_slices(record, size=(120, 120), unstripped="refuse")
        start = np.eye(4)
        start[0, 3] = found.slices[0]
        mask, to_file, of_mask = found.mask, found.to_file @ start, 0.35  # the slab may cut the lesion
    else:
        found = prepare_volume(record, size=(80, 112, 80), unstripped="refuse")
        mask, to_file, of_mask = found.mask[0], found.to_file, 0.51  # labels are resampled to the nearest voxel
        inside = on_grid(found.foreground[0].astype(np.float32), to_file, lesion.shape)
        assert np.abs(centre(inside) - centre(np.asarray(nib.load(record.image).dataobj) > 0)).max() < 0.1
    back = on_grid(mask.astype(np.float32), to_file, lesion.shape)
    assert np.abs(centre(back) - centre(lesion)).max() < of_mask  # voxels
    assert overlap(back > 0.5, lesion) > 0.8


def test_atlas_slices_are_only_cut(tmp_path):
    values = np.zeros((240, 240, 155), np.float32)
    values[60:180, 60:180, 30:140] = 50
    values[100:120, 130:150, 80:90] = 90
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    found = prepare_slices(Record("a", str(tmp_path / "a.nii.gz")), size=(240, 240), unstripped="refuse")
    assert (found.to_file == [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]).all()
    start = np.eye(4)
    start[0, 3] = found.slices[0]
    back = on_grid(found.image[:, 0], found.to_file @ start, values.shape, outside=-1.0)
    assert (back[..., :55] == -1).all()
    assert (back[..., 135:] == -1).all()
    assert ((back > 0) == (values > 0))[..., 55:135].all()


def test_folder_volumes_and_batches(tmp_path):
    rng = np.random.default_rng(0)
    volume = rng.random((12, 10, 5)).astype(np.float32)
    for number in range(4):
        path = tmp_path / "train" / "normal" / f"{number}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1, 2, 1])), path)
    found = prepare_file(Record("0", str(path)), size=(12, 10), channels=1, bounds=(0.0, 1.0))
    assert np.allclose(on_grid(found.image[:, 0], found.to_file, volume.shape), volume)
    data = Folder(root=str(tmp_path), image_size=(12, 10), cache_dir=str(tmp_path / "cache"), batch_size=3)
    data.predict_input = str(path)
    batch = next(iter(data.predict_dataloader()))
    assert batch["to_file"].shape == (3, 4, 4)
    assert (batch["to_file"][0].numpy() == found.to_file).all()
    assert "to_file" not in next(iter(data.train_dataloader()))
