"""Poisson blending (Pérez et al., SIGGRAPH 2003) as an exact solve in a sine basis, in any dimension, batched.

What is solved for is the change of the image, not the image: it is zero on the faces of the box, needs no Dirichlet
data, and is linear in the change of the gradients. The code is the same for numpy arrays and torch tensors.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.synthetic.boxes import Boxes, canvas
from zoo.synthetic.separable import along_axes

Image = TypeVar("Image", NDArray[Any], Tensor)


def poisson_blend(
    image: Image, source: Image, mask: Image, corner: Sequence[Any] | NDArray[Any] | Tensor, mix_gradients: bool = False
) -> Image:
    """Replace the gradients of a box by those of ``source`` where ``mask`` is set, and integrate them.

    The faces of the box keep the image's values; the interior solves the discrete Poisson equation exactly. Blending an
    image into itself returns it.

    Args:
        image: ``(C, *S)`` or ``(B, C, *S)``, floating; numpy or torch.
        source: ``(C, *b)`` or ``(B, C, *b)``, the size of the box.
        mask: ``(*b)``, or ``(B, *b)`` for a mask per image; bool or weights in [0, 1]. Its outermost pixels do
            not count.
        corner: ``(D,)`` low corner of the box, or ``(B, D)`` for a corner per image.
        mix_gradients: per pixel and axis keep the larger of both gradients (ties: the image's).

    Returns:
        A new image of the same type, dtype and device.

    Raises:
        ValueError: integer images, a box that leaves the image or has a side below 3, or shapes that differ.
    """
    corners = np.asarray(corner.cpu() if isinstance(corner, Tensor) else corner).astype(int)
    _check(image, source, mask, corners)
    if corners.ndim == 2 and isinstance(image, Tensor):
        return _blend_boxes(image, source.to(image.dtype), mask, corners, mix_gradients)
    return _blend_in_turn(image, source, mask, corners, mix_gradients)  # type: ignore[no-any-return]


def _blend_boxes(image: Tensor, source: Tensor, mask: Tensor, corners: NDArray[Any], mix_gradients: bool) -> Tensor:
    """A box of its own for each image, all at once."""
    dims = corners.shape[1]
    sides = np.tile(source.shape[-dims:], (len(image), 1))
    boxes = Boxes(image.shape[2:], range(len(image)), corners, sides, image.device)
    target = boxes.gather(image)
    weight = (mask if mask.dim() > dims else mask.expand(len(image), *mask.shape)).unsqueeze(1)
    flat = canvas(image)
    change = blend_change(target, source, weight.to(image.dtype), dims, mix_gradients)
    boxes.scatter_(flat, target + change, image.shape[1])
    return flat[:-1].view(image.shape)


def _blend_in_turn(image: Any, source: Any, mask: Any, corners: NDArray[Any], mix_gradients: bool) -> Any:
    """One box for all images, or numpy images in turn."""
    dims = corners.shape[-1]
    blended = image.copy() if isinstance(image, np.ndarray) else image.clone()
    if source.dtype != image.dtype:
        source = source.astype(image.dtype) if isinstance(source, np.ndarray) else source.to(image.dtype)
    for place in np.ndindex(corners.shape[:-1]):
        sides = zip(corners[place], source.shape[-dims:], strict=True)
        box: Any = (*place, ..., *[slice(int(c), int(c) + b) for c, b in sides])
        weight = mask
        if mask.ndim > dims:
            weight = mask[place] if place else mask[:, None]
        blended[box] += blend_change(blended[box], source[place], weight, dims, mix_gradients)
    return blended


def _check(image: Any, source: Any, mask: Any, corners: NDArray[Any]) -> None:
    dims, ahead = corners.shape[-1], tuple(image.shape[: image.ndim - corners.shape[-1]])
    floating = image.is_floating_point() if isinstance(image, Tensor) else image.dtype.kind == "f"
    if not floating:
        raise ValueError(f"poisson_blend needs a floating image, found {image.dtype}")
    sides, size = np.array(source.shape[-dims:]), np.array(image.shape[-dims:])
    if source.ndim != image.ndim or tuple(source.shape[:-dims]) != ahead or (sides < 3).any():
        raise ValueError(
            f"box {tuple(source.shape)} must have the channels of the image {tuple(image.shape)}, sides >= 3"
        )
    if corners.ndim == 2 and (len(ahead) != 2 or len(corners) != ahead[0]):
        raise ValueError(f"{len(corners)} corners for the images {tuple(image.shape)}: one (D,), or one for each image")
    bad = np.argwhere(((corners < 0) | (corners + sides > size)).any(-1))
    if len(bad):
        first = f"[{bad[0][0]}] {tuple(corners[tuple(bad[0])].tolist())}" if corners.ndim == 2 else f"{corners}"
        raise ValueError(f"box {tuple(source.shape)} at corner {first} must lie in the image {tuple(image.shape)}")
    if tuple(mask.shape) not in (tuple(sides), (*ahead[:-1], *sides)):
        raise ValueError(f"mask {tuple(mask.shape)} must have the size of the box {tuple(sides.tolist())}")


def poisson_interpolate(image: Tensor, source: Tensor, alpha: float, corner: Sequence[int]) -> Tensor:
    """Poisson image interpolation (Tan et al., MICCAI 2021).

    The larger of ``alpha`` times the foreign gradient and ``1 - alpha`` times the own one, integrated over the box.

    Args:
        image: ``(C, *S)`` or ``(B, C, *S)``, floating.
        source: ``(C, *b)`` or ``(B, C, *b)``.
        alpha: weight of the foreign image in (0, 1).
        corner: ``(D,)`` low corner of the box.

    Returns:
        Tensor: a new image.
    """
    dims = len(corner)
    box: Any = (..., *[slice(int(c), int(c) + b) for c, b in zip(corner, source.shape[-dims:], strict=True)])
    blended, target = image.clone(), image[box]
    total: Any = 0.0
    for axis in range(-dims, 0):
        own, other = (_gradient(part, axis, dims) for part in (target, source))
        larger = alpha * abs(other) > (1 - alpha) * abs(own)
        change = torch.where(larger, alpha * other, (1 - alpha) * own) - own
        total = total + torch.diff(change, dim=axis)
    blended[box] += _embed(_solve(total, dims), target, dims)
    return blended


def blend_change(target: Any, source: Any, mask: Any, dims: int, mix_gradients: bool = True, sizes: Any = None) -> Any:
    """What a Poisson blend of a box changes; numpy or torch.

    Poisson blending is linear in the gradient field, so that changes of many blends can be summed in their boxes.

    Args:
        target: ``(..., *b)`` floating, the image in the box.
        source: ``(..., *b)``, what is blended in.
        mask: ``(..., *b)`` bool or weights, broadcast; its outermost pixels do not count.
        dims: number of spatial axes.
        mix_gradients: keep the larger of both gradients.
        sizes: ``(n, D)`` integers; the first axis then counts boxes of different sizes, each at the low end of its
            padded array, and the padding of the mask is zero.

    Returns:
        ``(..., *b)``, zero on the faces of the box.
    """
    weight = mask[(..., *[slice(1, -1)] * dims)]
    total: Any = 0.0
    for axis in range(-dims, 0):
        own, other = (_forward(part, axis, dims) for part in (target, source))
        change = other - own
        change *= weight if not mix_gradients else (abs(other) > abs(own)) * weight
        total = total + change
        total[_cut(axis, dims, slice(1, None), slice(None))] -= change[_cut(axis, dims, slice(None, -1), slice(None))]
    return _embed(_solve(total, dims, sizes), target, dims)


def _cut(axis: int, dims: int, along: slice, others: slice) -> tuple[Any, ...]:
    cut: list[Any] = [others] * dims
    cut[axis] = along
    return (..., *cut)


def _forward(values: Any, axis: int, dims: int) -> Any:
    """Forward differences at the interior pixels, where the mask may be set."""
    inner = slice(1, -1)
    return values[_cut(axis, dims, slice(2, None), inner)] - values[_cut(axis, dims, inner, inner)]


def _gradient(values: Any, axis: int, dims: int) -> Any:
    """All differences along an axis, at the interior of the others."""
    inner = slice(1, -1)
    return values[_cut(axis, dims, slice(1, None), inner)] - values[_cut(axis, dims, slice(None, -1), inner)]


def _embed(inside: Any, like: Any, dims: int) -> Any:
    whole: Any = np.zeros_like(like) if isinstance(like, np.ndarray) else torch.zeros_like(like)
    whole[(..., *[slice(1, -1)] * dims)] = inside
    return whole


def _solve(right: Any, dims: int, sizes: NDArray[Any] | None = None) -> Any:
    """Inverse of the Dirichlet Laplacian by type-I sine transforms, as products with the orthonormal sine basis."""
    device = None if isinstance(right, np.ndarray) else right.device
    bases: list[Any] = []
    total: Any = 0.0
    for axis in range(-dims, 0):
        if sizes is None:
            basis, eigenvalues = _sine_basis(right.shape[axis], right.dtype, device)
        else:
            basis, eigenvalues = _padded_bases(sizes[:, axis], right, axis)
        bases.append(basis)
        total = total + eigenvalues.reshape(*eigenvalues.shape, *[1] * (-axis - 1))
    return along_axes(along_axes(right, bases) / total, bases)


def _padded_bases(sizes: NDArray[Any], right: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Bases ``(n, m, m)`` at the low end of zeros, eigenvalues ``(n, 1, .., m)`` with -1 behind."""
    dims, m = right.dim() - 2, right.shape[axis]
    bases, eigenvalues = right.new_zeros(len(sizes), m, m), right.new_full((len(sizes), m), -1.0)
    for number, side in enumerate(sizes):
        basis, values = _sine_basis(int(side) - 2, right.dtype, right.device)
        bases[number, : len(basis), : len(basis)] = basis
        eigenvalues[number, : len(basis)] = values
    return bases, eigenvalues.view(len(sizes), *[1] * (dims + axis + 1), m)


@lru_cache(maxsize=512)
def _sine_basis(n: int, dtype: Any, device: torch.device | None) -> tuple[Any, Any]:
    """Orthonormal sine basis ``(n, n)`` and eigenvalues ``(n,)`` of the Laplacian; numpy without a device."""
    k = np.arange(1, n + 1)
    basis = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(k, k) / (n + 1))
    eigenvalues = 2 * np.cos(np.pi * k / (n + 1)) - 2
    if device is None:
        return basis.astype(dtype), eigenvalues.astype(dtype)
    return torch.from_numpy(basis).to(device, dtype), torch.from_numpy(eigenvalues).to(device, dtype)
