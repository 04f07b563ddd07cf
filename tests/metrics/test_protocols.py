"""The papers' protocols: the multi-task authors' figures, and small cases by hand."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from zoo.metrics.protocols import lesion_detection, memmc_mae_iou, multi_task

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "multitask" / "eval.json").read_text())


def samples(tag):
    """The maps and masks that the authors' script evaluated."""
    case = GOLDEN[tag]
    maps, masks = [], []
    for number in range(case["n"]):
        g = np.random.Generator(np.random.PCG64(zlib.crc32(f"eval_{tag}_{number}".encode())))
        label = np.zeros(case["shape"])
        if g.random() < case["frac"]:
            low = [int(g.integers(0, s // 2)) for s in case["shape"]]
            sides = [int(g.integers(1, s // 2 + 1)) for s in case["shape"]]
            label[tuple(slice(a, a + n) for a, n in zip(low, sides, strict=True))] = 1
        noise = g.standard_normal(case["shape"])
        maps.append(np.clip(0.3 * noise + 0.15 * label + 0.2, 0, 1).astype(np.float32))
        masks.append(label > 0)
    return np.stack(maps), np.stack(masks)


@pytest.mark.parametrize(("tag", "kind"), [("2d", "sample_wise"), ("3d", "slice_wise")])
def test_multi_task_figures_are_the_authors(tag, kind):
    maps, masks = samples(tag)
    case = GOLDEN[tag]
    assert float(maps.sum(dtype=np.float64)) == pytest.approx(case["checksum_pred"], rel=1e-6)
    found = multi_task(maps, masks)
    ap, area = case["average_precision_score"], case["roc_auc_score"]
    assert found.score_ap == pytest.approx(ap[kind]["mean"], abs=1e-6)
    assert found.score_auroc == pytest.approx(area[kind]["mean"], abs=1e-6)
    assert found.pixel_ap == pytest.approx(ap["pixel_wise"]["In batches of 20"]["ap_mean"], abs=1e-9)
    assert found.pixel_ap_pooled == pytest.approx(ap["pixel_wise"]["Over entire dset"], abs=1e-9)
    assert found.pixel_auroc == pytest.approx(area["pixel_wise"]["Over entire dset"], abs=1e-9)


def test_iou_groups():
    rng = np.random.default_rng(0)
    masks = np.zeros((12, 16, 16), bool)
    masks[:, 4:9, 5:10] = True
    perfect = 0.5 * masks + 0.01 * rng.random(masks.shape)
    found = memmc_mae_iou(perfect, masks, 0.01 * rng.random((4, 16, 16)), size=2)
    assert found.oracle > 0.95
    assert found.threshold < 0.01
    assert 0.3 < found.mean < found.oracle
    random = memmc_mae_iou(rng.random(masks.shape), masks, rng.random((4, 16, 16)))
    assert random.mean < 0.2
    assert random.oracle >= random.mean - 0.05


def test_lesions_by_hand():
    masks = np.zeros((2, 12, 12), bool)
    masks[0, 1:3, 1:3], masks[0, 6:10, 6:10], masks[1, 0, 0] = True, True, True
    maps = np.zeros(masks.shape)
    maps[0, 7, 7] = 1  # finds the large one
    maps[0, 0, 11] = 1  # a false positive
    maps[1, 0, 0] = 1
    found = lesion_detection(maps, masks, 0.5, spacing=(2.0, 0.5))
    assert found.sensitivity == pytest.approx(2 / 3)
    assert found.false_positives == 0.5
    assert found.by_size == (1.0, 0.0, 1.0)
    assert found.sizes[0] <= 4
    empty = lesion_detection(maps[:1] * 0, masks[:1] & False, 0.5)
    assert np.isnan(empty.sensitivity)
