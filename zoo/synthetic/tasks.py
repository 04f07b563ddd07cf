"""The five tasks of the multi-task paper (Baugh et al., MICCAI 2023), and samples made from them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.synthetic.blending import poisson_blend
from zoo.synthetic.deformation import deform, push_bounds, push_factor, sink_map, source_map
from zoo.synthetic.intensity import shift_intensity
from zoo.synthetic.patches import draw_patch
from zoo.synthetic.shapes import Shape, box_of, draw_shape, place

Array = NDArray[Any]
TASK_NAMES = ("intra_blend", "inter_blend", "sink", "source", "smooth_intensity")


class Sources(Protocol):
    """Images or foregrounds by number: an array, or a data set that is read when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Array: ...


class Context(NamedTuple):
    """What a task may use beside the image.

    Attributes:
        sources: ``(N, C, *S)`` healthy images of the same data set, or other images for the inter-data-set blend.
        foreground: ``(N, *S)`` bool of the sources, or None.
    """

    sources: Sources
    foreground: Sources | None = None


class Task(Protocol):
    """One kind of anomaly: changes a running image inside a placed shape."""

    def __call__(
        self, image: Array, shape: Shape, corner: Array, rng: np.random.Generator, context: Context
    ) -> tuple[Array, Array]:
        """Return the changed ``(C, *S)`` image and the ``(*b)`` mask of the change; nothing is changed in place."""
        ...


def _bounds(image: Array) -> tuple[Array, Array]:
    axes = tuple(range(1, image.ndim))
    return image.min(axes), image.max(axes)


def blend(image: Array, shape_mask: Array, corner: Array, patch: Array, mix_gradients: bool) -> tuple[Array, Array]:
    """Poisson blend, clipped to the image's range; the mask grows to the pixels that changed by more than 0.001."""
    low, high = (bound.reshape(-1, *[1] * shape_mask.ndim) for bound in _bounds(image))
    altered = np.clip(
        poisson_blend(image, patch.astype(image.dtype), shape_mask, list(corner), mix_gradients), low, high
    )
    inner = np.zeros_like(shape_mask)
    inside = (slice(1, -1),) * shape_mask.ndim
    inner[inside] = shape_mask[inside]
    box = (slice(None), *box_of(corner, shape_mask.shape))
    return altered, inner | (np.abs(altered[box] - image[box]).mean(0) > 0.001)


class IntraPoissonBlend:
    """Blends a turned and scaled patch of another healthy image.

    Args:
        mix_gradients: keep the stronger of both gradients, as published.
    """

    def __init__(self, mix_gradients: bool = True) -> None:
        self.mix_gradients = mix_gradients

    def __call__(
        self, image: Array, shape: Shape, corner: Array, rng: np.random.Generator, context: Context
    ) -> tuple[Array, Array]:
        """See :class:`Task`."""
        number = int(rng.integers(len(context.sources)))
        foreground = None if context.foreground is None else context.foreground[number]
        patch = draw_patch(rng, context.sources[number], shape.mask.shape, foreground)
        return blend(image, shape.mask, corner, patch, self.mix_gradients)


class InterPoissonBlend(IntraPoissonBlend):
    """The same with patches of another data set; the context holds its images."""


class Sink:
    """Pulls the image towards a random point of the shape.

    Args:
        min_push: bounds of the displacement at mid radius, in pixels (0.5 to 5 for brains, 0.5 to 10 for films).
        max_push: see min_push.
    """

    mapping = staticmethod(sink_map)

    def __init__(self, min_push: float = 0.5, max_push: float = 10.0) -> None:
        self.min_push, self.max_push = min_push, max_push

    def __call__(
        self, image: Array, shape: Shape, corner: Array, rng: np.random.Generator, context: Context
    ) -> tuple[Array, Array]:
        """See :class:`Task`."""
        inside = np.argwhere(shape.mask)
        centre = inside[rng.integers(len(inside))]
        low, high, distance = push_bounds(shape.mask, centre, self.min_push, self.max_push)
        factor = push_factor(float(rng.uniform(low, high)), distance)
        altered = image.copy()
        box = (slice(None), *box_of(corner, shape.mask.shape))
        altered[box] = deform(image[box], self.mapping(shape, centre, factor))
        return altered, shape.mask


class Source(Sink):
    """Pushes the image away from a random point of the shape."""

    mapping = staticmethod(source_map)


class SmoothIntensity:
    """Brightens or darkens each channel smoothly.

    Args:
        scale: of the change, ``scale / 2 + Gamma(3, scale)``.
    """

    def __init__(self, scale: float = 0.2) -> None:
        self.scale = scale

    def __call__(
        self, image: Array, shape: Shape, corner: Array, rng: np.random.Generator, context: Context
    ) -> tuple[Array, Array]:
        """See :class:`Task`."""
        ramp = min(image.shape[1:]) * (0.02 + rng.gamma(3, 0.01))
        amount = (self.scale / 2 + rng.gamma(3, self.scale)) * rng.choice([-1.0, 1.0], len(image))
        altered = image.copy()
        box = (slice(None), *box_of(corner, shape.mask.shape))
        altered[box] = shift_intensity(image[box], shape.mask, ramp, amount, *_bounds(image))
        return altered, shape.mask


def synthesise(
    image: Array,
    task: Task,
    rng: np.random.Generator,
    *,
    sources: Sources | None = None,
    foreground: Array | None = None,
    source_foreground: Sources | None = None,
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
    if sources is None and isinstance(task, IntraPoissonBlend):
        raise ValueError(f"{type(task).__name__} needs sources: images to take patches from")
    context = Context(image[None] if sources is None else sources, source_foreground)
    altered, union = image, np.zeros(image.shape[1:], bool)
    for _ in range(most):
        shape = draw_shape(rng, image.shape[1:])
        corner = place(rng, shape.mask, image.shape[1:], foreground)
        if corner is not None:
            altered, mask = task(altered, shape, corner, rng, context)
            union[box_of(corner, mask.shape)] |= mask
        if rng.random() > 0.5:
            break
    return altered, union


def five_tasks(max_push: float = 10.0, scale: float = 0.2) -> Sequence[Task]:
    """The paper's tasks in its order: intra blend, inter blend, sink, source, smooth intensity."""
    push = {"max_push": max_push}
    return IntraPoissonBlend(), InterPoissonBlend(), Sink(**push), Source(**push), SmoothIntensity(scale)
