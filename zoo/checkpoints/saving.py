"""Writing models: this package's ``.ckpt``, and safetensors with ``config.yaml``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from lightning.pytorch.plugins.io import TorchCheckpointIO

from zoo.checkpoints.marks import read_marks
from zoo.checkpoints.reading import read_checkpoint
from zoo.checkpoints.sources import file_digest
from zoo.files import made, whole, write_text

if TYPE_CHECKING:
    from zoo.module import AnomalyModule


def save_checkpoint(model: "AnomalyModule", path: Path) -> None:
    """Write a ``.ckpt`` that :func:`zoo.load_pretrained` and ``lightning test --ckpt_path`` read.

    Args:
        model: built.
        path: new file.
    """
    from importlib.metadata import version

    checkpoint: dict[str, Any] = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": version("lightning"),
        "epoch": 0,
        "global_step": 0,
    }
    model.on_save_checkpoint(checkpoint)
    with whole(path) as partial, partial.open("wb") as stream:
        torch.save(checkpoint, stream)


def attach_calibration(path: Path, calibration: Mapping[str, Any]) -> None:
    """Put a calibration into a checkpoint of this package; all else in the file stays.

    Args:
        path: ``.ckpt``, read without running anything and written anew.
        calibration: :meth:`zoo.decision.calibration.Calibration.plain`.
    """
    _attach(path, read_checkpoint(path), {"calibration": dict(calibration)})


def attach_result(path: Path, result: Mapping[str, Any]) -> None:
    """Put a test's result into a checkpoint of this package; all else in the file stays.

    Args:
        path: ``.ckpt``, read without running anything and written anew.
        result: :func:`zoo.checkpoints.marks.result_of`.
    """
    content = read_checkpoint(path)
    marks = read_marks(content["uad_zoo"], str(path))
    _attach(path, content, {"marks": marks.tested(result).plain()})


def _attach(path: Path, content: dict[str, Any], entries: Mapping[str, Any]) -> None:
    content["uad_zoo"] |= entries
    with whole(path) as partial, partial.open("wb") as stream:
        torch.save(content, stream)


class WholeFileIO(TorchCheckpointIO):
    """Lightning's way to write checkpoints, but beside their place instead of through the temporary folder.

    A local file is whole or absent, and a failure names it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; see there."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole(Path(path)) as partial, partial.open("wb") as stream:
            torch.save(checkpoint, stream)


def save_safetensors(model: "AnomalyModule", folder: Path) -> None:
    """Write ``model.safetensors`` and ``config.yaml`` (method, arguments and the weights' SHA-256) into a folder.

    Args:
        model: built.
        folder: made if missing.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    header: dict[str, Any] = {"hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(header)
    if "calibration" in header["uad_zoo"]:  # one long line: YAML is slow at many numbers
        header["uad_zoo"]["calibration"] = json.dumps(header["uad_zoo"]["calibration"])
    content = {"uad_zoo": _plain(header["uad_zoo"]), "hyper_parameters": _plain(header["hyper_parameters"])}
    with made(folder):
        with whole(folder / "model.safetensors") as partial:
            save_file(tensors, partial)
        content["sha256"] = file_digest(folder / "model.safetensors")
        write_text(folder / "config.yaml", yaml.safe_dump(content, sort_keys=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value
