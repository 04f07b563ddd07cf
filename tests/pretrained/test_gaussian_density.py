"""The shrunk covariance equals scikit-learn's."""

import torch
from sklearn.covariance import LedoitWolf

from zoo.nn.density import ledoit_wolf


def test_covariance_equals_scikit_learn():
    rows = torch.randn(30, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(LedoitWolf().fit(rows.numpy()).covariance_)
    torch.testing.assert_close(ledoit_wolf(rows - rows.mean(dim=0)), expected, atol=1e-10, rtol=1e-10)
