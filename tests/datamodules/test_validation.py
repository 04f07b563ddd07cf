"""Label-free validation: synthetic anomalies of kinds that the method has not seen."""

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

import zoo
from datamodules import Folder
from datamodules.validation import KINDS, WithSyntheticAnomalies, unseen_kinds
from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.registry import load_class, methods
from zoo.synthetic.folds import TASK_NAMES, task_folds


class Images(torch.utils.data.Dataset):
    """Smooth random images, served as the cache serves them."""

    def __init__(self, count, size, low, high):
        rng = np.random.default_rng(0)
        coarse = rng.uniform(low, high, (count, 1, *[side // 4 for side in size]))
        self.images = np.kron(coarse, np.ones((1, 1, *[4] * len(size)))).astype(np.float32)

    def __len__(self):
        return len(self.images)

    def __getitems__(self, positions):
        image = torch.from_numpy(self.images[np.asarray(positions)].copy())
        foreground = torch.ones(image.shape, dtype=torch.bool)
        return {"image": image, "foreground": foreground, "id": [f"{number}.png" for number in positions]}


def test_what_was_trained_or_is_alike_is_left_out():
    assert unseen_kinds(()) == KINDS
    assert unseen_kinds(("smooth_intensity",)) == ("intra_blend", "inter_blend", "sink", "source")
    for number in range(1, 5):
        for fold, (train, validation) in enumerate(task_folds(number)):
            model = zoo.create_model(
                "multi_task", image_size=32, depth=3, width=4, positions=2, num_train_tasks=number, fold=fold
            )
            kinds = unseen_kinds(model.trained_tasks)
            assert {TASK_NAMES[task] for task in validation} == set(kinds) - {"blob"}
            assert ("blob" in kinds) == (4 not in train)


@pytest.mark.parametrize("name", [method.name for method in methods().values()])
def test_every_method_leaves_something_to_validate_with(name):
    method = methods()[name]
    tiny = {key: value for key, value in method.tiny.items() if key not in ("image_size", "in_channels")}
    trained = load_class(name)(**tiny).trained_tasks
    assert set(trained) <= set(TASK_NAMES)
    assert unseen_kinds(trained)


@pytest.mark.parametrize(
    ("size", "bounds", "scale"),
    [((32, 32), (0.0, 1.0), None), ((32, 48), (-1.0, 1.0), None), ((16, 16, 16), (-5.0, 5.0), (-1.0, 1.0))],
)
def test_anomalies_are_visible_bounded_and_the_same_each_time(size, bounds, scale):
    healthy = Images(12, size, 0.6 * bounds[0] + 0.4 * bounds[1], 0.2 * bounds[0] + 0.8 * bounds[1])
    made = WithSyntheticAnomalies(healthy, 0, bounds, scale)
    positions = list(range(24))
    first = made.__getitems__(positions)
    assert first["label"].tolist() == [0] * 12 + [1] * 12
    assert {name.split("+")[1] for name in first["id"][12:]} == set(KINDS)
    difference = (first["image"][12:] - first["image"][:12]).abs()
    assert bounds[0] <= float(first["image"].min())
    assert float(first["image"].max()) <= bounds[1]
    mask = first["mask"][12:]
    half = (bounds[1] - bounds[0]) / 2 if scale is None else 1.0
    # closing and filling of the label's holes may add pixels that did not change
    assert float((difference[mask] > 0.03 * half).float().mean()) > 0.6
    assert torch.equal(first["image"][:12], torch.from_numpy(healthy.images)), "the cached images stay as they are"
    again = made.__getitems__(positions[::-1])
    other = WithSyntheticAnomalies(healthy, 0, bounds, scale).__getitems__(positions)
    assert torch.equal(again["image"].flip(0), first["image"])
    assert torch.equal(other["image"], first["image"])
    assert torch.equal(other["mask"], first["mask"])
    assert not torch.equal(
        WithSyntheticAnomalies(healthy, 1, bounds, scale).__getitems__(positions)["mask"], first["mask"]
    )


def test_flat_images_stay_healthy_where_nothing_can_be_seen():
    healthy = Images(2, (32, 32), 0.5, 0.5)
    batch = WithSyntheticAnomalies(healthy, 0, (0.0, 1.0), kinds=("sink",)).__getitems__([2, 3])
    assert batch["label"].tolist() == [0, 0]
    assert not batch["mask"].any()


class Names(Callback):
    """Collects the ids of validation batches."""

    def __init__(self):
        self.kinds = set()

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *_):
        self.kinds |= {name.split("+")[1] for name in batch["id"] if "+" in name}


def test_checkpoints_are_chosen_by_unseen_kinds(image_folder, quiet_trainer, tmp_path):
    names, best = Names(), ModelCheckpoint(dirpath=tmp_path, monitor="val/synthetic_pixel_ap", mode="max")
    model = load_class("multi_task")(depth=3, width=4, positions=2, num_train_tasks=3, fold=4)  # 0, 2, 4 train
    trainer = quiet_trainer(max_epochs=2, callbacks=[AnomalyMetrics(), names, best], enable_checkpointing=True)
    trainer.fit(model, Folder(root=str(image_folder), image_size=32, batch_size=4))
    assert names.kinds == {"inter_blend", "source"}
    assert float(best.best_model_score) == pytest.approx(
        float(trainer.callback_metrics["val/synthetic_pixel_ap"]), abs=1
    )
    assert best.best_model_path


@pytest.mark.parametrize(
    ("name", "arguments", "kinds"),
    [
        ("fpi", {}, {"sink", "source", "smooth_intensity", "blob"}),
        ("pii", {}, {"sink", "source", "smooth_intensity", "blob"}),
        ("confidence_aware", {"task": "intensity"}, {"intra_blend", "inter_blend", "sink", "source"}),
        ("denoising_ae", {}, {"intra_blend", "inter_blend", "sink", "source"}),
        ("autoencoder", {}, set(KINDS)),
    ],
)
def test_other_methods_say_what_they_train_on(name, arguments, kinds):
    assert set(unseen_kinds(load_class(name)(**arguments).trained_tasks)) == kinds
