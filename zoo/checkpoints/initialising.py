"""Starting a new fit from the weights of another model: what ``--init_from`` does."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.checkpoints.loading import read_weights
from zoo.checkpoints.marks import Marks, of_import
from zoo.checkpoints.reading import read_checkpoint
from zoo.checkpoints.sources import fetch
from zoo.checkpoints.transfer import TransferReport, transfer
from zoo.errors import UserError
from zoo.registry import arguments

if TYPE_CHECKING:
    from zoo.module import AnomalyModule


def initialise(model: "AnomalyModule", source: str | Path, strict: bool = False) -> TransferReport:
    """Fill a built model with weights; what was fitted on other data (statistics, memory banks) stays as it is.

    Args:
        model: built, to be filled in place.
        source: any checkpoint of this package that :func:`zoo.load_pretrained` takes, of this method or another one,
            or a file of the original authors that the method imports.
        strict: refuse a source that lacks a weight of the model or has others; else the parts fit whose names and
            shapes agree.

    Returns:
        What was filled, what is new in the model and what was left out of the file.

    Raises:
        UserError: not a readable source, nothing of it fits, or with ``strict`` anything is missing or left over.
    """
    tensors, marks = _weights(model, source)
    fitted = {name for name, _ in model.own_buffers()}
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in fitted}
    offered = {name: tensor for name, tensor in tensors.items() if name not in fitted}
    fitting = {name: tensor for name, tensor in offered.items() if name in own and own[name].shape == tensor.shape}
    new, left = [name for name in own if name not in fitting], [name for name in offered if name not in fitting]
    if not fitting:
        raise UserError(f"--init_from {source}: no weight of {type(model).__name__} has a name and a shape of the file")
    if strict and (new or left):
        first = f"{new[0]} is not in the file" if new else f"{left[0]} has no place in the model"
        raise UserError(
            f"--init_from {source}: {len(new)} weights are missing, {len(left)} are left over; first: {first}\n"
            "give the arguments that the checkpoint was made with, or --init_from.strict false"
        )
    transfer(model, fitting, allow_new=True)
    file = Path(str(source).partition("#")[0]).name
    model.marks = replace(model.marks, started_from=marks.as_start(file).started_from)
    return TransferReport(tuple(fitting), tuple(new), tuple(left))


def _weights(model: "AnomalyModule", source: str | Path) -> tuple[dict[str, Tensor], Marks]:
    path = fetch(source)
    content = None if path.suffix == ".safetensors" else read_checkpoint(path)
    if content is None or (isinstance(content, dict) and "uad_zoo" in content):
        return read_weights(source)
    cls: Any = type(model)
    if hasattr(cls, "recognises") and cls.recognises(content):
        known = arguments(cls)
        given = {key: value for key, value in model.hparams.items() if key in known}
        marks = of_import(cls.checkpoint_format, path.name)
        return dict(cls.from_original(content, **given).state_dict()), marks
    raise UserError(
        f"--init_from {source}: neither a checkpoint of this package nor a file that {cls.__name__} imports; "
        "`zoo import` reads the original authors' files"
    )
