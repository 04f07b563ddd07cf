"""The parts that all data sets share: order, resume, cache, validation, prediction, checks."""

import logging
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image

import datamodules.folder
from datamodules import CovidX, Folder, MedMNIST
from datamodules.checks import near_copies, near_copy_notes, thumbnails
from datamodules.loading import EpochOrder
from datamodules.phantoms.shapes import picture
from datamodules.validation import add_blob
from zoo.errors import UserError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own(tmp_path: Path, write_folder: Any) -> Path:
    root = tmp_path / "own"
    write_folder(root, 32, (20, 4, 4))
    return root


class _Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, int, list[str]]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch_idx, batch["id"]))
        return self.layer(batch["image"].mean().view(1, 1)).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert set(batch["label"].tolist()) <= {0, 1}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


class _StopAfter(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def _fit(cache: str, callbacks: list[Callback], ckpt: Path | None, limits: dict[str, int], workers: int = 0) -> Any:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = _Recorder()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **limits,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = MedMNIST(cache_dir=cache, batch_size=25, num_workers=workers)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return module.seen


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 14}])
@pytest.mark.parametrize("step", [1, 4, 5, 6, 8])
def test_interrupted_and_resumed_batches_equal_uninterrupted(
    cache: str, tmp_path: Path, limits: dict[str, int], step: int
) -> None:
    whole = _fit(cache, [], None, limits)
    first = _fit(cache, [_StopAfter(step, tmp_path / "a.ckpt")], None, limits)
    second = _fit(cache, [], tmp_path / "a.ckpt", limits)
    assert len(first) == step
    assert first + second == whole


def test_resume_with_worker_processes(cache: str, tmp_path: Path) -> None:
    whole = _fit(cache, [], None, {"max_epochs": 2})
    first = _fit(cache, [_StopAfter(8, tmp_path / "a.ckpt")], None, {"max_epochs": 2}, workers=1)
    assert first + _fit(cache, [], tmp_path / "a.ckpt", {"max_epochs": 2}, workers=1) == whole


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 50), seed=st.integers(0, 9), epoch=st.integers(0, 9), ranks=st.integers(1, 4))
def test_ranks_share_one_permutation(length: int, seed: int, epoch: int, ranks: int) -> None:
    parts = []
    for rank in range(ranks):
        order = EpochOrder(length, seed, ranks, rank)
        order.set_epoch(epoch)
        parts.append(list(order))
        assert len(parts[-1]) == len(order) == -(-length // ranks)
    assert set().union(*parts) == set(range(length))
    alone = EpochOrder(length, seed)
    alone.set_epoch(epoch)
    dealt = [index for group in zip(*parts, strict=True) for index in group]
    assert dealt[:length] == list(alone)


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = EpochOrder(40, seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_batches_follow_the_contract(cache: str) -> None:
    data = Folder(cache_dir=cache, batch_size=8)
    assert data.phantom
    assert data.image_shape == (1, 64, 64)
    train = next(iter(data.train_dataloader()))
    assert train["image"].dtype == torch.float32
    assert train["image"].shape == (8, 1, 64, 64)
    assert train["foreground"].dtype == torch.bool
    assert not train["label"].any()
    labels = []
    for batch in data.test_dataloader():
        assert batch["mask"].shape == (len(batch["id"]), 1, 64, 64)
        assert batch["mask"].dtype == torch.bool
        assert (batch["mask"].flatten(1).any(1) == batch["label"].bool()).all()
        labels += batch["label"].tolist()
    assert sum(labels) == 16
    assert len(labels) == 32
    split = {name: {*data.dataset(name).ids} for name in ("train", "val", "test")}
    assert not split["train"] & split["val"]
    assert not (split["train"] | split["val"]) & split["test"]


def test_images_survive_the_cache_exactly(cache: str) -> None:
    data = Folder(cache_dir=cache)
    data.setup()
    image = data.dataset("test")[0]["image"]
    record = next(r for r in data.manifest if r.split == "test")
    original = np.asarray(Image.open(record.image), np.float32) / 255
    np.testing.assert_allclose(image[0].numpy(), original, atol=2e-7)


def test_validation_is_deterministic_and_has_both_classes(cache: str) -> None:
    first, second = (list(Folder(cache_dir=cache, seed=0).val_dataloader()) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])
    labels = torch.cat([batch["label"] for batch in first])
    masks = torch.cat([batch["mask"] for batch in first]).flatten(1).any(1)
    assert 2 * labels.sum() == len(labels)
    assert torch.equal(labels.bool(), masks)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), level=st.sampled_from([0.0, 0.5, 1.0]), dims=st.integers(2, 3))
def test_blobs_alter_the_image_inside_their_surroundings(seed: int, level: float, dims: int) -> None:
    size = (20,) * dims
    image = np.full((1, *size), level, np.float32)
    foreground = np.zeros(size, bool)
    foreground[tuple(slice(3, 17) for _ in size)] = True
    altered, mask = add_blob(image, foreground, np.random.default_rng(seed), (0.0, 1.0))
    assert mask.any()
    assert not (mask & ~foreground).any()
    assert (altered != image)[0][mask].any()
    assert (altered == image)[0][~foreground].all()
    assert altered.min() >= 0
    assert altered.max() <= 1


def test_second_run_decodes_nothing(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Folder(root=str(own), cache_dir=str(tmp_path / "c")).setup()

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("decoded again")

    monkeypatch.setattr(datamodules.folder, "prepare_file", never)
    data = Folder(root=str(own), cache_dir=str(tmp_path / "c"), in_channels=1, seed=5, val_fraction=0.3)
    data.setup()
    assert len(data.dataset("val")) == 6


def test_changed_content_or_options_make_a_new_entry(own: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    first = Folder(root=str(own), cache_dir=str(cache))
    before = first.fingerprint()
    assert Folder(root=str(own), cache_dir=str(cache)).fingerprint() == before
    resized = Folder(root=str(own), cache_dir=str(cache), image_size=(16, 24))
    assert resized.image_shape == (1, 16, 24)
    assert resized.fingerprint() != before
    name = sorted((own / "train" / "normal").iterdir())[3]
    Image.fromarray(255 - np.asarray(Image.open(name))).save(name)
    changed = Folder(root=str(own), cache_dir=str(cache))
    assert changed.fingerprint() != before
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 3


def test_fingerprint_does_not_depend_on_the_place(own: Path, tmp_path: Path) -> None:
    shutil.copytree(own, tmp_path / "copy")
    one, other = (Folder(root=str(r), cache_dir=str(tmp_path / "c")).fingerprint() for r in (own, tmp_path / "copy"))
    assert one == other


def test_half_written_entries_are_never_used(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "c"
    prepare = datamodules.folder.prepare_file
    calls = []

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > 9:
            raise KeyboardInterrupt
        return prepare(*args, **kwargs)

    monkeypatch.setattr(datamodules.folder, "prepare_file", killed)
    with pytest.raises(KeyboardInterrupt):
        Folder(root=str(own), cache_dir=str(cache)).setup()
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]
    monkeypatch.setattr(datamodules.folder, "prepare_file", prepare)
    data = Folder(root=str(own), cache_dir=str(cache))
    data.setup()
    assert len(data.manifest) == 28


def test_several_may_start_at_once(own: Path, tmp_path: Path) -> None:
    modules = [Folder(root=str(own), cache_dir=str(tmp_path / "c")) for _ in range(4)]
    threads = [threading.Thread(target=module.setup) for module in modules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({module.store.folder for module in modules if module.store}) == 1
    assert all(torch.equal(m.dataset("test")[0]["image"], modules[0].dataset("test")[0]["image"]) for m in modules)


def test_prediction_serves_the_users_files(own: Path, tmp_path: Path, cache: str) -> None:
    (tmp_path / "new" / "a").mkdir(parents=True)
    for number, name in enumerate(("x.png", "a/y.png")):
        Image.fromarray(picture(3, number, 48, True)[0]).save(tmp_path / "new" / name)
    (tmp_path / "new" / "._x.png").write_bytes(b"junk")
    data = Folder(root=str(own), cache_dir=cache, image_size=32)
    data.predict_input = str(tmp_path / "new")
    batch = next(iter(data.predict_dataloader()))
    assert batch["id"] == ["a/y.png", "x.png"]
    assert batch["source"] == [str(tmp_path / "new" / name) for name in ("a/y.png", "x.png")]
    assert batch["image"].shape == (2, 1, 32, 32)
    assert "mask" not in batch
    data = Folder(root=str(own), cache_dir=cache, image_size=32)
    data.predict_input = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no image found"):
        data.predict_dataloader()


def test_prediction_needs_no_training_data_and_takes_its_size(own: Path, tmp_path: Path, cache: str) -> None:
    Image.fromarray(np.dstack([picture(3, 0, 48, True)[0]] * 3)).save(tmp_path / "x.png")
    away = Folder(root=str(tmp_path / "gone"), cache_dir=cache, image_size=24, in_channels=1)
    away.predict_input = str(tmp_path / "x.png")
    away.prepare_data()
    away.setup("predict")
    assert next(iter(away.predict_dataloader()))["image"].shape == (1, 1, 24, 24)
    here = Folder(root=str(own), cache_dir=cache)
    here.predict_input = str(tmp_path / "x.png")
    assert next(iter(here.predict_dataloader()))["image"].shape == (1, 1, 32, 32)
    other = MedMNIST(cache_dir=cache, image_size=40)
    other.predict_input = str(tmp_path / "x.png")
    assert next(iter(other.predict_dataloader()))["image"].shape == (1, 1, 40, 40)


def test_the_same_pixels_in_training_and_test_are_told(own: Path, tmp_path: Path) -> None:
    source = sorted((own / "train" / "normal").iterdir())[0]
    shutil.copy(source, own / "test" / "normal" / "copy.png")
    with pytest.warns(UserWarning, match=r"same pixels: test/normal/copy.png \(test\) and train/normal/0000.png"):
        Folder(root=str(own), cache_dir=str(tmp_path / "c"), seed=1).setup()


def test_near_copies_are_found_and_others_are_not(own: Path, tmp_path: Path) -> None:
    source = sorted((own / "train" / "normal").iterdir())[0]
    pixels = np.asarray(Image.open(source)).astype(float)
    noise = np.random.default_rng(0).normal(0, 3, pixels.shape)
    copy = np.clip(0.9 * pixels + 12 + noise, 0, 255).astype(np.uint8)  # brighter, flatter, noisy
    Image.fromarray(copy).save(own / "test" / "normal" / "copy.png")
    for path in (own / "test" / "normal").iterdir():
        if path.name != "copy.png":
            Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 32), np.uint8)).save(path)
    data = Folder(root=str(own), cache_dir=str(tmp_path / "c"))
    data.setup()
    assert data.store is not None
    found = [str(one) for one in near_copies(data.store, data.records) if "test/normal" in one.test]
    assert len(found) == 1
    assert found[0].startswith("test/normal/copy.png like train/normal/0000.png (0.9")


def test_films_of_different_people_are_no_near_copies(tmp_path: Path) -> None:
    data = CovidX(cache_dir=str(tmp_path / "c"), image_size=64)
    data.setup()
    assert data.store is not None
    small = thumbnails(data.store, np.arange(len(data.store)))
    assert np.quantile(small @ small.T, 0.9) > 0.95  # the plain correlation calls them alike
    assert near_copies(data.store, data.records) == []


def test_near_copies_take_one_line() -> None:
    lines = [f"test/{i} like train/{i} (0.99)" for i in range(9)]
    assert near_copy_notes(lines, 30) == [
        "9 of 30 test images look like a training image; nearest: "
        "test/0 like train/0 (0.99), test/1 like train/1 (0.99), test/2 like train/2 (0.99)"
    ]
    assert near_copy_notes([], 30) == []


def test_thresholded_images_are_refused(tmp_path: Path, write_folder: Any) -> None:
    root = tmp_path / "bw"
    write_folder(root, 16, (6, 2, 2))
    for path in root.rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(path)) > 128).astype(np.uint8) * 255).save(path)
    shutil.rmtree(root / "masks")
    with pytest.raises(UserError, match="only 2 distinct values"):
        Folder(root=str(root), cache_dir=str(tmp_path / "c")).setup()


class _Sized(CovidX):
    """A data set of a user's: its preprocessing asks for the size, and there is no default."""

    image_size = None

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.image_size = None


def test_a_size_that_nobody_gives_is_asked_for(tmp_path: Path) -> None:
    for ask in (_Sized.setup, lambda data: data.image_shape):
        with pytest.raises(UserError, match=r"data\.image_size: _Sized needs it.* give one, for example 128"):
            ask(_Sized(cache_dir=str(tmp_path / "c")))


def test_masks_are_absent_when_anomalies_are_not_outlined(own: Path, tmp_path: Path) -> None:
    shutil.rmtree(own / "masks")
    batch = next(iter(Folder(root=str(own), cache_dir=str(tmp_path / "c")).test_dataloader()))
    assert "mask" not in batch
    assert batch["label"].sum() == 4


def test_phantom_twins_differ_only_around_the_spot() -> None:
    ill, mask = picture(0, 5, 64, True)
    healthy, _ = picture(0, 5, 64, False)
    changed = ill != healthy
    assert changed[mask].mean() > 0.9
    rows, columns = np.nonzero(mask)
    near = np.zeros_like(mask)
    near[max(0, rows.min() - 6) : rows.max() + 7, max(0, columns.min() - 6) : columns.max() + 7] = True
    assert not (changed & ~near).any()
