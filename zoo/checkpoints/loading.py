"""Models from this package's own checkpoints: local files, URLs, Hugging Face and Weights & Biases."""

import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.checkpoints.reading import read_checkpoint
from zoo.errors import UserError
from zoo.registry import load_class

if TYPE_CHECKING:
    from zoo.module import AnomalyModule

_CHUNK = 1 << 20


def load_pretrained(source: str | Path) -> "AnomalyModule":
    """A trained method from a ``.ckpt`` of this package, in evaluation mode on the CPU.

    Networks are built without fetching backbone weights: the checkpoint holds them.

    Args:
        source: local file, ``https://...``, ``hf://owner/repository/file``, or ``wandb://entity/project/artifact:version``.

    Raises:
        UserError: not found, not reachable, unsafe, damaged or not one of ours.
    """
    path = fetch(source)
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint, dict) or "uad_zoo" not in checkpoint:
        raise UserError(f"{source}: not a checkpoint of this package; the original authors' files need `zoo import`")
    from zoo.nn.features import weights_follow

    model = load_class(checkpoint["uad_zoo"]["method"])(**checkpoint["hyper_parameters"])
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
    parts = source.removeprefix("hf://").split("/", 2)
    if len(parts) < 3:
        raise UserError(f"{source}: expected hf://owner/repository/file")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(f"{parts[0]}/{parts[1]}", parts[2]))
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
