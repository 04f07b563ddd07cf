"""The range and the foreground of the data are the house's business: methods see what they expect, users their data."""

from typing import ClassVar

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch.utils.data import DataLoader

import zoo
from datamodules import Folder
from zoo.checkpoints.saving import save_checkpoint
from zoo.errors import UserError
from zoo.foreground import foreground_of, settle_rule
from zoo.module import AnomalyModule, Prediction
from zoo.registry import load_class, methods

METHODS = [method for method in methods().values() if 2 in method.dims]


def greys(count, size):
    """Smooth pictures of 129 grey levels, which [0, 1] and [-1, 1] both hold exactly, with a black rim."""
    rows = torch.nn.functional.interpolate(torch.rand(count, 1, 4, 4), size=(size, size), mode="bilinear")
    rows[:, :, :3] = 0
    return (rows * 128).round() / 128


class Served(LightningDataModule):
    """A DataModule from elsewhere that serves the same pictures in a range of its choice."""

    foreground_rule = "above_minimum"

    def __init__(self, size, low, high):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.unit = greys(8, size)
        self.value_range, self.image_shape = (low, high), (1, size, size)

    @property
    def images(self):
        low, high = self.value_range
        return self.unit * (high - low) + low

    def loader(self):
        samples = [{"image": image, "label": torch.tensor(0)} for image in self.images]
        return DataLoader(samples, batch_size=4)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_same_images_in_another_range_give_the_same_prediction(method, quiet_trainer):
    found = []
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        seed_everything(0, verbose=False)
        arguments = {key: value for key, value in method.tiny.items() if key not in ("image_size", "in_channels")}
        model = load_class(method.name)(**arguments)
        data = Served(method.tiny["image_size"], low, high)
        quiet_trainer(max_steps=2).fit(model, data)
        found.append(model.eval()(data.images))
        if found[-1].reconstruction is not None:
            found[-1] = found[-1]._replace(reconstruction=(found[-1].reconstruction - low) / (high - low))
    for name, one, other in zip(Prediction._fields, *found, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            assert float((one - other).abs().max()) <= 1e-5 * max(float(one.abs().max()), 1e-6), name


def test_checkpoint_keeps_range_and_foreground(quiet_trainer, tmp_path):
    data = Served(32, -1.0, 1.0)
    model = load_class("autoencoder")(hidden_dims=(8, 16), latent_dim=8)
    quiet_trainer(max_steps=1).fit(model, data)
    assert (model.hparams["value_range"], model.hparams["foreground_rule"]) == ((-1.0, 1.0), "above -1.0")
    save_checkpoint(model.eval(), tmp_path / "model.ckpt")
    loaded = zoo.load_pretrained(tmp_path / "model.ckpt")
    for one, other in zip(loaded(data.images), model(data.images), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    served = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    again = torch.cat([batch.anomaly_score for batch in served.predict(loaded, data.loader())])
    torch.testing.assert_close(again, model(data.images).anomaly_score)
    served.test(loaded, Served(32, 0.0, 1.0), verbose=False)  # other data bring their own range
    assert loaded.hparams["value_range"] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nsa", {"widths": (8, 16)}),
        ("draem", {"reconstruction_width": 4, "width": 4, "depth": 3, "smoothing": 5}),
        ("multi_task", {"depth": 3, "width": 4, "positions": 2}),
        ("cutpaste", {"backbone": "resnet10t", "head_dims": (16,)}),
        ("confidence_aware", {"depth": 3, "width": 4, "samples": 2}),
    ],
)
def test_checkpoints_from_before_keep_their_range(name, arguments, tmp_path):
    """Five methods had an argument ``value_range``, which is now settled with the data."""
    model = zoo.create_model(name, image_size=32, value_range=(-1.0, 1.0), **arguments).eval()
    save_checkpoint(model, tmp_path / "model.ckpt")
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert content["uad_zoo"].pop("foreground_rule") == "above -1.0"
    content["hyper_parameters"]["value_range"] = content["uad_zoo"].pop("value_range")
    torch.save(content, tmp_path / "old.ckpt")
    image = 2 * greys(3, 32) - 1
    old = zoo.load_pretrained(tmp_path / "old.ckpt")
    assert old.hparams["value_range"] == (-1.0, 1.0)
    torch.testing.assert_close(old(image).anomaly_score, model(image).anomaly_score)
    content["hyper_parameters"]["value_range"] = (1.0, "x")
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="value_range"):
        zoo.load_pretrained(tmp_path / "bad.ckpt")


def test_z_scores_stay_as_they_are_where_the_method_takes_them(quiet_trainer):
    data = Served(32, -5.0, 5.0)
    data.standardised, data.foreground_rule = True, "nonzero"
    takes, converts = load_class("multi_task")(depth=3, width=4, positions=2), load_class("fpi")(widths=(8, 16))
    for model in (takes, converts):
        quiet_trainer(max_steps=1).fit(model, data)
        assert model.hparams["foreground_rule"] == "nonzero"
    assert torch.equal(takes.to_expected(data.images), data.images)
    assert float(converts.to_expected(data.images).max()) <= 1


class OfBefore(AnomalyModule):
    """An outside class from before the base converted images."""

    reference: ClassVar[dict] = {}
    seen: ClassVar[list] = []

    def __init__(self, *, image_size=None, in_channels=None):
        super().__init__()

    def build(self):
        self.level = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.seen.append(float(batch["image"].min()))
        return (batch["image"] - self.level).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def predict_anomaly(self, image):
        return Prediction(image.mean(dim=(1, 2, 3)))


def test_a_class_that_predicts_by_itself_goes_on_seeing_the_data(image_folder, quiet_trainer):
    model, data = OfBefore(), Served(32, -1.0, 1.0)
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(model, data)
    assert model.seen[-1] < -0.5
    assert torch.equal(torch.cat([p.anomaly_score for p in trainer.predict(model, data)]), data.images.mean((1, 2, 3)))
    trainer.predict(model, Folder(root=str(image_folder), image_size=32))  # whose batches have a foreground


def test_score_counts_the_foreground_given_or_follows_the_rule():
    arguments = {"hidden_dims": (8, 16), "latent_dim": 8, "value_range": (-1, 1)}
    model = zoo.create_model("autoencoder", image_size=32, **arguments).eval()
    image = 2 * greys(2, 32) - 1
    by_rule, error = model(image), model(image).anomaly_map
    inside = image > -1
    assert not inside.all()
    torch.testing.assert_close(by_rule.anomaly_score, (error * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)))
    half = torch.zeros_like(inside)
    half[..., 16:] = True
    torch.testing.assert_close(model(image, half).anomaly_score, error[..., 16:].mean((1, 2, 3)))


def test_rules():
    image = torch.tensor([[[[-1.0, 0.0, 2.0]], [[-1.0, 0.0, 0.0]]]])
    expected = {"all": [1, 1, 1], "nonzero": [1, 0, 1], "above_minimum": [0, 1, 1], "above 0": [0, 0, 1]}
    for rule, inside in expected.items():
        assert foreground_of(image, settle_rule(rule, (-1.0, 1.0))).flatten().tolist() == inside
    for wrong in ("above", "above x", "below 1", ""):
        with pytest.raises(UserError, match="foreground_rule"):
            settle_rule(wrong, (0.0, 1.0))
