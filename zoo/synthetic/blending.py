"""Poisson blending (Pérez et al., SIGGRAPH 2003) as an exact solve in a sine basis, in any dimension, batched."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = TypeVar("Image", NDArray[Any], Tensor)


def poisson_blend(
    image: Image, source: Image, mask: Image, corner: Sequence[int], mix_gradients: bool = False
) -> Image:
    """Replace the gradients of a box by those of ``source`` where ``mask`` is set, and integrate them.

    The faces of the box keep the image's values; the interior solves the discrete Poisson equation exactly. Blending an
    image into itself returns it.

    Args:
        image: ``(C, *S)`` or ``(B, C, *S)``, floating; numpy or torch.
        source: ``(C, *b)`` or ``(B, C, *b)``, the size of the box.
        mask: ``(*b)``, or ``(B, *b)`` for a mask per image; bool or weights in [0, 1]. Its outermost pixels do
            not count.
        corner: ``(D,)`` low corner of the box.
        mix_gradients: per pixel and axis keep the larger of both gradients (ties: the image's).

    Returns:
        A new image of the same type, dtype and device.

    Raises:
        ValueError: integer images, a box that leaves the image or has a side below 3, or shapes that differ.
    """
    if isinstance(image, np.ndarray):
        tensors = [torch.from_numpy(np.ascontiguousarray(part)) for part in (image, source, mask)]
        return poisson_blend(tensors[0], tensors[1], tensors[2], corner, mix_gradients).numpy()
    dims = len(corner)
    box: Any = tuple(slice(int(c), int(c) + b) for c, b in zip(corner, source.shape[-dims:], strict=True))
    target = image[(..., *box)]
    if not image.is_floating_point():
        raise ValueError(f"poisson_blend needs a floating image, found {image.dtype}")
    if target.shape != source.shape or min(target.shape[-dims:]) < 3:
        raise ValueError(
            f"box {tuple(source.shape)} at {tuple(corner)} must lie in the image {tuple(image.shape)}, sides >= 3"
        )
    weight = _without_faces(mask.to(image.dtype), dims)
    if mask.dim() > dims:
        weight = weight.unsqueeze(1)
    blended = image.clone()
    inner: Any = tuple(slice(s.start + 1, s.stop - 1) for s in box)
    blended[(..., *inner)] = _solve(_right_side(target, source.to(image.dtype), weight, dims, mix_gradients), dims)
    return blended


def _without_faces(mask: Tensor, dims: int) -> Tensor:
    kept = torch.zeros_like(mask)
    inner: Any = (..., *[slice(1, -1)] * dims)
    kept[inner] = mask[inner]
    return kept


def _right_side(target: Tensor, source: Tensor, weight: Tensor, dims: int, mix: bool) -> Tensor:
    """Divergence of the guidance field minus the Dirichlet data, on the interior of the box."""
    total = torch.zeros((), dtype=target.dtype, device=target.device)
    for axis in range(-dims, 0):
        own, other = torch.diff(target, dim=axis), torch.diff(source, dim=axis)
        guide = torch.where(own.abs() >= other.abs(), own, other) if mix else other
        field = torch.lerp(own, guide, weight.narrow(axis, 0, weight.shape[axis] - 1))
        cut: Any = [slice(1, -1)] * dims
        cut[axis] = slice(None)
        cut = (..., *cut)
        divergence = torch.diff(field, dim=axis)[cut]
        faces = target[cut]
        sides = torch.zeros_like(divergence)
        sides.narrow(axis, 0, 1).add_(faces.narrow(axis, 0, 1))
        sides.narrow(axis, -1, 1).add_(faces.narrow(axis, -1, 1))
        total = total + divergence - sides
    return total


def _solve(right: Tensor, dims: int) -> Tensor:
    """Inverse of the Dirichlet Laplacian by type-I sine transforms, as products with the orthonormal sine basis."""
    right = _transform(right, dims)
    eigenvalues = torch.zeros((), dtype=right.dtype, device=right.device)
    for axis in range(-dims, 0):
        n = right.shape[axis]
        k = torch.arange(1, n + 1, dtype=torch.float64)
        values = (2 * torch.cos(torch.pi * k / (n + 1)) - 2).to(right)
        eigenvalues = eigenvalues + values.reshape(-1, *[1] * (-axis - 1))
    return _transform(right / eigenvalues, dims)


def _transform(values: Tensor, dims: int) -> Tensor:
    for axis in range(-dims, 0):
        basis = _sine_basis(values.shape[axis], values.dtype, values.device)
        values = torch.movedim(torch.movedim(values, axis, -1) @ basis, -1, axis)
    return values


@lru_cache(maxsize=256)
def _sine_basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    k = torch.arange(1, n + 1, dtype=torch.float64)
    return (np.sqrt(2 / (n + 1)) * torch.sin(torch.pi * torch.outer(k, k) / (n + 1))).to(device, dtype)
