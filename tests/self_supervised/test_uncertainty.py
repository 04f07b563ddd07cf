"""Calibration of the uncertainty: the curve in numbers, and the figure in the folder of a test."""

import json

import numpy as np
import pytest
import torch

import zoo
from datamodules import Folder
from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.callbacks.uncertainty import UncertaintyCurves
from zoo.metrics.selective import risk_coverage


def test_curve_in_numbers():
    curve = risk_coverage([4.0, 3.0, 2.0, 1.0], [0.9, 0.5, 0.7, 0.1], points=4)
    assert curve.coverage.tolist() == [1, 0.75, 0.5, 0.25]
    assert np.allclose(curve.risk, [10 / 4, 6 / 3, 4 / 2, 1])  # leaves out 4, then 2, then 3
    assert np.allclose(curve.oracle, [10 / 4, 6 / 3, 3 / 2, 1])
    assert curve.gain == pytest.approx((2.5 - 7.5 / 4) / (2.5 - 7 / 4))


def test_gain_of_perfect_reversed_random_and_constant_uncertainty():
    rng = np.random.default_rng(0)
    error = rng.random(20_000) ** 4
    assert risk_coverage(error, error).gain == pytest.approx(1)
    assert risk_coverage(error, -error).gain < -1
    assert abs(risk_coverage(error, rng.random(20_000)).gain) < 0.05
    assert risk_coverage(error, np.ones(20_000)).gain == pytest.approx(0, abs=1e-9)  # ties: their mean, whatever order
    assert np.isnan(risk_coverage(np.ones(5), rng.random(5)).gain)


@pytest.mark.parametrize("bad", [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0])])
def test_bad_values_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        risk_coverage(*bad)


def test_a_test_leaves_figure_and_numbers(image_folder, quiet_trainer, tmp_path):
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    metrics = AnomalyMetrics(output=str(tmp_path / "run" / "metrics.json"))
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0, callbacks=[metrics])
    model = zoo.create_model("confidence_aware", image_size=32, in_channels=1, depth=3, width=4, samples=2)
    trainer.test(model, data, verbose=False)
    assert (tmp_path / "run" / "uncertainty.png").stat().st_size > 5000
    content = json.loads((tmp_path / "run" / "uncertainty.json").read_text())
    (callback,) = [one for one in trainer.callbacks if isinstance(one, UncertaintyCurves)]
    assert set(content) == {"phantom", "all pixels", "healthy pixels", "anomalous pixels"}
    probability, doubt, truth = [], [], []
    with torch.no_grad():
        for batch in data.test_dataloader():
            found = model(batch["image"])
            probability.append(found.anomaly_map.numpy())
            doubt.append(found.uncertainty_map.numpy())
            truth.append(batch["mask"].numpy())
    error = (np.concatenate(probability) - np.concatenate(truth)) ** 2
    expected = risk_coverage(error, np.concatenate(doubt))
    assert np.allclose(callback.curves["all pixels"].risk, expected.risk, rtol=1e-5)
    assert content["all pixels"]["risk"][0] == pytest.approx(float(error.mean()), rel=1e-5)


def test_no_curve_where_the_map_is_no_probability():
    model = zoo.create_model("confidence_aware", image_size=32, depth=3, width=4, confidence=0.5)
    assert model.configure_callbacks() == []
