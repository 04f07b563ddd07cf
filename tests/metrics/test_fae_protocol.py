"""The figures that the feature autoencoder's authors' own functions give."""

import json
from pathlib import Path

import numpy as np
import pytest

from zoo.metrics.fae_protocol import fae_best_dice, fae_dice_at_fpr, fae_pro, fae_protocol

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
EXPECTED = json.loads((GOLDEN / "fae_eval.json").read_text())
VALUES, AUX = EXPECTED["values"], EXPECTED["aux"]


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    with np.load(GOLDEN / "fae_eval.npz") as file:
        return file["preds"][:, 0], file["targets"][:, 0].astype(bool)


def test_dice_and_iou_are_the_authors(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    for fpr, name in (
        (0.05, "compute_dice_at_nfpr(preds, targets, 0.05)"),
        (0.3, "compute_dice_at_nfpr(preds, targets, 0.3)"),
    ):
        assert fae_dice_at_fpr(*arrays, fpr) == pytest.approx(VALUES[name], abs=1e-12)
    iou = VALUES["compute_iou_at_nfpr(preds, targets, 0.01)"]
    dice = fae_dice_at_fpr(*arrays, 0.01)
    assert dice / (2 - dice) == pytest.approx(iou, abs=1e-12)
    for steps in (100, 25):
        expected = VALUES[f"compute_best_dice(preds, targets, {steps}) [value, threshold]"]
        assert fae_best_dice(*arrays, steps) == pytest.approx(expected, abs=1e-6)


def test_pro_is_the_authors(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    assert fae_pro(*arrays) == pytest.approx(VALUES["compute_pro_auc(preds, targets, 0.3, 100)"], abs=1e-12)
    assert fae_pro(*arrays, 0.1, 200) == pytest.approx(VALUES["compute_pro_auc(preds, targets, 0.1, 200)"], abs=1e-12)


def test_the_whole_protocol(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    maps, masks = arrays
    found = fae_protocol(maps, masks, np.array(AUX["scores"]), validation=0)
    assert found.slice_ap == pytest.approx(VALUES["compute_average_precision(scores, labels)"], abs=1e-12)
    assert found.slice_auroc == pytest.approx(VALUES["compute_auroc(scores, labels)"], abs=1e-12)
    assert found.pixel_ap == pytest.approx(VALUES["compute_average_precision(preds, targets)"], abs=1e-12)
    assert found.pixel_auroc == pytest.approx(VALUES["compute_auroc(preds, targets)"], abs=1e-12)
    assert found.iou_at_5fpr == pytest.approx(VALUES["compute_iou_at_nfpr(preds, targets, 0.05)"], abs=1e-12)
    assert found.best_iou == pytest.approx(VALUES["compute_best_iou(preds, targets, 100) [value, threshold]"][0])
    # the first tenth is validation: six slices more in front, of which the first does not count
    twice = fae_protocol(np.concatenate((maps, maps)), np.concatenate((masks, masks)), np.arange(12.0))
    dropped = fae_protocol(
        np.concatenate((maps[1:], maps)), np.concatenate((masks[1:], masks)), np.arange(11.0), validation=0
    )
    assert twice == dropped


def test_one_class_is_nan(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    maps, masks = arrays
    assert np.isnan(fae_dice_at_fpr(maps, masks & False))
    assert np.isnan(fae_pro(maps, masks & False))
