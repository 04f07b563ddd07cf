"""The five tasks of the multi-task paper (Baugh et al., MICCAI 2023), and samples made from them.

A task draws the parameters of an *operation*; an operation is a pure function of the image in a box. So the same draws
can be carried out image by image (:func:`synthesise` with numpy) or on a batch on any device
(:mod:`zoo.synthetic.batched`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.synthetic.blending import blend_change
from zoo.synthetic.deformation import moved_pixels, push_bounds, push_factor, warp
from zoo.synthetic.intensity import shift_intensity
from zoo.synthetic.labels import mean_change
from zoo.synthetic.patches import Patch, draw_patch, needed_by_blend, take
from zoo.synthetic.shapes import Shape, box_of, draw_shape, place

Array = NDArray[Any]
VISIBLE = 0.001  # change of a blend, in units of the image, that belongs to its mask


class Context(NamedTuple):
    """What a task may use beside the image.

    Attributes:
        sources: ``(N, C, *S)`` healthy images of the same data set, or other images for the inter-data-set blend.
        foreground: ``(N, *S)`` bool of the sources, or None.
    """

    sources: Any
    foreground: Array | None = None


class Operation(Protocol):
    """A change of the image in a box, with every parameter fixed."""

    def apply(self, box: Array, shape: Shape, image: Array, context: Context) -> tuple[Array, Array]:
        """Change a box.

        Args:
            box: ``(C, *b)`` of the running image.
            shape: in the box.
            image: ``(C, *S)``, the whole running image, whose range the result may have to keep.
            context: see there.

        Returns:
            tuple: new ``(C, *b)`` and the ``(*b)`` mask of the change.
        """
        ...


class Task(Protocol):
    """One kind of anomaly: draws an operation for a placed shape in an image of ``(C, *S)``."""

    def draw(self, rng: np.random.Generator, shape: Shape, size: Sequence[int], context: Context) -> Operation:
        """Draw the parameters."""
        ...


class Anomaly(NamedTuple):
    """An operation at its place.

    Attributes:
        shape: of the anomaly.
        corner: ``(D,)`` low corner of its box in the image.
        operation: what happens there.
    """

    shape: Shape
    corner: Array
    operation: Operation


class Blend(NamedTuple):
    """Poisson blend of a patch, clipped to the image's range; the mask grows to the pixels that changed visibly."""

    patch: Patch
    mix_gradients: bool = True

    def apply(self, box: Array, shape: Shape, image: Array, context: Context) -> tuple[Array, Array]:
        """See :class:`Operation`."""
        source = np.asarray(context.sources[self.patch.source])
        wanted = needed_by_blend(shape.mask)
        content = take(source, self.patch.region, self.patch.corner, shape.mask.shape, wanted)
        return blend(box, shape.mask, content, value_range(image), self.mix_gradients)


def blend(
    box: Array, mask: Array, content: Array, bounds: tuple[Array, Array], mix_gradients: bool
) -> tuple[Array, Array]:
    """Blend ``content`` ``(C, *b)`` into a box; see :class:`Blend`."""
    low, high = (bound.reshape(-1, *[1] * mask.ndim) for bound in bounds)
    altered = box + blend_change(box, content.astype(box.dtype, copy=False), mask, mask.ndim, mix_gradients)
    np.clip(altered, low, high, out=altered)
    visible = mean_change(altered, box) > VISIBLE
    inner = (slice(1, -1),) * mask.ndim
    visible[inner] |= mask[inner]
    return altered, visible


def value_range(image: Array) -> tuple[Array, Array]:
    """Lowest and highest value ``(C,)`` of each channel of ``(C, *S)``."""
    flat = image.reshape(len(image), -1)
    return flat.min(1), flat.max(1)


class Warp(NamedTuple):
    """Sink (inward) or source."""

    centre: Array
    factor: float
    inward: bool

    def apply(self, box: Array, shape: Shape, image: Array, context: Context) -> tuple[Array, Array]:
        """See :class:`Operation`."""
        return warp(box, *moved_pixels(shape, self.centre, self.factor, self.inward)), shape.mask


class Shift(NamedTuple):
    """Smooth change of intensity by ``amount`` ``(C,)`` within ``ramp`` pixels from the edge."""

    ramp: float
    amount: Array

    def apply(self, box: Array, shape: Shape, image: Array, context: Context) -> tuple[Array, Array]:
        """See :class:`Operation`."""
        return shift_intensity(box, shape.mask, self.ramp, self.amount, *value_range(image)), shape.mask


class IntraPoissonBlend:
    """Blends a turned and scaled patch of another healthy image.

    Args:
        mix_gradients: keep the stronger of both gradients, as published.
    """

    def __init__(self, mix_gradients: bool = True) -> None:
        self.mix_gradients = mix_gradients

    def draw(self, rng: np.random.Generator, shape: Shape, size: Sequence[int], context: Context) -> Blend:
        """See :class:`Task`."""
        sources = context.sources
        patch = draw_patch(rng, len(sources), sources.shape[2:], shape.mask.shape, context.foreground)
        return Blend(patch, self.mix_gradients)


class InterPoissonBlend(IntraPoissonBlend):
    """The same with patches of another data set; the context holds its images."""


class Sink:
    """Pulls the image towards a random point of the shape.

    Args:
        min_push: bounds of the displacement at mid radius, in pixels (0.5 to 5 for brains, 0.5 to 10 for films).
        max_push: see min_push.
    """

    inward = True

    def __init__(self, min_push: float = 0.5, max_push: float = 10.0) -> None:
        self.min_push, self.max_push = min_push, max_push

    def draw(self, rng: np.random.Generator, shape: Shape, size: Sequence[int], context: Context) -> Warp:
        """See :class:`Task`."""
        inside = np.flatnonzero(shape.mask)
        centre = np.array(np.unravel_index(inside[rng.integers(len(inside))], shape.mask.shape))
        low, high, distance = push_bounds(shape.mask, centre, self.min_push, self.max_push)
        return Warp(centre, push_factor(float(rng.uniform(low, high)), distance), self.inward)


class Source(Sink):
    """Pushes the image away from a random point of the shape."""

    inward = False


class SmoothIntensity:
    """Brightens or darkens each channel smoothly.

    Args:
        scale: of the change, ``scale / 2 + Gamma(3, scale)``.
    """

    def __init__(self, scale: float = 0.2) -> None:
        self.scale = scale

    def draw(self, rng: np.random.Generator, shape: Shape, size: Sequence[int], context: Context) -> Shift:
        """See :class:`Task`."""
        ramp = min(size[1:]) * (0.02 + rng.gamma(3, 0.01))
        return Shift(ramp, (self.scale / 2 + rng.gamma(3, self.scale)) * rng.choice([-1.0, 1.0], size[0]))


def draw_anomalies(
    rng: np.random.Generator,
    task: Task,
    size: Sequence[int],
    context: Context,
    foreground: Array | None = None,
    most: int = 4,
) -> list[Anomaly]:
    """Draw one to ``most`` anomalies of a task; each further one with probability 1/2.

    Args:
        rng: the only source of randomness.
        task: one of the tasks.
        size: ``(C, *S)`` of the image.
        context: what the task may use.
        foreground: ``(*S)`` bool where anomalies belong; None: anywhere.
        most: largest number of anomalies.

    Returns:
        list: those that found a place.

    Raises:
        ValueError: the task needs sources and there are none.
    """
    if context.sources is None and isinstance(task, IntraPoissonBlend):
        raise ValueError(f"{type(task).__name__} needs sources: images to take patches from")
    anomalies = []
    for _ in range(most):
        shape = draw_shape(rng, size[1:])
        corner = place(rng, shape.mask, size[1:], foreground)
        if corner is not None:
            anomalies.append(Anomaly(shape, corner, task.draw(rng, shape, size, context)))
        if rng.random() > 0.5:
            break
    return anomalies


def apply_anomalies(image: Array, anomalies: Sequence[Anomaly], context: Context) -> tuple[Array, Array]:
    """Carry out anomalies one after the other, each on the result of those before.

    Args:
        image: ``(C, *S)`` floating.
        anomalies: of :func:`draw_anomalies`.
        context: what they were drawn with.

    Returns:
        tuple: altered ``(C, *S)`` and mask ``(*S)`` bool.
    """
    altered, union = image.copy(), np.zeros(image.shape[1:], bool)
    apply_in_place(altered, union, anomalies, context)
    return altered, union


def apply_in_place(altered: Array, union: Array, anomalies: Sequence[Anomaly], context: Context) -> None:
    """:func:`apply_anomalies` on a copy of the image that the caller owns, and on its mask."""
    for shape, corner, operation in anomalies:
        box = box_of(corner, shape.mask.shape)
        changed, mask = operation.apply(altered[(slice(None), *box)], shape, altered, context)
        altered[(slice(None), *box)] = changed
        union[box] |= mask


def synthesise(
    image: Array,
    task: Task,
    rng: np.random.Generator,
    *,
    sources: Array | None = None,
    foreground: Array | None = None,
    source_foreground: Array | None = None,
    most: int = 4,
) -> tuple[Array, Array]:
    """Put one to ``most`` anomalies of one task into a healthy image; each further one with probability 1/2.

    Args:
        image: ``(C, *S)`` floating.
        task: one of the tasks.
        rng: the only source of randomness.
        sources: ``(N, C, *S)`` for the blends.
        foreground: ``(*S)`` bool where anomalies belong; None: anywhere.
        source_foreground: ``(N, *S)`` bool.
        most: largest number of anomalies.

    Returns:
        tuple: altered ``(C, *S)`` and mask ``(*S)`` bool. Both unchanged and empty where no shape could be placed.

    Raises:
        ValueError: the task needs sources and there are none.
    """
    context = Context(sources, source_foreground)
    return apply_anomalies(image, draw_anomalies(rng, task, image.shape, context, foreground, most), context)


def five_tasks(max_push: float = 10.0, scale: float = 0.2) -> Sequence[Task]:
    """The paper's tasks in its order: intra blend, inter blend, sink, source, smooth intensity."""
    push = {"max_push": max_push}
    return IntraPoissonBlend(), InterPoissonBlend(), Sink(**push), Source(**push), SmoothIntensity(scale)
