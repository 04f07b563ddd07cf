"""The weights of the golden files of the feature autoencoder's paper."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN_FAE = Path(__file__).parents[1] / "golden" / "fae"


def fill(key, shape, dtype="float32"):
    """Value of a tensor of the golden files: a normal stream for each key, scaled by its kind."""
    if dtype == "bool":
        return torch.ones(shape, dtype=torch.bool)
    if dtype == "int64":
        return torch.zeros(shape, dtype=torch.int64)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    n = np.asarray(rng.standard_normal(shape)).astype(np.float32)
    if key.endswith("running_mean"):
        n = np.float32(0.05) * n
    elif key.endswith("running_var"):
        n = np.float32(1) + np.float32(0.1) * np.abs(n)
    elif len(shape) >= 2:
        n = n * np.float32(1.0 / math.sqrt(math.prod(shape[1:])))
    elif len(shape) == 1 and key.endswith("weight"):
        n = np.float32(1) + np.float32(0.1) * n
    else:
        n = np.float32(0.05) * n
    return torch.from_numpy(n).reshape(tuple(shape))


@pytest.fixture(scope="session")
def filled():
    """State dict filled by the rule from ``[key, shape, dtype]`` entries."""
    return lambda entries: {key: fill(key, shape, dtype) for key, shape, dtype in entries}


@pytest.fixture(scope="session")
def fae_golden():
    return {name: dict(np.load(GOLDEN_FAE / f"{name}.npz")) for name in ("golden", "train_golden", "baselines_golden")}


@pytest.fixture(scope="session")
def baseline_keys():
    return {
        name: entry["state_dict"]
        for name, entry in json.loads((GOLDEN_FAE / "baselines_keys.json").read_text()).items()
    }


@pytest.fixture(scope="session")
def close():
    """Assert the largest absolute difference between a tensor and a golden array."""

    def check(found, expected, tolerance):
        difference = float(np.abs(found.detach().numpy() - expected).max())
        assert difference <= tolerance, f"differs by {difference:.2g}, allowed {tolerance:.0e}"

    return check
