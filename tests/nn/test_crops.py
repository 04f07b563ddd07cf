"""Random resized crops."""

import math

import pytest
import torch

from zoo.nn.crops import crop_transform, draw_crops


def drawn_one_by_one(count, area, generator):
    """The procedure of torchvision's RandomResizedCrop on a large square image, as its documentation tells it."""
    side, shares = 4096, []
    for _ in range(count):
        share = 1.0  # of the whole image, where no try fits
        for _ in range(10):
            wanted = side**2 * torch.empty(1).uniform_(*area, generator=generator).item()
            aspect = math.exp(torch.empty(1).uniform_(math.log(3 / 4), math.log(4 / 3), generator=generator).item())
            width, height = round(math.sqrt(wanted * aspect)), round(math.sqrt(wanted / aspect))
            if 0 < width <= side and 0 < height <= side:
                share = width * height / side**2
                break
        shares.append(share)
    return torch.tensor(shares)


def test_areas_are_those_of_torchvision():
    boxes = draw_crops(100_000, (0.2, 1.0), generator=torch.Generator().manual_seed(0))
    share = boxes[:, 2] * boxes[:, 3]
    assert share.mean().item() == pytest.approx(0.539, abs=0.002)
    other = drawn_one_by_one(4000, (0.2, 1.0), torch.Generator().manual_seed(1))
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    assert torch.allclose(share.quantile(quantiles), other.quantile(quantiles), atol=0.02)


def test_boxes_lie_inside_and_transforms_reach_their_corners():
    boxes = draw_crops(1000, (0.2, 1.0), generator=torch.Generator().manual_seed(0))
    assert boxes.min() >= 0
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 1 + 1e-6
    corners = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    reached = (crop_transform(boxes) @ corners.T + 1) / 2  # back to shares: (B, 2, corner)
    assert torch.allclose(reached[:, :, 0], boxes[:, :2], atol=1e-6)
    assert torch.allclose(reached[:, :, 1], boxes[:, :2] + boxes[:, 2:], atol=1e-6)


def test_an_impossible_share_keeps_the_whole_image():
    boxes = draw_crops(3, (1.5, 1.5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(boxes, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, 4))
