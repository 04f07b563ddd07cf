"""The multi-task U-Net against its authors' outputs: network, encoding, folds, schedule, training steps, import."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zoo
from datamodules import Folder
from zoo.errors import UserError
from zoo.nn.unet import UNet, position_encoding
from zoo.self_supervised.multi_task import MultiTaskUNet, lr_factor
from zoo.synthetic.folds import sample_fold, task_folds

GOLDEN = Path(__file__).parents[1] / "golden" / "multitask"


def stream(name):
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def filled_checkpoint(dims):
    """The authors' state dict with the weights of the golden files."""
    tensors = {}
    for key, shape, _ in json.loads((GOLDEN / f"unet_keys_{dims}d.json").read_text()):
        values = stream(key).standard_normal(shape).astype(np.float32)
        if len(shape) >= 2:
            values = values * np.float32(1 / np.sqrt(np.prod(shape[1:])))
        elif key.endswith("weight"):
            values = 1 + np.float32(0.1) * values
        else:
            values = np.float32(0.05) * values
        tensors[key] = torch.from_numpy(values)
    return tensors


def test_position_encoding():
    with np.load(GOLDEN / "posenc.npz") as file:
        for dims, size in ((2, (8, 12)), (3, (4, 6, 8))):
            found = position_encoding(size)
            expected = file[f"{dims}d_enc"]
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-12


@pytest.mark.parametrize("dims", [2, 3])
def test_imported_network_gives_the_authors_output(dims, tmp_path):
    with np.load(GOLDEN / f"unet_golden_{dims}d.npz") as file:
        size, expected = tuple(int(n) for n in file["shape"]), file["output"]
    torch.save({"model": filled_checkpoint(dims)}, tmp_path / "best.pt")
    model = zoo.import_checkpoint(tmp_path / "best.pt", format="many_tasks", image_size=size).eval()
    count = {2: 29_125_696, 3: 13_889_824}[dims]
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    image = torch.from_numpy(stream(f"unet_{dims}d_input").standard_normal((1, 1, *size)).astype(np.float32))
    with torch.no_grad():
        found = model.raw_output(image)[0, 0].numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_four_training_steps_of_the_authors():
    with np.load(GOLDEN / "unet_golden_2d.npz") as file:
        losses, rates, size = file["train_loss"], file["train_lr"], tuple(int(n) for n in file["train_shape"])
    model = MultiTaskUNet.from_original(filled_checkpoint(2), image_size=size, lr=5e-3).train()
    configured = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    image = torch.from_numpy(stream("train_2d_input").standard_normal((2, 1, *size)).astype(np.float32))
    label = torch.from_numpy(np.clip(stream("train_2d_label").standard_normal((2, 1, *size)), 0, 1).astype(np.float32))
    # instance norm over the two pixels of the bottleneck amplifies rounding: other thread counts differ by 1e-3 here
    for loss, rate, tolerance in zip(losses, rates, (1e-6, 5e-4, 2e-3, 5e-3), strict=True):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-9)
        found = F.mse_loss(model.raw_output(image), label)
        assert float(found.detach()) == pytest.approx(loss, rel=tolerance)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        schedule.step()


def test_folding_the_encoding_is_exact():
    network = UNet((32, 48), 2, depth=3, width=4, positions=3).double()
    network.positions.copy_(torch.rand_like(network.positions))
    x = torch.rand(3, 2, 32, 48, dtype=torch.float64)
    unit = network.encoder[0][0]
    whole = unit(torch.cat([x, network.positions.expand(3, *network.positions.shape)], dim=1))
    assert torch.allclose(whole, unit.with_constant(x, network.positions), atol=1e-12)


def test_folds():
    golden = json.loads((GOLDEN / "folds.json").read_text())["folds"]
    for count, by_tasks in golden.items():
        for number, folds in by_tasks.items():
            assert len(folds) == len(task_folds(int(number)))
            for fold in folds:
                train, validation = task_folds(int(number))[fold["fold"]]
                assert (list(train), list(validation)) == (fold["train_tasks"], fold["val_tasks"])
                samples = sample_fold(int(count), int(number), fold["fold"])
                assert samples == (fold["train_samples"], fold["val_samples"])


def test_learning_rates():
    for run in json.loads((GOLDEN / "lr.json").read_text()).values():
        for step, rate in run["lr_used_at_step"].items():
            assert run["base_lr"] * lr_factor(int(step), 100, 0.1 ** (1 / 8000)) == pytest.approx(rate, rel=1e-9)


class Watched(MultiTaskUNet):
    """Notes the images that get anomalies, and the number of images that blends may take from."""

    def _make_anomalies(self, batch, tasks, rng, split):
        self.seen = [*getattr(self, "seen", []), (split, tasks, batch["image"].clone())]
        self.pool = {**getattr(self, "pool", {}), split: len(self._sources(split, batch["image"].numpy())[0])}
        return super()._make_anomalies(batch, tasks, rng, split)


@pytest.mark.parametrize(("number", "fold", "train_tasks"), [(1, 2, (2,)), (2, 3, (0, 4)), (4, 0, (0, 1, 2, 3))])
def test_only_the_folds_samples_train_and_the_others_validate(number, fold, train_tasks, image_folder, quiet_trainer):
    model = Watched(depth=3, width=4, positions=2, num_train_tasks=number, fold=fold)
    data = Folder(root=str(image_folder), image_size=32, batch_size=4)
    groups = data.healthy_groups()
    own = len(data.dataset("train")), len(data.dataset("val"))
    assert len(groups) == sum(own) == 10
    quiet_trainer(max_epochs=1).fit(model, data)
    assert (len(data.dataset("train")), len(data.dataset("val"))) == own, "the DataModule's division is given back"
    data.assign(train=[name for group in groups for name in group])
    images = {
        batch["id"][0]: batch["image"] for batch in map(data.dataset("train").__getitems__, ([k] for k in range(10)))
    }
    for split, part in zip(("train", "val"), sample_fold(10, number, fold), strict=True):
        wanted = model.to_expected(torch.cat([images[name] for index in part for name in groups[index]]))
        found = torch.cat([image for where, _, image in model.seen if where == split])
        assert sorted(found.mean((1, 2, 3)).tolist()) == sorted(wanted.mean((1, 2, 3)).tolist())
        assert model.pool[split] == len(part), "blends take patches from the whole part"
    assert {tasks for split, tasks, _ in model.seen if split == "train"} == {train_tasks}
    assert {tasks for split, tasks, _ in model.seen if split == "val"} == {tuple(set(range(5)) - set(train_tasks))}


def test_validation_anomalies_are_fixed_or_fresh(image_folder, quiet_trainer):
    for seeded in (True, False):
        model = Watched(depth=3, width=4, positions=2, seeded_validation=seeded)
        made = []
        original = model._make_anomalies
        model._make_anomalies = lambda *a, original=original, made=made: made.append(original(*a)) or made[-1]
        data = Folder(root=str(image_folder), image_size=32, batch_size=20)
        quiet_trainer(max_epochs=2).fit(model, data)
        first, second = [labels for (split, *_), (_, labels) in zip(model.seen, made, strict=True) if split == "val"]
        assert torch.equal(first, second) is seeded


def test_patches_train_and_cover_the_image(image_folder, quiet_trainer):
    """Images of 40 pixels, which cannot be halved four times, in patches of 32."""
    model = MultiTaskUNet(depth=4, width=4, positions=2, patch_size=(32, 32))
    data = Folder(root=str(image_folder), image_size=40, batch_size=4)
    quiet_trainer(max_steps=2).fit(model, data)
    image = torch.rand(2, 1, 40, 40)
    model.eval()
    with torch.no_grad():
        found = model.raw_output(image)
        corners = model.network(model.to_expected(image)[:, :, 8:, :32], (8, 0))
    assert found.shape == (2, 1, 40, 40)
    assert torch.allclose(found[:, :, 32:, :8], corners[:, :, 24:, :8], atol=1e-6), "only one patch lies there"
    whole = MultiTaskUNet(depth=4, width=4, positions=2)
    with pytest.raises(UserError, match="multiples of 16"):
        quiet_trainer(max_steps=1).fit(whole, data)


def test_labels_are_learnt():
    """A few steps explain half of the label's variance on a batch."""
    torch.manual_seed(0)
    model = zoo.create_model("multi_task", image_size=32, depth=3, width=8, positions=2, warmup_steps=5, lr=2e-3)
    rng = np.random.default_rng(0)
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(images, scale_factor=4, mode="bilinear")
    batch = {"image": model.to_expected(images)}
    configured = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    altered, label = model._make_anomalies(batch, (2, 3, 4), rng, "train")
    for _ in range(160):
        loss = F.mse_loss(model.network(altered), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        output = model.eval().network(altered)
    assert label.max() > 0.3
    assert float(F.mse_loss(output, label)) < 0.5 * float(label.var())


def test_mistakes_are_told():
    with pytest.raises(UserError, match="fold must be 0 to 4"):
        MultiTaskUNet(num_train_tasks=4, fold=5)
    with pytest.raises(UserError, match="multiples of 64"):
        zoo.create_model("multi_task", image_size=96)
    with pytest.raises(UserError, match="multiples of 64"):
        zoo.create_model("multi_task", image_size=64)


@pytest.mark.parametrize("size", [(48, 32), (16, 24, 16)])
def test_both_paths_make_the_same_samples(size):
    model = zoo.create_model(
        "multi_task", image_size=size, depth=2, width=4, positions=2, flip=True, use_foreground=True, max_push=2.0
    )
    coarse = torch.rand(10, 1, *[side // 8 for side in size], generator=torch.Generator().manual_seed(0))
    image = F.interpolate(coarse, size=size, mode="bilinear" if len(size) == 2 else "trilinear")
    foreground = torch.zeros(image.shape, dtype=torch.bool)
    foreground[:, :, 2:-2] = True
    batch, made = {"image": image, "foreground": foreground}, []
    for batched in (False, True):
        model.hparams["batched"] = batched
        made.append(model._make_anomalies(batch, (0, 1, 2, 3, 4), np.random.default_rng(0), "train"))
    (altered, label), (other, other_label) = made
    assert float((altered - other).abs().max()) <= 1e-4
    assert float((label - other_label).abs().max()) <= 1e-3
    assert float(label.flatten(1).amax(1).median()) > 0.02
    assert torch.equal(batch["image"], image)


def test_the_missing_other_data_set_is_told():
    """In `metrics.json` through the run's provenance, and by an ensemble for its members."""
    small = {"image_size": 32, "depth": 3, "width": 4, "positions": 2}
    model = zoo.create_model("multi_task", **small)
    assert "inverted images" in model.remarks[0]
    assert zoo.create_model("multi_task", other_images="somewhere", **small).remarks == ()
    members = json.dumps([["multi_task", {**small, "in_channels": 1, "fold": fold}] for fold in (0, 1)])
    assert zoo.create_model("ensemble", image_size=32, members=members).remarks == model.remarks
    assert zoo.create_model("fae", image_size=64, weights="random").remarks == ()
