"""Drawn anomalies carried out on the images of a batch, by either path, with sources that are read when needed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.synthetic.batched import apply_batch
from zoo.synthetic.tasks import Anomaly, Blend, Context, apply_anomalies


def carry_out(
    images: Tensor, drawn: Sequence[Sequence[Anomaly]], contexts: Sequence[Context], batched: bool
) -> tuple[Tensor, Tensor]:
    """Carry out what :func:`zoo.synthetic.tasks.draw_anomalies` has drawn for each image.

    Args:
        images: ``(B, C, *S)``.
        drawn: anomalies of each image.
        contexts: of each image; the sources may be :class:`~zoo.synthetic.sources.ImagesOfSplit`.
        batched: all images at once, on their device; otherwise one by one on the CPU.

    Returns:
        tuple: altered ``(B, C, *S)`` and mask bool ``(B, 1, *S)``, on the images' device.
    """
    if batched:
        return apply_batch(images, *_with_tensors(images, drawn, contexts))
    pairs = [
        apply_anomalies(image, own, context)
        for image, own, context in zip(images.cpu().numpy(), drawn, contexts, strict=True)
    ]
    altered, masks = (torch.from_numpy(np.stack(part)).to(images.device) for part in zip(*pairs, strict=True))
    return altered, masks[:, None]


def _with_tensors(
    images: Tensor, drawn: Sequence[Sequence[Anomaly]], contexts: Sequence[Context]
) -> tuple[list[list[Anomaly]], list[Context]]:
    """The same draws from tensors that hold only the sources which were drawn."""
    numbers: dict[int, dict[int, int]] = {id(context.sources): {} for context in contexts}
    renumbered = [
        [_renumbered(anomaly, numbers[id(context.sources)]) for anomaly in own]
        for own, context in zip(drawn, contexts, strict=True)
    ]
    tensors = {id(context.sources): context.sources for context in contexts}
    tensors = {key: _read(sources, list(numbers[key]), images) for key, sources in tensors.items()}
    return renumbered, [Context(tensors[id(context.sources)]) for context in contexts]


def _renumbered(anomaly: Anomaly, numbers: dict[int, int]) -> Anomaly:
    operation = anomaly.operation
    if not isinstance(operation, Blend):
        return anomaly
    source = numbers.setdefault(operation.patch.source, len(numbers))
    return anomaly._replace(operation=operation._replace(patch=operation.patch._replace(source=source)))


def _read(sources: Any, wanted: list[int], images: Tensor) -> Tensor:
    if not wanted:
        return images[:0]
    if isinstance(sources, Tensor):
        return sources[wanted].to(images)
    return torch.from_numpy(np.stack([sources[number] for number in wanted])).to(images)
