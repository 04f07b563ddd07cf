"""Reading files of weights without running code: tensors and plain values only."""

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError

# Original code of several papers stores its options in this class; it holds attributes and runs nothing.
_ALLOWED: list[Any] = [argparse.Namespace]
_NESTS = ("state_dict", "model_state_dict", "model")


def read_checkpoint(path: str | Path) -> Any:
    """Content of a ``torch.save`` or safetensors file; only tensors, containers, numbers and namespaces are accepted.

    Args:
        path: the file; ``.safetensors`` is recognised by its name.

    Raises:
        UserError: missing or broken file, or one whose pickle asks for anything else; nothing in it is run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a checkpoint")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    _check_container(path)
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, nothing was run: {_forbidden(str(error))}") from error
    except Exception as error:  # torch reports damage by many types
        raise UserError(
            f"{path}: damaged checkpoint ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, at its top level or below ``state_dict``, ``model_state_dict`` or ``model``.

    Raises:
        UserError: as :func:`read_checkpoint`, or no tensors by name in the file.
    """
    content = read_checkpoint(path)
    tensors = state_dict_of(content)
    if not tensors:
        found = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: expected a state dict (tensors by name), found {found}")
    return tensors


def state_dict_of(content: Any) -> dict[str, Tensor]:
    """Tensors by name in a checkpoint's content, also one level down; empty where there are none."""
    if not isinstance(content, dict):
        return {}
    for key in _NESTS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged safetensors file ({error})") from error


def _check_container(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    if start[:15].lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path}: a web page, not a checkpoint; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the checkpoint; fetch it with `git lfs pull`")
    if not start.startswith(b"PK"):
        return  # torch's older format, a bare pickle
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()  # checks the sums of all members
    except Exception as error:  # zipfile reports damage by many types
        raise UserError(f"{path}: truncated or damaged checkpoint ({error}); copy or download it again") from error
    if damaged is not None:
        raise UserError(f"{path}: damaged checkpoint ({damaged} fails its checksum); copy or download it again")
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{path}: a zip archive without data.pkl, not written by torch.save")


def _forbidden(message: str) -> str:
    for line in message.splitlines():
        if "GLOBAL" in line or "Unsupported" in line:
            return line.strip().rstrip(".") + " (only tensors and plain values are read)"
    return "its pickle asks for more than tensors and plain values"
