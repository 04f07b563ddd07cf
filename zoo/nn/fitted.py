"""Statistics that are fitted rather than learnt: buffers whose shapes are known only after fitting."""

from typing import Any

import torch
from torch import Tensor, nn


class FittedStatistics(nn.Module):
    """Named buffers that start empty, are assigned once fitted, and load from a checkpoint whatever their shape.

    Example:
        ``self.gaussian = FittedStatistics("mean", "covariance")``, later ``self.gaussian.mean = features.mean(0)``.

    Args:
        *names: names of the buffers.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.empty(0))

    @property
    def fitted(self) -> bool:
        """True when every buffer has been assigned."""
        return all(buffer.numel() > 0 for buffer in self.buffers())

    def __getattr__(self, name: str) -> Tensor:
        return super().__getattr__(name)  # type: ignore[return-value]  # buffers are tensors

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if saved is not None and buffer is not None:
                setattr(self, name, torch.empty_like(saved, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
