"""Every shipped data configuration names an existing class and arguments that it accepts."""

import importlib
import json
from pathlib import Path

import pytest
import yaml

from datamodules import AnomalyDataModule
from zoo.cli import main

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml"))
QUICK = ("covidx", "folder")
FITTED = [path.stem if path.stem in QUICK else pytest.param(path.stem, marks=pytest.mark.slow) for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_builds_its_data_module(path: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert list(content) == ["data"]
    package, name = content["data"]["class_path"].rsplit(".", 1)
    data = getattr(importlib.import_module(package), name)(**content["data"]["init_args"], cache_dir=str(tmp_path))
    assert isinstance(data, AnomalyDataModule)
    assert data.phantom
    assert len(data.image_shape) in (3, 4)
    assert data.value_range[0] < data.value_range[1]
    assert data.name


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _fit(name: str, *more: str) -> dict[str, object]:
    """Fit and test a method that needs next to no time, and return what the run wrote down."""
    settings = ["--test_after_fit", "true", "--trainer.accelerator", "cpu", "--data.batch_size", "4"]
    assert main(["fit", "--config", "models/statistical", "--config", f"data/{name}", *settings, *more]) == 0
    newest = max(Path("runs").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    return dict(json.loads((newest / "metrics.json").read_text()))


@pytest.mark.parametrize("name", FITTED)
def test_fits_without_and_with_a_root(name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    small = ["--data.image_size", "[20,28,20]" if name.endswith("_3d") else "32"]
    generated = _fit(name, *small)
    assert generated["phantom"] is True
    content = yaml.safe_load((CONFIGS[0].parent / f"{name}.yaml").read_text())["data"]
    package, kind = content["class_path"].rsplit(".", 1)
    root = getattr(importlib.import_module(package), kind)(**content["init_args"]).folder()
    given = _fit(name, *small, "--data.root", str(root))
    assert given["phantom"] is True  # the marker in the folder says so
    assert given["data_fingerprint"] == generated["data_fingerprint"]
    assert given["metrics"] == generated["metrics"]
