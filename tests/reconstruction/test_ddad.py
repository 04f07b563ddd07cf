"""DDAD and its refinement: members, discrepancies, the unlabelled pool, pasted squares."""

import pytest
import torch
from lightning.pytorch import seed_everything

import zoo
from datamodules import Folder, MedMNIST
from zoo.errors import UserError
from zoo.nn.compact import CompactAutoencoder
from zoo.reconstruction.ddad_asr import DDADASR, mix_squares
from zoo.registry import load_class, methods

TINY = methods()["ddad"].tiny


@pytest.fixture
def images():
    return torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_compact_autoencoder_has_the_published_size():
    network = CompactAutoencoder(1, (64, 64), hidden=1024)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(2.33, abs=0.03)


@pytest.mark.parametrize("members", ["autoencoder", "mem_ae", "ae_u"])
def test_members_differ_and_discrepancies_are_their_definitions(members, images):
    torch.manual_seed(0)
    model = zoo.create_model("ddad", **TINY | {"members": members, "discrepancy": "inter", "ensemble": 3}).eval()
    weights = [member.network.decoder[-1].weight for member in [*model.normative, *model.unknown]]
    assert len({float(weight.detach().sum()) for weight in weights}) == 6
    with torch.no_grad():
        intra, inter, mean = model.discrepancies(images)
        own = torch.stack([member.reconstruct(images)[0] for member in model.normative])
        other = torch.stack([member.reconstruct(images)[0] for member in model.unknown])
        variance = torch.stack([member.reconstruct(images)[1] for member in model.normative]).mean(0)
    torch.testing.assert_close(intra, own.std(0) / variance.sqrt())
    torch.testing.assert_close(inter, (own.mean(0) - other.mean(0)).abs() / variance.sqrt())
    torch.testing.assert_close(mean, own.mean(0))


def test_equal_ensembles_do_not_disagree(images):
    model = zoo.create_model("ddad", **TINY | {"discrepancy": "inter"}).eval()
    model.unknown.load_state_dict(model.normative.state_dict())
    with torch.no_grad():
        assert float(model.discrepancies(images)[1].abs().max()) == 0.0


def new(name, **changes):
    seed_everything(0, verbose=False)
    return load_class(name)(**{k: v for k, v in methods()[name].tiny.items() if k != "image_size"} | changes)


@pytest.mark.parametrize("name", ["ddad", "ddad_asr"])
def test_the_second_ensemble_learns_from_the_pool(name, quiet_trainer):
    data = MedMNIST(image_size=32, batch_size=8, unlabeled=True)
    model = new(name, discrepancy="inter")
    quiet_trainer(max_steps=4, limit_val_batches=0).fit(model, data)
    assert torch.isfinite(model.eval()(torch.rand(2, 1, 32, 32)).anomaly_score).all()


def test_without_a_pool_inter_is_refused_and_intra_is_one_class(image_folder, quiet_trainer):
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    with pytest.raises(UserError, match=r"set data.unlabeled true"):
        quiet_trainer(max_steps=1).fit(new("ddad", discrepancy="inter"), data)
    assert len(new("ddad").hparams["discrepancy"]) == len("intra")
    with pytest.raises(UserError, match="at least 2 members"):
        zoo.create_model("ddad", **TINY | {"ensemble": 1})


def test_refiner_learns_after_the_ensembles_which_then_stay(image_folder, quiet_trainer, monkeypatch):
    data = Folder(root=str(image_folder), image_size=32, batch_size=3)
    kept = {}
    original = DDADASR._refine

    def refine(self, batch, batch_idx):
        if not kept:
            kept.update({k: v.clone() for k, v in self.state_dict().items()})
        return original(self, batch, batch_idx)

    monkeypatch.setattr(DDADASR, "_refine", refine)
    model = new("ddad_asr")
    quiet_trainer(max_steps=7, limit_val_batches=0).fit(model, data)
    changed = {k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, kept[k])}
    assert changed == {"refiner"}  # not even running statistics of the members


def test_squares_are_where_the_target_says():
    torch.manual_seed(0)
    image = torch.rand(200, 1, 64, 64)
    altered, inside = mix_squares(image)
    changed = altered != image
    assert not bool((changed & ~inside).any())
    assert float(changed[inside.expand_as(changed)].float().mean()) > 0.999
    present = inside.flatten(1).any(1)
    assert 0.4 < float(present.float().mean()) < 0.6
    area = inside.flatten(1).float().mean(1)[present]
    assert float(area.min()) > 0.0
    assert float(area.max()) < 0.45**2
