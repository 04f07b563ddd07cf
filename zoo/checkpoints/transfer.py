"""Filling a model from a foreign state dict whose names have been translated, with an account of every tensor."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import UserError


class TransferReport(NamedTuple):
    """Names of tensors: filled from the file, new (only in the model), ignored (only in the file)."""

    filled: tuple[str, ...]
    new: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.filled)} tensors filled"]
        for label, names in (("new", self.new), ("ignored", self.ignored)):
            shown = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
            parts.append(f"{len(names)} {label}{shown}")
        return ", ".join(parts)


def transfer(model: torch.nn.Module, tensors: Mapping[str, Tensor], *, allow_new: bool = False) -> TransferReport:
    """Copy tensors into the model's parameters and buffers of the same names.

    Args:
        model: to be filled in place.
        tensors: by the model's own names; other names are ignored and reported.
        allow_new: let tensors of the model that the file lacks keep their values; otherwise they are an error.

    Raises:
        UserError: shapes or kinds that differ, values that are not finite, or a tensor that is missing; the model is
            then unchanged.
    """
    own = model.state_dict()
    filled = tuple(key for key in own if key in tensors)
    new = tuple(key for key in own if key not in tensors)
    if new and not allow_new:
        raise UserError(f"checkpoint: {len(new)} tensors of the model are missing, for example {new[0]}")
    conflicts = [key for key in filled if own[key].shape != tensors[key].shape]
    if conflicts:
        shown = "; ".join(
            f"{key} is {tuple(tensors[key].shape)}, the model needs {tuple(own[key].shape)}" for key in conflicts[:3]
        )
        more = f" and {len(conflicts) - 3} more" if len(conflicts) > 3 else ""
        raise UserError(f"checkpoint: {shown}{more}; give the arguments that the checkpoint was made with")
    broken = [key for key in filled if tensors[key].is_floating_point() and not torch.isfinite(tensors[key]).all()]
    if broken:
        raise UserError(f"checkpoint: {broken[0]} holds values that are not finite ({len(broken)} such tensors)")
    kinds = [key for key in filled if tensors[key].is_floating_point() != own[key].is_floating_point()]
    if kinds:
        raise UserError(f"checkpoint: {kinds[0]} is {tensors[kinds[0]].dtype}, the model needs {own[kinds[0]].dtype}")
    model.load_state_dict({key: tensors[key] for key in filled}, strict=False)
    return TransferReport(filled, new, tuple(key for key in tensors if key not in own))
