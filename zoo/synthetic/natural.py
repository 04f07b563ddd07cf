"""Constants of NSA: those of the paper's data sets, and calibration for unknown data (nnOOD)."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.synthetic.rectangles import BlendMode, LabelMode, NaturalPatches, add_natural_patches, own_foreground

Array = NDArray[Any]
DataSet = Literal[
    "chest_xray", "bottle", "cable", "hazelnut", "capsule", "metal_nut", "pill", "screw", "toothbrush",
    "transistor", "zipper", "wood", "texture", "auto",
]  # fmt: skip


class NaturalConstants(NamedTuple):
    """What NSA needs to know about a data set.

    Attributes:
        law: sizes and places of patches.
        steepness: of the logistic label, per grey level of 256.
        midpoint: change in grey levels that gives 0.5.
        blend: ``mixed`` or ``source`` gradients.
        background: grey level of the background; None: everything is foreground.
        tolerance: of the background, in grey levels.
    """

    law: NaturalPatches
    steepness: float
    midpoint: float
    blend: BlendMode = "source"
    background: float | None = None
    tolerance: float = 0.0


def _objects(largest: float | tuple[float, float], **changes: Any) -> NaturalPatches:
    base = {"lower": 0.03, "scale": 0.05, "largest": largest, "min_object": 0.7, "min_overlap": 0.25}
    return NaturalPatches(**{**base, **changes})


_TEXTURE = _objects(0.4, rescale=(0.5, 2.0), patches=4)

# Schlüter et al. 2022, supplement and code; half-widths as shares of height and width
CONSTANTS: dict[str, NaturalConstants] = {
    "chest_xray": NaturalConstants(NaturalPatches(), 1 / 2, 4, "mixed", 0, 20),
    "bottle": NaturalConstants(_objects(0.4), 1 / 12, 24, "source", 200, 60),
    "cable": NaturalConstants(_objects(0.4, smallest=0.05), 1 / 12, 24),
    "hazelnut": NaturalConstants(_objects(0.35), 1 / 12, 24, "source", 20, 20),
    "capsule": NaturalConstants(_objects((0.15, 0.4)), 1 / 2, 4, "source", 200, 60),
    "metal_nut": NaturalConstants(_objects(0.4, min_object=0.5), 1 / 3, 7, "source", 20, 20),
    "pill": NaturalConstants(_objects((0.2, 0.4)), 1 / 3, 7, "source", 20, 20),
    "screw": NaturalConstants(_objects(0.12, min_object=0.5, patches=4), 1, 3, "source", 200, 60),
    "toothbrush": NaturalConstants(_objects((0.4, 0.2), min_object=0.25), 1 / 6, 15, "source", 20, 20),
    "transistor": NaturalConstants(_objects(0.4), 1 / 6, 15),
    "zipper": NaturalConstants(_objects((0.4, 0.2), patches=4), 1 / 6, 15, "source", 200, 60),
    "wood": NaturalConstants(_TEXTURE, 1 / 6, 15, "mixed"),
    "texture": NaturalConstants(_TEXTURE, 1 / 3, 7, "mixed"),
}


def with_changes(constants: NaturalConstants, changes: Mapping[str, Any]) -> NaturalConstants:
    """The constants with what a user set over them.

    Args:
        constants: of a data set.
        changes: by the names of the attributes of :class:`NaturalConstants` and of the law, of which ``largest``,
            ``min_object``, ``min_overlap`` and ``patches``; ``background_tolerance`` is the tolerance; None leaves one
            as it is, other names are not looked at.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    law = {key: given[key] for key in ("largest", "min_object", "min_overlap", "patches") if key in given}
    rest: dict[str, Any] = {key: given[key] for key in ("steepness", "midpoint", "blend", "background") if key in given}
    if "background_tolerance" in given:
        rest["tolerance"] = given["background_tolerance"]
    return constants._replace(law=constants.law._replace(**law), **rest)


def add_to_batch(
    images: Array,
    rng: np.random.Generator,
    constants: NaturalConstants,
    foreground: Array | None = None,
    *,
    label: LabelMode = "logistic",
    same_image: bool = False,
) -> tuple[Array, Array]:
    """NSA's task: patches of each image's successor, at other places.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        rng: source of randomness.
        constants: of the data.
        foreground: ``(B, H, W)`` bool, taken where the constants name no background; None: by the background's grey.
        label: see :func:`~zoo.synthetic.rectangles.add_natural_patches`.
        same_image: patches come from the image itself.

    Returns:
        tuple: altered images in [0, 1] and labels ``(B, 1, H, W)``.
    """
    background = None if constants.background is None or constants.background < 0 else constants.background
    if foreground is not None and background is None:
        masks = list(foreground)
    else:
        masks = [own_foreground(one, background, constants.tolerance) for one in images]
    altered, labels = np.empty_like(images), np.empty_like(images[:, :1])
    for number, one in enumerate(rng.spawn(len(images))):
        source = number if same_image else (number + 1) % len(images)
        altered[number], labels[number, 0] = add_natural_patches(
            images[number],
            images[source],
            one,
            law=constants.law,
            foreground=masks[number],
            source_foreground=masks[source],
            blend=constants.blend,
            label=label,
            steepness=constants.steepness,
            midpoint=constants.midpoint,
        )
    return altered, labels


def calibrate(
    images: Array, foreground: Array, rng: np.random.Generator, blend: BlendMode = "mixed"
) -> NaturalConstants:
    """Constants for unknown data (nnOOD, Baugh et al. 2022).

    Patches: full widths ``0.03 + Gamma(2, 0.1)``, up to 4/3 of the objects' mean length, between 0.25 and 0.8. Label:
    0.1 just above no change and 0.99 at the 40th percentile of the changes that such patches make.

    Args:
        images: ``(N, C, H, W)`` float32 in [0, 1]; nnOOD takes 500.
        foreground: ``(N, H, W)`` bool; all True where the data have no background.
        rng: source of randomness.
        blend: of the patches whose changes are measured.

    Returns:
        NaturalConstants: with half-widths, as everywhere here; ``background`` is left None, the masks serve.
    """
    law = _patch_law(foreground)
    changes = []
    for number, one in enumerate(rng.spawn(len(images))):
        source = (number + 1) % len(images)
        altered, support = add_natural_patches(
            images[number],
            images[source],
            one,
            law=law,
            foreground=foreground[number],
            source_foreground=foreground[source],
            blend=blend,
            label="binary",
        )
        changes.append(255 * np.abs(altered - images[number]).mean(0)[support > 0])
    values = np.concatenate(changes)
    level = float(np.percentile(values, 40)) if values.size else 4.0 * np.log(891) / np.log(9)
    steepness = float(np.log(891) / level)
    return NaturalConstants(law, steepness, float(np.log(9) / steepness), blend)


def _patch_law(foreground: Array) -> NaturalPatches:
    base = NaturalPatches(lower=0.015, scale=0.05, smallest=0.03, largest=0.4, min_overlap=0.25, patches=4)
    area = float(foreground.mean())
    if area > 0.999:  # no background
        return base
    lengths = [foreground.any(axis).sum(1) / foreground.shape[3 - axis] for axis in (2, 1)]
    largest = tuple(float(np.clip(4 / 3 * one.mean(), 0.25, 0.8)) / 2 for one in lengths)
    return base._replace(
        largest=(largest[0], largest[1]), patches=3 if area < 0.75 else 4, min_object=0.5 if area < 0.4 else 0.7
    )
