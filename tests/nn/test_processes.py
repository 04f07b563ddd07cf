"""Methods that collect find in two and three processes what one alone finds, with an uneven last batch."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from PIL import Image
from torch import multiprocessing

from datamodules import Folder
from zoo.errors import UserError
from zoo.module import AnomalyModule, Stage
from zoo.nn.neighbours import nearest_neighbours
from zoo.nn.processes import without_repeats
from zoo.registry import find, load_class

IMAGES = 11  # two processes get six, three get four: each time one image twice
SIDE = 32
METHODS = {
    "statistical": {},
    "padim": {},
    "patchcore": {"max_patches": 64 * IMAGES},
    "gaussian_density": {},
    "panda": {},
    "cutpaste": {},
    "ccd": {},
    "cradl": {},
    "autoencoder": {"loss": "perceptual", "backbone": "resnet18", "layer": "layer1", "weights": "random"},
}
AGREE_ONLY = ("ccd", "cradl")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Twelve images, of which one is held out."""
    folder = tmp_path_factory.mktemp("shared")
    rng = np.random.default_rng(0)
    for part, count in (("train/normal", IMAGES + 1), ("test/normal", 2), ("test/anomalous", 2)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8)).save(folder / part / f"{number}.png")
    return folder


def model_of(name):
    torch.manual_seed(0)
    arguments = {key: value for key, value in find(name).tiny.items() if key != "image_size"}
    return load_class(name)(**arguments | METHODS[name])


def in_processes(work, count, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_begin, (work, count, port, arguments), nprocs=count, start_method="fork")


def _begin(rank, work, count, port, arguments):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "RANK": str(rank)}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    torch.distributed.init_process_group("gloo")
    work(rank, count, *arguments)


def trainer(folder, **arguments):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    quiet |= {"enable_model_summary": False, "limit_val_batches": 0, "default_root_dir": folder}
    return Trainer(**quiet | arguments)


def several(folder, count, **arguments):
    return trainer(folder, strategy="ddp", devices=count, plugins=[TorchElasticEnvironment()], **arguments)


def _fit(rank, count, root, folder):
    for name in METHODS:
        model, data = model_of(name), Folder(root=root, image_size=SIDE, batch_size={2: 5, 3: 3}[count])
        several(folder, count, max_steps=2).fit(model, data)
        torch.save(model.state_dict(), Path(folder) / f"{name}-{rank}.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2, 3])
def test_statistics_are_those_of_one_process(count, root, tmp_path):
    in_processes(_fit, count, str(root), str(tmp_path))
    for name in METHODS:
        found, *others = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(count))
        for other in others:
            assert all(torch.equal(values, other[key]) for key, values in found.items()), name
        alone, data = model_of(name), Folder(root=str(root), image_size=SIDE, batch_size=4)
        trainer(tmp_path, max_steps=2).fit(alone, data)
        assert sum(len(batch["id"]) for batch in data.train_dataloader()) == IMAGES
        expected = alone.state_dict()
        if name in AGREE_ONLY:  # trained on other batches; their sums are those of the methods above
            continue
        if name in ("panda", "cutpaste", "autoencoder"):  # trained on other batches: collect with the same weights
            expected = _collected(model_of(name), data, found)
        for key, values in expected.items():
            if key.startswith("memory.bank"):
                assert found[key].shape == values.shape
                if name == "panda":
                    found[key], values = (bank[bank[:, 0].argsort()] for bank in (found[key], values))
            apart = float((found[key].double() - values.double()).abs().max()) if values.numel() else 0.0
            assert apart <= 1e-4 * max(1e-3, float(values.abs().max()) if values.numel() else 0.0), f"{name}: {key}"


def _collected(model, data, weights):
    """The state of a model with these weights after its collecting stages alone, in one process."""
    model.image_size, model.in_channels = (SIDE, SIDE), 1
    model.hparams.update(image_size=(SIDE, SIDE), in_channels=1)
    model.configure_model()
    fresh = {key: values.clone() for key, values in model.state_dict().items()}
    collected = {key for key, values in fresh.items() if values.shape != weights[key].shape}
    sums = ("count", "total", "scatter", "cubic", "fourth", "distance.moments")
    model.load_state_dict({key: fresh[key] if key in sums or key in collected else weights[key] for key in fresh})
    model.eval()
    centre = weights.get("memory.centre")
    with torch.no_grad():
        for stage in model.stages():
            if stage.kind == "collect":
                for batch in data.train_dataloader():
                    stage.step(batch, 0)
                if stage.finish is not None:
                    stage.finish()
    if centre is not None:  # the untrained features'
        model.memory.centre, model.memory.total = centre, weights["memory.total"]
    return model.state_dict()


class Forgetful(AnomalyModule):
    """Collects, and does not put the processes' sums together."""

    dims = (2,)

    def build(self):
        self.register_buffer("sum", torch.zeros(()))

    def stages(self):
        return (Stage("collect", self.collect),)

    def collect(self, batch, batch_idx):
        self.sum += batch["image"].sum()


def _forget(rank, count, root, folder):
    with pytest.raises(RuntimeError, match="Forgetful: sum differs between processes"):
        several(folder, count, max_steps=2).fit(Forgetful(), Folder(root=root, image_size=SIDE, batch_size=5))


@pytest.mark.filterwarnings("ignore")
def test_a_stage_that_keeps_a_part_to_itself_is_told(root, tmp_path):
    in_processes(_forget, 2, str(root), str(tmp_path))


class SaveInTheMiddle(Callback):
    """Writes a checkpoint after the first batch."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 0:
            trainer.save_checkpoint(self.path)


def _resume(rank, count, root, folder):
    path, states = f"{folder}/middle.ckpt", []
    for arguments in ({"callbacks": [SaveInTheMiddle(path)]}, {}):
        model, data = model_of("padim"), Folder(root=root, image_size=SIDE, batch_size=2)
        resumed = {} if arguments else {"ckpt_path": path, "weights_only": True}
        several(folder, count, max_steps=2, **arguments).fit(model, data, **resumed)
        states.append(model.state_dict())
    differ = [key for key, values in states[0].items() if not torch.equal(values, states[1][key])]
    assert not differ, [(key, states[0][key].flatten()[:3], states[1][key].flatten()[:3]) for key in differ]


@pytest.mark.filterwarnings("ignore")
def test_a_collecting_stage_is_resumed_by_as_many_processes(root, tmp_path):
    in_processes(_resume, 2, str(root), str(tmp_path))
    data = Folder(root=str(root), image_size=SIDE, batch_size=2)
    with pytest.raises(UserError, match="in 2 processes: resume with as many"):
        trainer(tmp_path).fit(model_of("padim"), data, ckpt_path=tmp_path / "middle.ckpt", weights_only=True)


def _sample(rank, count, root, folder):
    model, data = load_class("patchcore")(**SAMPLED), Folder(root=root, image_size=SIDE, batch_size=3)
    several(folder, count).fit(model, data)
    torch.save(model.state_dict(), Path(folder) / f"sample-{rank}.pt")


SAMPLED = {"backbone": "resnet18", "layers": ("layer1",), "weights": "random", "max_patches": 300, "coreset_ratio": 1.0}


@pytest.mark.filterwarnings("ignore")
def test_a_bounded_sample_is_drawn_from_all_processes(root, tmp_path):
    torch.manual_seed(0)
    in_processes(_sample, 2, str(root), str(tmp_path))
    found, other = (torch.load(tmp_path / f"sample-{rank}.pt") for rank in range(2))
    bank = found["memory.bank"]
    assert torch.equal(bank, other["memory.bank"])
    assert len(bank) == 300
    torch.manual_seed(0)
    model, data = load_class("patchcore")(**SAMPLED), Folder(root=str(root), image_size=SIDE, batch_size=3)
    trainer(tmp_path).fit(model, data)
    model.load_state_dict(found)
    patches = torch.cat([model.features(batch["image"]).flatten(0, 2) for batch in data.train_dataloader()])
    distance, index = nearest_neighbours(bank, patches)
    assert float(distance.max()) < 1e-3
    images = (index.flatten() // 64).bincount(minlength=IMAGES)
    assert int(images.min()) > 0  # of every image: 27 of 64 expected
    assert len(index.unique()) == 300


def test_repeats_are_left_out_once():
    class Loader(list):
        sampler = torch.utils.data.distributed.DistributedSampler(range(11), 2, 1)

    batch = {"image": torch.zeros(2, 1), "id": ["a", "b"], "note": 3}
    loader = Loader([batch] * 3)
    assert without_repeats(batch, loader, 0) is batch
    shorter = without_repeats(batch, loader, 2)
    assert (len(shorter["image"]), shorter["id"], shorter["note"]) == (1, ["a"], 3)
    assert without_repeats({"image": torch.zeros(1, 1)}, loader, 2) is None
    loader.sampler = torch.utils.data.distributed.DistributedSampler(range(11), 2, 0)
    assert without_repeats(batch, loader, 2) is batch
