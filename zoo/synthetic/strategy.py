"""The strategy of the confidence-aware paper (Müller et al., UNSURE 2023) around any task of the library.

Histograms are equalised, gradients scaled up, patches moved to other places, and many raters' versions of many
anomalies averaged. The strategy decides where, how often and how strongly; the task only says what happens to a box.
The published generator is the task ``mixed``. That the strategy serves other tasks is stated in the abstract; how is
not, so the other tasks' reading of the gain is ours: blends stretch the patch about its mean, which scales its
gradients, and tasks without a foreign patch scale the change itself.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.synthetic.blending import poisson_blend
from zoo.synthetic.raters import RatedImage, RaterLaw, _draw, rate
from zoo.synthetic.shapes import Shape
from zoo.synthetic.tasks import Context, Sink, SmoothIntensity, Source, Task

Array = NDArray[Any]
BoxTask = Callable[[Array, Array, Array, float, np.random.Generator], Array]
"""From target ``(C, h, w)``, patch ``(C, h, w)``, mask ``(h, w)`` bool, gain and generator to the altered target. All
raters of an anomaly get a generator in the same state."""
RatedTask = Literal["mixed", "replace", "swap", "linear", "interpolate", "sink", "push", "intensity"]


def mixed(target: Array, patch: Array, mask: Array, gain: float, rng: np.random.Generator) -> Array:
    """The larger of own and foreign gradient (P-PII, NSA)."""
    return poisson_blend(target, np.asarray(gain * patch, target.dtype), mask, (0, 0), True)


def replace(target: Array, patch: Array, mask: Array, gain: float, rng: np.random.Generator) -> Array:
    """The foreign gradient (NSA of objects)."""
    return poisson_blend(target, np.asarray(gain * patch, target.dtype), mask, (0, 0))


def swap(target: Array, patch: Array, mask: Array, gain: float, rng: np.random.Generator) -> Array:
    """The foreign pixels (CutPaste)."""
    return np.where(mask, _stretched(patch, gain), target)


def linear(target: Array, patch: Array, mask: Array, gain: float, rng: np.random.Generator) -> Array:
    """A weighted mean of own and foreign pixels (FPI)."""
    alpha = rng.uniform(0.05, 0.95)
    return np.where(mask, (1 - alpha) * target + alpha * _stretched(patch, gain), target)


def interpolate(target: Array, patch: Array, mask: Array, gain: float, rng: np.random.Generator) -> Array:
    """The larger of the weighted own and foreign gradients (PII).

    Where the mask is set the guidance is the larger of both minus the own gradient, in two parts that linear solves
    add up: against the own gradient times ``1 - alpha``, and that minus the whole own gradient.
    """
    alpha = rng.uniform(0.05, 0.95)
    against = (1 - alpha) * target
    change = mixed(against, alpha * patch, mask, gain, rng) - against
    return target + change + alpha * (poisson_blend(target, np.zeros_like(target), mask, (0, 0)) - target)


def on_discs(task: Task) -> BoxTask:
    """A task of :mod:`zoo.synthetic.tasks` that alters a shape, on each rater's disc, the change times the gain."""

    def altered(target: Array, patch: Array, mask: Array, gain: float, rng: np.random.Generator) -> Array:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if min(len(rows), len(columns)) < 3:
            return target
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        disc = Shape("ellipse", np.array(mask[box].shape), np.eye(2), mask[box])
        result, own = target.copy(), target[:, *box]
        context, any_value = Context(patch[None]), np.tile([-np.inf, np.inf], (len(own), 1))
        after, _ = task.draw(rng, disc, own.shape, context).apply(own, disc, any_value, context)
        result[:, *box] = own + gain * (after - own)
        return result

    return altered


TASKS: dict[RatedTask, BoxTask] = {
    "mixed": mixed,
    "replace": replace,
    "swap": swap,
    "linear": linear,
    "interpolate": interpolate,
    "sink": on_discs(Sink()),
    "push": on_discs(Source()),
    "intensity": on_discs(SmoothIntensity()),
}


def like_tasks(task: RatedTask) -> tuple[str, ...]:
    """Names in :data:`zoo.synthetic.folds.TASK_NAMES` of what a task looks like: both blends, or itself."""
    own = {"sink": "sink", "push": "source", "intensity": "smooth_intensity"}.get(task)
    return ("intra_blend", "inter_blend") if own is None else (own,)


def _stretched(patch: Array, gain: float) -> Array:
    mean = patch.mean((1, 2), keepdims=True)
    return np.asarray(mean + gain * (patch - mean), patch.dtype)


def rate_task(
    image: Array,
    sources: Array,
    rng: np.random.Generator,
    task: BoxTask,
    law: RaterLaw = RaterLaw(),  # noqa: B008
) -> RatedImage:
    """Average over all raters of all anomalies what a task makes of an image; of ``mixed`` the same as :func:`rate`.

    Args:
        image: ``(C, H, W)`` floating.
        sources: ``(N, C, H, W)``.
        rng: source of randomness.
        task: what happens to a box.
        law: of all draws.

    Returns:
        RatedImage: see there.
    """
    anomalies = _draw(rng, image.shape[1:], len(sources), law)
    total, squares = np.zeros_like(image), np.zeros_like(image)
    for anomaly in anomalies:
        (top, left, h, w), (y, x) = anomaly.box, anomaly.origin
        box = (slice(None), slice(top, top + h), slice(left, left + w))
        patch, seed = sources[anomaly.source][:, y : y + h, x : x + w], int(rng.integers(2**62))
        for mask, gain in zip(anomaly.masks, anomaly.gains, strict=True):
            change = task(image[box], patch, mask, float(gain), np.random.default_rng(seed)) - image[box]
            total[box] += change
            squares[box] += change**2
    count = sum(len(anomaly.gains) for anomaly in anomalies)
    mean = total / count
    return RatedImage(image + mean, np.sqrt(np.maximum(squares / count - mean**2, 0)))


def rated_batch(
    image: Tensor,
    rng: np.random.Generator,
    *,
    task: RatedTask = "mixed",
    law: RaterLaw = RaterLaw(),  # noqa: B008
    clean: float = 0.0,
    same_image: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Altered images, labels and spreads of a batch; patches come from the other images.

    The label is ten times the change and the spread ten times the raters' deviation, both cut to [0, 1]; images are
    cut to [0, 1] too, so that no impossible value gives an anomaly away.

    Args:
        image: ``(B, C, H, W)`` in [0, 1].
        rng: source of randomness.
        task: what happens to a box.
        law: of all draws.
        clean: share of images without anomalies.
        same_image: take patches from the image itself.

    Returns:
        tuple: ``(B, C, H, W)``, ``(B, 1, H, W)`` and ``(B, 1, H, W)``, all in [0, 1].
    """
    images = image.cpu().numpy()
    altered, label, spread = images.copy(), np.zeros_like(images[:, :1]), np.zeros_like(images[:, :1])
    for number, one in enumerate(rng.spawn(len(images))):
        if one.random() < clean:
            continue
        alone = same_image or len(images) == 1
        others = images[number : number + 1] if alone else np.delete(images, number, 0)
        rated = (
            rate(images[number], others, one, law)
            if task == "mixed"
            else rate_task(images[number], others, one, TASKS[task], law)
        )
        altered[number] = np.clip(rated.image, 0, 1)
        label[number, 0] = np.clip(10 * np.abs(altered[number] - images[number]).mean(0), 0, 1)
        spread[number, 0] = np.clip(10 * rated.spread.mean(0), 0, 1)
    parts = (torch.from_numpy(part).to(image.device) for part in (altered, label, spread))
    return next(parts), next(parts), next(parts)


def equalise_histogram(image: Tensor, levels: int = 64) -> Tensor:
    """Equalise each channel of each image over all its pixels.

    Args:
        image: ``(B, C, *S)`` in [0, 1].
        levels: grey levels of the histogram; values between them are interpolated.

    Returns:
        Tensor: ``(B, C, *S)`` in [0, 1].
    """
    flat = image.flatten(2)
    place = flat * (levels - 1)
    low = place.floor().long().clamp(0, levels - 2)
    ones = torch.zeros(*flat.shape[:2], levels, device=image.device, dtype=flat.dtype)
    histogram = ones.scatter_add(2, place.round().long(), torch.ones_like(flat))
    cumulative = histogram.cumsum(2) / flat.shape[2]
    below, above = cumulative.gather(2, low), cumulative.gather(2, low + 1)
    return torch.lerp(below, above, place - low).view_as(image)


def equalise_own_range(image: Tensor) -> Tensor:
    """:func:`equalise_histogram` of images of any range, each from its own lowest to its own highest value."""
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    return equalise_histogram((image - low) / (high - low).clamp(min=1e-12))
