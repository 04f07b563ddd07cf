"""The unlabelled pool of semi-supervised methods: beside the healthy batch, away from validation, test and metrics."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import CovidX, Folder, HyperKvasir, MedMNIST, VinDrCXR
from datamodules.records import unlabeled_pool
from datamodules.vindr_cxr import ddad_unlabeled
from zoo.errors import UserError

SETS = {
    "medmnist": (MedMNIST, {}),
    "covidx": (CovidX, {"image_size": 32}),
    "vindr own": (VinDrCXR, {"image_size": 32}),
    "vindr rule": (VinDrCXR, {"image_size": 32, "split": "rule"}),
}


@pytest.mark.parametrize("name", SETS)
def test_pool_is_disjoint_from_all_other_splits(name):
    kind, arguments = SETS[name]
    plain, data = kind(**arguments), kind(**arguments, unlabeled=True)
    splits = {split: set(data.dataset(split).ids) for split in ("train", "val", "test", "unlabeled")}
    subjects = {split: set(data.dataset(split).subjects) - {""} for split in splits}
    assert splits["unlabeled"]
    for split in ("train", "val", "test"):
        assert not splits["unlabeled"] & splits[split]
        assert not subjects["unlabeled"] & subjects[split]
    assert splits["test"] == set(plain.dataset("test").ids)
    assert data.dataset("unlabeled").labels.sum() > 0 or name.startswith("vindr")  # films bring no box into the pool
    assert plain.fingerprint() != data.fingerprint()


def test_training_batches_alone_bring_it_and_without_labels():
    data = MedMNIST(unlabeled=True, batch_size=8)
    batch = next(iter(data.train_dataloader()))
    assert batch["unlabeled"].shape == batch["image"].shape
    assert batch["unlabeled"].dtype == torch.float32
    assert batch["label"].sum() == 0
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert "unlabeled" not in next(iter(loader))


def test_it_depends_on_epoch_and_batch_alone_and_uses_the_whole_pool():
    data = MedMNIST(unlabeled=True, batch_size=8)
    loader = data.train_dataloader()
    first = [batch["unlabeled"] for batch in loader]
    again = data.train_dataloader()
    again.load_state_dict({"epoch": 0, "next_batch": 1})
    torch.testing.assert_close(next(iter(again))["unlabeled"], first[1], rtol=0, atol=0)
    pool = data.dataset("unlabeled")
    seen = {one.numpy().tobytes() for part in first for one in part}
    assert seen <= {image.tobytes() for image in pool.store.image(pool.indices)}
    loader.sampler.set_epoch(1)
    assert not torch.equal(next(iter(loader))["unlabeled"], first[0])


def test_folder_reads_its_own_pool(image_folder, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(image_folder, root)
    shutil.copytree(root / "test" / "anomalous", root / "train" / "unlabeled")
    for number, file in enumerate(sorted((root / "train" / "unlabeled").iterdir())):
        from PIL import Image

        Image.fromarray(255 - np.asarray(Image.open(file)) + np.uint8(number)).save(file)
    assert len(Folder(root=str(root), unlabeled=True).dataset("unlabeled")) == 4
    with pytest.raises(UserError, match="train/unlabeled"):
        Folder(root=str(image_folder), unlabeled=True).setup()


def test_sets_without_a_pool_say_so():
    with pytest.raises(UserError, match=r"data.unlabeled: .* has no unlabelled images"):
        HyperKvasir(image_size=32, unlabeled=True).setup()
    with pytest.raises(UserError, match="random_crop"):
        MedMNIST(unlabeled=True, random_crop=(0.5, 1))


def test_pool_by_rule_is_sixty_percent_ill():
    pool = unlabeled_pool([f"h{n}" for n in range(100)], [f"i{n}" for n in range(200)], seed=0)
    assert len(pool) == 50
    assert sum(name.startswith("i") for name in pool) == 30
    assert pool == unlabeled_pool([f"h{n}" for n in range(100)], [f"i{n}" for n in range(200)], seed=0)


def test_ddad_pool_is_read_from_its_list(tmp_path: Path):
    path = tmp_path / "ddad.json"
    lists = {"0": [f"h{n}.png" for n in range(9)], "1": [f"i{n}.png" for n in range(9)]}
    path.write_text(json.dumps({"train": {"unlabeled": lists}}))
    assert ddad_unlabeled(path, count=10) == {*(f"h{n}" for n in range(4)), *(f"i{n}" for n in range(6))}
    path.write_text("{}")
    with pytest.raises(UserError, match="train/unlabeled"):
        ddad_unlabeled(path)
