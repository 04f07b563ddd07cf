"""CCD and CRADL: the contrastive loss, views, densities, and what becomes of the backbone."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

import zoo
from datamodules import Folder
from zoo.callbacks.last_checkpoint import LastCheckpoint
from zoo.errors import UserError
from zoo.nn.contrastive import (
    cut_out,
    jitter_colour,
    jitter_intensity,
    nt_xent,
    random_blur,
    random_crop_and_turn,
)
from zoo.nn.density import fit_mixture, log_density
from zoo.nn.patches import NEIGHBOURS, cut_patches, neighbouring_patches
from zoo.registry import load_class, methods
from zoo.self_supervised.ccd import strong_copies, weak_view


def loop(first, second, temperature, groups=None):
    """NT-Xent as a double loop in float64."""
    views = np.concatenate([first, second]).astype(np.float64)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    count = len(first)
    group = np.zeros(2 * count) if groups is None else np.concatenate([groups, groups])
    total = 0.0
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        parts = [
            math.exp(views[i] @ views[j] / temperature) for j in range(2 * count) if j != i and group[i] == group[j]
        ]
        total -= math.log(math.exp(views[i] @ views[partner] / temperature) / sum(parts))
    return total / (2 * count)


@pytest.mark.parametrize("groups", [None, [0, 1, 0, 1, 2]])
def test_nt_xent_equals_a_double_loop(groups):
    first, second = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    found = nt_xent(first, second, 0.2, None if groups is None else torch.tensor(groups))
    assert float(found) == pytest.approx(loop(first.numpy(), second.numpy(), 0.2, groups), rel=1e-5)


def test_labels_follow_the_order_of_the_copies():
    image = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    for kind in ("permute", "rotate"):
        copies, classes = strong_copies(image, kind)
        assert copies.shape == (8, 3, 4, 4)
        assert classes.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
        assert torch.equal(copies[classes == 0], image)
        assert torch.equal(copies[4:8].flatten(1).sort().values, image[1].flatten().sort().values.expand(4, -1))
    assert torch.equal(strong_copies(image, "permute")[0][3], image[0].roll((2, 2), (1, 2)))
    assert torch.equal(strong_copies(image, "rotate")[0][1], image[0].rot90(1, (1, 2)))


def test_class_head_learns_its_direction():
    torch.manual_seed(0)
    model = zoo.create_model("ccd", **methods()["ccd"].tiny)
    width = model.classes.in_features
    features = torch.nn.functional.one_hot(torch.arange(4), width).float() * 5
    classes = torch.arange(4)
    before = model.losses(features, features, classes)[1]
    optimiser = torch.optim.SGD(model.classes.parameters(), lr=0.5)
    for _ in range(20):
        optimiser.zero_grad()
        model.losses(features, features, classes)[1].backward()
        optimiser.step()
    assert float(model.losses(features, features, classes)[1].detach()) < 0.7 * float(before)


def test_views_are_images_of_their_own():
    torch.manual_seed(0)
    image = torch.rand(16, 3, 32, 32)
    for view in (
        weak_view(image),
        jitter_intensity(image, 0.4, 1.0),
        jitter_colour(image, 0.4, 0.1, 1.0, 0.2),
        random_crop_and_turn(image, (0.2, 1.0), 30.0),
        random_blur(image, (1.0, 2.0), 1.0),
    ):
        assert view.shape == image.shape
        assert float(view.min()) >= -1e-5
        assert float(view.max()) <= 1 + 1e-5
        assert float((view - image).abs().flatten(1).amax(1).min()) > 0
    untouched = jitter_colour(jitter_intensity(image, 0.4, 0.0), 0.4, 0.1, 0.0, 0.0)
    torch.testing.assert_close(untouched, image)
    torch.testing.assert_close(random_crop_and_turn(image, (1.0, 1.0)).shape, image.shape)
    grey = jitter_colour(image, 0.0, 0.0, 0.0, 1.0)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    turned = jitter_colour(image * 0.2 + 0.4, 0.0, 0.5, 1.0, 0.0)
    torch.testing.assert_close(turned.mean(1), (image * 0.2 + 0.4).mean(1), rtol=1e-4, atol=1e-5)  # hue keeps grey
    covered = (cut_out(image + 1, 0.3) == 0).float().mean(dim=(1, 2, 3))
    assert float(covered.max()) <= 0.35**2


def checkpoint_of(name, image_folder, quiet_trainer, folder, **changes):
    seed_everything(0, verbose=False)
    model = load_class(name)(**{k: v for k, v in methods()[name].tiny.items() if k != "image_size"} | changes)
    trainer = quiet_trainer(
        max_steps=2, limit_val_batches=0, callbacks=[LastCheckpoint(folder=str(folder))], enable_checkpointing=True
    )
    trainer.fit(model, Folder(root=str(image_folder), image_size=32, batch_size=3))
    return model, folder / "last.ckpt"


def test_its_checkpoint_is_a_backbone_for_padim_and_igd(image_folder, quiet_trainer, tmp_path):
    model, path = checkpoint_of("ccd", image_folder, quiet_trainer, tmp_path)
    trunk = model.trunk.state_dict()
    arguments = {"image_size": 32, "backbone": "resnet10t", "weights": str(path)}
    padim = zoo.create_model("padim", layers=("layer1",), feature_channels=16, **arguments)
    own = padim.extractor.backbone.state_dict()
    assert len([k for k in own if k.startswith("layer1") and torch.equal(own[k], trunk[k])]) > 5
    igd = zoo.create_model("igd", scales="global", width=4, latent_dim=8, train_backbone=True, **arguments)
    own = igd.scales["whole"].encoder.extractor.backbone.state_dict()
    assert all(torch.equal(own[k], trunk[k]) for k in own if k.startswith("layer4"))
    maps = []
    for weights in (str(path), "random"):
        seed_everything(0, verbose=False)
        one = load_class("padim")(backbone="resnet10t", layers=("layer1",), feature_channels=16, weights=weights)
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(
            one, Folder(root=str(image_folder), image_size=32, batch_size=3)
        )
        maps.append(one.eval()(torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))).anomaly_map)
    assert not torch.allclose(*maps)


def test_neighbours_touch_in_the_direction_that_is_told():
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(70.0), torch.arange(96.0), indexing="ij")
    image = torch.stack([rows, columns]).expand(200, -1, -1, -1)
    patch, neighbour, place = neighbouring_patches(image, 32)
    assert patch.shape == neighbour.shape == (200, 2, 32, 32)
    corners, others = patch[:, :, 0, 0], neighbour[:, :, 0, 0]
    assert torch.equal(patch, corners[:, :, None, None] + image[0, :, :32, :32])
    assert torch.equal(others - corners, torch.tensor(NEIGHBOURS)[place].float() * 32)
    assert len(place.unique()) == len(NEIGHBOURS) == 8
    assert len(corners[:, 1].unique()) > 20


def test_the_model_of_patches_learns_where_neighbours_lie(quiet_trainer, image_folder):
    seed_everything(0, verbose=False)
    model = load_class("ccd")(image_size=64, in_channels=1, backbone="resnet10t", scale="patch", lr=0.05)
    model.configure_model()
    before = model.places.weight.detach().clone()
    logged = []
    model.log_dict = lambda parts, **_: logged.append({key: float(value) for key, value in parts.items()})
    data = Folder(root=str(image_folder), image_size=64, batch_size=3)
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(model, data)
    assert logged[0]["train/loss"] == pytest.approx(
        sum(logged[0][f"train/{part}"] for part in ("contrast", "class", "place")), rel=1e-5
    )
    assert set(logged[0]) == {"train/loss", "train/contrast", "train/class", "train/place"}
    assert not torch.equal(model.places.weight, before)
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        patches = cut_patches(image.expand(-1, 3, -1, -1), 32, 16)
        mean = model.eval().embed(patches).double().view(2, 9, -1).mean(1)
        torch.testing.assert_close(model(image).anomaly_score, model.gaussian.distance(mean))
    with pytest.raises(UserError, match="at least 64"):
        zoo.create_model("ccd_patch", image_size=48, backbone="resnet10t")


def test_mixture_finds_three_blobs():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    points = (centres.repeat_interleave(torch.tensor([100, 200, 300]), dim=0) + torch.randn(600, 2)).double()
    mixture = fit_mixture(points, 3)
    order = mixture.log_weights.argsort()
    torch.testing.assert_close(mixture.log_weights[order].exp(), torch.tensor([1, 2, 3]).double() / 6)
    torch.testing.assert_close(mixture.means[order].float(), centres, rtol=0, atol=0.3)
    from sklearn.mixture import GaussianMixture

    theirs = GaussianMixture(3, random_state=0).fit(points.numpy())
    assert float(log_density(points, mixture).mean()) == pytest.approx(theirs.score(points.numpy()), abs=0.02)
    with pytest.raises(UserError, match="at least as many"):
        fit_mixture(points[:2], 3)


def test_density_is_proper_where_points_are_few():
    torch.manual_seed(0)
    mixture = fit_mixture(torch.randn(5, 20), 1)
    assert torch.isfinite(log_density(torch.randn(3, 20).double(), mixture)).all()


def test_cradls_map_is_its_gradient(image_folder, quiet_trainer, tmp_path):
    model, path = checkpoint_of("cradl", image_folder, quiet_trainer, tmp_path, smoothing=0.0)
    model = model.double().eval()
    model.hparams["smoothing"] = 0.0
    image = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    found = model(image).anomaly_map[0, 0]
    step = 1e-5

    def score(value):
        from zoo.nn.density import Mixture

        stats = model.mixture
        mixture = Mixture(stats.log_weights, stats.means, stats.whitening)
        with torch.no_grad():
            return -float(log_density(model.encoder(value), mixture))

    for row, column in ((3, 5), (16, 16), (30, 1)):
        change = torch.zeros_like(image)
        change[0, 0, row, column] = step
        slope = (score(image + change) - score(image - change)) / (2 * step)
        assert float(found[row, column]) == pytest.approx(abs(slope), rel=1e-3, abs=1e-6)
    assert path.is_file()


def test_number_of_components_is_chosen_by_held_out_healthy_images():
    torch.manual_seed(0)
    model = zoo.create_model("cradl", image_size=32, hidden_dims=(4, 8), latent_dim=2, components=(1, 2, 4))
    two = torch.cat([torch.randn(200, 2), torch.randn(200, 2) + 30]).double()
    model.mixture.representations = two[torch.randperm(400)]
    model._fit()
    assert len(model.mixture.means) >= 2
    assert not model.mixture.representations.numel()


def test_what_was_not_fitted_cannot_score():
    for name in ("ccd", "cradl"):
        with pytest.raises(UserError, match="no density yet"):
            zoo.create_model(name, **methods()[name].tiny).eval()(torch.rand(1, 1, 32, 32))
    with pytest.raises(UserError, match="square"):
        zoo.create_model("ccd", image_size=(32, 64), backbone="resnet10t", strong="rotate")
