"""Flows, discriminators and transformers on frozen features: sizes of the papers' networks, and what each must do."""

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from datamodules import Folder
from zoo.checkpoints.initialising import initialise
from zoo.checkpoints.saving import save_checkpoint
from zoo.errors import UserError
from zoo.nn.attention import GridPositions, neighbourhood
from zoo.nn.features import FeatureExtractor
from zoo.nn.local_patches import local_patches
from zoo.nn.losses import gate_gradient, global_cosine
from zoo.nn.stable_adamw import StableAdamW
from zoo.pretrained.cflow import CFLOW
from zoo.pretrained.cs_flow import _CrossCoupling
from zoo.pretrained.dinomaly import LinearAttention
from zoo.pretrained.inp_former import PrototypeAttention
from zoo.pretrained.rd_plus_plus import _projector, add_noise
from zoo.pretrained.utrad import _group, _ungroup
from zoo.registry import load_class, methods
from zoo.synthetic.perlin import fractal_noise


def create_tiny(name):
    return {key: value for key, value in methods()[name].tiny.items() if key not in ("image_size", "weights")}


def new(name, **changes):
    """A small one, whose sizes follow the data."""
    return load_class(name)(**{**create_tiny(name), **changes})


def built(name, size, **arguments):
    model = zoo.create_model(name, image_size=size, **{"weights": "random", **arguments})
    model.configure_model()
    return model


def trained_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("name", "size", "arguments", "count"),
    [
        # R18 at 256 px, counted in the original's ports; UniAD of the paper's widths on EfficientNet-B4
        ("fastflow", 256, {}, 5.57e6),
        ("uniad", 224, {}, 7.72e6),
        ("cflow", 64, {"backbone": "resnet18"}, 8.6e6),
        ("simplenet", 64, {"backbone": "resnet18"}, 3.94e6),
        ("mkd", 32, {}, 0.344e6),
        ("utrad", 256, {}, 91.7e6 - 64 * 64 * 512),  # positions are counted there, and not trained
        ("dinomaly", 56, {"backbone": "vit_small_patch14_reg4_dinov2"}, 15.38e6),
        ("inp_former", 56, {"backbone": "vit_small_patch14_reg4_dinov2"}, 17.15e6),
        ("cfa", 64, {"backbone": "resnet18"}, (448 + 2) * 448 + 448 + 1),
    ],
)
def test_trained_parts_have_the_published_size(name, size, arguments, count):
    assert trained_parameters(built(name, size, **arguments)) == pytest.approx(count, rel=0.008)


def test_cross_scale_flow_has_the_published_size():
    with torch.device("meta"):
        couplings = nn.ModuleList(_CrossCoupling(304, 1024, kernel, 3.0, 0) for kernel in (3, 3, 3, 5))
    assert sum(p.numel() for p in couplings.parameters()) == pytest.approx(275.2e6, rel=5e-4)


def test_local_patches_are_adaptive_means_of_unfolded_neighbourhoods():
    torch.manual_seed(0)
    fine, coarse = torch.randn(2, 4, 6, 6), torch.randn(2, 7, 6, 6)
    found = local_patches([fine, coarse], 10)

    def described(values):
        around = nn.functional.unfold(values, 3, padding=1).mT  # (B, places, C * 9)
        return nn.functional.adaptive_avg_pool1d(around, 10)

    both = torch.cat([described(fine), described(coarse)], dim=2)
    wanted = nn.functional.adaptive_avg_pool1d(both, 10).mT.unflatten(2, (6, 6))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_neighbourhood_and_positions():
    near = neighbourhood((5, 6), 3)
    assert near.sum(dim=1).max() == 9
    assert near.diagonal().all()
    assert torch.equal(near, near.T)
    positions = GridPositions((2, 3), 4)()
    assert positions.shape == (6, 4)
    assert torch.equal(positions[0, :2], positions[3, :2])  # the same column
    assert torch.equal(positions[0, 2:], positions[2, 2:])  # the same row


def test_a_place_of_uniad_does_not_see_its_neighbourhood():
    torch.manual_seed(0)
    model = built("uniad", 32, **{k: v for k, v in create_tiny("uniad").items() if k != "depth"}, depth=1).eval()
    tokens = torch.randn(1, 16, sum(model.extractor.channels), requires_grad=True)
    memory = model.project_in(tokens)
    layer = model.decoder[0]
    queries = layer.queries.expand(1, -1, -1)
    asked = layer.ask(queries, memory, model.positions(), model.seen)
    (gradient,) = torch.autograd.grad(asked[0, 5].sum(), tokens)
    reached = gradient[0].abs().sum(dim=1) > 0
    assert torch.equal(reached, model.seen[5])
    assert not model.seen[5, 5]


def test_uniad_refuses_a_grid_that_the_neighbourhood_covers():
    with pytest.raises(UserError, match="hidden_places is 7 and the features have 4 x 4 places"):
        built("uniad", 64)


def test_cross_scale_flow_refuses_sides_that_three_scales_do_not_fit():
    with pytest.raises(UserError, match="multiples of 32"):
        built("cs_flow", 48, backbone="resnet18", layer="layer2", hidden=4)


def test_simplenet_learns_to_tell_noise(image_folder, quiet_trainer):
    torch.manual_seed(0)
    model = new("simplenet", weights="random", noise=0.5, lr=1e-3)
    quiet_trainer(max_steps=60).fit(model, Folder(root=str(image_folder), image_size=32, batch_size=3))
    model.eval()
    image = next(iter(Folder(root=str(image_folder), image_size=32, batch_size=3).train_dataloader()))["image"]
    true, _ = model.features(image)
    with torch.no_grad():
        of_true, of_fake = (model.critic(v)[:, 0] for v in (true, true + 0.5 * torch.randn_like(true)))
    assert float((of_true > of_fake).float().mean()) > 0.7


def test_centres_of_cfa_are_the_mean_of_the_untrained_descriptors(image_folder, quiet_trainer):
    torch.manual_seed(0)
    model = new("cfa", weights="random", lr=0.0, weight_decay=0.0)  # stays untrained
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    quiet_trainer(max_steps=3).fit(model, data)
    model.eval()
    described = [model.describe(batch["image"])[0].detach().double().numpy() for batch in data.train_dataloader()]
    assert np.allclose(model.memory.centre, np.concatenate(described).mean(axis=0), atol=1e-5)


def test_likelihoods_of_cflow_are_relative_to_the_training_images(image_folder, quiet_trainer):
    torch.manual_seed(0)
    model = new("cflow", weights="random")
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    quiet_trainer(max_steps=3).fit(model, data)
    model.eval()
    with torch.no_grad():
        found = [
            torch.stack([model.likelihood(n, *pair).max() for n, pair in enumerate(model.vectors(batch["image"]))])
            for batch in data.train_dataloader()
        ]
    assert torch.allclose(model.healthy.largest, torch.stack(found).amax(dim=0), atol=1e-5)
    assert isinstance(model, CFLOW)


@pytest.mark.parametrize("objective", ["one_class", "soft_boundary"])
def test_deep_svdd_has_no_biases_and_a_centre_away_from_zero(objective, image_folder, quiet_trainer):
    torch.manual_seed(0)
    model = zoo.create_model("deep_svdd", image_size=32, in_channels=3, objective=objective)
    model.configure_model()
    assert sum(p.numel() for p in model.encoder.parameters()) == 520_544
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
    small = new("deep_svdd", objective=objective)
    quiet_trainer(max_steps=12).fit(small, Folder(root=str(image_folder), image_size=32, batch_size=3))
    assert float(small.sphere.centre.abs().min()) >= 0.1 - 1e-6
    assert (float(small.squared_radius) > 0) == (objective == "soft_boundary")


def test_projectors_of_rd_plus_plus_have_the_published_sizes():
    counts = [sum(p.numel() for p in _projector(channels).parameters()) for channels in (256, 512, 1024)]
    assert counts == pytest.approx([0.74e6, 2.95e6, 11.80e6], rel=5e-3)


def test_noise_of_rd_plus_plus_stays_on_a_small_rectangle():
    torch.manual_seed(0)
    image = torch.full((20, 1, 64, 64), 0.5)
    changed = (add_noise(image, 0.2) != image)[:, 0]
    for axis in (1, 2):
        sides = changed.any(dim=axis).sum(dim=1)
        assert int(sides.min()) >= 2
        assert int(sides.max()) <= 9  # 32 of 256 pixels, and a border
    assert float((add_noise(image, 0.2) - image).abs().max()) < 0.6


def test_fractal_noise_halves_its_period_and_has_no_seams():
    torch.manual_seed(0)
    noise = fractal_noise(3, (64, 48), 16.0, 1, 0.5)
    assert noise.shape == (3, 1, 64, 48)
    assert torch.equal(noise[:, :, ::16, ::16], torch.zeros(3, 1, 4, 3))  # gradient noise is 0 on its lattice
    assert float(noise.diff(dim=2).abs().max()) < 0.3
    assert float(noise.std()) == pytest.approx(0.35, abs=0.15)


def test_gated_gradients_are_exact():
    values, factor = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randint(2, (2, 1, 4, 4)).float()
    plain = torch.autograd.grad(global_cosine(torch.ones(2, 3, 4, 4), values * 1), values)[0]
    again = values * 1
    gate_gradient(again, factor)
    assert torch.equal(torch.autograd.grad(global_cosine(torch.ones(2, 3, 4, 4), again), values)[0], plain * factor)


def test_recontrast_trains_one_encoder_and_leaves_the_other(image_folder, quiet_trainer):
    torch.manual_seed(0)
    model = new("recontrast", weights="random", encoder_lr=1e-3)
    quiet_trainer(max_steps=3).fit(model, Folder(root=str(image_folder), image_size=32, batch_size=3))
    pairs = zip(model.teacher.parameters(), model.encoder.parameters(), strict=True)
    moved = [not torch.equal(frozen, followed) for frozen, followed in pairs]
    assert any(moved)
    again = new("recontrast", weights="random", image_size=32, in_channels=3)
    torch.manual_seed(0)
    again.configure_model()
    start = again.encoder.state_dict()
    assert all(torch.equal(value, start[key]) for key, value in again.teacher.state_dict().items())


def test_cloner_that_gives_the_teachers_features_scores_zero():
    torch.manual_seed(0)
    model = built("mkd", 32, backbone="vgg11").eval()
    image = torch.rand(2, 1, 32, 32)
    taught = model.teacher(image)
    model.cloner = nn.ModuleList([_Give(None), *(_Give(values) for values in taught)])
    assert model(image).anomaly_score.abs().max() < 1e-6
    with pytest.raises(UserError, match="plain chains"):
        built("mkd", 32, backbone="resnet18")


class _Give(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, x):
        return x if self.values is None else self.values


def test_linear_attention_is_an_average_with_positive_weights_and_follows_permutations():
    torch.manual_seed(0)
    attention, x = LinearAttention(8, 2), torch.randn(1, 5, 8)
    q, k, v = (part[0].view(5, 2, 4).transpose(0, 1) for part in attention.qkv(x).chunk(3, dim=-1))
    weights = (nn.functional.elu(q) + 1) @ (nn.functional.elu(k) + 1).mT
    assert bool((weights > 0).all())
    wanted = attention.proj(((weights / weights.sum(dim=2, keepdim=True)) @ v).transpose(0, 1).flatten(1))
    assert torch.allclose(attention(x)[0], wanted, atol=1e-6)
    order = torch.randperm(5)
    assert torch.allclose(attention(x[:, order]), attention(x)[:, order], atol=1e-6)


def test_prototypes_of_zero_give_the_same_answer_everywhere():
    torch.manual_seed(0)
    attention = PrototypeAttention(8, 2)
    nn.init.zeros_(attention.key.bias)  # as the method does
    found = attention(torch.randn(2, 5, 8), torch.zeros(2, 3, 8))
    assert torch.allclose(found, found[:, :1].expand_as(found), atol=1e-6)


def test_tokens_keep_class_and_registers_and_maps_are_without_them():
    extractor = FeatureExtractor("vit_small_patch14_reg4_dinov2", ("blocks.1",), weights="random").eval()
    image = torch.rand(1, 3, 56, 42)
    (tokens,), grid = extractor.tokens(image)
    assert grid == (4, 3)
    assert tokens.shape == (1, 5 + 12, 384)
    assert torch.equal(extractor(image)[0], tokens[:, 5:].mT.unflatten(2, grid))


def test_stable_adamw_is_adamw_until_a_gradient_exceeds_its_history():
    torch.manual_seed(0)
    start, gradient = torch.randn(50), torch.randn(50)
    pairs = []
    for made in (StableAdamW, torch.optim.AdamW):
        parameter = nn.Parameter(start.clone())
        optimizer = made([parameter], lr=1e-2, weight_decay=0.1, amsgrad=True)
        steps = []
        for factor in (1.0, 1.0, 0.5, 100.0):
            before = parameter.detach().clone()
            parameter.grad = factor * gradient
            optimizer.step()
            steps.append(parameter.detach() - before)
        pairs.append(steps)
    for number in range(3):
        assert torch.allclose(pairs[0][number], pairs[1][number], atol=1e-6)
    assert float(pairs[0][3].norm()) < 0.6 * float(pairs[1][3].norm())


def test_groups_of_utrad_and_their_inverse_give_the_grid_back():
    tokens = torch.arange(2 * 256).view(2, 256, 1).float()
    groups = _group(tokens, 16)
    assert groups[0, :, 0].tolist() == [16 * row + column for row in range(4) for column in range(4)]
    assert torch.equal(_ungroup(groups, 4), tokens)


def test_utrad_names_the_sizes_that_its_groups_fit():
    with pytest.raises(UserError, match="has 8 x 8 places; UTRAD needs 4, 16 or 64 a side, for example image_size 64"):
        built("utrad", 32)


def test_positions_of_utrad_go_with_the_weights(tmp_path):
    torch.manual_seed(0)
    first, second = (zoo.create_model("utrad", **methods()["utrad"].tiny) for _ in range(2))
    assert not torch.equal(first.positions, second.positions)
    save_checkpoint(first, tmp_path / "first.ckpt")
    initialise(second, tmp_path / "first.ckpt")
    assert torch.equal(first.positions, second.positions)
