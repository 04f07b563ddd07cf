"""The baselines of the feature autoencoder's paper: equal to its code."""

import re

import pytest
import torch

import zoo
from zoo.errors import UserError
from zoo.reconstruction.f_anogan import gradient_penalty
from zoo.scoring.residual import residual_loss


@pytest.fixture(scope="module")
def golden(fae_golden):
    return fae_golden["baselines_golden"]


@pytest.fixture(scope="module")
def image(fae_golden):
    return torch.from_numpy(fae_golden["golden"]["x"])


def load(model, entries, filled, rename):
    """Fill a model with the golden weights under its own names; every tensor must find its place."""
    tensors = {rename(key): value for key, value in filled(entries).items()}
    missing, _ = model.load_state_dict(
        {key: tensors[key] for key in model.state_dict() if key in tensors}, strict=False
    )
    assert not missing
    return model.eval()


def dense_name(key):
    key = re.sub(r"^encoder\.encoder_layer_(\d)\.encoder_conv_\d", r"network.encoder.\1.conv", key)
    key = re.sub(
        r"^decoder\.decoder_layer_(\d)\.decoder_conv_\d", lambda m: f"network.decoder.{4 - int(m[1])}.conv", key
    )
    key = key.replace("bottleneck.1", "network.to_code").replace("decoder_input.0", "network.from_code")
    return key.replace("decoder.decoder_conv_final", "network.to_image")


@pytest.mark.parametrize("loss", ["l1", "l2", "ssim"])
@torch.no_grad()
def test_autoencoder(loss, golden, baseline_keys, filled, image, close):
    model = zoo.create_model("autoencoder", image_size=128, loss=loss)
    load(model, baseline_keys["ae"], filled, dense_name)
    prediction = model(image)
    name = {"l1": "ae_l1", "l2": "ae_mse", "ssim": "ae_ssim"}[loss]
    assert sum(p.numel() for p in model.parameters()) == 3_185_552
    close(prediction.reconstruction[:, :, ::4, ::4], golden["ae/reconstruction"], 1e-5)
    # squared differences reach 81, where the golden float32 values are themselves 5e-5 off those in float64
    close(prediction.anomaly_map[:, :, ::4, ::4], golden[f"{name}/anomaly_map"], 5e-5 if loss == "l2" else 1e-5)
    close(prediction.anomaly_score, golden[f"{name}/anomaly_score"], 1e-5)
    close(residual_loss(model.network(image), image, loss), golden[f"{name}/loss"], 1e-5)


def test_vae(golden, baseline_keys, filled, image, close):
    model = load(zoo.create_model("vae", image_size=128), baseline_keys["vae"], filled, dense_name)
    prediction = model(image)
    mean, log_variance = model.encode(image)
    assert sum(p.numel() for p in model.parameters()) == 4_234_128
    close(mean, golden["vae/mu"], 1e-5)
    close(log_variance, golden["vae/logvar"], 1e-5)
    close(prediction.reconstruction[:, :, ::4, ::4], golden["vae/reconstruction"], 1e-5)
    close(prediction.anomaly_score, golden["vae/anomaly_score"], 1e-5)
    close(prediction.anomaly_map[:1, :, ::4, ::4], golden["vae/anomaly_map_batch_of_1"], 1e-5)


def test_vae_loss(golden, baseline_keys, filled, image, monkeypatch):
    model = load(zoo.create_model("vae", image_size=128), baseline_keys["vae"], filled, dense_name)
    logged = {}
    model.log_dict = logged.update
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # as the golden values were made
    model.training_step({"image": image}, 0)
    for ours, theirs in (("loss", "loss_kl005"), ("reconstruction", "rec_loss"), ("kl", "kl_loss")):
        assert logged[f"train/{ours}"].item() == pytest.approx(float(golden[f"vae/{theirs}"]), abs=1e-5)


def test_vae_does_not_depend_on_chance_or_neighbours(image):
    model = zoo.create_model("vae", image_size=128).eval()
    state = torch.get_rng_state()
    together, alone = model(image), model(image[:1])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(together.anomaly_map[:1], alone.anomaly_map, atol=1e-7)
    assert torch.equal(model(image).anomaly_map, together.anomaly_map)


def f_anogan_name(key):
    network = {"G": "generator", "D": "critic", "E": "encoder"}[key[0]]
    key = re.sub(r"(?:rb|res)(\d)", lambda m: f"blocks.{int(m[1]) - 1}", key[2:])
    key = key.replace("bn1", "norm1").replace("bn2", "norm2")
    if network == "generator":
        key = key.replace("shortcut.conv", "shortcut.1").replace("conv1.conv", "conv1.1")
        key = re.sub(r"^bn\.", "norm.", key)
        key = re.sub(r"^conv1", "to_image", key).replace("ln1", "to_grid")
    else:
        key = re.sub(r"^(conv1|conv_in)", "stem", key)
        key = re.sub(r"^(ln1|fc)", "head", key)
    return f"{network}.{key}"


@pytest.fixture(scope="module")
def f_anogan(baseline_keys, filled):
    model = zoo.create_model("f_anogan", image_size=128)
    return load(model, baseline_keys["fanogan"], filled, f_anogan_name)


def test_f_anogan(f_anogan, golden, image, close):
    assert sum(p.numel() for p in f_anogan.parameters()) == 28_034_370
    prediction = f_anogan(image)
    with torch.no_grad():
        code = f_anogan.encoder(image)
        close(code, golden["fanogan/z"], 5e-5)
        close(f_anogan.critic(image).flatten(), golden["fanogan/critic"], 5e-5)
        close(f_anogan.critic.features(image)[:, ::64], golden["fanogan/features_x"], 5e-5)
    close(prediction.reconstruction[:, :, ::4, ::4], golden["fanogan/reconstruction"], 5e-5)
    close(prediction.anomaly_map[:, :, ::4, ::4], golden["fanogan/trainer_anomaly_map"], 5e-5)
    close(prediction.anomaly_score, golden["fanogan/trainer_anomaly_score"], 5e-5)
    penalty = gradient_penalty(f_anogan.critic, image, prediction.reconstruction, torch.full((2, 1, 1, 1), 0.3))
    close(penalty, golden["fanogan/gradient_penalty_alpha03"], 5e-5)


def dfr_name(key):
    key = re.sub(r"^encoder\.encoder_(conv|batchnorm)_(\d)", lambda m: f"network.{m[2]}.{int(m[1] != 'conv')}", key)
    return re.sub(
        r"^decoder\.decoder_(conv|batchnorm)_(\d)", lambda m: f"network.{int(m[2]) + 3}.{int(m[1] != 'conv')}", key
    )


@torch.no_grad()
def test_dfr(golden, baseline_keys, filled, image, close):
    model = load(zoo.create_model("dfr", image_size=128, weights="random"), baseline_keys["dfr"], filled, dfr_name)
    assert sum(p.numel() for p in model.network.parameters()) == 13_860_096
    features = model.features(image)
    reconstruction = model.network(features)
    prediction = model(image)
    close(features[:, ::128, ::4, ::4], golden["dfr/features"], 1e-5)
    close(features.mean((0, 2, 3))[::8], golden["dfr/features_channel_mean"], 1e-5)
    close(reconstruction[:, ::128, ::4, ::4], golden["dfr/reconstruction"], 1e-5)
    close(residual_loss(reconstruction, features, "l2"), golden["dfr/loss"], 1e-5)
    close(prediction.anomaly_map[:, :, ::4, ::4], golden["dfr/anomaly_map"], 1e-5)
    close(prediction.anomaly_score, golden["dfr/anomaly_score"], 1e-5)


def test_small_images_are_refused_clearly():
    with pytest.raises(UserError, match="at least 64, for example 64 x 64"):
        zoo.create_model("autoencoder", image_size=32)
    with pytest.raises(UserError, match="multiples of 32"):
        zoo.create_model("f_anogan", image_size=100)
