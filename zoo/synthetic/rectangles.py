"""Rectangular anomalies of FPI, PII, NSA and CutPaste: their sizes, places and contents."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor

from zoo.synthetic.blending import poisson_blend
from zoo.synthetic.labels import logistic_label

Array = NDArray[Any]
BlendMode = Literal["mixed", "source", "swap"]
LabelMode = Literal["logistic", "binary"]
_DISC = (np.hypot(*np.mgrid[-5:6, -5:6]) <= 5).astype(np.uint8)


class Rectangle(NamedTuple):
    """Rows and columns of a box, low ends included."""

    top: int
    left: int
    height: int
    width: int

    def slices(self) -> tuple[slice, slice]:
        """Of the last two axes."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def draw_square(rng: np.random.Generator, size: tuple[int, int], core: float) -> Rectangle:
    """FPI's patch: half-width U{5 %..20 % of the side}, centre in the central ``core`` share, cut at the border.

    Args:
        rng: source of randomness.
        size: ``(H, W)``.
        core: 0.5 for brains, 0.8 for chest and abdomen.
    """
    low, high = max(2, round(0.05 * size[0])), max(3, round(0.20 * size[0]))
    half = int(rng.integers(low, max(high, low + 1)))
    ends = []
    for side in size:
        margin = int((1 - core) / 2 * side)
        centre = int(rng.integers(margin, max(side - margin, margin + 1)))
        ends.append((max(centre - half, 0), min(centre + half, side)))
    (top, bottom), (left, right) = ends
    return Rectangle(top, left, bottom - top, right - left)


def mix_squares(
    image: Tensor,
    others: Tensor,
    rng: np.random.Generator,
    mix: Callable[[Tensor, Tensor, float, tuple[Tensor, Tensor]], Tensor],
    core: float,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """The task of FPI and PII: a square of each image is mixed with the same place of another one.

    Args:
        image: ``(B, C, H, W)``.
        others: ``(B, C, H, W)``.
        rng: source of randomness.
        mix: from own patch, foreign patch ``(C, h, w)``, weight U(0.05, 0.95) and the bounds of both images to the
            mixture.
        core: see :func:`draw_square`.
        tolerance: smallest change, averaged over channels, that is labelled.

    Returns:
        tuple: altered images, and labels ``(B, 1, H, W)``: the weight where something changed.
    """
    altered, label = image.clone(), torch.zeros_like(image[:, :1])
    low = torch.minimum(image.amin((1, 2, 3)), others.amin((1, 2, 3)))
    high = torch.maximum(image.amax((1, 2, 3)), others.amax((1, 2, 3)))
    for number in range(len(image)):
        square = draw_square(rng, (int(image.shape[2]), int(image.shape[3])), core)
        box, alpha = square.slices(), float(rng.uniform(0.05, 0.95))
        own = image[number, :, *box]
        mixed = mix(own, others[number, :, *box], alpha, (low[number], high[number]))
        altered[number, :, *box] = mixed
        label[number, 0, *box] = torch.where((mixed - own).abs().mean(0) > tolerance, alpha, 0.0)
    return altered, label


class NaturalPatches(NamedTuple):
    """Constants of NSA (Schlüter et al., ECCV 2022), as half-widths in shares of the side.

    The defaults are the chest X-ray setting; ``background`` is a grey level of images in [0, 255].

    Attributes:
        lower: added to the Gamma draw.
        shape: of Gamma.
        scale: of Gamma.
        smallest: bounds of the half-width.
        largest: bounds of the half-width, one for both axes or (height, width).
        rescale: bounds of the factor N(1, 0.5) by which a patch is resized.
        min_object: share of the patch that must be foreground.
        min_overlap: share of the patch's foreground that must fall on foreground.
        patches: most patches in an image; each further one with probability 1/2.
        tries: attempts for a place; after the last one the image stays as it is.
    """

    lower: float = 0.05
    shape: float = 2.0
    scale: float = 0.03
    smallest: float = 0.03
    largest: float | tuple[float, float] = 0.40
    rescale: tuple[float, float] = (0.7, 1.3)
    min_object: float = 0.7
    min_overlap: float = 0.7
    patches: int = 3
    tries: int = 200


def add_natural_patches(
    image: Array,
    source: Array,
    rng: np.random.Generator,
    *,
    law: NaturalPatches,
    foreground: Array,
    source_foreground: Array,
    blend: BlendMode = "mixed",
    label: LabelMode = "logistic",
    steepness: float = 0.5,
    midpoint: float = 4.0,
) -> tuple[Array, Array]:
    """Put rescaled patches of another image at other places (NSA).

    Args:
        image: ``(C, H, W)`` float32 in [0, 1].
        source: ``(C, H, W)``.
        rng: source of randomness.
        law: sizes and places.
        foreground: ``(H, W)`` bool of the image.
        source_foreground: ``(H, W)`` bool of the source.
        blend: ``mixed`` or ``source`` gradients, or ``swap`` for a plain paste.
        label: ``logistic`` in the change, or ``binary``.
        steepness: of the logistic, per grey level of 256.
        midpoint: change in grey levels that gives 0.5.

    Returns:
        tuple: altered ``(C, H, W)`` and label ``(H, W)`` in [0, 1], 0 where nothing changed. Its support are the pixels
        that changed by more than a grey level, by a 5 x 5 majority; its change a median over discs of radius 5.
    """
    altered, support, places = image, np.zeros(image.shape[1:], bool), []
    for number in range(law.patches):
        if number and rng.random() > 0.5:
            break
        drawn = _natural_patch(rng, source, source_foreground, foreground, law)
        if drawn is None:
            continue
        patch, mask, place = drawn
        box = place.slices()
        if blend == "swap":
            changed = altered.copy()
            changed[:, *box] = np.where(mask, patch, altered[:, *box])
        else:
            changed = poisson_blend(altered, patch, mask, (place.top, place.left), blend == "mixed")
            changed = np.clip(changed, 0, 1)
        support[box] |= mask & (np.abs(changed[:, *box] - altered[:, *box]).mean(0) > 1 / 255)
        altered = changed
        places.append(place)
    change = 255 * np.abs(altered - image).mean(0)
    support = _majority(support, places) & (change > 0)
    if label == "binary":
        return altered, support.astype(image.dtype)
    change = _disc_median(change, places, midpoint + np.log(999) / steepness)
    change = np.maximum(change, 1e-6)  # where the median is zero the support still says that something changed
    return altered, logistic_label(
        change[None].astype(image.dtype), np.zeros_like(image[:1]), support, steepness, midpoint
    )


def _majority(support: Array, places: list[Rectangle]) -> Array:
    """The median of 5 x 5 pixels, in the patches."""
    smooth = np.zeros_like(support)
    for place in places:
        region, inner = _around(place, support.shape, 2)
        smooth[place.slices()] = (uniform_filter(support[region].astype(np.float32), 5) > 0.5)[inner]
    return smooth


def _disc_median(change: Array, places: list[Rectangle], largest: float) -> Array:
    """The median over discs of radius 5, in the patches; in 255 levels up to ``largest``, which the label cannot tell.

    The original takes it over the whole image in floating point, which is two thirds of its time.
    """
    from skimage.filters.rank import median

    levels = np.rint(np.minimum(change / largest, 1) * 255).astype(np.uint8)
    smooth = np.zeros_like(change)
    for place in places:
        region, inner = _around(place, change.shape, 5)
        smooth[place.slices()] = median(levels[region], _DISC)[inner] * (largest / 255)
    return smooth


def _around(place: Rectangle, size: tuple[int, ...], margin: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The box with a margin, as far as the image goes, and the box in it."""
    starts = (max(place.top - margin, 0), max(place.left - margin, 0))
    ends = (min(place.top + place.height + margin, size[0]), min(place.left + place.width + margin, size[1]))
    region = tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))
    return region, Rectangle(place.top - starts[0], place.left - starts[1], place.height, place.width).slices()


def _natural_patch(
    rng: np.random.Generator, source: Array, source_foreground: Array, foreground: Array, law: NaturalPatches
) -> tuple[Array, Array, Rectangle] | None:
    size = np.array(foreground.shape)
    half = np.clip(law.lower + rng.gamma(law.shape, law.scale, 2), law.smallest, law.largest)
    sides = np.maximum((2 * half * size).astype(int), 3)
    origin = _find(rng, source_foreground, sides, law.min_object, law.tries)
    if origin is None:
        return None
    new = np.clip(rng.normal(1, 0.5), *law.rescale) * sides
    new = np.clip(new, np.maximum(2 * law.smallest * size, 3), 2 * np.array(law.largest) * size).astype(int)
    box = origin.slices()
    patch, object_mask = _resized(source[:, *box], new), _resized(source_foreground[None][:, *box], new)[0] > 0.5
    for _ in range(law.tries):
        top, left = (int(rng.integers(0, s - n + 1)) for s, n in zip(size, new, strict=True))
        place = Rectangle(top, left, int(new[0]), int(new[1]))
        own = foreground[place.slices()]
        if object_mask.mean() < law.min_object:
            return None
        if object_mask.any() and (own & object_mask).sum() / object_mask.sum() > law.min_overlap:
            return patch, own | object_mask, place
    return None


def _find(rng: np.random.Generator, mask: Array, sides: Array, share: float, tries: int) -> Rectangle | None:
    for _ in range(tries):
        top, left = (int(rng.integers(0, s - n + 1)) for s, n in zip(mask.shape, sides, strict=True))
        found = Rectangle(top, left, int(sides[0]), int(sides[1]))
        if mask[found.slices()].mean() > share:
            return found
    return None


def _resized(patch: Array, size: Array) -> Array:
    tensor = torch.from_numpy(np.ascontiguousarray(patch, np.float32))[None]
    return F.interpolate(tensor, (int(size[0]), int(size[1])), mode="bilinear", align_corners=False)[0].numpy()


def own_foreground(image: Array, background: float | None, tolerance: float) -> Array:
    """Pixels that differ from the background's grey level: NSA's object mask, by a 7 x 7 majority.

    Args:
        image: ``(C, H, W)`` in [0, 1].
        background: grey level in 0..255; None: everything is foreground.
        tolerance: in grey levels.

    Returns:
        array: ``(H, W)`` bool.
    """
    if background is None:
        return np.ones(image.shape[1:], bool)
    mask = np.abs(255 * image.mean(0) - background) > tolerance
    smooth: Array = uniform_filter(mask.astype(np.float32), 7) > 0.5
    return smooth
