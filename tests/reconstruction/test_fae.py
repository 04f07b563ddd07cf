"""FAE: equal to the authors' outputs, losses, gradients; import of their checkpoints; sizes, blank images, options."""

import argparse
import json
from pathlib import Path

import pytest
import torch

import zoo
from zoo.errors import UserError
from zoo.reconstruction.fae import FeatureAutoencoder
from zoo.scoring.residual import residual_loss, residual_map

GOLDEN = Path(__file__).parents[1] / "golden" / "fae"
TINY = FeatureAutoencoder.tiny


@pytest.fixture(scope="module")
def checkpoint(filled):
    entry = json.loads((GOLDEN / "state_dict_keys.json").read_text())
    return {"model_state_dict": filled(entry["state_dict"]), "config": argparse.Namespace(**entry["config"])}


@pytest.fixture(scope="module")
def imported(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("fae") / "last.pt"
    torch.save(checkpoint, path)
    return zoo.import_checkpoint(path).eval()


@torch.no_grad()
def test_forward_equals_the_authors(imported, fae_golden, close):
    golden = fae_golden["golden"]
    image = torch.from_numpy(golden["x"])
    features = imported.features(image)
    reconstruction = imported.decoder(imported.encoder(features))
    prediction = imported.predict_anomaly(image)
    assert tuple(features.shape) == tuple(golden["features_shape"])
    close(features[:, ::16, ::4, ::4], golden["features"], 2e-5)
    close(features.double().mean((0, 2, 3)), golden["features_channel_mean"], 2e-5)
    close(reconstruction[:, ::16, ::4, ::4], golden["reconstruction"], 5e-6)
    close(reconstruction.double().mean((0, 2, 3)), golden["reconstruction_channel_mean"], 5e-6)
    close(residual_map(reconstruction, features, "ssim", 5), golden["map_small"], 5e-6)
    close(residual_loss(reconstruction, features, "ssim", 5), golden["loss"], 5e-6)
    close(prediction.anomaly_map, golden["anomaly_map"], 5e-6)
    close(prediction.anomaly_score, golden["anomaly_score"], 5e-6)


def test_training_equals_the_authors(checkpoint, fae_golden, close):
    golden = fae_golden["train_golden"]
    expected = json.loads((GOLDEN / "train_golden.json").read_text())
    model = FeatureAutoencoder.from_original(checkpoint, dropout=0.0).train()
    model.log = lambda *_: None
    optimiser = model.configure_optimizers()
    image = torch.from_numpy(golden["x"])
    for step, tolerance in enumerate((1e-6, 1e-4, 1e-4)):
        loss = model.training_step({"image": image}, step)
        optimiser.zero_grad()
        loss.backward()
        assert loss.item() == pytest.approx(expected["losses"][step], abs=tolerance)
        if step == 0:
            close(model.encoder[0].conv.weight.grad[::10, ::32, 2, 2], golden["grad_enc_conv0"], 1e-6)
            close(model.decoder[0].conv.weight.grad[::30, ::20, 2, 2], golden["grad_dec_tconv4"], 1e-6)
            close(model.decoder[4].weight.grad[::16, ::16, 0, 0], golden["grad_dec_final"], 1e-6)
            norms = expected["grad_norm_step0"]
            first = "ae.enc.encoder_layer_0.encoder_conv_0.weight"
            assert model.encoder[0].conv.weight.grad.norm().item() == pytest.approx(norms[first], rel=1e-3)
        optimiser.step()
    model.eval()
    backbone = model.extractor.backbone
    close(backbone.bn1.running_mean, golden["ext_layer0_bn_mean"], 5e-6)
    close(backbone.bn1.running_var, golden["ext_layer0_bn_var"], 5e-6)
    close(backbone.layer2[1].bn2.running_mean, golden["ext_layer2_bn_mean"], 5e-6)
    close(backbone.layer2[1].bn2.running_var, golden["ext_layer2_bn_var"], 5e-6)
    close(model.encoder[0].norm.running_mean, golden["ae_enc0_bn_mean"], 1e-2)
    with torch.no_grad():
        prediction = model.predict_anomaly(image)
    close(prediction.anomaly_map[:, :, ::4, ::4], golden["anomaly_map_after"], 2e-4)
    close(prediction.anomaly_score, golden["anomaly_score_after"], 2e-5)


def test_frozen_statistics_are_another_method(checkpoint, fae_golden):
    model = FeatureAutoencoder.from_original(checkpoint, dropout=0.0, extractor_stats="frozen").train()
    model.log = lambda *_: None
    loss = model.training_step({"image": torch.from_numpy(fae_golden["train_golden"]["x"])}, 0)
    assert loss.item() == pytest.approx(-0.018086, abs=1e-6)
    assert not any(module.training for module in model.extractor.modules())


def test_import_reads_arguments_from_the_file(imported):
    assert imported.hparams["hidden_dims"] == (100, 150, 200, 300)
    assert imported.hparams["layers"] == ("layer0", "layer1", "layer2")
    assert imported.image_size == (128, 128)
    assert sum(p.numel() for p in imported.parameters() if p.requires_grad) == 10_285_048


def test_import_refuses_an_incomplete_file(checkpoint):
    tensors = dict(checkpoint["model_state_dict"])
    del tensors["ae.dec.decoder_conv_final.weight"]
    with pytest.raises(UserError, match=r"1 tensors of the model are missing.*decoder\.4\.weight"):
        FeatureAutoencoder.from_original({**checkpoint, "model_state_dict": tensors})


def test_part_of_the_features():
    small = zoo.create_model("fae", **TINY)
    half = zoo.create_model("fae", **TINY, keep_features=0.5)
    assert int(half.kept_features.sum()) * 2 == int(small.kept_features.sum())
    assert half.features(torch.rand(1, 1, 32, 32)).shape == (1, 64, 8, 8)


@pytest.mark.parametrize(("size", "nearest"), [(96, "128 x 128"), ((64, 100), "64 x 128")])
def test_size_that_does_not_divide_is_refused(size, nearest):
    with pytest.raises(UserError, match=f"multiples of 64.*for example {nearest};"):
        zoo.create_model("fae", image_size=size, weights="random")


def test_other_sizes_and_channels_work():
    model = zoo.create_model("fae", **{**TINY, "image_size": (32, 48)}, in_channels=3).eval()
    prediction = model(torch.rand(2, 3, 32, 48))
    assert prediction.anomaly_map.shape == (2, 1, 32, 48)
    with pytest.raises(UserError, match="1 or 3 channels"):
        zoo.create_model("fae", **TINY, in_channels=4)


def test_blank_and_constant_images_get_a_score():
    model = zoo.create_model("fae", **TINY).eval()
    images = torch.stack([torch.zeros(1, 32, 32), torch.ones(1, 32, 32), torch.rand(1, 32, 32)])
    assert torch.isfinite(model(images).anomaly_score).all()


def test_loss_is_float32_under_autocast():
    model = zoo.create_model("fae", **TINY, channels_last=True).train()
    model.log = lambda *_: None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.training_step({"image": torch.rand(4, 1, 32, 32)}, 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert model.encoder[0].conv.weight.grad.abs().sum() > 0
