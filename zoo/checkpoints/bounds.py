"""Limits on what an untrusted file can make this process do while its model is built."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.checkpoints.sources import sealing
from zoo.errors import UserError

_MAX_TENSORS = 30_000
_MAX_PIXELS = 2**28
_aten = torch.ops.aten
_BY_SIZE = {
    _aten.empty.memory_format,
    _aten.empty_strided.default,
    _aten.zeros.default,
    _aten.ones.default,
    _aten.full.default,
    _aten.rand.default,
    _aten.randn.default,
}


class _BoundedAllocation(TorchDispatchMode):
    """Refuses new tensors that are far larger than the file which is to fill them, before they are allocated."""

    def __init__(self, source: str, size: int) -> None:
        TorchDispatchMode.__init__(self)
        self.source = source
        # timm makes a VGG with its first dense layer of 411 MB, which is cut away afterwards
        self.single, self.total = max(4 * size, 512 << 20), 16 * size + (2 << 30)
        self.count, self.used = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _BY_SIZE:
            kind = (kwargs or {}).get("dtype") or torch.get_default_dtype()
            size = math.prod(args[0]) * kind.itemsize
            self.count, self.used = self.count + 1, self.used + size
            if size > self.single or self.used > self.total or self.count > _MAX_TENSORS:
                raise UserError(
                    f"{self.source}: its arguments ask for a tensor of shape {tuple(args[0])} ({self.used} bytes so "
                    "far), far more than the file holds; refused"
                )
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def bounded(source: str, size: int) -> Iterator[None]:
    """Build a model from the arguments in a file without trusting them.

    Args:
        source: for the messages.
        size: of the file in bytes.

    Raises:
        UserError: arguments that build no model, or one that is out of proportion to the file; always one line.
    """
    try:
        with sealing(), _BoundedAllocation(source, size):
            yield
    except UserError as error:
        message = " ".join(str(error).split())[:500]
        raise UserError(message if message.startswith(source) else f"{source}: {message}") from error
    except Exception as error:  # whatever hostile arguments provoke
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{source}: its content builds no model ({type(error).__name__}: {reason})") from error


def check_image_size(source: str, size: Any) -> None:
    """Refuse image sizes of which a single image would fill the memory.

    Raises:
        UserError: see above, or no positive whole numbers.
    """
    sides = (size, size) if isinstance(size, int) else size
    if size is None:
        return
    whole = isinstance(sides, tuple | list) and all(type(side) is int and side > 0 for side in sides)
    if not whole or len(sides) > 3 or math.prod(sides) > _MAX_PIXELS:
        raise UserError(f"{source}: image_size {str(size)[:80]} is not 2 or 3 sides of at most {_MAX_PIXELS} pixels")
