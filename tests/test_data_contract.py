"""What every data set promises, held against all that the registry finds: a new file is tested without another edit."""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from datamodules import commands, phantoms
from datamodules.base import AnomalyDataModule
from datamodules.brain import find_volumes
from datamodules.listing import list_files
from datamodules.phantoms.storage import Settings
from datamodules.registry import PHANTOM_PRESETS, DataSet, cards, data_module, data_sets
from zoo.foreground import foreground_of, settle_rule

ROOT = Path(__file__).parents[1]
NAMES = tuple(data_sets())
SERVED = tuple(name for name, entry in data_sets().items() if entry.group != "auxiliary")
MODULES = tuple(name for name, entry in data_sets().items() if entry.class_name)
SOURCES = tuple(name for name in SERVED if name not in MODULES)
SIZE = 32


def _one_a_writer() -> list[Any]:
    """All that are served; of sources of one layout the first by default, the others among the slow tests."""
    firsts = {entry.phantom: name for name, entry in reversed(data_sets().items())}
    usual = {name for name in SERVED if name in MODULES or firsts[data_sets()[name].phantom] == name}
    return [name if name in usual else pytest.param(name, marks=pytest.mark.slow) for name in SERVED]


LAYOUTS = _one_a_writer()

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # phantoms of few subjects have few to hold out


class House:
    """Phantoms and opened data sets, each made once a session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, AnomalyDataModule] = {}

    def root(self, name: str) -> Path:
        """The smoke phantom."""
        root = self.folder / name
        phantoms.write(name, root)
        return root

    def options(self, name: str) -> dict[str, Any]:
        """Places of the data set; a source gets a small partner."""
        entry = data_sets()[name]
        if entry.class_name:
            return {"root": str(self.root(name))}
        pair = data_module(name)
        places: dict[str, Any] = {}
        for part in ("train", "test"):
            source = getattr(pair, part)
            places[f"{part}_root"] = str(self.root(source) if source == name else self.partner(source))
        return places

    def partner(self, name: str) -> Path:
        """The first subjects of a source alone, so that pairs are read fast."""
        whole, part = self.root(name), self.folder / f"{name}-part"
        if not part.is_dir():
            subjects = sorted(path for path in whole.iterdir() if path.is_dir() and not path.name.startswith("_"))
            for subject in subjects[:2]:
                shutil.copytree(subject, part / subject.name)
            shutil.copy(whole / phantoms.MARKER, part)
        return part

    def open(self, name: str) -> AnomalyDataModule:
        """The data set with its root."""
        if name not in self._open:
            self._open[name] = data_module(
                name, image_size=SIZE, cache_dir=str(self.folder / "c"), **self.options(name)
            )
            self._open[name].setup()
        return self._open[name]


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="session")
def other_process() -> Iterator[ProcessPoolExecutor]:
    """A spawned process, as loader workers are where forking is not the default."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def batch_of(data: AnomalyDataModule, split: str) -> dict[str, Any]:
    images = data.dataset(split)
    return images.__getitems__(range(len(images)))


# ---- cards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", cards().values(), ids=lambda entry: entry.name)
def test_the_card_is_complete(entry: DataSet) -> None:
    for key in ("title", "access", "licence", "layout", "subject", "summary"):
        assert getattr(entry, key), key
    assert entry.images in ("pictures", "slices or volumes", "volumes")
    assert entry.value_range[0] < entry.value_range[1]
    assert all(count > 0 for count in entry.official.values())
    assert set(entry.phantom_options) <= {"layout", "source_shift", "jpeg2000"}
    if entry.group != "auxiliary":
        assert entry.leaks or entry.protocol, "say how figures are made comparable, or what makes them doubtful"
        config = yaml.safe_load((ROOT / "configs" / f"{entry.config}.yaml").read_text())
        assert config["data"]["class_path"].startswith("datamodules.")
    if entry.phantom:
        writer = import_module(f"datamodules.phantoms.{entry.phantom}")
        assert all(callable(getattr(writer, part)) for part in ("jobs", "render", "finish"))
        for preset in PHANTOM_PRESETS:
            assert writer.jobs(Settings(entry.name, preset, 0, 1.0, False, "official"))


def test_more_than_the_known_entries_stand_in_sources_only() -> None:
    assert not {name: entry.more for name, entry in cards().items() if entry.class_name and entry.more}


# ---- what is served -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_are_what_the_card_says(name: str, house: House) -> None:
    data = house.open(name)
    card = type(data).card
    assert data.phantom
    assert data.channels in card["channels"]
    assert data.value_range == card["value_range"]
    assert data.foreground_rule == card["foreground"]
    for split in ("train", "val", "test"):
        batch = batch_of(data, split)
        image, foreground = batch["image"].numpy(), batch["foreground"].numpy()
        assert image.dtype == np.float32
        assert image.shape[1:] == data.image_shape
        assert foreground.shape == (len(image), 1, *data.spatial_size)
        assert image.min() >= data.value_range[0]
        assert image.max() <= data.value_range[1]
        assert np.ptp(image) > 0.3 * np.ptp(data.value_range)
        rule = settle_rule(data.foreground_rule, data.value_range)
        derived = foreground_of(batch["image"], rule).numpy()
        assert (derived & foreground).sum() / (derived | foreground).sum() > 0.9  # borders of tiny images


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_subjects_labels_masks_and_spacing(name: str, house: House) -> None:
    data = house.open(name)
    batches = {split: batch_of(data, split) for split in ("train", "val", "test")}
    ids = [one for batch in batches.values() for one in batch["id"]]
    assert len(set(ids)) == len(ids)
    for split, batch in batches.items():
        assert len(batch["id"]) == len(batch["subject"]) == len(batch["image"])
        assert all(isinstance(subject, str) for subject in batch["subject"])
        if split != "test":
            assert not batch["label"].any()
        if "spacing" in batch:
            assert batch["spacing"].shape == (len(batch["id"]), len(data.spatial_size))
            assert (batch["spacing"] > 0).all()
        if "mask" in batch:
            assert (batch["mask"].flatten(1).any(1) == batch["label"].bool()).all()
    assert set(batches["test"]["label"].tolist()) == {0, 1}
    if name in SOURCES:
        assert all("spacing" in batch and all(batch["subject"]) for batch in batches.values())
        known = {split: set(batch["subject"]) for split, batch in batches.items()}
        assert not known["train"] & known["val"]
        assert not (known["train"] | known["val"]) & known["test"]


@pytest.mark.parametrize(
    "name", [*MODULES, *(pytest.param(name, marks=pytest.mark.slow) for name in SOURCES), "brain pair"]
)
def test_without_a_root_the_same_images_come_from_the_generated_phantom(
    name: str, house: House, tmp_path: Path
) -> None:
    name = SOURCES[0] if name == "brain pair" else name
    generated = data_module(name, image_size=SIZE, cache_dir=str(tmp_path))
    assert generated.phantom
    assert generated.root is None
    given = data_module(
        name, image_size=SIZE, cache_dir=str(tmp_path), root=str(generated.folder()), bad_files="lenient"
    )
    assert given.phantom
    assert given.fingerprint() == generated.fingerprint()
    assert given.rejected == []
    test, same = batch_of(generated, "test"), batch_of(given, "test")
    assert test["id"] == same["id"]
    assert (test["image"] == same["image"]).all()


# ---- files ----------------------------------------------------------------------------------------------------------


def _check(name: str, root: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = commands.main(["check", name, "--root", str(root), "--json", "--cache_dir", str(cache)])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", NAMES)
def test_the_check_passes_and_names_a_damaged_file(
    name: str, house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = house.root(name)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    code, report = _check(name, root, tmp_path, capsys)
    assert (code, report["errors"], report["phantom"]) == (0, [], True)
    assert sum(report["counts"].values()) > 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    damaged = tmp_path / "damaged"
    shutil.copytree(root, damaged)
    victim = _read_file(name, damaged, house)
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 3])
    code, report = _check(name, damaged, tmp_path, capsys)
    assert code == 1
    assert any(str(victim) in line for line in report["errors"])


def _read_file(name: str, root: Path, house: House) -> Path:
    """A file of the folder that the data set reads."""
    if name not in SERVED:
        return list_files(root)[0]
    if name in SOURCES:
        sequence = (data_sets()[name].more["sequences"] or ("t1",))[0]
        return Path(next(iter(find_volumes(root, name, sequence, []))).image)
    return root / Path(house.open(name).records[0].image).relative_to(house.root(name))


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_process_opens_the_cache_at_the_same_time(
    name: str, house: House, other_process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    """Both build or wait; and images opened here are read there, as workers of a loader do."""
    entry = data_sets()[name]
    if entry.class_name:
        elsewhere = other_process.submit(commands.examine, entry, house.root(name), {"cache_dir": str(tmp_path)})
        assert commands.examine(entry, house.root(name), {"cache_dir": str(tmp_path)}) == elsewhere.result(120)
    images = house.open(name).dataset("test")
    read: Callable[..., Any] = type(images).__getitems__
    there = other_process.submit(read, images, [0, 1]).result(120)
    assert (there["image"] == read(images, [0, 1])["image"]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        (name, option, value)
        for name, entry in data_sets().items()
        for option, values in entry.phantom_options.items()
        for value in values
        if value != "*"
    ],
)
def test_options_of_the_phantom(
    name: str, option: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phantoms.write(name, tmp_path / "p", **{option: value})
    code, report = _check(name, tmp_path / "p", tmp_path, capsys)
    assert (code, report["errors"]) == (0, [])
