"""Baselines of the papers' tables: equal to their authors' code, or to the port that the tables used."""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.nn.adversarial import realness_loss
from zoo.nn.memory import addressing_entropy

GOLDEN = Path(__file__).parents[1] / "golden" / "baselines"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "networks.npz"))


@pytest.fixture(scope="module")
def keys():
    return json.loads((GOLDEN / "keys.json").read_text())


def uniform(name, shape, low, high):
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def load_in_order(module, tensors):
    """Fill a module whose tensors have the original's order."""
    own = module.state_dict()
    assert [tuple(value.shape) for value in own.values()] == [tuple(value.shape) for value in tensors]
    module.load_state_dict(dict(zip(own, tensors, strict=True)))


@pytest.mark.parametrize("kind", ["autoencoder", "mem_ae", "ae_u"])
@torch.no_grad()
def test_ddad_members(kind, golden, keys, filled, close):
    name = {"autoencoder": "ddad_ae", "mem_ae": "ddad_mem_ae", "ae_u": "ddad_ae_u"}[kind]
    model = zoo.create_model("ddad", image_size=64, members=kind).eval()
    member = model.normative[0]
    tensors = filled(keys[name]["state_dict"])
    slots = [tensors.pop(key) for key in list(tensors) if key.startswith("mem_rep")]
    load_in_order(member.network, list(tensors.values()))
    assert parameters(member) == keys[name]["parameters"]
    image = uniform("ddad_x", (2, 1, 64, 64), -1, 1)
    if kind == "mem_ae":
        member.memory.slots.copy_(slots[0])
        weights = member.memory(member.network.encode(image)).weights
        close(weights, golden["ddad_mem_ae/weights"], 1e-5)
        close(addressing_entropy(weights), golden["ddad_mem_ae/entropy"], 1e-5)
    if kind == "ae_u":
        close(member.loss(image), golden["ddad_ae_u/loss"], 1e-5)
        close(member.reconstruct(image)[1][:, :, ::4, ::4].log(), golden["ddad_ae_u/log_variance"], 1e-5)
    reconstruction = golden["ddad_ae_u/mean" if kind == "ae_u" else f"{name}/reconstruction"]
    close(member.reconstruct(image)[0][:, :, ::4, ::4], reconstruction, 1e-5)
    if kind == "autoencoder":
        close(member.network.encode(image), golden["ddad_ae/code"], 1e-5)


@torch.no_grad()
def test_ddad_asr_refiner(golden, keys, filled, close):
    model = zoo.create_model("ddad_asr", image_size=32, discrepancy="inter", hidden=8).eval()
    load_in_order(model.refiner, list(filled(keys["ddad_refiner"]["state_dict"]).values()))
    assert parameters(model.refiner) == keys["ddad_refiner"]["parameters"]
    probability = model.refiner(uniform("ddad_seen", (2, 2, 32, 32), 0, 1)).softmax(1)[:, 1:]
    close(probability[:, :, ::2, ::2], golden["ddad_refiner/probability"], 1e-5)


@torch.no_grad()
def test_ganomaly(golden, keys, filled, close):
    published = zoo.create_model("ganomaly", image_size=64)
    generator = (published.encoder, published.decoder, published.second_encoder)
    assert parameters(*generator) == keys["ganomaly_generator"]["parameters"]
    assert parameters(published.discriminator) == keys["ganomaly_discriminator"]["parameters"]
    model = zoo.create_model("ganomaly", image_size=64, width=16).eval()
    of_generator = iter(filled(keys["ganomaly_generator"]["state_dict"]).values())
    for part in (model.encoder, model.decoder, model.second_encoder):
        load_in_order(part, [next(of_generator) for _ in part.state_dict()])
    load_in_order(model.discriminator, list(filled(keys["ganomaly_discriminator"]["state_dict"]).values()))
    image = uniform("ganomaly_x", (2, 1, 64, 64), -1, 1)
    prediction = model.detect(image, torch.ones_like(image, dtype=torch.bool))
    code = model.encoder(image)
    second = model.second_encoder(model.decoder(code))
    close(prediction.reconstruction[:, :, ::4, ::4], golden["ganomaly/reconstruction"], 1e-5)
    close(prediction.anomaly_score, golden["ganomaly/score"], 1e-5)
    close(code[:, :, 0, 0], golden["ganomaly/code"], 1e-5)
    close(second[:, :, 0, 0], golden["ganomaly/second_code"], 1e-5)
    real, fake = (model.discriminator(one).flatten() for one in (image, prediction.reconstruction))
    close(torch.stack([real, fake]).sigmoid(), golden["ganomaly/realness"], 1e-5)
    features = model.discriminator[0]
    parts = [
        F.mse_loss(features(prediction.reconstruction), features(image)),
        (prediction.reconstruction - image).abs().mean(),
        F.mse_loss(second, code),
        realness_loss(real, True),
        realness_loss(fake, False),
    ]
    close(torch.stack(parts), golden["ganomaly/parts"], 1e-5)


@torch.no_grad()
def test_cavga_ru(golden, keys, filled, close):
    model = zoo.create_model("cavga_ru", image_size=64, in_channels=1, weights="random").eval()
    load_in_order(model, list(filled(keys["cavga_ru"]["state_dict"]).values()))
    assert parameters(model) == keys["cavga_ru"]["parameters"]
    image = uniform("cavga_x", (2, 1, 64, 64), 0, 1)
    maps = model.encoder(image)
    mean, log_variance = model.to_mean(maps), model.to_log_variance(maps)
    close(mean[:, ::8], golden["cavga_ru/mean"], 1e-5)
    close(log_variance[:, ::8], golden["cavga_ru/log_variance"], 1e-5)
    close(model.decoder(mean)[:, :, ::4, ::4], golden["cavga_ru/decoded"], 1e-5)
    close(model.discriminator(image).sigmoid(), golden["cavga_ru/realness"], 1e-5)
    prediction = model.detect(image, torch.ones_like(image, dtype=torch.bool))
    # the port scales by the batch's maximum: its figures are of one image at a time
    close(prediction.anomaly_map[:, :, ::4, ::4], golden["cavga_ru/map_each_by_itself"], 1e-5)


def renamed(tensors, parts):
    """IGD's tensors by our names: ``parts`` gives the place of each of its layers, others are left out."""
    found = {}
    for key, value in tensors.items():
        key = re.sub(r"(\.conv)+\.(weight|bias)$", r".\2", key)
        key = re.sub(r"\.bn(\d)\.", r".norm\1.", key)
        key = re.sub(r"\.conv_(\d)\.", r".conv\1.", key).replace("conv_shortcut", "shortcut")
        part, _, rest = key.partition(".")
        if part in parts:
            found[f"{parts[part]}.{rest}"] = value
    return found


@torch.no_grad()
def test_igd_patches(golden, keys, filled, close):
    model = zoo.create_model("igd", image_size=32, in_channels=3, scales="local").eval()
    scale = model.scales["patch"]
    tensors = filled(keys["igd_patch_generator"]["state_dict"])
    of_encoder = {key.removeprefix("pretrain."): value for key, value in tensors.items() if key.startswith("pretrain")}
    of_encoder |= {key: value for key, value in tensors.items() if key.startswith("ln11")}
    blocks = {"rb1": 1, "rb2": 2, "rb3": 3}
    scale.encoder.load_state_dict(renamed(of_encoder, {"conv1": 0, **blocks, "ln1": 5, "ln11": 6}))
    parts = {"ln1": 0, "rb1": 2, "rb2": 3, "rb3": 4, "bn": 5, "conv1": 7}
    scale.generator.load_state_dict(renamed(tensors, parts))
    of_critic = filled(keys["igd_patch_critic"]["state_dict"])
    scale.critic.load_state_dict(renamed(of_critic, {"conv1": 0, **blocks, "ln1": 5}))
    assert parameters(scale.encoder, scale.generator) == keys["igd_patch_generator"]["parameters"]
    assert parameters(scale.critic) == keys["igd_patch_critic"]["parameters"]
    image = uniform("igd_x", (3, 3, 32, 32), -2, 2)
    code = scale.encoder(image)
    close(code, golden["igd/code"], 1e-5)
    close(scale.generator(code)[:, :, ::2, ::2], golden["igd/restored"], 1e-5)
    close(scale.realism(image)[:, 0], golden["igd/critic"], 1e-5)
    share = torch.tensor([[0.1], [0.25], [0.4]])
    mixed = scale.generator(share * code + (1 - share) * code.flip(0))
    close(scale.realism(mixed)[:, 0], golden["igd/mixed_realism"], 1e-5)
    scale.collect(image)
    scale.settle()
    close(scale.distance(code).mean(), golden["igd/descriptor_loss"], 1e-5)


@torch.no_grad()
def test_igd_whole_images(golden, keys, filled, close):
    def whole(width):
        model = zoo.create_model(
            "igd", image_size=256, in_channels=3, scales="global", weights="random", width=width
        ).eval()
        return model.scales["whole"]

    published, scale = whole(64), whole(8)
    assert parameters(published.encoder, published.generator) == keys["igd_whole_generator"]["parameters"]
    assert parameters(published.critic) == keys["igd_whole_critic"]["parameters"]
    tensors = filled(keys["igd_whole_generator"]["state_dict"])
    of_encoder = [value for key, value in tensors.items() if key.startswith(("pretrain", "ln11"))]
    load_in_order(scale.encoder, of_encoder)
    parts = {"ln1": 0, "up1": 3, "rb1": 4, "rb2": 5, "rb3": 6, "rb4": 7, "bn": 8, "up2": 11}
    scale.generator.load_state_dict(renamed(tensors, parts))
    parts = {"conv1": 0, "rb1": 1, "rb2": 2, "rb3": 3, "rb4": 4, "conv2": 5, "ln1": 7}
    scale.critic.load_state_dict(renamed(filled(keys["igd_whole_critic"]["state_dict"]), parts))
    image = uniform("igd_whole_x", (2, 3, 256, 256), -2, 2)
    code = scale.encoder(image)
    close(code, golden["igd_whole/code"], 1e-5)
    close(scale.generator(code)[:, :, ::16, ::16], golden["igd_whole/restored"], 1e-5)
    close(scale.realism(image)[:, 0], golden["igd_whole/critic"], 1e-5)
