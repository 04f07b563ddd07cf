"""RIAD: the sets cover every pixel once, what is hidden does not reach its own painting, the network's size."""

import torch

import zoo
from zoo.reconstruction.riad import disjoint_masks, gradient_similarities


def test_sets_cover_every_pixel_once_and_are_alike_in_size():
    masks = disjoint_masks((24, 32), 4)
    assert torch.equal(masks.sum(dim=0), torch.ones(1, 24, 32, dtype=torch.long))
    counts = masks.sum(dim=(1, 2, 3)) // 16
    assert int(counts.max() - counts.min()) <= 1


def test_what_is_hidden_does_not_reach_its_painting():
    torch.manual_seed(0)
    model = zoo.create_model("riad", image_size=32, width=4, squares=(4,)).eval()
    image = torch.rand(1, 1, 32, 32)
    masks = model.masks_4
    for hidden in masks:
        other = torch.where(hidden, torch.rand(1, 1, 32, 32), image)
        painted, again = model.inpaint(image, masks), model.inpaint(other, masks)
        assert torch.equal(painted[0][hidden], again[0][hidden])
        assert not torch.equal(painted[0][~hidden], again[0][~hidden])


def test_similarity_of_gradients_is_one_for_the_same_image_and_less_for_another():
    torch.manual_seed(0)
    first, second = torch.rand(2, 1, 3, 32, 32)
    assert all(torch.allclose(one, torch.ones_like(one)) for one in gradient_similarities(first, first))
    found = gradient_similarities(first, second)
    assert [one.shape[2] for one in found] == [32, 16, 8, 4]
    assert all(float(one.max()) <= 1 + 1e-6 for one in found)
    assert float(found[0].mean()) < 0.95


def test_network_has_the_size_of_the_ports():
    model = zoo.create_model("riad", image_size=64, in_channels=3)
    assert sum(parameter.numel() for parameter in model.parameters()) == 28_805_699
