"""A calibration to decide with."""

import numpy as np
import pytest

from zoo.decision.calibration import Calibration


@pytest.fixture
def make_calibration():
    """The function below."""
    return _make


def _make(n=30, seed=0, **changes):
    """A calibration of ``n`` normal scores without maps."""
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.normal(size=n).astype(np.float32)).astype(float).tolist()
    content = {
        "scores": scores,
        "images": [1] * n,
        "groups": [""] * n,
        "statistics": {"mean": rng.normal(size=n).tolist()},
        "maps": None,
        "case_score": "max",
        "source": "held out",
        "method": "fae",
        "weights": "0" * 64,
        "image_size": [32, 32],
        "in_channels": 1,
        "value_range": [0.0, 1.0],
    }
    return Calibration(**content | changes)
