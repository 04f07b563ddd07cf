"""The GANs: who moves whom, mining, attention, and the watch on discriminators."""

import copy

import pytest
import torch
from lightning.pytorch import seed_everything

import zoo
from datamodules import Folder
from zoo.callbacks.collapse import TellCollapse
from zoo.nn.adversarial import dcgan_decoder, dcgan_encoder, realness_loss
from zoo.registry import load_class, methods

TINY = {name: methods()[name].tiny for name in ("ocgan", "ganomaly", "adgan", "cavga_ru", "igd")}
PLAYERS = {
    "ocgan": ("image_discriminator", "code_discriminator", "classifier", "encoder", "decoder"),
    "ganomaly": ("discriminator", "encoder", "decoder", "second_encoder"),
    "adgan": ("image_critic", "code_critic", "encoder", "generator"),
    "cavga_ru": ("discriminator", "encoder", "to_mean", "to_log_variance", "decoder"),
}


def trained(name, image_folder, trainer, **changes):
    seed_everything(0, verbose=False)
    model = load_class(name)(**{k: v for k, v in TINY[name].items() if k != "image_size"} | changes)
    trainer.fit(model, Folder(root=str(image_folder), image_size=TINY[name]["image_size"], batch_size=3))
    return model


@pytest.fixture
def images():
    return torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", PLAYERS)
def test_every_player_learns(name, image_folder, quiet_trainer):
    seed_everything(0, verbose=False)
    start = zoo.create_model(name, **TINY[name])
    before = copy.deepcopy(start.state_dict())
    model = trained(name, image_folder, quiet_trainer(max_steps=4, limit_val_batches=0))
    after = model.state_dict()
    for player in PLAYERS[name]:
        moved = [k for k in after if k.startswith(player + ".") and not torch.equal(after[k], before[k])]
        assert moved, player
    assert all(torch.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize("name", [*PLAYERS, "igd"])
def test_players_do_not_move_each_other(name, image_folder, quiet_trainer, monkeypatch):
    """Each optimiser's step leaves the parameters of the others as they were, batch norm's statistics aside."""
    checked = []
    original = torch.optim.Adam.step

    def step(self, closure=None):
        own = {id(p) for group in self.param_groups for p in group["params"]}
        held = {n: p.detach().clone() for n, p in model.named_parameters() if id(p) not in own}
        result = original(self, closure)
        now = dict(model.named_parameters())
        checked.append(all(torch.equal(now[n], value) and now[n].grad is None for n, value in held.items()))
        return result

    seed_everything(0, verbose=False)
    model = load_class(name)(**{k: v for k, v in TINY[name].items() if k != "image_size"})
    monkeypatch.setattr(torch.optim.Adam, "step", step)
    # a player's gradients are only there while it plays: that needs them cleared after the step
    monkeypatch.setattr(torch.optim.Adam, "zero_grad", lambda self, set_to_none=True: model.zero_grad(set_to_none=True))
    data = Folder(root=str(image_folder), image_size=TINY[name]["image_size"], batch_size=3)
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(model, data)
    assert checked
    assert all(checked)


@pytest.mark.parametrize("name", [*PLAYERS, "igd"])
def test_bf16_trains(name, image_folder, quiet_trainer):
    model = trained(name, image_folder, quiet_trainer(max_steps=2, limit_val_batches=0, precision="bf16-mixed"))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    prediction = model.eval()(torch.rand(2, 1, *model.image_size))
    assert torch.isfinite(prediction.anomaly_score).all()


def test_mining_moves_codes_towards_fake_and_stays_in_the_box(images):
    torch.manual_seed(0)
    model = zoo.create_model("ocgan", **TINY["ocgan"] | {"mining_step": 0.1}).eval()
    for parameter in [*model.decoder.parameters(), *model.classifier.parameters()]:
        parameter.data *= 10  # a new network's gradients are too small to measure
    code = torch.rand(16, 4, 1, 1) * 1.0 - 0.5
    plain = torch.tanh(code)
    losses = [
        float(realness_loss(model.classifier(model.decoder(one)), real=False).detach())
        for one in (plain, model.mine(code))
    ]
    assert losses[1] < losses[0]
    assert float(model.mine(10 * code).abs().max()) <= 1
    assert model.classifier[1].weight.grad is None


def test_mining_begins_in_the_last_quarter(image_folder, quiet_trainer, monkeypatch):
    seen = []
    kind = load_class("ocgan")
    original = kind.play_codes

    def watched(self, image, mining):
        seen.append(mining)
        return original(self, image, mining)

    monkeypatch.setattr(kind, "play_codes", watched)
    trained("ocgan", image_folder, quiet_trainer(max_steps=8, limit_val_batches=0))
    assert seen == [False] * 6 + [True] * 2


def test_alocc_plays_with_images_alone(image_folder, quiet_trainer):
    model = trained(
        "ocgan", image_folder, quiet_trainer(max_steps=3, limit_val_batches=0), game="image", score="realness"
    ).eval()
    seed_everything(0, verbose=False)
    start = zoo.create_model("ocgan", **TINY["ocgan"]).state_dict()
    still = [k for k in start if k.startswith(("code_discriminator", "classifier"))]
    assert all(torch.equal(model.state_dict()[k], start[k]) for k in still)
    score = model(torch.rand(3, 1, 32, 32)).anomaly_score
    assert float(score.min()) >= 0
    assert float(score.max()) <= 1


def test_stacks_fit_each_other(images):
    encoder = dcgan_encoder(1, (32, 64), 5, width=4, max_width=8, kernel=5)
    decoder = dcgan_decoder(5, (32, 64), 3, width=4, max_width=8, kernel=5)
    code = encoder(torch.rand(2, 1, 32, 64))
    assert code.shape == (2, 5, 1, 1)
    assert decoder(code).shape == (2, 3, 32, 64)


def test_attention_is_grad_cam_of_the_summed_mean():
    torch.manual_seed(0)
    model = zoo.create_model("cavga_ru", **TINY["cavga_ru"]).eval()
    maps = model.encoder(torch.rand(3, 1, 64, 64)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.to_mean(maps).sum(), maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    expected = (weights * maps).sum(dim=1, keepdim=True).relu()
    expected = expected / expected.amax(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(model.attention(maps), expected, rtol=1e-4, atol=1e-5)
    assert model.attention(maps).amax(dim=(1, 2, 3)).tolist() == pytest.approx([1.0] * 3)


def test_cavga_has_about_the_size_of_the_port():
    model = zoo.create_model("cavga_ru", image_size=128, in_channels=1, weights="random")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(14.35, abs=0.3)


def test_adgan_cycles_fall_and_the_reconstruction_is_marked(image_folder, quiet_trainer):
    seen = {"image": [], "code": []}
    kind = load_class("adgan")
    assert "re-construction" in kind.reference["title"]
    seed_everything(0, verbose=False)
    model = kind(levels=2, width=4, latent_dim=4, critic_steps=1, lr=5e-3)
    log_dict = model.log_dict

    def keep(values, **kwargs):
        for name in seen:
            if f"train/{name}_cycle" in values:
                seen[name].append(float(values[f"train/{name}_cycle"]))
        log_dict(values, **kwargs)

    model.log_dict = keep
    data = Folder(root=str(image_folder), image_size=32, batch_size=9)
    quiet_trainer(max_steps=40, limit_val_batches=0).fit(model, data)
    for name, values in seen.items():
        assert sum(values[-5:]) < 0.8 * sum(values[:5]), name


def fake_trainer(epoch, **metrics):
    class Now:
        current_epoch = epoch
        callback_metrics = {f"train/{key}": torch.tensor(value) for key, value in metrics.items()}

    return Now()


def test_collapsed_discriminators_are_told_once(recwarn):
    watch = TellCollapse()
    watch.on_train_epoch_end(fake_trainer(0, d_real=0.6, d_fake=0.4, c_real=0.5, c_fake=0.5), None)
    assert not recwarn
    with pytest.warns(UserWarning, match="d is always right"):
        watch.on_train_epoch_end(
            fake_trainer(1, d_real=0.9999, d_fake=1e-5, w_critic_real=1.0, w_critic_fake=0.0), None
        )
    watch.on_train_epoch_end(fake_trainer(2, d_real=0.9999, d_fake=1e-5), None)
    with pytest.warns(UserWarning, match="c cannot tell real from fake"):
        watch.on_train_epoch_end(fake_trainer(4, c_real=0.5, c_fake=0.5), None)
    assert len(recwarn) == 0


def test_a_fit_tells_the_watch(image_folder, quiet_trainer, monkeypatch):
    monkeypatch.setattr("zoo.callbacks.collapse._SURE", 0.6)  # new discriminators say one half
    with pytest.warns(UserWarning, match="discriminator is always right"):
        trained("ganomaly", image_folder, quiet_trainer(max_epochs=1, limit_val_batches=0))
