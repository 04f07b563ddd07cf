"""The hashed search for near-copies finds what comparing all pairs finds."""

from types import SimpleNamespace

import numpy as np
import pytest

from datamodules.checks import OWN_LIMIT, _unit, near_copies, thumbnails


class Images:
    """What the search asks of a store."""

    def __init__(self, images):
        self.images, self.record = images, np.arange(len(images))

    def image(self, positions):
        return self.images[positions]


def brute_force(store, train, test, limit=0.97):
    reference, small = thumbnails(store, train), thumbnails(store, test)
    average = reference.mean(0)
    correlation = small @ reference.T
    correlation[_unit(small - average) @ _unit(reference - average).T <= OWN_LIMIT] = -1
    return {(int(test[row]), int(train[column])) for row, column in enumerate(correlation.argmax(1))
            if correlation[row, column] > limit}  # fmt: skip


@pytest.mark.parametrize("kind", ["noise", "smooth", "one body"])
def test_the_same_pairs_as_comparing_all(kind):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((1300, 1, 16, 16)).astype(np.float32)
    if kind != "noise":
        images = images.reshape(1300, 1, 4, 4, 16).sum(-1).repeat(4, 2).repeat(4, 3)
    if kind == "one body":  # all alike but for a little
        images = 20 * images[:1] + images
    train, test = np.arange(1000), np.arange(1000, 1300)
    for number in range(0, 300, 3):  # copies, ever less alike
        images[1000 + number] = images[3 * number] + 0.001 * number * rng.standard_normal((1, 16, 16))
    records = [SimpleNamespace(id=str(n), split="train" if n < 1000 else "test") for n in range(1300)]
    store = Images(images)
    expected = brute_force(store, train, test)
    assert len(expected) >= 30
    found = {(int(copy.test), int(copy.train)) for copy in near_copies(store, records)}
    assert found == expected
