"""The papers' own ways of evaluating, by their names, where they differ from the common metrics."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zoo.metrics.fae_protocol import fae_protocol
from zoo.metrics.functional import auroc, average_precision
from zoo.metrics.table import Protocol

Array = NDArray[Any]
SLICE_THRESHOLD = 5 / 128**2  # share of a slice that must be lesion: 3 voxels of 112 x 80


class Tested(NamedTuple):
    """A finished test, in the order of the ids.

    Attributes:
        maps: ``(N, *S)`` float32.
        masks: ``(N, *S)`` bool.
        scores: ``(N,)``.
        foreground: ``(N, *S)`` bool.
        healthy_maps: ``(M, *S)`` of held-out healthy images, for rules that take a threshold from them; None: not had.
        in_cradl_region: of every volume its map and mask ``(n, 128, 128)`` in CRADL's slices; None: not had.
    """

    maps: Array
    masks: Array
    scores: Array
    foreground: Array
    healthy_maps: Array | None = None
    in_cradl_region: Sequence[tuple[Array, Array]] | None = None


def figures(protocol: Protocol, tested: Tested) -> dict[str, float]:
    """The figures of a paper's rules, under their names in the table of metrics; nan where they cannot be had.

    Args:
        protocol: whose rules; ``common`` has no further figures.
        tested: what was tested.
    """
    return {} if protocol == "common" else _RULES[protocol](tested)


def _memmc_mae(tested: Tested) -> dict[str, float]:
    names = ("mean_iou_in_groups", "best_mean_iou_in_groups")
    anomalous = tested.masks.any(axis=tuple(range(1, tested.masks.ndim)))
    if not anomalous.any() or tested.healthy_maps is None:
        return dict.fromkeys(names, float("nan"))
    found = memmc_mae_iou(tested.maps[anomalous], tested.masks[anomalous], tested.healthy_maps)
    return dict(zip(names, (found.mean, found.oracle), strict=True))


def _fae(tested: Tested) -> dict[str, float]:
    maps, masks, inside = (
        array.reshape(-1, *array.shape[-2:]) for array in (tested.maps, tested.masks, tested.foreground)
    )
    scores = tested.scores
    if tested.maps.ndim == 4:  # of volumes every slice counts, with the mean of its map in the foreground
        scores = (maps * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
    found = fae_protocol(maps, masks, scores)
    return {
        "fae_pixel_ap": found.pixel_ap,
        "fae_dice_at_5fpr": found.dice_at_5fpr,
        "fae_slice_auroc": found.slice_auroc,
    }


def _multi_task(tested: Tested) -> dict[str, float]:
    found = multi_task(tested.maps, tested.masks)
    return {
        "multi_task_ap": found.score_ap,
        "multi_task_auroc": found.score_auroc,
        "pixel_ap_in_groups": found.pixel_ap,
        "multi_task_pixel_auroc": found.pixel_auroc,
    }


def _cradl(tested: Tested) -> dict[str, float]:
    if tested.in_cradl_region is None:
        raise ValueError("protocol cradl needs in_cradl_region")
    maps, masks = zip(*tested.in_cradl_region, strict=True)
    found = multi_task(maps, masks)
    return {
        "cradl_ap": found.score_ap,
        "cradl_auroc": found.score_auroc,
        "cradl_pixel_ap": found.pixel_ap,
        "cradl_pixel_auroc": found.pixel_auroc,
    }


_RULES: dict[str, Callable[[Tested], dict[str, float]]] = {
    "memmc_mae": _memmc_mae,
    "fae": _fae,
    "multi_task": _multi_task,
    "cradl": _cradl,
}


class MultiTaskFigures(NamedTuple):
    """Baugh et al. 2023.

    Attributes:
        score_ap: AP of images, or of slices for volumes.
        score_auroc: AUROC of the same.
        pixel_ap: the tables' pixel AP: mean over ten shuffles of the mean AP of groups of 20 samples.
        pixel_ap_pooled: AP over all pixels at once.
        pixel_auroc: over all pixels at once.
    """

    score_ap: float
    score_auroc: float
    pixel_ap: float
    pixel_ap_pooled: float
    pixel_auroc: float


def multi_task(
    maps: Array | Sequence[Array], masks: Array | Sequence[Array], group: int = 20, shuffles: int = 10
) -> MultiTaskFigures:
    """Evaluate as the multi-task paper's table script does.

    Images score by the mean of their map; of volumes every slice along the first axis is a case, anomalous if more than
    5 / 128² of it is lesion.

    Args:
        maps: ``(N, *S)`` in the order of the sorted ids, or N volumes of different depth; clipped to [0, 1] here.
        masks: the same, bool.
        group: samples in a group of the pixel AP.
        shuffles: seeds 0, 1, ... of the groups.
    """
    maps = [np.clip(one, 0, 1) for one in maps]
    if maps[0].ndim == 3:
        slices, truth = np.concatenate(maps), np.concatenate(list(masks))
        labels = truth.mean((1, 2)) > SLICE_THRESHOLD
    else:
        slices, truth = np.stack(maps), np.stack(list(masks))
        labels = truth.any((1, 2))
    scores = slices.reshape(len(slices), -1).mean(1)
    return MultiTaskFigures(
        average_precision(scores, labels),
        auroc(scores, labels),
        grouped_pixel_ap(maps, masks, group, shuffles),
        average_precision(slices, truth),
        auroc(slices, truth),
    )


def grouped_pixel_ap(
    maps: Array | Sequence[Array], masks: Array | Sequence[Array], group: int = 20, shuffles: int = 10
) -> float:
    """Pixel AP of the multi-task paper's tables: mean over shuffles of the mean AP of consecutive groups.

    Args:
        maps: ``(N, ...)`` in the order of the sorted ids, or N arrays.
        masks: the same, bool.
        group: samples in a group; the last one may be smaller.
        shuffles: seeds 0, 1, ... of the groups.
    """
    repeats = []
    for seed in range(shuffles):
        order = np.random.default_rng(seed).permutation(len(maps))
        parts = [order[start : start + group] for start in range(0, len(order), group)]
        # a group without any lesion counts as 0, as in the authors' tables
        repeats.append(np.mean([np.nan_to_num(_pooled_ap(maps, masks, part)) for part in parts]))
    return float(np.mean(repeats))


def _pooled_ap(maps: Array | Sequence[Array], masks: Array | Sequence[Array], chosen: Array) -> float:
    return average_precision(*(np.concatenate([whole[one].ravel() for one in chosen]) for whole in (maps, masks)))


class GroupedIoU(NamedTuple):
    """MemMC-MAE's localisation.

    Attributes:
        mean: over the groups of the mean IoU of their images, at the label-free threshold.
        deviation: over the groups.
        oracle: the same at the one threshold that is best for these images: an upper bound.
        threshold: the label-free one.
        oracle_threshold: the best one.
    """

    mean: float
    deviation: float
    oracle: float
    threshold: float
    oracle_threshold: float


def memmc_mae_iou(
    maps: Array,
    masks: Array,
    healthy_maps: Array,
    *,
    quantile: float = 0.95,
    groups: int = 5,
    size: int = 100,
    seed: int = 0,
    candidates: int = 200,
) -> GroupedIoU:
    """Mean IoU over five groups of 100 anomalous images (Tian et al. 2023, table 3; the threshold is not published).

    Args:
        maps: ``(N, H, W)`` of anomalous images.
        masks: ``(N, H, W)`` bool.
        healthy_maps: ``(M, H, W)`` of held-out healthy images, whose ``quantile`` is the label-free threshold.
        quantile: see above (our choice).
        groups: number of groups, drawn without replacement.
        size: images in a group; fewer where there are not enough.
        seed: of the groups.
        candidates: thresholds tried for the oracle, quantiles of ``maps``.
    """
    threshold = float(np.quantile(healthy_maps, quantile))
    order = np.random.default_rng(seed).permutation(len(maps))
    size = min(size, max(len(maps) // groups, 1))
    parts = [order[number * size : (number + 1) * size] for number in range(groups)]
    parts = [part for part in parts if len(part)]
    means = [float(_iou(maps[part], masks[part], threshold).mean()) for part in parts]
    used = np.concatenate(parts)
    tried = np.unique(np.quantile(maps[used], np.linspace(0, 1, candidates, endpoint=False)))
    values = [float(_iou(maps[used], masks[used], float(one)).mean()) for one in tried]
    best = int(np.argmax(values))
    deviation = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    return GroupedIoU(float(np.mean(means)), deviation, values[best], threshold, float(tried[best]))


def _iou(maps: Array, masks: Array, threshold: float) -> Array:
    called = maps > threshold
    both, either = (called & masks).sum((1, 2)), (called | masks).sum((1, 2))
    iou: Array = both / np.maximum(either, 1)
    return iou


class LesionFigures(NamedTuple):
    """Detection of whole lesions at one threshold.

    Attributes:
        sensitivity: share of lesions that any called pixel touches.
        false_positives: called components per image that touch no lesion.
        by_size: sensitivity of small, medium and large lesions, terciles by size; nan where there are none.
        sizes: upper bounds of the small and the medium lesions, mm² or mm³ where spacing is known, else pixels.
    """

    sensitivity: float
    false_positives: float
    by_size: tuple[float, float, float]
    sizes: tuple[float, float]


def lesion_detection(
    maps: Array, masks: Array, threshold: float, spacing: tuple[float, ...] | None = None
) -> LesionFigures:
    """Detect connected lesions (full connectivity).

    Args:
        maps: ``(N, *S)``.
        masks: ``(N, *S)`` bool.
        threshold: pixels above it are called.
        spacing: mm per pixel along each axis of ``S``.
    """
    unit = 1.0 if spacing is None else float(np.prod(spacing))
    footprint = ndimage.generate_binary_structure(masks.ndim - 1, masks.ndim - 1)
    sizes: list[float] = []
    found: list[bool] = []
    wrong = 0
    for one, mask in zip(maps, masks, strict=True):
        called = one > threshold
        lesions, count = ndimage.label(mask, footprint)
        sizes += [float(n) * unit for n in np.bincount(lesions.ravel(), minlength=count + 1)[1:]]
        hit = np.unique(lesions[called])
        found += [bool(number in hit) for number in range(1, count + 1)]
        regions, total = ndimage.label(called, footprint)
        wrong += total - len(np.setdiff1d(np.unique(regions[mask]), [0]))
    if not sizes:
        nothing = float("nan")
        return LesionFigures(nothing, wrong / max(len(maps), 1), (nothing,) * 3, (nothing, nothing))
    bounds = np.quantile(sizes, [1 / 3, 2 / 3])
    tercile = np.searchsorted(bounds, sizes, side="left")
    share = [float(np.mean(np.array(found)[tercile == k])) if (tercile == k).any() else float("nan") for k in range(3)]
    return LesionFigures(
        float(np.mean(found)),
        wrong / len(maps),
        (share[0], share[1], share[2]),
        (float(bounds[0]), float(bounds[1])),
    )
