"""Data sets: read once, cached, split, served as :class:`~datamodules.base.Sample` batches. Loaded on first use."""

import importlib
from typing import Any

from datamodules.registry import class_names


def __getattr__(name: str) -> Any:
    file = "base" if name in ("AnomalyDataModule", "Sample") else class_names().get(name)
    if file is None:
        raise AttributeError(f"module 'datamodules' has no attribute '{name}'")
    return getattr(importlib.import_module(f"datamodules.{file}"), name)


def __dir__() -> list[str]:
    return sorted(["AnomalyDataModule", "Sample", *class_names()])
