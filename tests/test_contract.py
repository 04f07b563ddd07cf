"""What every registered method must do; a new file in a family folder is tested here without an edit."""

import copy

import pytest
import torch
import yaml
from lightning.pytorch import seed_everything

import zoo
from datamodules import Folder
from zoo.callbacks.last_checkpoint import LastCheckpoint
from zoo.configs import shipped_configs
from zoo.errors import UserError
from zoo.module import AnomalyModule
from zoo.registry import FAMILIES, load_class, methods

STEPS = 6  # two epochs of three batches
METHODS = [method for method in methods().values() if 2 in method.dims]


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request):
    return request.param


def new_model(method, **changes):
    """The method as a user's configuration makes it: sizes follow the data."""
    arguments = {key: value for key, value in method.tiny.items() if key not in ("image_size", "in_channels")}
    return load_class(method.name)(**arguments | changes)


def new_data(method, root, channels=None, **changes):
    size = method.tiny["image_size"]
    return Folder(root=str(root), image_size=size, in_channels=channels, batch_size=3, **changes)


def fit(method, root, trainer, *callbacks, channels=None, **resume):
    seed_everything(0, verbose=False)
    model = new_model(method)
    trainer.callbacks.extend(callbacks)
    trainer.fit(model, new_data(method, root, channels), **resume)
    return model


@pytest.fixture(scope="module")
def fitted(image_folder, tmp_path_factory):
    """Each method fitted once with checkpoint, made when first asked for."""
    from lightning.pytorch import Trainer

    made = {}

    def get(method):
        if method.name not in made:
            folder = tmp_path_factory.mktemp(method.name)
            trainer = Trainer(
                max_steps=STEPS,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                accelerator="cpu",
                callbacks=[LastCheckpoint(folder=str(folder))],
            )
            made[method.name] = fit(method, image_folder, trainer).eval(), folder / "last.ckpt"
        return made[method.name]

    return get


@pytest.fixture
def images(method, image_folder):
    data = new_data(method, image_folder)
    return next(iter(data.test_dataloader()))["image"], torch.cat([batch["image"] for batch in data.test_dataloader()])


def same(first, second, tolerance=0.0):
    for name, one, other in zip(first._fields, first, second, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            scale = float(one.abs().max()) + 1e-12
            assert float((one - other).abs().max()) <= tolerance * scale, name


def test_prediction_has_the_agreed_form(method, fitted, images):
    _, image = images
    prediction = fitted(method)[0](image)
    assert isinstance(prediction, zoo.Prediction)
    assert prediction.anomaly_score.shape == (len(image),)
    for name, value in prediction._asdict().items():
        if value is None:
            continue
        assert value.dtype == torch.float32, name
        assert torch.isfinite(value).all(), name
        assert not value.requires_grad, name
        if name.endswith("map"):
            assert value.shape == (len(image), 1, *image.shape[2:]), name
    if prediction.reconstruction is not None:
        assert prediction.reconstruction.shape == image.shape


def test_checkpoint_predicts_the_same(method, fitted, images):
    model, path = fitted(method)
    same(model(images[1]), zoo.load_pretrained(path)(images[1]))


def test_score_does_not_depend_on_the_batch(method, fitted, images):
    model, image = fitted(method)[0], images[1]
    together = model(image)
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(0))
    shuffled = model(image[order])
    alone = [model(one[None]) for one in image[:3]]
    same(together._make(None if v is None else v[order] for v in together), shuffled, 2e-4)
    for number, one in enumerate(alone):
        same(together._make(None if v is None else v[number : number + 1] for v in together), one, 2e-4)


def test_prediction_is_repeatable_and_leaves_random_state_alone(method, fitted, images):
    model = fitted(method)[0]
    weights = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    first, second = model(images[0]), model(images[0])
    assert torch.equal(state, torch.get_rng_state())
    same(first, second)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_prediction_compiles_into_one_graph(method, fitted, images):
    model = fitted(method)[0]
    if model.scores_with_gradient:
        pytest.skip("its score takes gradients, which torch.compile does not follow")
    torch.compiler.reset()
    with torch.no_grad():
        same(torch.compile(model.predict_anomaly, fullgraph=True, backend="eager")(images[0]), model(images[0]), 1e-5)


def test_blank_images_have_finite_scores(method, fitted, images):
    for level in (0.0, 1.0):
        prediction = fitted(method)[0](torch.full_like(images[0], level))
        assert all(torch.isfinite(value).all() for value in prediction if value is not None)


def test_three_channels_work_or_are_refused(method, image_folder, quiet_trainer):
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    if "in_channels" in method.tiny:  # one number of channels only
        with pytest.raises(UserError, match="channels"):
            fit(method, image_folder, trainer, channels=4 - method.tiny["in_channels"])
        return
    model = fit(method, image_folder, trainer, channels=3)
    assert model.in_channels == 3
    prediction = model.eval()(torch.rand(2, 3, *model.image_size))
    assert torch.isfinite(prediction.anomaly_score).all()


class StopAt(LastCheckpoint):
    """Saves after batch ``number`` of the fit and ends the process's training there."""

    def __init__(self, folder, number):
        super().__init__(folder=folder, minutes=1e9)
        self.number = number

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready == self.number:
            self._save(trainer)
            raise InterruptedError

    def on_train_end(self, trainer, pl_module):
        pass


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_resumed_training_equals_an_uninterrupted_one(method, fitted, stop, image_folder, quiet_trainer, tmp_path):
    uninterrupted = fitted(method)[0].state_dict()
    try:
        end = {"max_steps": STEPS} if stop != 5 else {"max_epochs": 2}  # the same: two epochs of three batches
        fit(method, image_folder, quiet_trainer(**end), StopAt(str(tmp_path), stop))
    except InterruptedError:
        pass
    else:
        assert method.fitting == "single_pass", "trained fewer batches than asked for"
        return
    path = tmp_path / "last.ckpt"
    resumed = fit(method, image_folder, quiet_trainer(**end), ckpt_path=path, weights_only=True).state_dict()
    assert resumed.keys() == uninterrupted.keys()
    different = [key for key, value in resumed.items() if not torch.equal(value, uninterrupted[key])]
    assert not different


def test_same_seed_same_weights_whatever_the_workers(method, fitted, image_folder, quiet_trainer):
    seed_everything(0, verbose=False)
    model = new_model(method)
    quiet_trainer(max_steps=STEPS, limit_val_batches=0).fit(model, new_data(method, image_folder, num_workers=1))
    first = fitted(method)[0].state_dict()
    assert not [key for key, value in model.state_dict().items() if not torch.equal(value, first[key])]


def test_configuration_and_paper_are_there(method):
    content = yaml.safe_load(shipped_configs()[f"models/{method.name}"].read_text())
    assert content["model"]["class_path"] == method.class_path
    load_class(method.name)(**content["model"].get("init_args", {}))
    assert {"title", "venue", "year", "url"} <= method.reference.keys()
    assert method.summary
    assert method.family in FAMILIES


def test_another_methods_checkpoint_is_refused(method, fitted, image_folder, quiet_trainer):
    other = next(one for one in METHODS if one.name != method.name)
    path = fitted(other)[1]
    with pytest.raises(UserError, match=other.class_name):
        quiet_trainer().validate(new_model(method), new_data(method, image_folder), ckpt_path=path, weights_only=True)


def test_sizes_of_the_data_are_never_overruled(image_folder, quiet_trainer):
    method = METHODS[0]
    model = new_model(method, image_size=method.tiny["image_size"] * 2)
    with pytest.raises(UserError, match="image_size is"):
        quiet_trainer(max_steps=1).fit(model, new_data(method, image_folder))


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"nearest:.* autoencoder"):
        zoo.create_model("autoencodr", image_size=32)
    with pytest.raises(UserError, match="loss"):
        zoo.create_model("autoencoder", image_size=32, los="l1")
    assert set(zoo.list_models("reconstruction")) < set(zoo.list_models())
    assert issubclass(load_class("autoencoder"), AnomalyModule)
