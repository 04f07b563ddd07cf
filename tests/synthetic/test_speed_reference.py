"""What the library's speed is compared with makes the same samples."""

import numpy as np
import pytest

from benchmarks.speed.synthetic import NAMES, smooth_images
from benchmarks.speed.synthetic_reference import plain_sample
from zoo.synthetic import anomaly_label, synthesise
from zoo.synthetic.tasks import five_tasks


@pytest.mark.parametrize("size", [(64, 48), (50, 56, 52)])
@pytest.mark.parametrize("number", range(5), ids=NAMES)
def test_plain_samples_are_those_of_the_library(size, number):
    if "blend" in NAMES[number]:
        pytest.importorskip("pietorch")
    images = smooth_images(3, size).astype(np.float64)
    for seed in range(3):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        altered, mask = synthesise(images[0], five_tasks()[number], rngs[0], sources=images)
        plain, union, label = plain_sample(images[0], NAMES[number], rngs[1], images)
        assert np.array_equal(union, mask)
        assert np.abs(plain - altered).max() <= 1e-9
        assert np.abs(label - anomaly_label(altered, images[0], mask)).max() <= 1e-8
        assert rngs[0].random() == rngs[1].random(), "as many draws"
