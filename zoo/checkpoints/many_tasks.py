"""Files of the multi-task paper's authors (Baugh et al. 2023): their names of the U-Net's tensors."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_FIRST = "conv_blocks_context.0.blocks.0.conv.weight"


def original_tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The authors' state dict, at the top of the file or one level down; empty if there is none."""
    for candidate in (checkpoint, *[value for value in checkpoint.values() if isinstance(value, Mapping)]):
        named = {str(key).removeprefix("module."): value for key, value in candidate.items()}
        if _FIRST in named:
            return named
    return {}


def own_tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by the names of :class:`zoo.self_supervised.multi_task.MultiTaskUNet`."""
    tensors = {_own_name(key): value for key, value in original_tensors(checkpoint).items()}
    bottom = f"network.encoder.{_depth(tensors)}."
    return {key.replace(f"{bottom}.", bottom): value for key, value in tensors.items()}


def arguments_of(tensors: Mapping[str, Tensor], in_channels: int) -> dict[str, Any]:
    """Arguments of the module ``MultiTaskUNet`` that follow from the shapes of its tensors."""
    first = tensors["network.encoder.0.0.conv.weight"]
    dims = first.dim() - 2
    return {
        "image_size": (256, 256) if dims == 2 else (80, 112, 80),
        "in_channels": in_channels,
        "depth": _depth(tensors),
        "width": first.shape[0],
        "max_width": max(value.shape[0] for key, value in tensors.items() if key.endswith("conv.weight")),
        "positions": (first.shape[1] - in_channels - dims) // 2,
        "value_range": (-1.0, 1.0),
    }


def _depth(tensors: Mapping[str, Tensor]) -> int:
    return sum(key.startswith("network.heads.") for key in tensors)


def _own_name(key: str) -> str:
    key = re.sub(r"^conv_blocks_localization\.(\d+)\.(\d+)\.blocks\.0\.", r"network.decoder.\1.\2.", key)
    key = re.sub(r"^conv_blocks_context\.(\d+)\.(\d+)\.blocks\.0\.", r"network.encoder.\1.\2.", key)
    key = re.sub(r"^conv_blocks_context\.(\d+)\.blocks\.(\d+)\.", r"network.encoder.\1.\2.", key)
    return re.sub(r"^seg_outputs\.", "network.heads.", key).replace(".instnorm.", ".norm.")
