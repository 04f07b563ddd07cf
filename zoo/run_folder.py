"""The folder of a run: where it is, what is in it, and what ``metrics.json`` says besides the metrics."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import zoo
from zoo.errors import UserError
from zoo.registry import nearest

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from zoo.module import AnomalyModule


class Run(NamedTuple):
    """What a finished or interrupted run left.

    Attributes:
        folder: the run's folder.
        config: its ``config.yaml``.
        checkpoint: ``best.ckpt`` or ``last.ckpt``, None if the run was stopped before the first one.
        resume: ``last.ckpt`` or None.
    """

    folder: Path
    config: Path
    checkpoint: Path | None
    resume: Path | None


def open_run(folder: Path) -> Run:
    """The run in ``folder``.

    Raises:
        UserError: no run there; the message lists the nearest names.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        siblings = [path.parent.name for path in folder.parent.glob("*/config.yaml")]
        close = nearest(folder.name, siblings) or sorted(siblings)[-3:]
        hint = f"; runs in {folder.parent}: {', '.join(close)}" if close else "; `lightning fit` makes one"
        raise UserError(f"--run {folder}: no config.yaml there{hint}")
    if (folder / "model.safetensors").is_file():
        raise UserError(
            f"--run {folder}: a model without its run (zoo push or export wrote it); use --ckpt_path {folder}"
        )
    last, best = folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "best.ckpt"
    resume = last if last.is_file() else None
    return Run(folder, config, best if best.is_file() else resume, resume)


def new_folder(parent: Path, name: str) -> Path:
    """Make ``parent/name-001``, or the next number that is free.

    Raises:
        UserError: ``parent`` cannot be written.
    """
    number = 1 + max((_number(path, name) for path in parent.glob(f"{name}-*")), default=0)
    while True:
        folder = parent / f"{name}-{number:03d}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not parent.is_dir():
                raise UserError(f"{parent} is a file; runs need a folder (trainer.default_root_dir)") from None
            number += 1
        except OSError as error:
            raise UserError(
                f"cannot create {folder}: {error.strerror}; give a writable folder with --trainer.default_root_dir"
            ) from error


def _number(path: Path, name: str) -> int:
    digits = path.name.removeprefix(f"{name}-")
    return int(digits) if digits.isdigit() else 0


def provenance(model: "AnomalyModule", trainer: "Trainer", config: str, seed: int) -> dict[str, Any]:
    """What ``metrics.json`` holds besides metrics and speed.

    Args:
        model: the method, built.
        trainer: with its DataModule.
        config: text of the run's ``config.yaml``.
        seed: of the run.

    Returns:
        dict: method, dataset, seed, phantom, semi_supervised, remarks, parameters, device, versions, config_sha256,
        data_fingerprint.
    """
    import torch

    from zoo.sample import data_of

    data = data_of(trainer)
    return {
        "method": model.method().name,
        "dataset": getattr(data, "name", type(data).__name__),
        "seed": seed,
        "phantom": bool(getattr(data, "phantom", False)),
        "semi_supervised": bool(getattr(data, "unlabeled", False)),
        "remarks": list(model.remarks),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": device_name(model),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "uad-zoo": zoo.__version__,
            **{name: version(name) for name in ("torch", "lightning", "timm")},
        },
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        "data_fingerprint": data.fingerprint() if data is not None and hasattr(data, "fingerprint") else None,
    }


def device_name(model: "AnomalyModule") -> str:
    """Name of the device that the model is on."""
    import torch

    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return platform.processor() or platform.machine()
