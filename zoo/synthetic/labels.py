"""Labels: how anomalous a changed pixel is, in [0, 1]."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]


def anomaly_label(altered: Array, original: Array, mask: Array, sigma: float = 0.2) -> Array:
    """Flipped Gaussian of the change, closed and with holes filled (Baugh et al., section 2.3).

    ``1 - exp(-d² / (2 sigma²))`` with ``d`` the mean absolute change over channels, then per connected component of the
    mask a grey closing and a grey-scale hole filling, both inside the component's bounding box only.

    Args:
        altered: ``(C, *S)``; numpy, or torch (computed on the CPU and returned to its device).
        original: ``(C, *S)``.
        mask: ``(*S)`` bool.
        sigma: change that gives 0.39.

    Returns:
        ``(*S)`` in [0, 1), of the images' type; 0 away from the mask.

    Raises:
        ValueError: shapes that differ, or values that are not finite.
    """
    if not isinstance(altered, np.ndarray):
        import torch

        arrays = (part.detach().cpu().numpy() for part in (altered, original, mask))
        return torch.from_numpy(anomaly_label(*arrays, sigma)).to(altered.device)  # type: ignore[attr-defined]
    if altered.shape != original.shape or altered.shape[1:] != mask.shape:
        raise ValueError(f"shapes differ: {altered.shape}, {original.shape}, mask {mask.shape}")
    components, _ = ndimage.label(mask)
    label = np.zeros(mask.shape, altered.dtype)
    boxes = [box for box in ndimage.find_objects(components) if box is not None]
    for box in boxes:
        change = np.abs(altered[(slice(None), *box)] - original[(slice(None), *box)]).mean(0) * mask[box]
        label[box] = -np.expm1(-(change**2) / (2 * sigma**2))
    if not np.isfinite(label).all():
        raise ValueError("the altered image is not finite inside the mask")
    for box in boxes:  # in order: boxes may overlap, later ones see earlier results
        label[box] = fill_holes(close(label[box]))
    return label


def close(values: Array) -> Array:
    """Grey closing with the neighbourhood of connectivity 2."""
    return ndimage.grey_closing(values, footprint=ndimage.generate_binary_structure(values.ndim, 2))


def fill_holes(values: Array) -> Array:
    """Raise grey-scale holes that do not touch the border."""
    from skimage.morphology import reconstruction

    seed = np.full_like(values, values.max())
    for axis in range(values.ndim):
        for end in (0, -1):
            face = [slice(None)] * values.ndim
            face[axis] = end  # type: ignore[call-overload]
            seed[tuple(face)] = values[tuple(face)]
    footprint = ndimage.generate_binary_structure(values.ndim, 2)
    return reconstruction(seed, values, method="erosion", footprint=footprint).astype(values.dtype)


def logistic_label(altered: Array, original: Array, mask: Array, scale: float, shift: float) -> Array:
    """Logistic of the change (NSA, Schlüter et al., ECCV 2022): ``1 / (1 + exp(-scale (d - shift)))`` inside the mask.

    Args:
        altered: ``(C, *S)``.
        original: ``(C, *S)``.
        mask: ``(*S)`` bool.
        scale: slope.
        shift: change that gives 0.5.

    Returns:
        array: ``(*S)``; 0 where nothing changed.
    """
    change = np.abs(altered - original).mean(0)
    return np.where(mask & (change > 0), 1 / (1 + np.exp(-scale * (change - shift))), 0).astype(altered.dtype)
