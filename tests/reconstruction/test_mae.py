"""MAE: equal to the original's outputs, losses and gradients; import of its checkpoints; the score's properties."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.errors import UserError
from zoo.nn.masked_vit import masked_mse, normalise_patches, random_resized_crop, schedule
from zoo.nn.vit import patchify, random_masking
from zoo.reconstruction.mae import MaskedAutoencoder

GOLDEN = Path(__file__).parents[1] / "golden" / "mae"
SMALL = {"width": 96, "depth": 3, "heads": 4, "decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "golden.npz"))


def filled(key, shape):
    """The golden files' weights: a normal stream for each key, scaled by its kind."""
    n = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape).astype(np.float32)
    if len(shape) >= 2:
        n = n * np.float32(1.0 / math.sqrt(math.prod(shape[1:])))
    elif key.endswith("weight"):
        n = np.float32(1) + np.float32(0.1) * n
    else:
        n = np.float32(0.05) * n
    return torch.from_numpy(n)


def checkpoint(name="small", encoder_only=False):
    if name == "small":
        entries = json.loads((GOLDEN / "state_dict_keys_small.json").read_text())["tensors"]
    else:
        tables = json.loads((GOLDEN / "state_dict_keys.json").read_text())
        key = next(k for k in tables if ("encoder" in k) == encoder_only)
        entries = tables[key]["tensors"]
    return {"model": {key: filled(key, tuple(shape)) for key, shape, _ in entries}}


@pytest.fixture(scope="module")
def small():
    return MaskedAutoencoder.from_original(checkpoint(), heads=4, decoder_heads=4)


def test_small_model_equals_the_original(small, golden):
    images = torch.from_numpy(golden["small_imgs_f16"]).float()
    masking = random_masking(torch.from_numpy(golden["small_noise"]), 0.75)
    assert np.array_equal(masking.mask.numpy(), golden["small_mask"].astype(bool))
    assert np.array_equal(masking.restore.numpy(), golden["small_ids_restore"])
    latent = small.network.encode(images, masking.keep)
    np.testing.assert_allclose(latent.detach(), golden["small_latent"], atol=1e-5)
    np.testing.assert_allclose(small.network(images, masking).detach(), golden["small_pred"], atol=1e-5)
    np.testing.assert_allclose(patchify(images, 8).half(), golden["small_target"])


@pytest.mark.parametrize("suffix", ["", "_norm_pix"])
def test_losses_and_gradients_equal_the_original(small, golden, suffix):
    images = torch.from_numpy(golden["small_imgs_f16"]).float()
    masking = random_masking(torch.from_numpy(golden["small_noise"]), 0.75)
    target = patchify(images, 8)
    if suffix:
        target = normalise_patches(target)[0]
    small.zero_grad()
    loss = masked_mse(small.network(images, masking), target, masking.mask)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[f"small_loss{suffix}"]), rel=1e-5)
    gradients = {name: p.grad for name, p in small.network.named_parameters()}
    for key in golden:
        if key.startswith(f"small_grad{suffix}:"):
            np.testing.assert_allclose(gradients[key.split(":")[1]], golden[key], atol=1e-5)
    order = next(v for k, v in json.loads((GOLDEN / "grad_order.json").read_text()).items() if "small" in k)
    norms = [float(gradients[name].norm()) for name in order]
    np.testing.assert_allclose(norms, golden[f"small_grad_l2{suffix}"], rtol=1e-3, atol=1e-7)


def test_base_model_equals_the_original(golden):
    model = MaskedAutoencoder.from_original(checkpoint("base"))
    images = torch.from_numpy(golden["base_imgs_f16"]).float()
    masking = random_masking(torch.from_numpy(golden["base_noise"]), 0.75)
    with torch.no_grad():
        latent, pred = model.network.encode(images, masking.keep), model.network(images, masking)
        full = model.network.encode(images)
    np.testing.assert_allclose(latent[0, ::5, ::8], golden["base_latent_sub"], atol=1e-5)
    np.testing.assert_allclose(pred[0, ::4, ::4], golden["base_pred_sub"], atol=1e-5)
    np.testing.assert_allclose(full[0, ::14, ::8], golden["base_enc_full_sub"], atol=1e-5)
    loss = masked_mse(pred, patchify(images, 16), masking.mask)
    assert loss.item() == pytest.approx(float(golden["base_loss"]), rel=1e-5)


def test_encoder_only_import_leaves_the_decoder_new(golden, caplog):
    with caplog.at_level("INFO", "zoo"):
        model = MaskedAutoencoder.from_original(checkpoint("base", encoder_only=True), decoder_depth=1)
    assert "149 tensors filled" in caplog.text  # 150 without the fixed positions
    assert "decoder_embed.weight" in caplog.text
    with torch.no_grad():
        full = model.network.encode(torch.from_numpy(golden["base_imgs_f16"]).float())
    np.testing.assert_allclose(full[0, ::14, ::8], golden["base_enc_full_sub"], atol=1e-5)


def test_import_as_grey_and_at_another_size():
    source = checkpoint()
    model = MaskedAutoencoder.from_original(source, in_channels=1, image_size=(48, 80), heads=4, decoder_heads=4)
    weight = source["model"]["patch_embed.proj.weight"]
    torch.testing.assert_close(model.network.patch_embed.proj.weight, weight.sum(1, keepdim=True))
    assert model(torch.rand(1, 1, 48, 80)).anomaly_map.shape == (1, 1, 48, 80)


def test_import_names_the_tensor_that_does_not_fit():
    with pytest.raises(UserError, match=r"cls_token is .*96"):
        MaskedAutoencoder.from_original(checkpoint(), width=64)


def test_recognises():
    assert MaskedAutoencoder.recognises(checkpoint())
    assert not MaskedAutoencoder.recognises({"model": {"x": torch.zeros(1)}})


@pytest.mark.parametrize(("name", "lr", "warmup", "total"), [("memmc", 1.5e-3, 5, 2000), ("mae", 1.5e-4, 40, 800)])
def test_schedule(golden, name, lr, warmup, total):
    values = [lr * schedule(epoch, warmup, total) for epoch in golden[f"lr_{name}_epoch"]]
    np.testing.assert_allclose(values, golden[f"lr_{name}"], atol=1e-12)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = MaskedAutoencoder(**{**MaskedAutoencoder.tiny, "image_size": 64}, in_channels=1)
    model.configure_model()
    return model.eval()


def test_scores_do_not_depend_on_batch(tiny):
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    together, order = tiny(images), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(tiny(images[order]).anomaly_score, together.anomaly_score[order], atol=1e-6, rtol=0)
    alone = torch.cat([tiny(image[None]).anomaly_map for image in images])
    torch.testing.assert_close(alone, together.anomaly_map, atol=1e-5, rtol=0)


@pytest.mark.parametrize("score", ["patch", "global"])
@pytest.mark.parametrize("l1_weight", [0.0, 0.15])
def test_perfect_reconstruction_scores_zero(tiny, monkeypatch, score, l1_weight):
    image = torch.rand(2, 1, 64, 64)
    removed = tiny.reconstruct(image)[1]
    monkeypatch.setattr(tiny, "reconstruct", lambda x: (x.unsqueeze(1).expand(-1, 10, -1, -1, -1), removed))
    monkeypatch.setitem(tiny.hparams, "score", score)
    monkeypatch.setitem(tiny.hparams, "l1_weight", l1_weight)
    prediction = tiny(image)
    assert prediction.anomaly_score.abs().max() < 1e-6
    assert prediction.anomaly_map.abs().max() == 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_blank_images_are_finite(tiny, value):
    prediction = tiny(torch.full((1, 1, 64, 64), value))
    assert all(torch.isfinite(part).all() for part in prediction if part is not None)


@pytest.mark.parametrize(("size", "patch"), [(224, 16), (64, 8)])
def test_ten_masks_cover_every_patch(size, patch):
    arguments = {**MaskedAutoencoder.tiny, "image_size": size, "patch_size": patch}
    model = MaskedAutoencoder(**arguments)
    model.configure_model()
    times = random_masking(model.test_noise, 0.75).mask.sum(0)
    assert times.min() >= 1


def test_predict_is_float32_under_autocast(tiny):
    with torch.autocast("cpu", torch.bfloat16):
        prediction = tiny(torch.rand(1, 1, 64, 64))
    assert {part.dtype for part in prediction if part is not None} == {torch.float32}


def test_crops_keep_shape_and_range():
    images = torch.rand(3, 2, 16, 24)
    crops = random_resized_crop(images, (0.2, 1.0))
    assert crops.shape == images.shape
    assert crops.min() >= 0
    assert crops.max() <= 1


def test_size_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(UserError, match="multiple of patch_size 8"):
        MaskedAutoencoder(**{**MaskedAutoencoder.tiny, "image_size": 30}).configure_model()
