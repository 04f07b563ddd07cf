"""Data sets: read once, cached, split, served as :class:`~datamodules.base.Sample` batches. Loaded on first use."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.base import AnomalyDataModule, Sample
    from datamodules.brain_mri import BrainMRI
    from datamodules.covidx import CovidX
    from datamodules.folder import Folder
    from datamodules.hyper_kvasir import HyperKvasir
    from datamodules.medmnist import MedMNIST
    from datamodules.vindr_cxr import VinDrCXR

__all__ = [
    "AnomalyDataModule",
    "BrainMRI",
    "CovidX",
    "Folder",
    "HyperKvasir",
    "MedMNIST",
    "Sample",
    "VinDrCXR",
]

FILES = {
    "AnomalyDataModule": "base",
    "Sample": "base",
    "BrainMRI": "brain_mri",
    "CovidX": "covidx",
    "Folder": "folder",
    "HyperKvasir": "hyper_kvasir",
    "MedMNIST": "medmnist",
    "VinDrCXR": "vindr_cxr",
}


def __getattr__(name: str) -> Any:
    if name not in FILES:
        raise AttributeError(f"module 'datamodules' has no attribute '{name}'")
    return getattr(importlib.import_module(f"datamodules.{FILES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
