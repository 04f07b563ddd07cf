"""Models from this package's own checkpoints: local files, URLs, Hugging Face and Weights & Biases."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.checkpoints import CHECKPOINT_FORMAT
from zoo.checkpoints.bounds import bounded, check_image_size
from zoo.checkpoints.marks import Marks, read_marks
from zoo.checkpoints.reading import read_checkpoint
from zoo.checkpoints.sources import fetch, file_digest
from zoo.configs import read_yaml
from zoo.decision.calibration import parsed
from zoo.errors import UserError
from zoo.registry import is_outside, load_class

if TYPE_CHECKING:
    from zoo.module import AnomalyModule


def load_pretrained(source: str | Path, *, trust: bool = False) -> "AnomalyModule":
    """A trained method from a checkpoint of this package, in evaluation mode on the CPU.

    Networks are built without fetching backbone weights: the checkpoint holds them.

    Args:
        source: a ``.ckpt``; a ``.safetensors`` with its ``config.yaml`` beside it; a run's folder or a folder of
            ``zoo push``; ``https://...[#sha256=HEX]``; ``hf://owner/repository[/file][@revision]``; or
            ``wandb://entity/project/artifact[:version]``.
        trust: import the module that the file names, if its method is a class outside of this package; without it such
            a file loads only where that module has been imported already.

    Returns:
        The method; ``marks`` and ``calibration`` say where its weights come from and what healthy cases scored.

    Raises:
        UserError: not found, not reachable, unsafe, damaged, of a later format or not one of ours.
    """
    path = fetch(source)
    checkpoint = _read(source, path)
    header, tensors = _header(source, checkpoint), _tensors(source, checkpoint)
    arguments = _arguments(source, checkpoint)
    from zoo.nn.features import weights_follow

    with bounded(str(source), path.stat().st_size), weights_follow():
        cls = class_of(source, header, trust=trust)
        try:
            model = cls.from_hparams({**cls.before, **arguments})
        except TypeError as error:
            raise UserError(f"{source}: {_advice(header)}: {str(error).rpartition('__init__() ')[2]}") from error
        model.configure_model()
        model.on_load_checkpoint(checkpoint)
    _check_kinds(source, model, tensors)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:300]
        raise UserError(f"{source}: tensors do not fit its own arguments ({_advice(header)}): {reason}") from error
    return model.eval()


def class_of(source: str | Path, header: Mapping[str, Any], *, trust: bool = False) -> "type[AnomalyModule]":
    """The class that a checkpoint's header names.

    Args:
        source: named in errors.
        header: the entry ``uad_zoo``.
        trust: see :func:`load_pretrained`.

    Raises:
        UserError: a class outside of this package without trust, one that is not to be found, or no method.
    """
    name = header.get("method")
    if not isinstance(name, str):
        raise UserError(f"{source}: damaged: its entry uad_zoo names no method")
    if is_outside(name) and not trust and name.rpartition(".")[0] not in sys.modules:
        raise UserError(
            f"{source}: holds a {name}, a class outside of this package: import its module first, or let it be "
            "imported, which runs its code (--trust; in Python trust=True)"
        )
    cls = load_class(name)
    if not (isinstance(cls, type) and hasattr(cls, "from_hparams")):
        raise UserError(f"{source}: {name} is no method (no AnomalyModule)")
    return cls


def read_weights(source: str | Path) -> tuple[dict[str, Tensor], Marks]:
    """The tensors of a checkpoint of this package by name, and where they come from.

    Args:
        source: as for :func:`load_pretrained`.

    Raises:
        UserError: as :func:`load_pretrained`.
    """
    checkpoint = read_content(source)
    header = _header(source, checkpoint)
    return _tensors(source, checkpoint), read_marks(header, str(source))


def same_backbone(source: str | Path, method: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a source is a checkpoint of this method around the same backbone, and so holds the backbone's weights.

    Args:
        source: any; False for files of other packages.
        method: class name.
        arguments: of the class.
    """
    try:
        checkpoint = read_content(source)
    except UserError:
        return False
    found = _arguments(source, checkpoint).get("backbone")
    return bool(_header(source, checkpoint)["method"] == method and found == arguments.get("backbone"))


def read_header(source: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The package's own entry of a checkpoint, and the arguments of its method.

    Raises:
        UserError: as :func:`load_pretrained`.
    """
    checkpoint = read_content(source)
    return _header(source, checkpoint), _arguments(source, checkpoint)


def read_content(source: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of this package, in whatever form it was written.

    Args:
        source: as for :func:`load_pretrained`.

    Returns:
        The dictionary of a ``.ckpt``: ``uad_zoo``, ``hyper_parameters``, ``state_dict``, and what else the file holds.

    Raises:
        UserError: as :func:`load_pretrained`.
    """
    return _read(source, fetch(source))


def lightning_file(source: str | Path, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """A file that Lightning's ``ckpt_path`` takes, the source itself or a new ``.ckpt``, and its content.

    Args:
        source: as for :func:`load_pretrained`.
        scratch: folder for the new file.

    Raises:
        UserError: as :func:`load_pretrained`.
    """
    from importlib.metadata import version

    path = fetch(source)
    content = _read(source, path)
    if "pytorch-lightning_version" in content:
        return path, content
    content = {"pytorch-lightning_version": version("lightning"), "epoch": 0, "global_step": 0, **content}
    torch.save(content, scratch / "model.ckpt")
    return scratch / "model.ckpt", content


def _read(source: str | Path, path: Path) -> dict[str, Any]:
    checkpoint = _with_config(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    if not isinstance(checkpoint, dict) or "uad_zoo" not in checkpoint:
        raise UserError(f"{source}: not a checkpoint of this package; the original authors' files need `zoo import`")
    return checkpoint


def _header(source: str | Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The package's own entry; its format version is looked at before anything else of the file."""
    from zoo import __version__

    header: dict[str, Any] = checkpoint["uad_zoo"]
    number = header.get("format") if isinstance(header, dict) else None
    if type(number) is not int or number < 1:
        raise UserError(f"{source}: damaged: its entry uad_zoo has no format version")
    header.setdefault("version", "unknown")
    if number > CHECKPOINT_FORMAT:
        raise UserError(
            f"{source}: has checkpoint format {number}, written by uad-zoo {header['version']}; this uad-zoo "
            f"{__version__} reads up to {CHECKPOINT_FORMAT}: update it (pip install --upgrade uad-zoo)"
        )
    if not isinstance(header.get("method"), str) or not isinstance(header.setdefault("seed", None), int | None):
        raise UserError(f"{source}: damaged: its entry uad_zoo names no method")
    return header


def _advice(header: Mapping[str, Any]) -> str:
    from zoo import __version__

    return (
        f"written by uad-zoo {header['version']}, this is {__version__}; {header['method']} has changed since: load it "
        f"with that version, or train it again"
        if header["version"] != __version__
        else f"its arguments are not those of {header['method']}"
    )


def _tensors(source: str | Path, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    found = checkpoint.get("state_dict")
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{source}: damaged: expected a state_dict of tensors by name")
    broken = [
        key
        for key, value in found.items()
        if not isinstance(value, Tensor) or (value.is_floating_point() and not torch.isfinite(value).all())
    ]
    if broken:
        raise UserError(f"{source}: {broken[0]} is no finite tensor ({len(broken)} such entries); the run went wrong")
    return dict(found)


def _arguments(source: str | Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the method's class: plain values by name."""
    found = checkpoint.get("hyper_parameters")
    if not isinstance(found, Mapping) or not all(isinstance(key, str) and _plain(found[key]) for key in found):
        raise UserError(f"{source}: damaged: expected hyper_parameters of plain values by name")
    check_image_size(str(source), found.get("image_size"))
    return dict(found)


def _plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, tuple | list):
        return depth < 4 and all(_plain(entry, depth + 1) for entry in value)
    return value is None or isinstance(value, str | int | float | bool)


def _check_kinds(source: str | Path, model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loading would convert silently: numbers that count, switch or weigh must stay what they are."""
    for key, own in model.state_dict().items():
        value = tensors.get(key)
        if value is None or not own.numel():
            continue
        if value.is_floating_point() != own.is_floating_point() or value.is_complex() or value.dtype.itemsize < 1:
            raise UserError(f"{source}: {key} is {value.dtype}, the model needs {own.dtype}")


def _with_config(path: Path) -> dict[str, Any]:
    """The content of a ``.ckpt`` from a safetensors file and the ``config.yaml`` beside it."""
    config = path.with_name("config.yaml")
    if not config.is_file():
        raise UserError(f"{path}: no config.yaml beside it, which names the method and its arguments")
    content = read_yaml(config)
    if not isinstance(content, dict) or not {"uad_zoo", "hyper_parameters"} <= content.keys():
        raise UserError(f"{config}: expected the keys uad_zoo and hyper_parameters of `zoo export`")
    expected = content.get("sha256")
    if expected is not None and file_digest(path) != expected:
        raise UserError(f"{path}: damaged: its SHA-256 is not the one in {config.name}; copy or download it again")
    arguments = content["hyper_parameters"]
    if isinstance(arguments, dict):
        arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    header = content["uad_zoo"]
    if isinstance(header, dict) and isinstance(header.get("calibration"), str):
        header["calibration"] = parsed(header["calibration"], str(config)).plain()
    return {"uad_zoo": header, "hyper_parameters": arguments, "state_dict": read_checkpoint(path)}
