"""Models from this package's own checkpoints: local files, URLs, Hugging Face and Weights & Biases."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.checkpoints.reading import read_checkpoint
from zoo.checkpoints.sources import fetch
from zoo.errors import UserError
from zoo.registry import load_class

if TYPE_CHECKING:
    from zoo.module import AnomalyModule


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
