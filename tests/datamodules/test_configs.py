"""Every shipped data configuration names an existing class and arguments that it accepts."""

import importlib
from pathlib import Path

import pytest
import yaml

from datamodules import AnomalyDataModule

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml"))


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
