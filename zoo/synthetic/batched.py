"""The second path: operations of many images at once, on any device, in boxes of different sizes.

The draws are those of the exact path (:func:`zoo.synthetic.tasks.draw_anomalies`). Blends, shifts of intensity and
cubic deformations agree with it to rounding (1e-4 in float32); ``interpolation="linear"`` deforms by ``grid_sample``.
Images on the CPU are altered box by box by the exact path, which is faster there: :func:`apply_on_device` has nothing
to gain from padded boxes on two cores.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zoo.synthetic.blending import blend_change
from zoo.synthetic.boxes import Boxes, canvas, pad_masks
from zoo.synthetic.patches import Patch, needed_by_blend
from zoo.synthetic.separable import along_axes
from zoo.synthetic.shapes import pixels_of
from zoo.synthetic.splines import MARGIN, Edge, spline_matrix
from zoo.synthetic.tasks import VISIBLE, Anomaly, Blend, Context, Shift, Task, Warp, apply_in_place, draw_anomalies

Array = NDArray[Any]
Interpolation = Literal["cubic", "linear"]
SPACE = 4  # pixels around a box in which deformations may sample; the exit of a shape is at most two outside
WASTE = 1.5  # padded pixels per pixel that the CPU may compute; a GPU computes a round's boxes at once


def synthesise_batch(
    images: Tensor,
    tasks: Sequence[Task],
    generators: Sequence[np.random.Generator],
    contexts: Sequence[Context],
    *,
    foregrounds: Sequence[Array] | None = None,
    most: int = 4,
    interpolation: Interpolation = "cubic",
) -> tuple[Tensor, Tensor]:
    """:func:`zoo.synthetic.synthesise` for a batch: with equal generators, the same samples.

    Args:
        images: ``(B, C, *S)`` floating, on any device with float64.
        tasks: one for each image.
        generators: one for each image.
        contexts: one for each image; their sources may be tensors, best on the images' device.
        foregrounds: ``(*S)`` bool for each image, where anomalies belong; None: anywhere.
        most: largest number of anomalies of an image.
        interpolation: of deformations.

    Returns:
        tuple: altered ``(B, C, *S)`` and mask bool ``(B, 1, *S)`` on the images' device.
    """
    anomalies = [
        draw_anomalies(
            generator, task, images.shape[1:], context, None if foregrounds is None else foregrounds[number], most
        )
        for number, (task, generator, context) in enumerate(zip(tasks, generators, contexts, strict=True))
    ]
    return apply_batch(images, anomalies, contexts, interpolation=interpolation)


def apply_batch(
    images: Tensor,
    anomalies: Sequence[Sequence[Anomaly]],
    contexts: Sequence[Context],
    *,
    interpolation: Interpolation = "cubic",
) -> tuple[Tensor, Tensor]:
    """:func:`zoo.synthetic.tasks.apply_anomalies` for a batch.

    Args:
        images: ``(B, C, *S)`` floating; not changed.
        anomalies: for each image.
        contexts: for each image, what its anomalies were drawn with.
        interpolation: of deformations.

    Returns:
        tuple: altered ``(B, C, *S)`` and mask bool ``(B, 1, *S)``.

    Raises:
        ValueError: an operation that has no batched form, not on the CPU.
    """
    if images.device.type != "cpu" or interpolation != "cubic":
        return apply_on_device(images, anomalies, contexts, interpolation)
    altered, union = images.detach().clone(), images.new_zeros(len(images), 1, *images.shape[2:], dtype=torch.bool)
    for image, mask, own, context in zip(altered.numpy(), union.numpy()[:, 0], anomalies, contexts, strict=True):
        apply_in_place(image, mask, own, context)
    return altered, union


def apply_on_device(
    images: Tensor,
    anomalies: Sequence[Sequence[Anomaly]],
    contexts: Sequence[Context],
    interpolation: Interpolation = "cubic",
) -> tuple[Tensor, Tensor]:
    """:func:`apply_batch` by tensor operations only, on whichever device the images are."""
    channels, size = images.shape[1], images.shape[2:]
    altered, union = canvas(images), canvas(images.new_zeros(len(images), 1, *size, dtype=torch.bool))
    running, marked = altered[:-1].view(images.shape), union[:-1].view(len(images), 1, *size)
    for turn in range(max(map(len, anomalies), default=0)):
        now = [(number, own[turn]) for number, own in enumerate(anomalies) if len(own) > turn]
        flat = running.flatten(2)
        low, high = (bound.view(len(images), channels, *[1] * len(size)) for bound in (flat.amin(2), flat.amax(2)))
        for chunk in _chunks(now, contexts, images.device):
            numbers, own = [number for number, _ in chunk], [anomaly for _, anomaly in chunk]
            sides = np.array([anomaly.shape.mask.shape for anomaly in own])
            boxes = Boxes(size, numbers, np.stack([anomaly.corner for anomaly in own]), sides, images.device)
            target = boxes.gather(running)
            changed, mask = _change(target, own, boxes, contexts[numbers[0]], interpolation)
            if not isinstance(own[0].operation, Warp):
                changed = changed.clamp(low[numbers], high[numbers])
            if isinstance(own[0].operation, Blend):
                mask = mask | ((changed - target).abs().mean(1, keepdim=True) > VISIBLE)
            boxes.scatter_(altered, changed, channels)
            boxes.scatter_(union, mask | boxes.gather(marked), 1)
    return running, marked


def _change(
    target: Tensor, anomalies: Sequence[Anomaly], boxes: Boxes, context: Context, interpolation: Interpolation
) -> tuple[Tensor, Tensor]:
    """One kind of operation on boxes ``(n, C, *M)``: changed boxes and masks ``(n, 1, *M)``."""
    if isinstance(anomalies[0].operation, Blend):
        return _blend(target, anomalies, context)
    mask = pad_masks([anomaly.shape.mask for anomaly in anomalies], target.device)
    if isinstance(anomalies[0].operation, Warp):
        return _warp(target, anomalies, interpolation), mask
    return target + _shift(target, anomalies, mask, boxes.inside), mask


def _chunks(
    items: list[tuple[int, Anomaly]], contexts: Sequence[Context], device: torch.device
) -> Iterator[list[tuple[int, Anomaly]]]:
    """Items whose operations can be done together: of a kind, and on the CPU of similar size."""
    kinds: dict[Any, list[tuple[int, Anomaly]]] = {}
    for number, anomaly in items:
        operation = anomaly.operation
        if not isinstance(operation, Blend | Warp | Shift):
            raise ValueError(f"{type(operation).__name__} has no batched form; use zoo.synthetic.synthesise")
        more = (operation.mix_gradients, id(contexts[number].sources)) if isinstance(operation, Blend) else ()
        kinds.setdefault((type(operation), *more), []).append((number, anomaly))
    waste = WASTE if device.type == "cpu" else np.inf
    for group in kinds.values():
        group.sort(key=lambda item: item[1].shape.mask.size)
        chunk: list[tuple[int, Anomaly]] = []
        sides, needed = np.zeros(1, int), 0
        for item in group:
            mask = item[1].shape.mask
            sides, needed = np.maximum(sides, mask.shape), needed + mask.size
            if chunk and (len(chunk) + 1) * np.prod(sides) > waste * needed:
                yield chunk
                chunk, sides, needed = [], np.array(mask.shape), mask.size
            chunk.append(item)
        yield chunk


def _points(masks: Sequence[Array], device: torch.device) -> tuple[Tensor, Tensor]:
    """Box numbers ``(p,)`` and indices ``(D, p)`` of all pixels of some masks."""
    lines = [pixels_of(mask) for mask in masks]
    numbers = np.repeat(np.arange(len(masks)), [line.shape[1] for line in lines])
    return torch.from_numpy(numbers).to(device), torch.from_numpy(np.concatenate(lines, 1)).to(device)


def _stacked(arrays: Sequence[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float64)).to(device)


def _without_faces(mask: Array) -> Array:
    kept, inner = np.zeros_like(mask), (slice(1, -1),) * mask.ndim
    kept[inner] = mask[inner]
    return kept


def _blend(target: Tensor, anomalies: Sequence[Anomaly], context: Context) -> tuple[Tensor, Tensor]:
    """Blends of ``(n, C, *M)``, and their masks without the faces of the boxes."""
    device = target.device
    patches = [anomaly.operation.patch for anomaly in anomalies]  # type: ignore[attr-defined]
    sources = torch.as_tensor(context.sources).to(device, target.dtype)
    number, pixel = _points([needed_by_blend(anomaly.shape.mask) for anomaly in anomalies], device)
    content = torch.zeros_like(target)
    content[(number, slice(None), *pixel)] = _taken(sources, patches, number, pixel)
    mask = pad_masks([_without_faces(anomaly.shape.mask) for anomaly in anomalies], device)
    mix = anomalies[0].operation.mix_gradients  # type: ignore[attr-defined]
    sides = np.array([anomaly.shape.mask.shape for anomaly in anomalies])
    return target + blend_change(target, content, mask, target.dim() - 2, mix, sides), mask


def _taken(sources: Tensor, patches: Sequence[Patch], number: Tensor, pixel: Tensor) -> Tensor:
    """Values ``(p, C)`` of patches at pixels ``(D, p)`` of boxes ``(p,)``; see :func:`zoo.synthetic.patches.take`."""
    device, chosen = sources.device, [patch.source for patch in patches]
    sizes, corners = (np.stack(part) for part in ([p.region.size for p in patches], [p.corner for p in patches]))
    regions = Boxes(sources.shape[2:], chosen, corners, sizes, device).gather(sources)
    coefficients = along_axes(regions, _padded_splines(sizes, "mirror", 0, sources))
    matrix, low = (_stacked([getattr(p.region, name) for p in patches], device) for name in ("matrix", "low"))
    position = torch.einsum("pij,jp->ip", matrix[number], pixel.double()) - low[number].T
    ends = torch.from_numpy(sizes - 1).to(device)[number].T
    values = _cubic(coefficients, number, position, ends)
    values = torch.where(((position < 0) | (position > ends)).any(0)[:, None], 0, values)
    used = sources[torch.tensor(chosen, device=device)].flatten(2)
    return torch.maximum(torch.minimum(values, used.amax(2)[number]), used.amin(2)[number])


def _padded_splines(sizes: Array, edge: Edge, space: int, like: Tensor) -> list[Tensor]:
    """Spline matrices ``(n, m + 2 space, m)`` of every axis, padded with zeros."""
    matrices = []
    for column in sizes.T:
        most = int(column.max())
        padded = np.zeros((len(column), most + 2 * space, most))
        for number, side in enumerate(column):
            matrix = spline_matrix(int(side), edge)
            if space:
                matrix = matrix[MARGIN - space : MARGIN + int(side) + space]
            padded[number, : len(matrix), : int(side)] = matrix
        matrices.append(torch.from_numpy(padded).to(like))
    return matrices


def _cubic(coefficients: Tensor, number: Tensor, position: Tensor, ends: Tensor | None = None) -> Tensor:
    """Values ``(p, C)`` of cubic B-splines ``(n, C, *m)`` at ``(D, p)``; reflected at ``ends`` ``(D, p)``."""
    dims, channels = len(position), coefficients.shape[1]
    base = position.floor()
    t = (position - base).to(coefficients.dtype)
    far = 1 - t
    weights = torch.stack([far**3 / 6, 2 / 3 - t**2 * (2 - t) / 2, 2 / 3 - far**2 * (2 - far) / 2, t**3 / 6])
    steps = []
    for axis in range(dims):
        taps = base[axis].long() + torch.arange(-1, 3, device=position.device)[:, None]
        if ends is not None:
            taps = taps.abs()
            taps = torch.where(taps > ends[axis], 2 * ends[axis] - taps, taps)
        size = coefficients.shape[2 + axis]
        steps.append(taps.clamp(0, size - 1) * int(np.prod(coefficients.shape[3 + axis :])))
    volume = int(np.prod(coefficients.shape[2:]))
    flat = coefficients.reshape(-1)
    start = number * (channels * volume)
    total: list[Tensor] = []
    for channel in range(channels):
        value = flat.new_zeros(len(number))
        for tap in np.ndindex(*[4] * dims):
            index, weight = start + channel * volume + steps[0][tap[0]], weights[tap[0], 0]
            for axis, one in enumerate(tap[1:], 1):
                index, weight = index + steps[axis][one], weight * weights[one, axis]
            value = value + flat[index] * weight
        total.append(value)
    return torch.stack(total, 1)


def _warp(target: Tensor, anomalies: Sequence[Anomaly], interpolation: Interpolation) -> Tensor:
    """Sink and source of ``(n, C, *M)``."""
    device = target.device
    masks = [_without_faces(anomaly.shape.mask) for anomaly in anomalies]
    for mask, anomaly in zip(masks, anomalies, strict=True):
        mask[tuple(anomaly.operation.centre)] = False  # type: ignore[attr-defined]
    number, pixel = _points(masks, device)
    position = _moved(anomalies, number, pixel)
    sides = np.array([mask.shape for mask in masks])
    warped = target.clone()
    if interpolation == "cubic":
        coefficients = along_axes(target, _padded_splines(sides, "nearest", SPACE, target))
        ends = torch.from_numpy(sides).to(device)[number].T
        values = _cubic(coefficients, number, torch.clamp(position, -2 * torch.ones_like(ends), ends + 1) + SPACE)
        warped[(number, slice(None), *pixel)] = values
        return warped
    size = target.shape[2:]
    lines = [torch.arange(n, device=device, dtype=torch.float64) for n in size]
    grid = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).repeat(len(target), *[1] * (len(size) + 1))
    limit = torch.from_numpy(sides - 1).to(device)[number].T
    grid[(number, *pixel)] = torch.clamp(position, torch.zeros_like(limit), limit).T
    scale = torch.tensor([2 / max(n - 1, 1) for n in size], device=device, dtype=torch.float64)
    grid = (grid * scale - 1).flip(-1).to(target.dtype)
    sampled = F.grid_sample(target, grid, mode="bilinear", padding_mode="border", align_corners=True)
    where = (number, slice(None), *pixel)
    warped[where] = sampled[where]
    return warped


def _moved(anomalies: Sequence[Anomaly], number: Tensor, pixel: Tensor) -> Tensor:
    """Where pixels ``(D, p)`` of boxes ``(p,)`` are taken from; see :func:`zoo.synthetic.deformation.moved_pixels`."""
    device = pixel.device
    operations: list[Any] = [anomaly.operation for anomaly in anomalies]
    shapes = [anomaly.shape for anomaly in anomalies]
    inverse = _stacked([np.linalg.inv(s.matrix) / (s.size / 2)[:, None] for s in shapes], device)[number]
    centre = _stacked([operation.centre for operation in operations], device)
    middle = _stacked([(np.array(s.mask.shape) - 1) / 2 for s in shapes], device)
    factor = _stacked([operation.factor for operation in operations], device)[number]
    inward, box = (
        torch.tensor(flags, device=device)[number]
        for flags in ([operation.inward for operation in operations], [s.kind == "rect" for s in shapes])
    )
    centre, start = centre[number].T, torch.einsum("pij,pj->ip", inverse, (centre - middle)[number])
    offset = pixel - centre
    radius = offset.square().sum(0).sqrt()
    direction = offset / radius
    step = torch.einsum("pij,jp->ip", inverse, direction)
    flat = torch.where(step == 0, torch.inf, (step.sign() - start) / step).amin(0)
    a, b, c = step.square().sum(0), (start * step).sum(0), start.square().sum(0) - 1
    reach = torch.where(box, flat, (-b + (b * b - a * c).clamp(min=0).sqrt()) / a)
    share = (radius / reach).clamp(max=1)
    curve = torch.where(inward, 1 - (1 - share) ** factor, share**factor)
    return centre + reach * curve * direction


def _shift(target: Tensor, anomalies: Sequence[Anomaly], mask: Tensor, inside: Tensor) -> Tensor:
    """Change of intensity of ``(n, C, *M)``."""
    operations: list[Any] = [anomaly.operation for anomaly in anomalies]
    ones = [1] * (target.dim() - 2)
    ramp = torch.tensor([operation.ramp for operation in operations], device=target.device, dtype=target.dtype)
    amount = torch.from_numpy(np.stack([operation.amount for operation in operations])).to(target)
    reach = int(np.ceil(max(operation.ramp for operation in operations)))
    squares = torch.where(mask | ~inside, float(reach * reach + 1), 0.0)  # the padding is no background
    for axis in range(2, target.dim()):
        before = squares.clone()
        for step in range(1, min(reach, target.shape[axis] - 1) + 1):
            raised, length = before + step * step, target.shape[axis] - step
            for here, there in ((step, 0), (0, step)):
                part = squares.narrow(axis, here, length)
                torch.minimum(part, raised.narrow(axis, there, length), out=part)
    depth = torch.minimum(squares.to(target.dtype).sqrt(), ramp.view(-1, 1, *ones)) * mask
    weight = depth / depth.amax(tuple(range(1, target.dim())), keepdim=True).clamp(min=1e-6)
    return weight * amount.view(len(operations), -1, *ones)
