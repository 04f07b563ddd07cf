"""Volumes of brains: read, refused where they cannot be used, and prepared as slices or as volumes."""

from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.brain import sources
from datamodules.brain.stripping import brain_of
from datamodules.cache import Prepared
from datamodules.preprocessing import (
    ATLAS_SHAPE,
    ATLAS_SLICES,
    at_one_millimetre,
    atlas_grid,
    brain_box,
    fae_equalise,
    fae_labels,
    fae_slices,
    moving,
    multi_task_brain,
    pad_evenly,
    refuse_apart,
    scaling,
    simple_brain,
    to_atlas_grid,
)
from datamodules.reading import Array, BadFile, read_nifti, volume_geometry
from datamodules.records import Record
from datamodules.registry import DataSet
from zoo.metrics.cradl import cradl_region, to_original_grid

MODEL_GRID = (80, 112, 80)
SLAB = ATLAS_SLICES[1] - ATLAS_SLICES[0]
MAX_BRAIN_SHARE = 0.45
Unstripped = Literal["refuse", "strip", "hd-bet"]


def read_volume(record: Record, unstripped: Unstripped = "refuse") -> tuple[Array, Array, Array | None]:
    """Volume, affine and segmentation in canonical axes.

    Raises:
        BadFile: not decodable, constant, a head with skull (unless it is to be stripped), or a segmentation on another
            grid (unless the source's outlines are drawn on another sequence).
    """
    volume, affine = read_nifti(record.image, canonical=True)
    if volume.min() == volume.max():
        raise BadFile(record.image, "a constant volume", "fetch it again")
    share = float((volume != 0).mean())
    if share > MAX_BRAIN_SHARE and unstripped == "strip":
        volume = np.where(simple_brain(volume, np.linalg.norm(affine[:3, :3], axis=0)), volume, 0)
    elif share > MAX_BRAIN_SHARE and unstripped == "hd-bet":
        volume = np.where(brain_of(record.image, volume, affine), volume, 0)
    elif share > MAX_BRAIN_SHARE:
        found = f"{share:.0%} of the voxels are not 0, a brain takes about 20 %: looks unstripped"
        raise BadFile(record.image, found, "give the skull-stripped volume, or set unstripped: strip or hd-bet")
    if record.mask is None:
        return volume, affine, None
    truth, other = read_nifti(record.mask, canonical=True)
    source = sources("ill").get(record.subject.partition(":")[0])
    if source is not None and source.more.get("resampled", False):
        _check_labels(record, np.rint(truth).astype(np.int16), source)
        return volume, affine, _brought_to(np.rint(truth).astype(np.int16), other, volume.shape, affine)
    if truth.shape != volume.shape:
        found = f"grid {truth.shape}, its image has {volume.shape}"
        raise BadFile(record.mask, found, "give the segmentation of this volume")
    refuse_apart(record.mask, other, affine, volume.shape, "its image")
    labels = np.rint(truth).astype(np.int16)
    _check_labels(record, labels, source)
    return volume, affine, labels


def _check_labels(record: Record, truth: Array, source: DataSet | None) -> None:
    known = () if source is None else source.more["labels"]
    odd = sorted(set(np.unique(truth).tolist()) - set(known))
    if source is not None and odd:
        found = f"label {odd[0]}, {source.name} has {', '.join(map(str, known))}"
        raise BadFile(record.mask or "", found, "give the files of that year")
    if not truth.any() and not (source is not None and source.more.get("lesion_free", False)):
        raise BadFile(record.mask or "", "an empty ground truth", "fetch the case again or remove it")


def _brought_to(truth: Array, own: Array, shape: tuple[int, ...], affine: Array) -> Array:
    """Labels on another grid of the same scanner's millimetres, each voxel that of the nearest one."""
    from scipy.ndimage import affine_transform

    there = np.linalg.inv(own) @ affine
    return np.asarray(affine_transform(truth, there[:3, :3], there[:3, 3], shape, order=0))


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
    slab = (*ATLAS_SHAPE[:2], ATLAS_SLICES[1] - ATLAS_SLICES[0])
    grid = atlas_grid(volume.shape, affine, brain) @ scaling(slab, (*target, slab[2]))
    to_file = _stored_axes(record, affine) @ grid @ moving((0, 0, -ATLAS_SLICES[0])) @ _LAST_FIRST
    return Prepared(images[:, None], mask, images > 0, labels, tuple(range(*ATLAS_SLICES)), spacing, to_file)


# (slice, row, column) to (row, column, slice), the order of x, y, z in the slices of the feature autoencoder
_LAST_FIRST = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def _stored_axes(record: Record, canonical: Array) -> Array:
    """From voxels in canonical axes to those of the file: ``(4, 4)``."""
    _, stored = volume_geometry(record.image)
    return np.asarray(np.rint(np.linalg.inv(stored) @ canonical))


def prepare_slab(record: Record, *, size: tuple[int, ...], unstripped: Unstripped) -> Prepared:
    """The slices of :func:`prepare_slices` as one volume.

    Args:
        record: volume and segmentation.
        size: ``(80, H, W)``.
        unstripped: what to do with heads.

    Raises:
        BadFile: see :func:`prepare_slices`.
    """
    slices = prepare_slices(record, size=size[1:], unstripped=unstripped)
    assert slices.foreground is not None
    mask = None if slices.mask is None else slices.mask[None]
    label = None if mask is None else (int(mask.any()),)
    image = np.moveaxis(slices.image, 1, 0)[None]
    assert slices.to_file is not None
    to_file = slices.to_file @ moving((ATLAS_SLICES[0], 0, 0))
    return Prepared(image, mask, slices.foreground.reshape(1, *size), label, None, (1.0, *slices.spacing), to_file)


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

    sequences, truth, spacing, to_file = _in_paper_axes(record, unstripped)
    low, labels, halved = multi_task_brain(sequences, truth, spacing)
    image = pad_evenly(low[0], MODEL_GRID)
    cut = [had - side for had, side in zip(low[0].shape, MODEL_GRID, strict=True)]
    padded = moving([more // 2 if more > 0 else -(-more // 2) for more in cut])
    to_file = to_file @ halved @ padded @ scaling(MODEL_GRID, size)
    mask = None if labels is None else pad_evenly(labels, MODEL_GRID) != 0
    image, mask = _to_size(image, mask, size)
    foreground = binary_fill_holes(image != 0)
    grid = tuple(2.0 * full / side for full, side in zip(MODEL_GRID, size, strict=True))
    label = None if mask is None else (int(mask.any()),)
    planes = None if mask is None else mask[None]
    return Prepared(image.astype(np.float32)[None, None], planes, foreground[None], label, None, grid, to_file)


def in_cradl_region(record: Record, anomaly_map: Array, unstripped: Unstripped) -> tuple[Array, Array]:
    """A map of :func:`prepare_volume`'s volume and the ground truth, in the slices in which CRADL was evaluated.

    Args:
        record: volume of a source whose card says how CRADL cuts it.
        anomaly_map: ``(D, H, W)``.
        unstripped: as the volume was prepared.

    Returns:
        tuple: ``(n, 128, 128)`` float and bool.

    Raises:
        BadFile: a file has changed since.
    """
    from skimage.transform import resize

    sequences, truth, spacing, _ = _in_paper_axes(record, unstripped)
    sequences, truth = at_one_millimetre(sequences.astype(np.float64), truth, spacing)
    if truth is None:
        raise BadFile(record.image, "no ground truth", "CRADL's region is that of outlined cases")
    box = brain_box(sequences)
    full = tuple(place.stop - place.start for place in box)
    low = tuple((side + 1) // 2 for side in full)
    if anomaly_map.shape != MODEL_GRID:
        anomaly_map = resize(anomaly_map, MODEL_GRID, order=1)
    bounds = [(place.start, place.stop) for place in box]
    grid = to_original_grid(
        pad_evenly(anomaly_map, low), "turned", original=truth.shape, box=bounds, full=full, low=low
    )
    layout = sources("ill")[record.subject.partition(":")[0]].more["cradl"]
    outlined = truth != 0
    if layout == "padded":  # stored, and cut by CRADL, with y to the back
        grid, outlined = grid[:, ::-1], outlined[:, ::-1]
    return cradl_region(grid, layout), cradl_region(outlined, layout)


def _in_paper_axes(record: Record, unstripped: Unstripped) -> tuple[Array, Array | None, float, Array]:
    """Sequences ``(M, z, y, x)``, x to the left, labels on the same grid, mm per voxel, and the way to the file's."""
    volume, affine, truth = read_volume(record, unstripped)
    volumes = [volume]
    for path in record.companions:
        other, frame = read_nifti(path, canonical=True)
        if other.shape != volume.shape:
            raise BadFile(path, f"grid {other.shape}, {Path(record.image).name} has {volume.shape}", "fetch both again")
        if not np.allclose(frame[:3, :3], affine[:3, :3], atol=1e-2):
            found = f"another voxel size or direction than {Path(record.image).name}"
            raise BadFile(path, found, "give both sequences on one grid")
        refuse_apart(path, frame, affine, volume.shape, Path(record.image).name)
        volumes.append(other)
    to_zyx = (2, 1, 0)
    sequences = np.stack([one[::-1].transpose(to_zyx) for one in volumes])  # canonical x points right, the paper's left
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    stored = sequences.shape[1:]
    if np.ptp(spacing) > 0.01 * spacing.mean():
        sequences, truth = _isotropic(sequences, truth, spacing)
    elif truth is not None:
        truth = truth[::-1].transpose(to_zyx)
    to_right = np.array([[0.0, 0, -1, volume.shape[0] - 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    to_file = _stored_axes(record, affine) @ to_right @ scaling(stored, sequences.shape[1:])
    return sequences, truth, float(spacing.min()), to_file


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
