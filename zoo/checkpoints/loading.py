"""Models from this package's own checkpoints: local files, URLs, Hugging Face and Weights & Biases."""

import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.checkpoints.reading import read_checkpoint
from zoo.errors import UserError
from zoo.registry import load_class

if TYPE_CHECKING:
    from zoo.module import AnomalyModule

_CHUNK = 1 << 20


def load_pretrained(source: str | Path) -> "AnomalyModule":
    """A trained method from a checkpoint of this package, in evaluation mode on the CPU.

    Networks are built without fetching backbone weights: the checkpoint holds them.

    Args:
        source: a ``.ckpt``; a ``.safetensors`` with its ``config.yaml`` beside it; a run's folder or a folder of
            ``zoo push``; ``https://...``; ``hf://owner/repository[/file][@revision]``; or
            ``wandb://entity/project/artifact:version``.

    Raises:
        UserError: not found, not reachable, unsafe, damaged or not one of ours.
    """
    path = fetch(source)
    checkpoint = _with_config(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    if not isinstance(checkpoint, dict) or "uad_zoo" not in checkpoint:
        raise UserError(f"{source}: not a checkpoint of this package; the original authors' files need `zoo import`")
    from zoo.nn.features import weights_follow

    broken = [
        key
        for key, value in checkpoint["state_dict"].items()
        if not isinstance(value, Tensor) or (value.is_floating_point() and not torch.isfinite(value).all())
    ]
    if broken:
        raise UserError(f"{source}: {broken[0]} is no finite tensor ({len(broken)} such entries); the run went wrong")
    try:
        model = load_class(checkpoint["uad_zoo"]["method"])(**checkpoint["hyper_parameters"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{source}: its header or arguments are not those of this version: {error}") from error
    with weights_follow():
        model.configure_model()
    model.on_load_checkpoint(checkpoint)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"{source}: tensors do not fit its own arguments: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model.eval()


def _with_config(path: Path) -> dict[str, Any]:
    """The content of a ``.ckpt`` from a safetensors file and the ``config.yaml`` beside it."""
    import yaml

    config = path.with_name("config.yaml")
    if not config.is_file():
        raise UserError(f"{path}: no config.yaml beside it, which names the method and its arguments")
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"uad_zoo", "hyper_parameters"} <= content.keys():
        raise UserError(f"{config}: expected the keys uad_zoo and hyper_parameters of `zoo export`")
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in content["hyper_parameters"].items()}
    return {"uad_zoo": content["uad_zoo"], "hyper_parameters": arguments, "state_dict": read_checkpoint(path)}


def _in_folder(folder: Path) -> Path:
    """The checkpoint of a run's folder, or of a folder in Hugging Face layout."""
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.ckpt"))
    if len(found) == 1:
        return found[0]
    raise UserError(f"{folder}: no checkpoint there (looked for checkpoints/last.ckpt, model.safetensors, one .ckpt)")


def fetch(source: str | Path) -> Path:
    """Local path of a source, downloaded once into the cache (``$XDG_CACHE_HOME`` or ``~/.cache``, ``uad-zoo``).

    Raises:
        UserError: not found or not reachable.
    """
    text = str(source)
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme in ("http", "https"):
        return _download(text)
    if scheme == "hf":
        return _from_hub(text)
    if scheme == "wandb":
        return _from_wandb(text)
    if scheme:
        raise UserError(f"{text}: unknown source {scheme}://; known: a local path, https://, hf://, wandb://")
    path = Path(source).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    return path


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "uad-zoo" / "checkpoints"


def _download(url: str) -> Path:
    name = Path(urllib.parse.urlparse(url).path).name or "checkpoint.ckpt"
    target = _cache() / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, partial.open("wb") as file:
            expected = response.headers.get("Content-Length")
            while chunk := response.read(_CHUNK):
                file.write(chunk)
        if expected is not None and partial.stat().st_size != int(expected):
            raise UserError(f"{url}: {partial.stat().st_size} of {expected} bytes arrived; try again")
        partial.replace(target)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise UserError(
            f"{url}: could not be fetched ({error}); download it yourself and give the file's path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _from_hub(source: str) -> Path:
    address, _, revision = source.removeprefix("hf://").partition("@")
    parts = address.split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise UserError(f"{source}: expected hf://owner/repository[/file][@revision]")
    from huggingface_hub import hf_hub_download

    repository, version = f"{parts[0]}/{parts[1]}", revision or None
    try:
        if len(parts) == 3:
            return Path(hf_hub_download(repository, parts[2], revision=version))
        hf_hub_download(repository, "config.yaml", revision=version)
        return Path(hf_hub_download(repository, "model.safetensors", revision=version))
    except Exception as error:  # the client raises many types
        raise UserError(
            f"{source}: could not be fetched ({type(error).__name__}); give a local file instead"
        ) from error


def _from_wandb(source: str) -> Path:
    name = source.removeprefix("wandb://")
    if name.count("/") != 2:
        raise UserError(f"{source}: expected wandb://entity/project/artifact:version")
    import wandb

    try:
        folder = Path(wandb.Api().artifact(name).download(str(_cache() / "wandb" / name.replace(":", "-"))))
    except Exception as error:  # the client raises many types
        raise UserError(
            f"{source}: could not be fetched ({type(error).__name__}); give a local file instead"
        ) from error
    found = sorted(folder.rglob("*.ckpt"))
    if len(found) != 1:
        raise UserError(f"{source}: expected one .ckpt in the artifact, found {len(found)}")
    return found[0]
