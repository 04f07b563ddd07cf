"""Reading files of weights without running code: tensors and plain values only."""

import argparse
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.sources import max_bytes
from zoo.errors import UserError

# Original code of several papers stores its options in this class; it holds attributes and runs nothing.
_ALLOWED: list[Any] = [argparse.Namespace]
_NESTS = ("state_dict", "model_state_dict", "model")
_MAX_MEMBERS = 100_000
_MAX_DEPTH = 8
_SMALL = 1 << 20
_ARCHIVES = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"7z\xbc\xaf", "7-zip"), (b"Rar!", "RAR"), (b"\xfd7zXZ", "xz"))


def read_checkpoint(path: str | Path) -> Any:
    """Content of a ``torch.save`` or safetensors file; only tensors, containers, numbers and namespaces are accepted.

    Args:
        path: the file; ``.safetensors`` is recognised by its name.

    Raises:
        UserError: missing, too large or broken file, one whose pickle asks for anything else, or one that declares
            tensors larger than what it holds; nothing in it is run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a checkpoint")
    if path.stat().st_size > max_bytes():
        raise UserError(f"{path}: larger than the {max_bytes()} bytes that are read; set UAD_ZOO_MAX_BYTES to allow it")
    _check_container(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _unpickle(path)
    for key, value in flatten(content).items():
        _check_tensor(path, key, value)
    return content


def _unpickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, nothing was run: {_forbidden(str(error))}") from error
    except Exception as error:  # torch reports damage by many types
        raise UserError(
            f"{path}: damaged checkpoint ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error


def flatten(content: Any) -> dict[str, Tensor]:
    """All tensors of nested dictionaries by dotted names, in order; other entries are left out."""
    found: dict[str, Tensor] = {}

    def visit(node: Any, prefix: str, depth: int) -> None:
        for key, value in node.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{key}"] = value
            elif isinstance(value, Mapping) and depth < _MAX_DEPTH:
                visit(value, f"{prefix}{key}.", depth + 1)

    if isinstance(content, Mapping):
        visit(content, "", 0)
    return found


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
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: damaged safetensors file ({' '.join(str(error).split())[:160]})") from error


def _check_tensor(path: Path, key: str, tensor: Tensor) -> None:
    """Refuse tensors without plain values of their own: a few bytes must not stand for terabytes."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise UserError(f"{path}: {key} is a {tensor.layout} tensor on {tensor.device.type}; expected plain values")
    size = tensor.numel() * tensor.element_size()
    if size > max(tensor.untyped_storage().nbytes(), _SMALL):
        raise UserError(
            f"{path}: {key} declares shape {tuple(tensor.shape)}, {size} bytes; the file holds "
            f"{tensor.untyped_storage().nbytes()} of them"
        )


def _check_container(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    if start[:15].lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path}: a web page, not a checkpoint; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the checkpoint; fetch it with `git lfs pull`")
    if path.suffix == ".safetensors":
        return
    for magic, kind in _ARCHIVES:
        if start.startswith(magic):
            raise UserError(f"{path}: a {kind} archive, not a checkpoint; unpack it first")
    if tarfile.is_tarfile(path):
        raise UserError(f"{path}: a tar archive, refused; nothing was unpacked, give the checkpoint in it")
    if start.startswith(b"PK"):
        _check_zip(path)


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            damaged = archive.testzip()  # checks the sums of all members
    except UserError:
        raise
    except Exception as error:  # zipfile reports damage by many types
        raise UserError(f"{path}: truncated or damaged checkpoint ({error}); copy or download it again") from error
    if damaged is not None:
        raise UserError(f"{path}: damaged checkpoint ({damaged} fails its checksum); copy or download it again")
    if not any(member.filename.endswith("data.pkl") for member in members):
        raise UserError(f"{path}: a zip archive without data.pkl, not written by torch.save")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """What torch.save writes: few, plain, uncompressed members below one folder."""
    if len(members) > _MAX_MEMBERS:
        raise UserError(f"{path}: refused: {len(members)} members in its archive")
    for member in members:
        name = member.filename.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or ":" in name:
            raise UserError(f"{path}: refused: its archive has a member '{member.filename}' that leads elsewhere")
    packed, size = path.stat().st_size, sum(member.file_size for member in members)
    if size > 2 * packed + _SMALL:
        raise UserError(f"{path}: refused: {packed} bytes that unpack to {size}")
    if any("/code/" in f"/{member.filename}" for member in members):
        raise UserError(f"{path}: refused: a TorchScript program, not a checkpoint; save its state_dict()")


def _forbidden(message: str) -> str:
    asked = re.search(r"GLOBAL ([\w.]+)", message)
    if asked:  # torch's own text advises to allow it
        return f"asks for {asked.group(1)} (only tensors and plain values are read: save a model's state_dict())"
    for line in message.splitlines():
        if "Unsupported" in line:
            return line.strip()[:200].rstrip(".") + " (only tensors and plain values are read)"
    return "its pickle asks for more than tensors and plain values"
