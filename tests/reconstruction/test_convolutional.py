"""The convolutional reconstruction family: what each member promises beyond the contract of every method."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from datamodules import Folder
from zoo.errors import UserError
from zoo.nn.memory import Memory, addressing_entropy
from zoo.nn.perceptual import PerceptualDistance
from zoo.reconstruction.ce_vae import cover_squares
from zoo.reconstruction.denoising_ae import coarse_noise
from zoo.registry import load_class
from zoo.scoring.ms_ssim import ms_ssim, ms_ssim_error_map
from zoo.scoring.residual import residual_loss, residual_map

SMALL = {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 8}
CASES = {
    "autoencoder l1": ("autoencoder", SMALL | {"loss": "l1"}),
    "autoencoder ms_ssim": ("autoencoder", SMALL | {"loss": "ms_ssim", "lr": 1e-3}),
    "autoencoder perceptual": (
        "autoencoder",
        SMALL | {"loss": "perceptual", "backbone": "resnet18", "layer": "layer1", "weights": "random", "lr": 1e-3},
    ),
    "conv_ae": ("conv_ae", {"image_size": 32, "hidden_dims": (8, 16), "latent_dim": 2}),
    "vae": ("vae", SMALL | {"lr": 1e-3}),
    "vae kl_gradient": ("vae", SMALL | {"anomaly_map": "kl_gradient", "score": "map", "norm": "instance"}),
    "vae elbo_gradient": ("vae", SMALL | {"anomaly_map": "elbo_gradient", "score": "elbo"}),
    "vae restoration": ("vae", SMALL | {"anomaly_map": "restoration", "score": "map", "restoration_steps": 5}),
    "vae reconstruction": ("vae", SMALL | {"anomaly_map": "reconstruction", "score": "reconstruction", "loss": "l1"}),
    "ce_vae": ("ce_vae", SMALL | {"lr": 1e-3}),
    "mem_ae spatial": ("mem_ae", SMALL | {"slots": 12, "lr": 1e-3}),
    "mem_ae dense": ("mem_ae", SMALL | {"slots": 12, "memory": "dense", "addressing": "inner", "lr": 1e-3}),
    "ae_u": ("ae_u", SMALL),
    "denoising_ae": ("denoising_ae", {"image_size": 32, "depth": 2, "width": 8, "noise_grid": 4, "lr": 1e-3}),
}


@pytest.fixture(params=CASES)
def model(request):
    torch.manual_seed(0)
    name, arguments = CASES[request.param]
    model = zoo.create_model(name, **arguments)
    model.log = model.log_dict = lambda *_, **__: None
    return model


@pytest.fixture
def images():
    """Smooth pictures with a black frame, ``(6, 1, 32, 32)``."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(6, 1, 4, 4, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=24, mode="bilinear") * 0.8 + 0.1
    return torch.nn.functional.pad(picture, (4, 4, 4, 4))


def loss_of(model, images):
    torch.manual_seed(3)
    if hasattr(model, "distance"):  # its training step belongs to the trainer's stages
        return model.distance(model.network(images), images).mean()
    return model.training_step(model.as_expected({"image": images}), 0)


def test_loss_falls_and_every_parameter_has_a_gradient(model, images):
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = loss_of(model, images)
    loss.backward()
    silent = [name for name, p in learnt.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in silent if not name.endswith("bias")] == []  # a norm may make a bias idle
    assert all(torch.isfinite(p.grad).all() for p in learnt.values() if p.grad is not None)
    optimizer = torch.optim.Adam(learnt.values(), lr=2e-3)
    first = loss.item()
    for _ in range(15):
        optimizer.zero_grad()
        loss = loss_of(model, images)
        loss.backward()
        optimizer.step()
    assert loss.item() < first


def test_each_image_is_scored_by_itself(model, images):
    model.eval()
    together = model(images)
    for number in (0, 5):
        alone = model(images[number : number + 1])
        for one, other in zip(together, alone, strict=True):
            if one is not None:
                torch.testing.assert_close(one[number : number + 1], other, rtol=1e-3, atol=1e-5)


def test_scores_are_repeatable_and_finite_on_blank_images(model, images):
    model.eval()
    with torch.inference_mode():
        first, second = model(images), model(images)
        blank = model(torch.cat([torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)]))
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert torch.equal(first.anomaly_score, second.anomaly_score)
    assert not first.anomaly_score.requires_grad
    assert all(torch.isfinite(value).all() for value in blank if value is not None)


# ---- memory ----


@settings(max_examples=40, deadline=None)
@given(
    slots=st.integers(2, 300),
    dim=st.integers(1, 48),
    scale=st.sampled_from([0.0, 1e-6, 0.1, 1.0, 100.0]),
    addressing=st.sampled_from(["cosine", "inner"]),
    shrinkage=st.sampled_from([0.5, 1.0, 3.0, 1e6]),
)
def test_memory_rows_never_die(slots, dim, scale, addressing, shrinkage):
    """Weights are a distribution whatever the threshold: the published form gives rows of zeros in these ranges."""
    torch.manual_seed(0)
    memory = Memory(slots, dim, addressing=addressing, threshold=shrinkage / slots)
    code = (scale * torch.randn(7, dim)).requires_grad_()
    recall = memory(code)
    torch.testing.assert_close(recall.weights.sum(dim=-1), torch.ones(7))
    assert bool((recall.weights >= 0).all())
    (recall.code.square().sum() + addressing_entropy(recall.weights)).backward()
    assert torch.isfinite(memory.slots.grad).all()
    assert torch.isfinite(code.grad).all()
    assert bool((memory.slots.grad != 0).any())


@pytest.mark.parametrize("addressing", ["cosine", "inner"])
def test_the_published_shrinkage_kills_rows_where_ours_does_not(addressing):
    torch.manual_seed(0)
    memory = Memory(2000, 256, addressing=addressing, temperature=1.0, threshold=0.0025)
    code = 0.1 * torch.randn(64, 256)
    weights = memory(code).weights
    similarity = code @ memory.slots.T
    if addressing == "cosine":
        similarity = similarity / code.norm(dim=1, keepdim=True) / memory.slots.norm(dim=1)
    soft = similarity.softmax(dim=1)
    published = torch.relu(soft - 0.0025) * soft / ((soft - 0.0025).abs() + 1e-12)
    dead = published.sum(dim=1) == 0
    assert bool(dead.any())
    torch.testing.assert_close(weights[dead], soft[dead])
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(64))


def test_default_memory_is_sparse_and_alive():
    torch.manual_seed(0)
    weights = Memory(2000, 64)(torch.randn(50, 64)).weights
    alive = (weights > 0).sum(dim=1)
    assert int(alive.min()) >= 1
    assert int(alive.max()) < 1000


def test_aligned_slot_outweighs_all_orthogonal_ones():
    memory = Memory(9, 16, threshold=0.0)
    memory.slots.data = torch.eye(16)[:9]
    assert memory(3 * torch.eye(16)[:1]).weights[0, 0].item() == pytest.approx(9 / (9 + 8))


def test_training_does_not_collapse_to_one_slot(images):
    torch.manual_seed(0)
    model = zoo.create_model("mem_ae", **SMALL, slots=25, memory="dense")
    model.log = model.log_dict = lambda *_, **__: None
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(60):
        optimizer.zero_grad()
        model.training_step(model.as_expected({"image": images}), step).backward()
        optimizer.step()
    weights = model.eval().reconstruct(images)[1].weights
    assert int((weights > 1e-3).any(dim=0).sum()) >= 4
    assert float(weights.std(dim=0).max()) > 1e-3  # the images are told apart


def test_memory_equals_the_textbook_formula():
    memory = Memory(5, 3, addressing="inner", threshold=0.2)
    code = torch.tensor([[3.0, -1.0, 0.5]])
    soft = (code @ memory.slots.T).softmax(1)
    shrunk = torch.where(soft > 0.2, soft, 0.0)
    expected = shrunk / shrunk.sum() @ memory.slots
    torch.testing.assert_close(memory(code).code, expected)


def test_spatial_memory_addresses_every_position_by_itself(images):
    torch.manual_seed(0)
    model = zoo.create_model("mem_ae", **SMALL, slots=12).eval()
    _, recall = model.reconstruct(images)
    assert recall.weights.shape == (6, 8, 8, 12)
    code = model.network.encode(images).movedim(1, -1)
    torch.testing.assert_close(model.memory(code[2, 3, 4][None]).weights[0], recall.weights[2, 3, 4])


# ---- maps and losses ----


@pytest.mark.parametrize("name", ["vae", "ce_vae"])
def test_vae_is_deterministic_and_leaves_the_generator_alone(name, images):
    model = zoo.create_model(name, **SMALL).eval()
    state = torch.get_rng_state()
    first = model(images)
    torch.manual_seed(99)
    second = model(images)
    torch.set_rng_state(state)
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert torch.equal(first.anomaly_score, second.anomaly_score)


def test_vae_combined_map_is_the_error_times_the_scaled_gradient(images):
    torch.manual_seed(0)
    model = zoo.create_model("vae", **SMALL).eval()
    with torch.no_grad():
        error = residual_map(model(images).reconstruction, images, "l2")
    combined = model(images).anomaly_map
    ratio = combined / error.clamp(min=1e-12)
    assert float(ratio.min()) >= 0.0
    assert float(ratio.max()) <= 1.0 + 1e-5  # a smoothed map in [0, 1]


def test_restoration_lowers_the_energy_and_spares_what_fits(images):
    torch.manual_seed(0)
    model = zoo.create_model("vae", **SMALL, anomaly_map="restoration", score="map", restoration_steps=30).eval()
    with torch.no_grad():
        before = model._terms(images)[2]
    restored = model(images).reconstruction
    with torch.no_grad():
        after = model._terms(restored)[2]
    assert bool((after < before).all())
    strong = zoo.create_model("vae", **SMALL, anomaly_map="restoration", score="map", restoration_steps=0).eval()
    assert float(strong(images).anomaly_map.max()) == 0.0


def test_ms_ssim_loss_is_its_definition(images):
    other = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    index = ms_ssim(other, images, 11, floor=1e-6).mean()
    expected = 0.85 * (1 - index) + 0.15 * (other - images).abs().mean()
    torch.testing.assert_close(residual_loss(other, images, "ms_ssim"), expected)
    error = ms_ssim_error_map(images, other[:, None]).squeeze(1)
    torch.testing.assert_close(residual_map(other, images, "ms_ssim"), 0.85 * error + 0.15 * (other - images).abs())
    assert float(residual_map(images, images, "ms_ssim").abs().max()) == 0.0


def test_ms_ssim_trains_after_testing_in_the_same_process():
    """The blur matrices are cached: made in inference mode they must still serve the backward pass."""
    size = 47  # a size that no other test uses
    target = torch.rand(2, 1, size, size)
    with torch.inference_mode():
        residual_map(target, target, "ms_ssim")
        residual_loss(target, target, "ms_ssim")
    guess = torch.rand(2, 1, size, size, requires_grad=True)
    residual_loss(guess, target, "ms_ssim").backward()
    assert torch.isfinite(guess.grad).all()


def test_ms_ssim_teaches_where_the_finest_scale_is_reversed():
    """A negative contrast term is cut to the floor: at a floor of 0 the other scales would teach nothing either."""
    torch.manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(2, 1, 8, 8), size=64, mode="bilinear")
    fine = 0.3 * (torch.rand(2, 1, 64, 64) - 0.5)
    target, guess = coarse + fine, (0.9 * coarse - fine).requires_grad_()
    (gradient,) = torch.autograd.grad(residual_loss(guess, target, "ms_ssim"), guess)
    (of_l1,) = torch.autograd.grad(0.15 * (guess - target).abs().mean(), guess)
    assert torch.isfinite(gradient).all()
    assert float((gradient - of_l1).abs().max()) > 1e-6


def test_perceptual_moments_equal_those_of_all_features(images):
    torch.manual_seed(0)
    distance = PerceptualDistance(1, backbone="resnet18", layer="layer1", weights="random")
    for part in images.split(2):
        distance.collect(part)
    features = distance.extractor(images)[0].transpose(0, 1).flatten(1).double()
    count, total, squares = distance.moments
    torch.testing.assert_close(total / count, features.mean(dim=1))
    torch.testing.assert_close(squares / count - (total / count) ** 2, features.var(dim=1, correction=0))
    assert float(distance(images, images).detach().abs().max()) == 0.0


def test_perceptual_autoencoder_trains_in_stages_and_keeps_its_backbone(image_folder, quiet_trainer):
    name, arguments = CASES["autoencoder perceptual"]
    arguments = {key: value for key, value in arguments.items() if key != "image_size"}
    torch.manual_seed(0)
    model = load_class(name)(**arguments)
    trainer = quiet_trainer(max_steps=3)
    data = Folder(root=str(image_folder), image_size=32, batch_size=4)
    trainer.fit(model, data)
    pixels = 8 * 8 * sum(len(batch["image"]) for batch in data.train_dataloader())
    assert model.distance.moments[0].unique().tolist() == [pixels]
    assert trainer.global_step >= 3
    assert not any(p.requires_grad for p in model.distance.parameters())


# ---- corruption ----


def test_squares_stay_within_the_images_range_and_number(images):
    torch.manual_seed(0)
    assert torch.equal(cover_squares(images, 0), images)
    covered = cover_squares(images.repeat(20, 1, 1, 1), 3)
    changed = (covered != images.repeat(20, 1, 1, 1)).flatten(1)
    assert bool((~changed.any(dim=1)).any())  # some images get none
    assert bool(changed.any(dim=1).any())
    assert float(changed.float().mean(dim=1).max()) <= 0.75  # three squares of a quarter each
    assert float(covered.min()) >= float(images.min())
    assert float(covered.max()) <= float(images.max())


def test_noise_is_coarse_centred_and_of_the_image_size():
    torch.manual_seed(0)
    noise = coarse_noise(torch.zeros(40, 2, 48, 64), grid=8, std=0.2)
    assert noise.shape == (40, 2, 48, 64)
    assert abs(float(noise.mean())) < 0.01
    assert 0.08 < float(noise.std()) < 0.2
    neighbours = (noise[..., 1:] - noise[..., :-1]).abs().mean()
    assert float(neighbours) < 0.35 * float(noise.std())


def test_denoising_map_is_empty_outside_the_foreground(images):
    torch.manual_seed(0)
    model = zoo.create_model("denoising_ae", **CASES["denoising_ae"][1]).eval()
    anomaly_map = model(images).anomaly_map
    assert float(anomaly_map[..., :4, :].abs().max()) == 0.0
    assert float(anomaly_map[..., 10:22, 10:22].max()) > 0.0


def test_uncertainty_discounts_errors(images):
    torch.manual_seed(0)
    model = zoo.create_model("ae_u", **SMALL).eval()
    prediction = model(images)
    reconstruction, log_variance = model.reconstruct(images)
    expected = ((images - reconstruction) ** 2 / log_variance.exp()).mean(dim=1, keepdim=True)
    torch.testing.assert_close(prediction.anomaly_map, expected.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(prediction.uncertainty_map, log_variance.exp().sqrt().detach())


def test_arguments_of_the_context_vae_are_its_own():
    assert zoo.create_model("ce_vae", image_size=32).hparams["lr"] == 1e-4
    model = zoo.create_model("ce_vae", **SMALL, kl_weight=0.3, context_weight=0.2)
    assert (model.hparams["kl_weight"], model.hparams["context_weight"], model.hparams["loss"]) == (0.3, 0.2, "l1")


@pytest.mark.parametrize("name", ["conv_ae", "mem_ae", "denoising_ae", "ae_u"])
def test_sizes_that_do_not_divide_are_refused(name):
    with pytest.raises(UserError, match="multiples of"):
        zoo.create_model(name, image_size=36)


def test_context_vae_has_the_authors_network():
    """Counted from the code for the MOOD challenge at 128 px: 16, 64, 256, 1024 maps, no biases, a code of 128."""
    model = zoo.create_model("ce_vae", image_size=128, in_channels=1)
    convolutions = 9 * (16 + 16 * 64 + 64 * 256 + 256 * 1024) + 16 * (1024 * 256 + 256 * 64 + 64 * 16 + 16)
    assert sum(p.numel() for p in model.parameters()) == convolutions + 1024 * 8 * 8 * (2 * 128 + 128)
    code = torch.randn(1, 128)
    start = model.network.from_code(code).unflatten(1, (1024, 8, 8))
    wanted = model.network.to_image(model.network.decoder(torch.nn.functional.leaky_relu(start, 0.01)))
    assert torch.equal(model.network.decode(code), wanted)
