"""Poisson blending (Pérez et al., SIGGRAPH 2003) as an exact solve in a sine basis, in any dimension, batched."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Mixing = Callable[[Tensor, Tensor], Tensor]
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
    if target.shape != source.shape or min(target.shape[-dims:]) < 3 or min(int(c) for c in corner) < 0:
        raise ValueError(
            f"box {tuple(source.shape)} at {tuple(corner)} must lie in the image {tuple(image.shape)}, sides >= 3"
        )
    weight = _without_faces(mask.to(image.dtype), dims)
    if mask.dim() > dims:
        weight = weight.unsqueeze(1)
    blended = image.clone()
    inner: Any = tuple(slice(s.start + 1, s.stop - 1) for s in box)
    mix = _larger if mix_gradients else _foreign
    blended[(..., *inner)] = _solve(_right_side(target, source.to(image.dtype), weight, dims, mix), dims)
    return blended


def poisson_interpolate(image: Tensor, source: Tensor, alpha: float, corner: Sequence[int]) -> Tensor:
    """Poisson image interpolation (Tan et al., MICCAI 2021): the larger of ``alpha`` times the foreign gradient and
    ``1 - alpha`` times the own one, integrated over the box.

    Args:
        image: ``(C, *S)`` or ``(B, C, *S)``, floating.
        source: ``(C, *b)`` or ``(B, C, *b)``.
        alpha: weight of the foreign image in (0, 1).
        corner: ``(D,)`` low corner of the box.

    Returns:
        Tensor: a new image.
    """
    dims = len(corner)
    box: Any = tuple(slice(int(c), int(c) + b) for c, b in zip(corner, source.shape[-dims:], strict=True))
    inner: Any = tuple(slice(s.start + 1, s.stop - 1) for s in box)
    whole = torch.ones(source.shape[-dims:], dtype=image.dtype, device=image.device)

    def mix(own: Tensor, other: Tensor) -> Tensor:
        return _larger((1 - alpha) * own, alpha * other)

    blended = image.clone()
    blended[(..., *inner)] = _solve(_right_side(image[(..., *box)], source, whole, dims, mix), dims)
    return blended


def blend_change(target: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """What a mixed Poisson blend of a box changes, without the image: solves for the change alone.

    Poisson blending is linear in the gradient field, so that changes of many blends can be summed in their boxes.

    Args:
        target: ``(B, *b)``, the image in the box.
        source: ``(B, *b)``, what is blended in.
        mask: ``(B, *b)`` bool.

    Returns:
        Tensor: ``(B, *b)``, zero on the faces of the box.
    """
    dims = target.dim() - 1
    weight = _without_faces(mask.to(target.dtype), dims)
    total = torch.zeros((), dtype=target.dtype, device=target.device)
    for axis in range(-dims, 0):
        own, other = torch.diff(target, dim=axis), torch.diff(source, dim=axis)
        change = (_larger(own, other) - own) * weight.narrow(axis, 0, weight.shape[axis] - 1)
        cut: Any = [slice(1, -1)] * dims
        cut[axis] = slice(None)
        total = total + torch.diff(change, dim=axis)[(..., *cut)]
    changed = torch.zeros_like(target)
    inner: Any = (..., *[slice(1, -1)] * dims)
    changed[inner] = _solve(total, dims)
    return changed


def _larger(own: Tensor, other: Tensor) -> Tensor:
    return torch.where(own.abs() >= other.abs(), own, other)


def _foreign(own: Tensor, other: Tensor) -> Tensor:
    return other


def _without_faces(mask: Tensor, dims: int) -> Tensor:
    kept = torch.zeros_like(mask)
    inner: Any = (..., *[slice(1, -1)] * dims)
    kept[inner] = mask[inner]
    return kept


def _right_side(target: Tensor, source: Tensor, weight: Tensor, dims: int, mix: Mixing) -> Tensor:
    """Divergence of the guidance field minus the Dirichlet data, on the interior of the box."""
    total = torch.zeros((), dtype=target.dtype, device=target.device)
    for axis in range(-dims, 0):
        own, other = torch.diff(target, dim=axis), torch.diff(source, dim=axis)
        field = torch.lerp(own, mix(own, other), weight.narrow(axis, 0, weight.shape[axis] - 1))
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
