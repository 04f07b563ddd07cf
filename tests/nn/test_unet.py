"""The U-Net of the multi-task paper: sizes, folded positions, patches, gradients, checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zoo.errors import UserError
from zoo.nn.unet import UNet, in_patches, position_encoding

GOLDEN = Path(__file__).parents[1] / "golden" / "multitask"
SMALL = {"depth": 2, "width": 4, "max_width": 8, "positions": 3}


class Unfolded(nn.Module):
    """The same network as published: the positions are channels of every image's input."""

    def __init__(self, network):
        super().__init__()
        self.network, self.encoding = network, network.positions.clone()

    def forward(self, image):
        kept, self.network.positions = self.network.positions, self.network.positions.new_empty(0)
        output = self.network(torch.cat([image, self.encoding.expand(len(image), *self.encoding.shape)], dim=1))
        self.network.positions = kept
        return output


@pytest.mark.parametrize(
    ("size", "depth"), [((32, 32), 3), ((16, 64), 4), ((64, 32), 4), ((8, 16, 8), 2), ((16, 16, 32), 4)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_output_has_the_images_size(size, depth, channels):
    network = UNet(size, channels, depth=depth, width=2, positions=2)
    assert network(torch.rand(2, channels, *size)).shape == (2, 1, *size)
    assert len(network.encoder) == depth + 1
    assert len(network.decoder) == len(network.heads) == depth


@pytest.mark.parametrize("size", [(16, 24), (8, 16, 12)])
def test_folded_positions_are_exact(size):
    torch.manual_seed(0)
    folded = UNet(size, 2, **SMALL).double()
    folded.positions.copy_(torch.from_numpy(position_encoding(size, 3)))
    plain = Unfolded(folded)
    image = torch.rand(3, 2, *size, dtype=torch.float64)
    found, expected = folded(image), plain(image)
    assert float((found - expected).detach().abs().max()) <= 1e-9 * float(expected.detach().abs().max())
    gradients = []
    for output in (found, expected):
        folded.zero_grad()
        output.square().mean().backward()
        gradients.append([p.grad.clone() for p in folded.parameters() if p.requires_grad])
    # instance norm cancels the biases of the convolutions: their gradients are rounding
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-12)


def test_positions_save_input_memory_and_are_no_part_of_checkpoints():
    """67 channels in, as published, of which one is stored for each image."""
    network = UNet((64, 64), depth=3, width=4)
    assert network.encoder[0][0].conv.weight.shape[1] == 67
    assert not [key for key in network.state_dict() if "positions" in key]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        network(torch.rand(5, 1, 64, 64))
    assert (5, 67, 64, 64) not in saved
    assert saved.count((1, 66, 64, 64)) == 1


@pytest.mark.parametrize("dims", [2, 3])
def test_names_and_shapes_fit_the_authors_checkpoints(dims):
    from zoo.checkpoints.many_tasks import arguments_of, own_tensors

    keys = json.loads((GOLDEN / f"unet_keys_{dims}d.json").read_text())
    tensors = own_tensors({key: torch.empty(shape, device="meta") for key, shape, _ in keys})
    found = arguments_of(tensors, 1)
    assert (found["depth"], found["width"], found["positions"]) == ({2: 6, 3: 4}[dims], 32, 32)
    names = ("depth", "width", "max_width", "positions")
    network = UNet((128, 128) if dims == 2 else (32, 32, 32), **{name: found[name] for name in names})
    own = {f"network.{key}": tuple(value.shape) for key, value in network.state_dict().items()}
    assert own == {key: tuple(value.shape) for key, value in tensors.items()}


@pytest.mark.parametrize("size", [(16, 24), (8, 16, 24)])
def test_patches_see_their_place(size):
    torch.manual_seed(0)
    patch = tuple(side // 2 for side in size)
    network = UNet(size, patch_size=patch, **SMALL).eval()
    image = torch.rand(1, 1, *size)
    corner = tuple(side - n for side, n in zip(size, patch, strict=True))
    with torch.no_grad():
        whole = in_patches(network, image, size)
        here, there = (network(image[(..., *[slice(0, n) for n in patch])], at) for at in ((0,) * len(size), corner))
        parts = in_patches(network, image, patch)
    assert torch.equal(whole, network(image))
    assert not torch.allclose(here, there)
    first = (..., *[slice(0, n // 2) for n in patch])  # no other patch reaches there
    assert torch.allclose(parts[first], here[first], atol=1e-6)
    assert torch.isfinite(parts).all()


def test_only_the_last_head_is_trained():
    network = UNet((16, 16), **SMALL)
    network(torch.rand(2, 1, 16, 16)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == ["heads.0.weight"]
    assert not network.heads[0].weight.requires_grad


@pytest.mark.parametrize(
    ("make", "image", "words"),
    [
        ({"image_size": (48, 40)}, None, r"image size \(48, 40\): a U-Net of depth 4 needs multiples of 16"),
        ({"image_size": (16, 16)}, None, r"multiples of 16, one of them larger"),
        ({"image_size": (32, 32), "patch_size": (24, 32)}, None, r"image size \(24, 32\).*multiples of 16"),
        ({"image_size": (32, 32)}, (40, 32), r"image size \(40, 32\).*multiples of 16.*data.image_size or model.depth"),
        (
            {"image_size": (32, 32)},
            (64, 32),
            r"image size \(64, 32\): this U-Net knows the positions of images of \(32, 32\)",
        ),
        ({"image_size": (32, 32), "positions": 0}, (48, 40), r"multiples of 16"),
        ({"image_size": (32, 32), "depth": 1}, None, r"model.depth 1: a U-Net needs at least 2 halvings"),
    ],
)
def test_sizes_that_do_not_fit_are_told(make, image, words):
    arguments = {"depth": 4, "width": 2, "positions": 2, **make}
    with pytest.raises(UserError, match=words):
        UNet(**arguments)(torch.rand(1, 1, *(image or (32, 32))))


def test_without_positions_any_divisible_size_works():
    network = UNet((32, 32), depth=3, width=2, positions=0)
    assert network(torch.rand(1, 1, 40, 48)).shape == (1, 1, 40, 48)


def test_channels_dropped_ahead_are_those_dropped():
    torch.manual_seed(0)
    network = UNet((16, 16), width=4, depth=2, max_width=16, positions=0, dropout=0.5).eval()
    image = torch.rand(3, 1, 16, 16)
    shallow = network.shallow(image)
    drawn = [network.draw_kept(2, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
    assert [part.shape for part in drawn[0]] == [(2, 8), (2, 8)]
    assert {value for part in drawn[0] for value in part.flatten().tolist()} == {0.0, 2.0}
    with torch.no_grad():
        assert torch.equal(network.deep(shallow, [torch.ones(8)] * 2), network(image))
        found = network.deep(shallow, [part[0] for part in drawn[0]])
        for stage, kept in zip(network.encoder[-2:], drawn[0], strict=True):
            stage[-1].register_forward_hook(lambda _module, _input, output, kept=kept[0]: output * kept[:, None, None])
        assert torch.equal(found, network(image))


def test_positions_outside_the_image_are_refused():
    network = UNet((32, 32), depth=3, width=2, positions=2, patch_size=(16, 16))
    with pytest.raises(UserError, match="positions"):
        network(torch.rand(1, 1, 16, 16), (20, 0))
    assert np.isfinite(network(torch.rand(1, 1, 16, 16), (16, 16)).detach().numpy()).all()


def test_memory_of_a_step_grows_with_batch_and_precision():
    from benchmarks.speed.unet_memory import step_memory

    kept, peak = zip(
        *(
            step_memory((16, 24), batch, dtype, **SMALL)
            for batch, dtype in ((4, torch.float32), (8, torch.float32), (8, torch.bfloat16))
        ),
        strict=True,
    )
    assert kept[1] == pytest.approx(2 * kept[0], rel=0.2)
    assert kept[2] == pytest.approx(0.5 * kept[1], rel=0.1)
    assert all(more >= less for more, less in zip(peak, kept, strict=True))
