"""IGD: its error, its descriptor, its patches, its switches."""

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

import zoo
from datamodules import Folder
from zoo.errors import UserError
from zoo.nn.patches import cut_patches, join_patches
from zoo.reconstruction.igd import IGD
from zoo.registry import load_class, methods

TINY = methods()["igd"].tiny


def test_error_is_that_of_pytorch_msssim():
    pytorch_msssim = pytest.importorskip("pytorch_msssim")
    model = zoo.create_model("igd", **TINY | {"image_size": 192, "scales": "global", "in_channels": 3})
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 12, generator=generator), 192, mode="bilinear") * 4 - 2
    other = image + 0.2 * torch.rand(image.shape, generator=generator)
    index = pytorch_msssim.ms_ssim(other, image, data_range=4.7579, size_average=False)
    expected = 0.85 * (1 - index) + 0.15 * (other - image).abs().mean(dim=(1, 2, 3)) / 4.7579
    torch.testing.assert_close(model.scales["whole"].error(other, image), expected, rtol=1e-4, atol=1e-5)


def fitted(image_folder, quiet_trainer, steps=3, **changes):
    seed_everything(0, verbose=False)
    model = IGD(**{k: v for k, v in TINY.items() if k != "image_size"} | changes)
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    quiet_trainer(max_steps=steps, limit_val_batches=0).fit(model, data)
    return model, data


def test_centre_and_spread_are_those_of_the_training_set(image_folder, quiet_trainer):
    model, data = fitted(image_folder, quiet_trainer, lr=0.0, weight_decay=0.0)
    scale = model.eval().scales["whole"]
    images = torch.cat([batch["image"] for batch in data.train_dataloader()])
    with torch.no_grad():
        codes = scale.encoder((images - model.mean) / model.deviation).double().numpy()
    mean = codes.mean(0)
    centre = np.where(np.abs(mean) < 0.1, np.where(mean < 0, -0.1, 0.1), mean)
    spread = max(1.0, ((codes - centre) ** 2).sum(1).mean())
    np.testing.assert_allclose(scale.descriptor.centre, centre, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scale.descriptor.spread, spread, rtol=1e-5)
    assert float(scale.descriptor.centre.abs().min()) >= 0.0999


def test_it_is_collected_again_in_the_course_of_the_fit(image_folder, quiet_trainer, monkeypatch):
    centres = []
    original = IGD._finish

    def finish(self):
        original(self)
        centres.append(self.scales["whole"].descriptor.centre.clone())

    monkeypatch.setattr(IGD, "_finish", finish)
    fitted(image_folder, quiet_trainer, steps=6, refreshes=2, lr=1e-2)
    assert len(centres) == 2
    assert not torch.equal(*centres)


def test_without_descriptor_and_critic_it_is_an_autoencoder(image_folder, quiet_trainer):
    model, _ = fitted(image_folder, quiet_trainer, scales="global", gaussian=False, interpolation=False)
    image = torch.rand(2, 1, 32, 32)
    prediction = model.eval()(image)
    scale = model.scales["whole"]
    with torch.no_grad():
        normal = (image - model.mean) / model.deviation
        restored = scale.generator(scale.encoder(normal))
        torch.testing.assert_close(prediction.anomaly_score, scale.error(restored, normal))
    torch.testing.assert_close(prediction.reconstruction, restored * model.deviation + model.mean)


def test_patches_fold_back_into_their_image():
    image = torch.rand(2, 1, 64, 96)
    patches = cut_patches(image, 32, 16)
    assert patches.shape == (2 * 3 * 5, 1, 32, 32)
    torch.testing.assert_close(patches[5], image[0, :, 16:48, 0:32])
    torch.testing.assert_close(join_patches(patches, 2, (64, 96), 16), image)


def test_local_score_is_that_of_the_worst_patch():
    torch.manual_seed(0)
    model = zoo.create_model("igd", **TINY | {"image_size": 64, "scales": "local", "gaussian": False}).eval()
    image = torch.rand(2, 1, 64, 64)
    scale = model.scales["patch"]
    with torch.no_grad():
        patches = cut_patches((image - model.mean) / model.deviation, 32, 16)
        errors = scale.error(scale.generator(scale.encoder(patches)), patches).view(2, -1)
    torch.testing.assert_close(model(image).anomaly_score, errors.amax(1), rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="multiples of 16"):
        zoo.create_model("igd", **TINY | {"image_size": 40, "scales": "local"})
    with pytest.raises(UserError, match="no centre yet"):
        zoo.create_model("igd", **TINY).eval()(torch.rand(1, 1, 32, 32))


@pytest.mark.parametrize("trained", [False, True])
def test_backbone_learns_only_if_told(trained, image_folder, quiet_trainer):
    seed_everything(0, verbose=False)
    start = zoo.create_model("igd", **TINY | {"scales": "global", "train_backbone": trained})
    before = {k: v.clone() for k, v in start.state_dict().items() if "extractor" in k}
    model, _ = fitted(image_folder, quiet_trainer, scales="global", train_backbone=trained, lr=1e-2)
    moved = any(not torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert moved == trained
    assert load_class("igd") is IGD
