"""PANDA's three stages, and DN2 without the middle one; when staged methods are validated."""

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from datamodules import Folder
from zoo.cli import shipped_configs
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
