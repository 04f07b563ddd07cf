"""The preprocessing of each paper as one named function, and the steps that they share."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from datamodules.listing import DICOM, NUMPY, VOLUMES, kind
from datamodules.reading import (
    Array,
    BadFile,
    Bounds,
    Decoded,
    Dicom,
    Volume,
    read_array_file,
    read_film,
    read_mask_file,
    read_picture_file,
    read_volume_file,
)


def resize_image(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of ``(H, W, C)``, low-pass filtered where it shrinks; float32, range kept."""
    from PIL import Image

    if image.shape[:2] == tuple(size):
        return image.astype(np.float32)
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(image, -1, 0)]
    target = (size[1], size[0])
    return np.stack([np.asarray(plane.resize(target, Image.Resampling.BILINEAR)) for plane in planes], -1)


def resize_mask(mask: Array, size: tuple[int, int]) -> Array:
    """Resize ``(H, W)`` bool: a pixel belongs to the mask when at least half of it is covered."""
    if mask.shape == tuple(size):
        return mask
    return resize_image(mask[..., None].astype(np.float32), size)[..., 0] >= 0.5


def to_unit(values: Array, bounds: tuple[float, float] | None = None) -> Array:
    """Scale to [0, 1] float32.

    Args:
        values: any shape.
        bounds: values that become 0 and 1; None: 0 and the type's maximum for 8- and 16-bit integers, the array's own
            minimum and maximum otherwise.
    """
    if bounds is not None:
        low, high = bounds
    elif values.dtype in (np.uint8, np.uint16):
        low, high = 0.0, float(np.iinfo(values.dtype).max)
    else:
        low, high = float(values.min()), float(values.max())
    scaled = (values.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-12))
    unit: Array = np.clip(scaled, 0, 1)
    return unit


def decode_picture(path: str, *, shown_as_stated: bool = True) -> Decoded:
    """One picture from any readable 2-D file.

    Args:
        path: picture, DICOM film or array.
        shown_as_stated: films through their window; False: modality values, such as Hounsfield units.

    Raises:
        BadFile: not decodable, or a volume.
    """
    how = kind(path)
    if how in VOLUMES:
        raise BadFile(path, "a volume", "this data set reads single images")
    if how in DICOM:
        return read_film(path, shown_as_stated=shown_as_stated)
    return read_array_file(path) if how in NUMPY else read_picture_file(path)


def read_picture(path: str, bounds: Bounds | None = None, otherwise: Bounds | None = None) -> Array:
    """One picture from any readable 2-D file, in [0, 1]: ``(H, W, C)`` float32.

    The scale is stated, never taken from the file's own values: ``bounds``; else what the header states (the range of
    8- and 16-bit counts, a film's window, table or stored bits); else ``otherwise``, the data set's scale; else the
    range of the integer type, or [0, 1] for floats.

    Args:
        path: of the file.
        bounds: values that become 0 and 1, as the user states them.
        otherwise: values that become 0 and 1 where neither user nor header states any.

    Raises:
        BadFile: not decodable, a window or range that leaves nothing, or floats without a scale.
    """
    return unit_picture(path, decode_picture(path, shown_as_stated=bounds is None), bounds, otherwise)


def unit_picture(path: str, decoded: Decoded | Volume, bounds: Bounds | None, otherwise: Bounds | None) -> Array:
    """Scale what was decoded to [0, 1] float32; see :func:`read_picture`."""
    values = decoded.values
    if bounds is None:
        bounds = decoded.stated or otherwise or _scale_without_statement(path, values)
    unit = to_unit(values, bounds)
    if unit.min() == unit.max() and values.min() != values.max():
        low, high = float(values.min()), float(values.max())
        found = f"values {low:g} to {high:g}, all outside the range shown, {bounds[0]:g} to {bounds[1]:g}"
        raise BadFile(path, found, f"set --data.intensity_range, for example [{low:g}, {high:g}]")
    return 1 - unit if getattr(decoded, "inverted", False) else unit


def _scale_without_statement(path: str, values: Array) -> Bounds:
    if values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        return float(limits.min), float(limits.max)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        found = f"floats from {low:g} to {high:g}, and nothing states which values are black and white"
        raise BadFile(path, found, f"set --data.intensity_range, for example [{low:g}, {high:g}]")
    return 0.0, 1.0


def match_channels(image: Array, channels: int) -> Array:
    """Grey to RGB by repetition, RGB to grey by ITU-R 601 luma; ``(H, W, C)``."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return image @ np.array([[0.299], [0.587], [0.114]], np.float32)


def read_mask(path: str) -> Array:
    """Ground truth from an image file: ``(H, W)`` bool, see :func:`marked`.

    Raises:
        BadFile: not decodable, or a volume.
    """
    how = kind(path)
    if how in VOLUMES:
        raise BadFile(path, "a volume", "a mask of one picture is expected")
    if how in DICOM:
        return marked(read_film(path, shown_as_stated=False))
    return marked(read_array_file(path) if how in NUMPY else read_mask_file(path))


def marked(mask: Decoded, *, colours: bool = True) -> Array:
    """Which pixels or voxels a mask marks: all that are not background, ``(*S)`` bool.

    Any colour, label or opacity may mark. Background is what is transparent, else black, else the most frequent value;
    a mask of one value that is not black marks everything. Values between black and the brightest count where they are
    labels (at most three of them, or with an area of their own) and are cut at half where they are soft edges. Lossy
    files, which have no exact values, are cut at half of their brightest.

    Args:
        mask: picture or volume.
        colours: the last axis holds channels.
    """
    codes = _codes(mask.values) if colours else mask.values
    level = np.abs(mask.values.astype(np.float32))
    level = level.max(-1) if colours else level
    top = float(level.max())
    if mask.lossy:
        return level > max(top / 2, 16)
    clear = np.zeros(level.shape, bool) if mask.alpha is None else mask.alpha <= mask.alpha.max() / 2
    black = ~clear & (codes == 0)
    found: Array = ~clear & ~black
    kinds, counts = np.unique(codes[found], return_counts=True)
    if clear.any() and not (black.any() and found.any()):
        return ~clear
    if not black.any() and len(kinds) > 1:
        found &= codes != kinds[counts.argmax()]
    whole = codes.dtype.kind != "f" or bool((kinds == np.rint(kinds)).all())
    if len(kinds) <= 3 or (whole and top < 128):
        return found
    return found & ((level > top / 2) | (np.isin(codes, _with_area(codes)) if whole else False))


def _codes(values: Array) -> Array:
    """One number for each colour ``(H, W)``; 0 is black."""
    if values.shape[-1] == 1:
        return values[..., 0]
    red, green, blue = (values[..., channel].astype(np.int64) for channel in range(3))
    return (red << 32) + (green << 16) + blue


def _with_area(codes: Array) -> Array:
    """Values that fill a block of 2 x 2 somewhere, as labels do and soft edges do not."""
    first = codes[:-1, :-1]
    return np.unique(first[(first == codes[1:, :-1]) & (first == codes[:-1, 1:]) & (first == codes[1:, 1:])])


def read_volume_mask(path: str, shape: tuple[int, ...], affine: Array, oriented: bool) -> Array:
    """Ground truth of a volume on the volume's own grid: ``(X, Y, Z)`` bool.

    Axes that are stored in another order or direction are brought to the image's; other grids are refused.

    Args:
        path: of the mask.
        shape: of the image.
        affine: of the image, mm.
        oriented: whether the image's header tells its directions.

    Raises:
        BadFile: not decodable, or not on the image's grid.
    """
    import nibabel as nib

    if kind(path) not in VOLUMES:
        raise BadFile(path, "a picture", "the mask of a volume is a volume")
    mask = read_volume_file(path, canonical=False)
    values, own = mask.values, mask.affine
    if mask.oriented != oriented:
        which = "its image" if mask.oriented else "it"
        raise BadFile(path, f"{which} has no orientation in the header, the other has", "export both the same way")
    if oriented:
        turn = nib.orientations.ornt_transform(nib.io_orientation(own), nib.io_orientation(affine))
        own = own @ nib.orientations.inv_ornt_aff(turn, values.shape)
        values = nib.orientations.apply_orientation(values, turn)
    if values.shape != tuple(shape):
        raise BadFile(path, f"shape {mask.values.shape}, its image has {tuple(shape)}", "give matching files")
    refuse_apart(path, own, affine, shape, "its image")
    return marked(Decoded(values, None), colours=False)


def refuse_apart(path: str, own: Array, affine: Array, shape: tuple[int, ...], whose: str) -> None:
    """Refuse a volume whose voxels lie elsewhere than those of another one of the same shape.

    Args:
        path: of the volume.
        own: its affine, mm.
        affine: of the other one.
        shape: of both.
        whose: the other one, for the message.

    Raises:
        BadFile: a corner is more than half a voxel away.
    """
    corners = np.array(list(product(*((0, side - 1) for side in shape), (1,)))).T
    apart = float(np.abs((own - affine) @ corners).max())
    if apart > 0.5 * float(np.linalg.norm(affine[:3, :3], axis=0).min()):
        found = f"another place or direction than {whose}, {apart:.1f} mm apart"
        raise BadFile(path, found, f"resample it to the grid of {whose}")


def check_mask(image_path: str, image: Array, mask_path: str, mask: Array) -> None:
    """Refuse a mask of another size or without any marked pixel.

    Raises:
        BadFile: see above.
    """
    if mask.shape != image.shape[:2]:
        sizes = ["x".join(map(str, array.shape[:2])) for array in (mask, image)]
        raise BadFile(mask_path, f"a mask of {sizes[0]}, its image {image_path} is {sizes[1]}", "give matching files")
    if not mask.any():
        raise BadFile(mask_path, "an empty mask", "remove it with its image, or move the image to the normal ones")


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON stores them, for cache keys."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}


# ---- brains ---------------------------------------------------------------------------------------------------------

ATLAS_SHAPE = (240, 240, 155)
ATLAS_SLICES = (55, 135)


def equalise(values: Array, mask: Array | None = None, bins: int = 256) -> Array:
    """Histogram equalisation as scikit-image's ``equalize_hist``: every value becomes its cumulative share.

    Args:
        values: any shape, float.
        mask: voxels that make the histogram; None for all.
        bins: of the histogram.

    Returns:
        Array: in (0, 1], same shape, float64.
    """
    counts, edges = np.histogram((values if mask is None else values[mask]).ravel(), bins)
    centres = (edges[:-1] + edges[1:]) / 2
    shares = counts.cumsum() / counts.sum()
    level: Array = np.interp(values.ravel(), centres, shares).reshape(values.shape)
    return level


def scaling(shape: Sequence[int], new: Sequence[int]) -> Array:
    """From indices of a resized array to those before: ``(4, 4)``, centres of the outer edges aligned."""
    ratio = np.array(shape) / np.array(new)
    return moving(0.5 * ratio - 0.5) @ np.diag([*ratio, 1.0])


def moving(by: Sequence[float] | Array) -> Array:
    """From indices to indices that are larger by ``by``: ``(4, 4)``."""
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return matrix


def atlas_grid(shape: tuple[int, ...], affine: Array, brain: Array) -> Array:
    """From indices of the slab of :func:`to_atlas_grid` to voxels of the volume: ``(4, 4)``, axes in the same order.

    Args:
        shape: of the volume.
        affine: of the volume, mm.
        brain: ``(X, Y, Z)`` bool, decides the middle.
    """
    first, spacing = ATLAS_SLICES[0], np.linalg.norm(affine[:3, :3], axis=0)
    if shape == ATLAS_SHAPE and np.allclose(spacing, 1, atol=1e-3):
        return moving((0, 0, first))
    places = np.argwhere(brain)
    middle = (places.min(0) + places.max(0)) / 2 if len(places) else (np.array(shape) - 1) / 2
    target_middle = (np.array(ATLAS_SHAPE) - 1) / 2
    return moving(middle + (np.array([0, 0, first]) - target_middle) / spacing) @ np.diag([*(1 / spacing), 1.0])


def to_atlas_grid(volume: Array, affine: Array, brain: Array, order: int = 1) -> Array:
    """The central 80 mm slab on the 1 mm grid of SRI24, ``(240, 240, 80)``: slices 55 to 134 of 155.

    Volumes that are on that grid already are only cut. Others are resampled by the spacing of their header, the middle
    of the brain's bounding box at the middle of the grid; they are not registered.

    Args:
        volume: ``(X, Y, Z)`` in canonical axes.
        affine: of the volume, mm.
        brain: ``(X, Y, Z)`` bool, decides the middle.
        order: of the spline.
    """
    from scipy.ndimage import affine_transform

    first, last = ATLAS_SLICES
    grid = atlas_grid(volume.shape, affine, brain)
    if (grid == moving((0, 0, first))).all():
        return volume[:, :, first:last]
    shape = (*ATLAS_SHAPE[:2], last - first)
    moved: Array = affine_transform(volume.astype(np.float32), np.diag(grid)[:3], grid[:3, 3], shape, order=order)
    return moved


def fae_slices(volume: Array, size: tuple[int, int]) -> Array:
    """Steps 3 and 4 of the feature autoencoder (Meissen et al., MIDL 2022): centre crop to a square and resize.

    Args:
        volume: ``(X, Y, n)``.
        size: ``(H, W)``.

    Returns:
        Array: ``(n, H, W)`` float32, linear interpolation with anti-aliasing along shrinking axes, range kept.
    """
    from skimage.transform import resize

    slices = np.moveaxis(volume.astype(np.float32), 2, 0)
    short = min(slices.shape[1:])
    box = [slice((side - short) // 2, (side + short) // 2) for side in slices.shape[1:]]
    resized: Array = resize(slices[:, box[0], box[1]], (len(slices), *size), preserve_range=True).astype(np.float32)
    return resized


def fae_equalise(slices: Array) -> Array:
    """Step 6 of the feature autoencoder: equalise the whole slab over its values > 0; background stays 0. float32."""
    brain = slices > 0
    return np.where(brain, equalise(slices, brain), 0).astype(np.float32) if brain.any() else slices


def fae_labels(segmentation: Array, size: tuple[int, int]) -> Array:
    """Label volume ``(X, Y, n)`` like the image, then cut at 0.4: ``(n, H, W)`` bool."""
    return fae_slices(segmentation, size) > 0.4


def simple_brain(volume: Array, spacing: Array) -> Array:
    """A rough brain mask for heads with skull: bright tissue, cut off from the scalp by an opening of 5 mm.

    A stand-in for the tools of the papers (ROBEX, HD-BET); look at the result before you rely on it.

    Args:
        volume: ``(X, Y, Z)``.
        spacing: mm per axis.

    Returns:
        Array: ``(X, Y, Z)`` bool.
    """
    from scipy.ndimage import distance_transform_edt

    tissue = volume > 0.35 * np.percentile(volume[volume > 0.1 * volume.max()], 90)
    core = largest_part(distance_transform_edt(tissue, sampling=spacing) > 5)
    return largest_part((distance_transform_edt(~core, sampling=spacing) < 6) & tissue)


def multi_task_brain(sequences: Array, segmentation: Array | None, spacing: float) -> tuple[Array, Array | None, Array]:
    """Brain preprocessing of the multi-task paper (Baugh et al., MICCAI 2023), before padding.

    Brings the volume to 1 mm, z-scores every sequence over its values > 0, crops to the joint bounding box, halves.

    Args:
        sequences: ``(M, z, y, x)``, x to the left, y to the front, z up; background 0.
        segmentation: ``(z, y, x)`` labels or None.
        spacing: mm per voxel.

    Returns:
        tuple: ``(M, z', y', x')`` float64 at 2 mm, the labels on the same grid, and ``(4, 4)`` from indices of that
        grid to those of the sequences.
    """
    from skimage.transform import resize

    before = sequences.shape[1:]
    sequences, segmentation = at_one_millimetre(sequences.astype(np.float64), segmentation, spacing)
    for sequence in sequences:
        brain = sequence > 0
        if brain.any():
            sequence[brain] = (sequence[brain] - sequence[brain].mean()) / (sequence[brain].std() + 1e-8)
    box = brain_box(sequences)
    odd = [(0, (place.stop - place.start) % 2) for place in box]
    back = scaling(before, sequences.shape[1:]) @ moving([place.start for place in box])
    sequences = np.pad(sequences[(slice(None), *box)], [(0, 0), *odd])
    half = tuple(side // 2 for side in sequences.shape[1:])
    back = back @ scaling(sequences.shape[1:], half)
    low = np.stack([resize(sequence, half, order=1, anti_aliasing=True) for sequence in sequences])
    if segmentation is None:
        return low, None, back
    return low, _nearest(np.pad(segmentation[box], odd), half), back


def at_one_millimetre(sequences: Array, segmentation: Array | None, spacing: float) -> tuple[Array, Array | None]:
    """The first step of :func:`multi_task_brain`, with its arguments."""
    if np.isclose(spacing, 1):
        return sequences, segmentation
    sequences = np.stack([_resize_inside(sequence, spacing) for sequence in sequences])
    return sequences, None if segmentation is None else _nearest(segmentation, sequences.shape[1:])


def brain_box(sequences: Array) -> tuple[slice, slice, slice]:
    """The joint bounding box of what is not 0 in ``(M, z, y, x)``."""
    places = np.argwhere((sequences != 0).any(0))
    z, y, x = (slice(int(low), int(high) + 1) for low, high in zip(places.min(0), places.max(0), strict=True))
    return z, y, x


def _resize_inside(volume: Array, factor: float) -> Array:
    from skimage.transform import resize

    shape = np.array(volume.shape) * factor
    weight = resize((volume > 0).astype(np.float64), shape, order=1, anti_aliasing=factor < 1)
    value = resize(volume, shape, order=1, anti_aliasing=factor < 1)
    return np.where(weight >= 0.5, value / np.maximum(weight, 0.5), 0)


def _nearest(labels: Array, shape: tuple[int, ...]) -> Array:
    from skimage.transform import resize

    resized: Array = resize(labels, shape, order=0, preserve_range=True, anti_aliasing=False).astype(labels.dtype)
    return resized


def pad_evenly(volume: Array, shape: tuple[int, ...]) -> Array:
    """Zero-pad the last axes to ``shape``, an odd voxel at the end; larger axes are cut the same way."""
    for axis, side in zip(range(volume.ndim - len(shape), volume.ndim), shape, strict=True):
        excess = volume.shape[axis] - side
        if excess > 0:
            volume = np.take(volume, range(excess // 2, excess // 2 + side), axis)
        else:
            before = -excess // 2
            widths = [(0, 0)] * volume.ndim
            widths[axis] = (before, -excess - before)
            volume = np.pad(volume, widths)
    return volume


# ---- chest films ----------------------------------------------------------------------------------------------------


def multi_task_film(film: Dicom, size: tuple[int, int] = (256, 256)) -> Array:
    """Film preprocessing of the multi-task paper: 512 first, window, equalise, invert, [-1, 1], then ``size``.

    The header's rescaling is not applied and the aspect ratio not kept, as in the paper.

    Args:
        film: the file.
        size: ``(H, W)``.

    Returns:
        Array: ``(H, W)`` float64 in [-1, 1].
    """
    from skimage.transform import resize

    image: Array = resize(film.pixels.astype(np.float64), (512, 512), order=3, anti_aliasing=True)
    if film.window is not None:
        centre, width = film.window
        image = np.clip(image, centre - width / 2, centre + width / 2)
    image = equalise(image)
    if film.inverted:
        image = image.max() - image
    spread = float(np.ptp(image))
    image = 2 * (image - image.min()) / (spread if spread > 0 else 1.0) - 1
    if tuple(size) != (512, 512):
        image = resize(image, size, order=3, anti_aliasing=True)
    return image


def box_mask(boxes: tuple[tuple[float, ...], ...], file_size: tuple[int, int], size: tuple[int, int]) -> Array:
    """Union of boxes ``(x0, y0, x1, y1)`` in pixels of the file on the grid of ``size``: ``(H, W)`` bool.

    Edges are rounded half to even, the far ones excluded: a thin box can vanish.
    """
    mask = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        columns = [round(x * size[1] / file_size[1]) for x in (x0, x1)]
        rows = [round(y * size[0] / file_size[0]) for y in (y0, y1)]
        mask[max(rows[0], 0) : max(rows[1], 0), max(columns[0], 0) : max(columns[1], 0)] = True
    return mask


def body(film: Array, threshold: float = 0.03) -> Array:
    """Foreground of a film ``(H, W)``: all that is brighter than ``threshold`` of its range, filled, largest part."""
    return largest_part(to_unit(film.astype(np.float32), (float(film.min()), float(film.max()))) > threshold)


def largest_part(mask: Array) -> Array:
    """The largest connected component with its holes filled; everything where the mask is empty."""
    from scipy.ndimage import binary_fill_holes, label

    parts, count = label(mask)
    if count == 0:
        return np.ones_like(mask, bool)
    filled: Array = binary_fill_holes(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]))
    return filled


# ---- endoscopy ------------------------------------------------------------------------------------------------------


def field_of_view(frame: Array, threshold: float = 0.07) -> Array:
    """Foreground of an endoscopic frame ``(H, W, 3)`` in [0, 1]: the largest bright part without the black surround."""
    return largest_part(resize_image(frame.max(-1, keepdims=True), frame.shape[:2])[..., 0] > threshold)


def crop_to_view(frame: Array, view: Array) -> tuple[slice, slice]:
    """Rows and columns of the bounding box of the field of view, all of the frame if the view is tiny."""
    rows, columns = np.flatnonzero(view.any(1)), np.flatnonzero(view.any(0))
    if len(rows) * len(columns) < 0.2 * view.size:
        return slice(0, frame.shape[0]), slice(0, frame.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def ccd_crop(frame: Array, size: tuple[int, int]) -> Array:
    """Fixed crop of CCD (Tian et al., MICCAI 2021): resize to 512, cut 45 to 475, resize to ``size``."""
    return resize_image(resize_image(frame, (512, 512))[45:475, 45:475], size)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_normalise(image: Array) -> Array:
    """Subtract ImageNet's mean, divide by its deviation; ``(..., 3, H, W)`` in [0, 1] to about [-2.1, 2.6]."""
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std
