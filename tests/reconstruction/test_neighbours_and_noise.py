"""Cheap floors and neighbours: noise, dropout, bands, and the variants that are configurations."""

import pytest
import torch
import yaml

import zoo
from zoo.configs import shipped_configs
from zoo.reconstruction.scale_space_ae import join_bands, split_bands
from zoo.registry import load_class, methods


def test_noise_is_uniform_and_unlike_from_image_to_image():
    model = zoo.create_model("random", image_size=64).eval()
    images = torch.rand(6, 1, 64, 64)
    images[1] = images[0]
    images[2] = images[0]
    images[2, 0, 63, 63] += 1e-3  # one pixel is enough
    maps = model(images).anomaly_map.flatten(1)
    assert abs(float(maps.mean()) - 0.5) < 0.01
    assert abs(float(maps.var()) - 1 / 12) < 0.005
    assert torch.equal(maps[0], maps[1])
    assert float(torch.corrcoef(maps[[0, 2, 3]]).triu(1).abs().max()) < 0.06
    neighbours = torch.corrcoef(torch.stack([maps[0, :-1], maps[0, 1:]]))[0, 1]
    assert abs(float(neighbours)) < 0.06
    again = zoo.create_model("random", image_size=64, noise_seed=1).eval()(images).anomaly_map.flatten(1)
    assert abs(float(torch.corrcoef(torch.stack([maps[0], again[0]]))[0, 1])) < 0.06


def test_noise_in_volumes():
    model = zoo.create_model("random", image_size=(8, 12, 16)).eval()
    assert model(torch.rand(2, 1, 8, 12, 16)).anomaly_map.shape == (2, 1, 8, 12, 16)


def test_bands_make_up_the_image():
    image = torch.rand(2, 1, 32, 48)
    bands = split_bands(image, 3)
    assert [tuple(band.shape[2:]) for band in bands] == [(32, 48), (16, 24), (8, 12)]
    torch.testing.assert_close(join_bands(bands), image)
    flat = split_bands(torch.full((1, 1, 32, 32), 0.4), 3)
    assert float(flat[0].abs().max()) < 1e-6  # what is smooth is in the coarsest band


@pytest.mark.parametrize("skip", [False, True])
def test_passes_differ_and_their_mean_is_the_reconstruction(skip):
    torch.manual_seed(0)
    model = zoo.create_model("bayesian_ae", **methods()["bayesian_ae"].tiny | {"skip": skip, "samples": 8}).eval()
    image = torch.rand(2, 1, 32, 32)
    prediction = model(image)
    with torch.no_grad():
        passes = torch.stack([model.network(image, kept.expand(2, -1)) for kept in model.kept])
    torch.testing.assert_close(prediction.reconstruction, passes.mean(0))
    assert float(prediction.uncertainty_map.max()) > 0
    certain = zoo.create_model("bayesian_ae", **methods()["bayesian_ae"].tiny | {"skip": skip, "dropout": 0.0}).eval()
    assert float(certain(image).uncertainty_map.max()) < 1e-6


@pytest.mark.parametrize(
    "name", ["alocc", "beta_vae", "bayesian_skip_ae", "igd_ms_ssim_ae", "ccd_igd", "ddad_inter", "ddad_asr_inter"]
)
def test_variants_are_configurations_of_their_methods(name):
    content = yaml.safe_load(shipped_configs()[f"models/{name}"].read_text())["model"]
    method = next(one for one in methods().values() if one.class_path == content["class_path"])
    model = load_class(method.name)(**content["init_args"])
    assert model.hparams.items() >= content["init_args"].items()
