"""Statistics by brute force."""

import numpy as np
import pytest
import torch

import zoo
from zoo.errors import UserError


@pytest.mark.parametrize("shape", [(1, 8, 9), (2, 4, 5, 6)])
def test_statistical_is_the_z_score(shape):
    images = (
        torch.rand(7, *shape, generator=torch.Generator().manual_seed(0)) * 3 + 100
    )  # a mean far from 0, where sums of squares would cancel
    model = zoo.create_model("statistical", image_size=shape[1:], in_channels=shape[0], score_foreground=False)
    with pytest.raises(UserError, match="fitted to 0 images"):
        model(images)
    for batch in images.split(3):
        model.collect({"image": batch}, 0)
    z = ((images.double() - images.double().mean(0)).abs() / (images.double().std(0) + 1e-7)).mean(1, keepdim=True)
    assert np.allclose(model(images).anomaly_map, z, rtol=1e-3, atol=1e-4)
    assert np.allclose(model(images).anomaly_score, z.flatten(1).mean(1), rtol=1e-3)


def test_histogram_equalisation_is_the_rank_within_the_image():
    images = torch.rand(3, 1, 16, 16)
    images[:, :, :4] = 0
    model = zoo.create_model("histogram_threshold", image_size=16, equalise="image")
    maps = model(images).anomaly_map
    for values, found in zip(images, maps, strict=True):
        inside = values[values > 0]
        ranks = torch.tensor([float((inside <= value).float().mean()) for value in inside])
        assert (found[values > 0] - ranks).abs().max() < 0.05
        assert (found[values == 0] == 0).all()
    assert torch.equal(model(images[1:2]).anomaly_map, maps[1:2])
    assert torch.isfinite(model(torch.zeros(1, 1, 16, 16)).anomaly_score).all()


def test_a_class_path_from_before_a_move_is_found():
    from zoo.registry import find

    assert find("zoo.reconstruction.statistical.VoxelStatistics").name == "statistical"
