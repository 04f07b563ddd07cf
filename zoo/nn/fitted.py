"""Statistics that are fitted rather than learnt: buffers whose shapes are known only after fitting."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.processes import total


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


class Centre(FittedStatistics):
    """Mean over the training images of what a network makes of them, added up batch by batch in double precision.

    Args:
        *names: further buffers.
    """

    total: Tensor
    count: Tensor
    centre: Tensor

    def __init__(self, *names: str) -> None:
        super().__init__("total", "count", "centre", *names)

    def add(self, values: Tensor) -> None:
        """Add a batch ``(B, ...)``."""
        values = values.double()
        if not self.total.numel():
            self.total, self.count = values.new_zeros(values.shape[1:]), values.new_zeros(())
        self.total += values.sum(dim=0)
        self.count += len(values)

    def finish(self) -> None:
        """The mean, float32, over all processes."""
        self.total, self.count = total(self.total), total(self.count)
        self.centre = (self.total / self.count).float()


def away_from_zero(values: Tensor, least: float) -> Tensor:
    """Values of less than ``least`` in size become ``least`` with their sign; 0 counts as positive."""
    pushed = torch.where(values < 0, -least, least).to(values)
    return torch.where(values.abs() < least, pushed, values)
