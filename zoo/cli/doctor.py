"""``zoo doctor``: what this machine has, and the mend for each gap."""

import argparse
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import zoo

# purpose and modules of the optional parts, by the extra that brings them
EXTRAS = {
    "dicom": ("DICOM results and compressed DICOM files", ("highdicom", "libjpeg", "openjpeg", "rle")),
    "volumes": ("volumes as .mha, .mhd, .nrrd", ("SimpleITK",)),
    "export": ("ONNX", ("onnx", "onnxscript")),
    "faiss": ("faster nearest neighbours", ("faiss",)),
    "phantoms": ("brain phantoms from an atlas", ("nilearn",)),
    "ray": ("benchmarks on several machines", ("ray",)),
    "tensorboard": ("TensorBoard", ("tensorboard",)),
    "mlflow": ("MLflow", ("mlflow",)),
}
_COMPROMISED = ("2.6.2", "2.6.3")  # releases of lightning
_LITTLE = 5 << 30


class Finding(NamedTuple):
    """One line.

    Attributes:
        name: of what was looked at.
        told: what was found.
        mend: what to do about a gap; empty where all is well.
        needed: nothing works before it is mended.
    """

    name: str
    told: str
    mend: str = ""
    needed: bool = False

    def __str__(self) -> str:
        mark = "ok" if not self.mend else "GAP" if self.needed else "--"
        return f"{mark:3s} {self.name:10s} {self.told}" + (f"; {self.mend}" if self.mend else "")


def main(argv: list[str]) -> int:
    """Look and tell.

    Args:
        argv: arguments after ``zoo doctor``.

    Returns:
        int: 1 where something is needed, else 0.
    """
    argparse.ArgumentParser(
        prog="zoo doctor", description="What this machine has, and the mend for each gap."
    ).parse_args(argv)
    found = list(findings())
    print("\n".join(map(str, found)))
    return int(any(one.needed for one in found))


def findings() -> Iterator[Finding]:
    """One finding after another."""
    yield _program()
    yield _packages()
    yield _gpu()
    yield _cpu()
    yield _disk()
    yield _cache()
    yield _optional()
    yield _backbones()
    yield _hub()
    yield _wandb()


def _program() -> Finding:
    where = f"uad-zoo {zoo.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Finding("program", where)


def _packages() -> Finding:
    names = ("torch", "lightning", "timm", "torchmetrics", "numpy", "scipy")
    known = {name: _version(name) for name in names}
    told = ", ".join(f"{name} {number or 'missing'}" for name, number in known.items())
    missing = [name for name, number in known.items() if number is None]
    if missing:
        return Finding("packages", told, f"pip install {' '.join(missing)}", True)
    if known["lightning"] in _COMPROMISED:
        return Finding(
            "packages", told, "this lightning is a compromised release: pip install --upgrade lightning", True
        )
    return Finding("packages", told)


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        told = ", ".join(f"{card.name} {card.total_memory >> 30} GiB" for card in cards)
        return Finding("GPU", f"{told}; CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        return Finding("GPU", "Apple's, by MPS")
    if shutil.which("nvidia-smi"):
        return Finding("GPU", "there, but this torch cannot use it", "install torch's CUDA build (pytorch.org)")
    return Finding("GPU", "none: training runs on the CPU; models/NAME_small are sized for it")


def _cpu() -> Finding:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    told = f"{cores} cores, {threads} threads of torch"
    return Finding("CPU", told, "OMP_NUM_THREADS asks for more threads than cores" if threads > cores else "")


def _disk() -> Finding:
    from zoo.checkpoints.sources import cache_folder

    free = {place: shutil.disk_usage(_existing(place)).free for place in (Path.cwd(), cache_folder())}
    told = ", ".join(f"{room >> 30} GiB free for {place}" for place, room in free.items())
    few = min(free.values()) < _LITTLE
    return Finding("disk", told, "--data.cache_dir and --trainer.default_root_dir lead elsewhere" if few else "")


def _cache() -> Finding:
    from zoo.checkpoints.sources import cache_folder

    folder = cache_folder()
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    told = f"{folder}, {used / (1 << 20):.0f} MiB"
    if not os.access(_existing(folder), os.W_OK):
        return Finding("cache", told, "cannot be written: XDG_CACHE_HOME=FOLDER before the command", True)
    return Finding("cache", told)


def _optional() -> Finding:
    missing = [extra for extra, (_, modules) in EXTRAS.items() if not all(map(_is_there, modules))]
    there = [extra for extra in EXTRAS if extra not in missing]
    told = f"there: {', '.join(there) or 'none'}"
    if not missing:
        return Finding("optional", told)
    purposes = ", ".join(f"{extra} ({EXTRAS[extra][0]})" for extra in missing)
    return Finding("optional", f"{told}; missing: {purposes}", f"pip install 'uad-zoo[{','.join(missing)}]'")


def _backbones() -> Finding:
    from zoo.nn.backbone_weights import local_weights
    from zoo.registry import arguments, load_class, methods

    wanted: dict[str, list[str]] = {}
    for name in methods():
        known = arguments(load_class(name))
        if isinstance(known.get("backbone"), str) and known.get("weights") == "imagenet":
            wanted.setdefault(known["backbone"], []).append(name)
    wanted.setdefault("tf_efficientnet_lite0", [])
    there = [name for name in wanted if local_weights(name) is not None]
    missing = [f"{name} ({', '.join(wanted[name][:3])})" for name in wanted if name not in there and wanted[name]]
    told = f"ImageNet weights here: {', '.join(there) or 'none'}"
    if not missing:
        return Finding("backbones", told)
    mend = "fetched at the first use where the hub answers; without network: docs/checkpoints.md, Backbones"
    return Finding("backbones", f"{told}; not here: {', '.join(missing)}", mend)


def _hub() -> Finding:
    from huggingface_hub import constants

    from zoo.checkpoints.sources import reachable

    if reachable(constants.ENDPOINT):
        return Finding("hub", f"{constants.ENDPOINT} answers")
    return Finding("hub", f"{constants.ENDPOINT} does not answer", "HF_ENDPOINT names a mirror; local files work")


def _wandb() -> Finding:
    home = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    known = "WANDB_API_KEY" in os.environ or (home.is_file() and "wandb" in home.read_text(errors="replace"))
    if known:
        return Finding("W&B", "logged in")
    return Finding("W&B", "not logged in: --config trainer/wandb logs offline")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())
