"""CutPaste in images and volumes."""

import numpy as np
import pytest
import torch

import zoo
from zoo.registry import methods


@pytest.mark.parametrize("size", [(32, 40), (16, 24, 32)])
def test_labels_are_where_copies_changed_the_image(size):
    model = zoo.create_model("mood21", **methods()["mood21"].tiny | {"image_size": 32, "share": 1.0})
    image = torch.rand(6, 2, *size)
    altered, label = model.make_anomalies(image, np.random.default_rng(0))
    changed = (altered != image).any(dim=1, keepdim=True)
    assert torch.equal(label > 0, changed)
    assert bool(changed.flatten(1).any(1).all())
    assert float(changed.float().mean()) < 0.3
    again, _ = model.make_anomalies(image, np.random.default_rng(0))
    assert torch.equal(again, altered)
    clean, none = zoo.create_model("mood21", **methods()["mood21"].tiny | {"share": 0.0}).make_anomalies(
        image, np.random.default_rng(0)
    )
    assert torch.equal(clean, image)
    assert float(none.max()) == 0


def test_copies_come_from_the_image_itself():
    model = zoo.create_model("mood21", **methods()["mood21"].tiny | {"share": 1.0, "jitter": 0.0})
    image = torch.rand(3, 1, 32, 32)
    altered, _ = model.make_anomalies(image, np.random.default_rng(1))
    for one, own in zip(altered, image, strict=True):
        assert set(one.flatten().tolist()) <= set(own.flatten().tolist())
