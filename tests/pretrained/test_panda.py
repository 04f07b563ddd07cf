"""PANDA's three stages, and DN2 without the middle one; when staged methods are validated."""

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from datamodules import Folder
from zoo.configs import shipped_configs
from zoo.registry import find, load_class

TINY = {key: value for key, value in find("panda").tiny.items() if key != "image_size"}


class Watch(Callback):
    """Notes where the fit stands at each validation, and the state after each training batch."""

    def __init__(self):
        self.validated, self.states = [], []

    def on_validation_end(self, trainer, pl_module):
        self.validated.append(trainer.fit_loop.epoch_loop.batch_progress.total.ready)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.states.append({key: value.clone() for key, value in pl_module.state_dict().items()})


@pytest.fixture
def data(image_folder):
    return Folder(root=str(image_folder), image_size=32, batch_size=3)


def fit(data, quiet_trainer, name="panda", trainer=None, **arguments):
    torch.manual_seed(0)
    model, watch = load_class(name)(**arguments), Watch()
    quiet_trainer(callbacks=[watch], **trainer or {"max_epochs": 2}).fit(model, data)
    return model.eval(), watch


def embedded(model, data):
    with torch.no_grad():
        return torch.cat([model.embed(batch["image"]) for batch in data.train_dataloader()])


def test_stages_follow_each_other(data, quiet_trainer):
    model, watch = fit(data, quiet_trainer, **TINY)
    assert len(watch.states) == 12  # a pass for the centre, two epochs, a pass for the bank; three batches each
    first, centred, adapted, last = (watch.states[number] for number in (0, 2, 8, 11))
    weights = [key for key in first if key.startswith("extractor")]
    assert all(torch.equal(first[key], centred[key]) for key in weights)
    assert all(torch.equal(adapted[key], last[key]) for key in weights)
    moved = {key for key in weights if not torch.equal(centred[key], adapted[key])}
    assert moved
    assert all(key.startswith("extractor.backbone.layer3") for key in moved)
    assert not any("running" in key or "tracked" in key for key in moved)
    torch.testing.assert_close(last["memory.bank"].sort(0).values, embedded(model, data).sort(0).values)


def test_adaptation_brings_the_features_together(data, quiet_trainer):
    before, _ = fit(data, quiet_trainer, **TINY | {"adapt": False})
    after, _ = fit(data, quiet_trainer, trainer={"max_epochs": 10}, **TINY | {"clip": 1e3, "lr": 0.3})
    centre = after.memory.centre
    assert (embedded(after, data) - centre).norm(dim=1).mean() < 0.75 * (before.memory.bank - centre).norm(dim=1).mean()


def test_gradient_is_limited(data, quiet_trainer):
    _, watch = fit(data, quiet_trainer, trainer={"max_epochs": 1}, **TINY | {"weight_decay": 0.0, "momentum": 0.0})
    steps = [
        sum((after[key] - before[key]).square().sum() for key in after if key.startswith("extractor.backbone.layer3"))
        for before, after in zip(watch.states[2:5], watch.states[3:6], strict=True)
    ]
    assert all(0 < step.sqrt() < 1.01e-2 * 1e-3 for step in steps)


def test_scores_equal_brute_force(data, quiet_trainer):
    image = torch.rand(4, 1, 32, 32)
    for distance in ("squared", "mean"):
        model, _ = fit(data, quiet_trainer, **TINY | {"adapt": False, "distance": distance})
        with torch.no_grad():
            table = (model.embed(image)[:, None] - model.memory.bank).norm(dim=2).topk(2, largest=False).values
            found = model(image).anomaly_score
        expected = table.square().sum(dim=1) if distance == "squared" else table.mean(dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_dn2_is_a_single_pass_without_training(data, quiet_trainer):
    content = yaml.safe_load(shipped_configs()["models/dn2"].read_text())["model"]
    assert content["class_path"] == find("panda").class_path
    model, watch = fit(data, quiet_trainer, **content["init_args"] | TINY)
    assert len(watch.states) == 3
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert len(model.memory.bank) == sum(len(batch["image"]) for batch in data.train_dataloader())


def test_validation_waits_for_the_last_statistics(data, quiet_trainer):
    _, watch = fit(data, quiet_trainer, **TINY)
    assert watch.validated == [12]
    trainer = {"max_epochs": 2, "val_check_interval": 1}
    arguments = {key: value for key, value in find("padim").tiny.items() if key != "image_size"}
    _, watch = fit(data, quiet_trainer, "padim", trainer, **arguments)
    assert watch.validated == [3]
    arguments = {"loss": "perceptual", "backbone": "resnet18", "layer": "layer1", "weights": "random"}
    _, watch = fit(data, quiet_trainer, "autoencoder", trainer, hidden_dims=(8,), latent_dim=4, **arguments)
    assert watch.validated == [3, 4, 5, 6, 7, 8, 9]


def test_the_trainers_validation_limit_is_given_back(data, quiet_trainer):
    torch.manual_seed(0)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=1)
    trainer.fit(load_class("panda")(**TINY), data)
    assert trainer.limit_val_batches == 1


@pytest.mark.parametrize("dies_in", ["collect_bank", "train_dataloader"])
def test_a_fit_that_fails_gives_the_trainers_limits_back(data, quiet_trainer, monkeypatch, dies_in):
    def die(*_):
        raise RuntimeError("as planned")

    trainer, model = quiet_trainer(max_epochs=2, limit_val_batches=1), load_class("panda")(**TINY)
    if dies_in == "collect_bank":
        monkeypatch.setattr(model, dies_in, die)
    else:  # between two batches of the first pass
        load = data.train_dataloader
        monkeypatch.setattr(data, dies_in, lambda: Dying(load()))
    with pytest.raises(RuntimeError, match="as planned"):
        trainer.fit(model, data)
    assert trainer.limit_val_batches == 1
    assert trainer.fit_loop.max_epochs == 2


class Dying(list):
    """Batches that end with an error."""

    def __iter__(self):
        yield from list(super().__iter__())[:2]
        raise RuntimeError("as planned")


class StopAfter(Callback):
    """Asks to stop after a batch, or at the end of its epoch."""

    def __init__(self, batch, at_epoch_end):
        self.batch, self.at_epoch_end = batch, at_epoch_end

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop |= (
            not self.at_epoch_end and trainer.fit_loop.epoch_loop.batch_progress.total.ready >= self.batch
        )

    def on_train_epoch_end(self, trainer, *_):
        trainer.should_stop |= (
            self.at_epoch_end and trainer.fit_loop.epoch_loop.batch_progress.total.ready >= self.batch
        )


@pytest.mark.parametrize(
    ("stop", "steps"),
    [(StopAfter(5, False), 2), (StopAfter(5, True), 3), (StopAfter(1, False), 0)],
    ids=["within the second stage", "after an epoch of it", "within the first stage"],
)
def test_a_request_to_stop_ends_the_adaptation_and_the_bank_is_collected_once(
    data, quiet_trainer, tmp_path, stop, steps
):
    torch.manual_seed(0)
    model = load_class("panda")(**TINY)
    adapt, adapted = model.adapt, []
    model.adapt = lambda batch, batch_idx: adapted.append(batch_idx) or adapt(batch, batch_idx)
    trainer = quiet_trainer(max_epochs=4, callbacks=[stop])
    trainer.fit(model, data)
    images = sum(len(batch["image"]) for batch in data.train_dataloader())
    assert len(adapted) == steps
    assert model.memory.centre.numel()
    assert len(model.memory.bank) == images
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed = load_class("panda")(**TINY)
    quiet_trainer(max_epochs=4).fit(resumed, data, ckpt_path=tmp_path / "stopped.ckpt")
    assert torch.equal(resumed.memory.bank, model.memory.bank)
