"""Memory of a training step of the multi-task U-Net, without a device: shapes are propagated, nothing is computed.

Counts the bytes of all tensors that are alive at the same time in forward, loss and backward (activations in the given
precision, weights, gradients, Adam's two moments). Buffers inside the convolutions of a device come on top.

    python -m benchmarks.speed.unet_memory [--size 80 112 80] [--batch 8]
"""

import argparse
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.nn.unet import UNet

GIB = 2**30


class _Alive(TorchDispatchMode):
    """Adds up the storages that are alive."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.known: set[int] = set()
        self.now = self.peak = 0

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out


def step_memory(size: tuple[int, ...], batch: int, dtype: torch.dtype, **network: Any) -> tuple[float, float]:
    """GiB kept for the backward pass, and the largest total of a step with float32 weights, gradients and moments."""
    unet = UNet(size, 1, **network)
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    trained = {name for name, value in unet.named_parameters() if value.requires_grad}
    count = sum(value.numel() for value in unet.parameters())
    with FakeTensorMode(), _Alive() as alive:
        weights = {name: torch.empty(s, dtype=dtype, requires_grad=name in trained) for name, s in shapes.items()}
        positions = torch.empty(unet.positions.shape, dtype=dtype)
        image, label = torch.empty(batch, 1, *size, dtype=dtype), torch.empty(batch, 1, *size)
        before = alive.now
        output = torch.func.functional_call(unet, {**weights, "positions": positions}, (image,))
        loss = F.mse_loss(output.float(), label)
        kept = alive.now - before
        loss.backward()
    copies = sum(weight.nbytes for weight in weights.values())
    fixed = 16 * count + (copies if dtype != torch.float32 else 0)  # autocast keeps a copy of the weights
    return kept / GIB, (alive.peak - 2 * copies + fixed) / GIB  # the step has counted weights and gradients in dtype


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[80, 112, 80])
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    size = tuple(given.size)
    network = {"depth": 6, "max_width": 512} if len(size) == 2 else {"depth": 4, "max_width": 320}
    for dtype in (torch.bfloat16, torch.float32):
        kept, peak = step_memory(size, given.batch, dtype, **network)
        print(f"{given.batch} x {size} {str(dtype)[6:]:9s} kept for backward {kept:6.2f} GiB, peak {peak:6.2f} GiB")


if __name__ == "__main__":
    main()
