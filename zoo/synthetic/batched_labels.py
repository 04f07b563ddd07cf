"""Labels of a whole batch: on the CPU by the exact path, on other devices by local passes over many boxes at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.synthetic.boxes import Boxes, canvas
from zoo.synthetic.labels import anomaly_label, neighbourhood

Array = NDArray[Any]
Box = tuple[int, Array, Array]  # image, low corner, sides


def label_batch(altered: Tensor, original: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """:func:`zoo.synthetic.anomaly_label` of images ``(B, C, *S)`` and masks ``(B, 1, *S)``, as ``(B, 1, *S)``."""
    if altered.device.type == "cpu":
        first, second, where = (part.detach().numpy() for part in (altered, original, mask))
        return torch.from_numpy(anomaly_label(first, second, where, sigma))
    return label_on_device(altered, original, mask, sigma)


def label_on_device(altered: Tensor, original: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """The same by tensor operations only; equal to the exact path to rounding.

    Raises:
        ValueError: values that are not finite.
    """
    change = (altered - original).abs().mean(1, keepdim=True) * mask
    label = -torch.expm1(-change.square() / (2 * sigma**2))
    if not bool(torch.isfinite(label).all()):
        raise ValueError("the altered image is not finite inside the mask")
    flat, size = canvas(label), label.shape[2:]
    for group in _rounds(component_boxes(mask)):
        numbers, corners, sides = zip(*group, strict=True)
        boxes = Boxes(size, numbers, np.stack(corners), np.stack(sides), label.device)
        values = boxes.gather(flat[:-1].view(label.shape))
        wide = neighbourhood(torch.where(boxes.inside, values, -torch.inf), len(size), torch.maximum)
        closed = neighbourhood(torch.where(boxes.inside, wide, torch.inf), len(size), torch.minimum)
        boxes.scatter_(flat, fill_holes(torch.where(boxes.inside, closed, -torch.inf), boxes), 1)
    return flat[:-1].view(label.shape)


def component_boxes(mask: Tensor) -> list[Box]:
    """Bounding boxes of the components (cross connectivity) of ``(B, 1, *S)``, per image by their first pixel."""
    size = mask.shape[2:]
    flat = mask.reshape(-1)
    places = torch.arange(len(flat), device=mask.device)
    spare = len(flat)
    first = torch.where(flat, places, spare).view(mask.shape)  # number of the component's first pixel, once it is known
    while True:
        lowered = first
        for axis in range(2, mask.dim()):
            lowered = torch.minimum(lowered, _least(first, axis))
        lowered = torch.where(mask, lowered, spare)
        jumped = torch.cat([lowered.reshape(-1), lowered.new_full((1,), spare)])
        lowered = torch.where(mask, jumped[jumped[lowered]], spare)
        if torch.equal(lowered, first):
            break
        first = lowered
    chosen = torch.nonzero(flat).squeeze(1)
    roots, own = torch.unique(first.reshape(-1)[chosen], return_inverse=True)
    within, low, high = chosen % int(np.prod(size)), [], []
    for axis in range(len(size)):
        place = within // int(np.prod(size[axis + 1 :])) % size[axis]
        low.append(torch.zeros_like(roots).scatter_reduce(0, own, place, "amin", include_self=False))
        high.append(torch.zeros_like(roots).scatter_reduce(0, own, place, "amax", include_self=False))
    images = (roots // int(np.prod(size))).cpu().numpy()
    corners, ends = torch.stack(low, 1).cpu().numpy(), torch.stack(high, 1).cpu().numpy()
    return [(int(n), a, b - a + 1) for n, a, b in zip(images, corners, ends, strict=True) if (b > a).any()]


def _least(values: Tensor, axis: int) -> Tensor:
    """Smallest of a pixel and its two neighbours along an axis."""
    least, length = values.clone(), values.shape[axis] - 1
    for here, there in ((1, 0), (0, 1)):
        part = least.narrow(axis, here, length)
        torch.minimum(part, values.narrow(axis, there, length), out=part)
    return least


def _rounds(boxes: Sequence[Box], most: int = 2**25) -> list[list[Box]]:
    """Groups in which no boxes of an image overlap; an earlier box that overlaps is in an earlier group."""
    groups: list[list[Box]] = []
    placed: dict[int, list[tuple[int, Array, Array]]] = {}
    for number, corner, sides in boxes:
        before = placed.setdefault(number, [])
        turns = [turn for turn, low, high in before if ((low < corner + sides) & (corner < high)).all()]
        turn = max(turns, default=-1) + 1
        before.append((turn, corner, corner + sides))
        if turn == len(groups):
            groups.append([])
        groups[turn].append((number, corner, sides))
    return [part for group in groups for part in _bounded(group, most)]


def _bounded(group: list[Box], most: int) -> list[list[Box]]:
    padded = int(np.prod(np.max([sides for _, _, sides in group], 0)))
    count = max(most // padded, 1)
    group = sorted(group, key=lambda box: int(np.prod(box[2])))
    return [group[start : start + count] for start in range(0, len(group), count)]


def fill_holes(values: Tensor, boxes: Boxes, check: int = 8) -> Tensor:
    """:func:`zoo.synthetic.labels.fill_holes` of ``(n, 1, *M)`` boxes, by passing levels on until nothing changes.

    Args:
        values: -inf outside the boxes.
        boxes: where they lie.
        check: passes between two looks at whether anything changed, for which the device is waited for.
    """
    dims = values.dim() - 2
    inside, face = boxes.inside, torch.zeros_like(boxes.inside)
    lines: list[Tensor] = []
    for axis in range(2, values.dim()):
        lines += [values.cummax(axis).values, values.flip(axis).cummax(axis).values.flip(axis)]
        place = torch.arange(values.shape[axis], device=values.device).view(-1, *[1] * (values.dim() - axis - 1))
        last = torch.from_numpy(boxes.sides[:, axis - 2] - 1).to(values.device).view(-1, *[1] * (dims + 1))
        face = face | (place == 0) | (place == last)
    level = torch.stack(lines).amin(0)
    level = torch.where(inside, torch.where(face, values, level), torch.inf)
    while True:
        before = level
        for _ in range(check):
            level = torch.maximum(values, neighbourhood(level, dims, torch.minimum))
            level = torch.where(inside, level, torch.inf)
        if torch.equal(before, level):
            return level
