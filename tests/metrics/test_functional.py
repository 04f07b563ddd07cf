"""Exactness against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from zoo.metrics import functional as F


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1, 100), (30, -200), (1e-4, 0)])
def test_equals_scikit_learn_with_ties(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate(([0, 1], rng.random(300) < 0.1)).astype(int)
    scores = (np.round(rng.normal(size=302) + labels, seed % 3) * scale + shift).astype(np.float32)
    result = F.binary_summary(scores, labels)
    assert abs(result.auroc - roc_auc_score(labels, scores)) < 1e-12
    assert abs(result.average_precision - average_precision_score(labels, scores)) < 1e-12
    dices = [(2 * (labels[scores >= t].sum()) / (labels.sum() + (scores >= t).sum()), t) for t in np.unique(scores)]
    assert abs(result.best_dice - max(dices)[0]) < 1e-12
    rates = [d for d, t in dices if (scores[labels == 0] >= t).mean() <= 0.05]
    assert abs(result.dice_at_fpr - (rates[0] if rates else 0.0)) < 1e-12


def test_aupro_of_one_pixel_regions_is_partial_auroc() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((3, 12, 12), dtype=bool)
    masks[:, ::3, ::3] = True
    maps = np.round(rng.random((3, 12, 12)), 1)
    assert abs(F.aupro(maps, masks, 1.0) - roc_auc_score(masks.ravel(), maps.ravel())) < 1e-12


def test_bad_input_and_missing_class() -> None:
    assert np.isnan(F.auroc([1.0, 2.0], [0, 0]))
    with pytest.raises(ValueError, match="1 of 2 scores"):
        F.auroc([1.0, np.nan], [0, 1])
    with pytest.raises(ValueError, match="1 of 2 labels"):
        F.auroc([1.0, 2.0], [0, 2])
