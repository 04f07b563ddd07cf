"""Every method of a family on a second device, for machines without a GPU: ``second_device.py FOLDER FAMILY``.

The device's tensors hold CPU tensors, so what it computes is real, but as on CUDA they do not mix with those of the
CPU, with its generators or with numpy. Kernels, streams, autocast and memory it cannot show. A process can register a
device only once and does not end cleanly afterwards: hence a process of its own, which prints one JSON line a method.
"""

import json
import os
import sys
import traceback

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from datamodules import Folder
from zoo.callbacks.anomaly_metrics import AnomalyMetrics
from zoo.registry import load_class, methods

NAME = "second"
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
TAKE_CPU_INDICES = (aten.index.Tensor, aten.index_put_.default)


class There(torch.Tensor):
    """A tensor of the second device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        there = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=torch.device(NAME, 0)
        )
        there.inner = inner
        return there

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def is_there(device):
    return device is not None and torch.device(device).type == NAME


def compute(func, args, kwargs):
    """Run an operation on the tensors held, and wrap what belongs to the device."""
    flat, form = pytree.tree_flatten((args, kwargs))
    held = {id(value.inner): value for value in flat if isinstance(value, There)}
    if held and func not in (*COPIES, *TAKE_CPU_INDICES):
        foreign = [value for value in flat if isinstance(value, torch.Tensor) and not isinstance(value, There)]
        if any(value.dim() for value in foreign):
            raise RuntimeError(f"{func}: tensors of shapes {[tuple(value.shape) for value in foreign]} are on the CPU")
    target = kwargs.get("device")
    if func is aten.copy_.default:
        stays = isinstance(args[0], There)
    else:
        stays = bool(held) if target is None else is_there(target)

    def bare(value):
        if isinstance(value, There):
            return value.inner
        return torch.device("cpu") if isinstance(value, torch.device) else value

    bare_args, bare_kwargs = pytree.tree_unflatten([bare(value) for value in flat], form)
    for name in ("pin_memory", "non_blocking"):
        bare_kwargs.pop(name, None)

    def back(value):
        if not (stays and isinstance(value, torch.Tensor)):
            return value
        return held[id(value)] if id(value) in held else There(value)

    found = pytree.tree_map(back, func(*bare_args, **bare_kwargs))
    if torch.Tag.inplace_view in func.tags:  # the wrapper's shape changes with that of what it holds
        return return_and_correct_aliasing(func, args, kwargs, found)
    return found


class Dispatch(TorchDispatchMode):
    """Also operations that get no tensor of the device, but make one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Calls(TorchFunctionMode):
    """What never reaches the dispatcher with its device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        generator, first = kwargs.get("generator"), args[0] if args else None
        if is_there(kwargs.get("device")):
            if generator is not None:
                raise RuntimeError(f"{func}: the generator is on the CPU")
            if func in (torch.tensor, torch.as_tensor):
                device = kwargs.pop("device")
                return func(*args, **kwargs).to(device)
        if isinstance(first, There):
            if func is torch.Tensor.tolist:
                return first.inner.tolist()
            if func is torch.Tensor.numpy:
                raise TypeError("numpy cannot read a tensor of another device")
            if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
                index = args[1] if isinstance(args[1], tuple) else (args[1],)
                index = [torch.tensor(i).to(first.device) if isinstance(i, list | np.ndarray) else i for i in index]
                args = (first, tuple(index), *args[2:])
        return func(*args, **kwargs)


class Backend(backend_registration._DummyBackendModule):
    """What torch and Lightning ask a backend."""

    def manual_seed_all(self, seed):
        pass

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


class SecondAccelerator(Accelerator):
    """The device as Lightning's accelerator."""

    def setup_device(self, device):
        pass

    def teardown(self):
        pass

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return NAME

    def get_device_stats(self, device):
        return {}


class Keep(Callback):
    """Keeps the scores and where the predictions lay."""

    def __init__(self):
        self.scores, self.devices = [], set()

    def on_test_batch_end(self, trainer, pl_module, outputs, *_):
        self.scores.append(outputs.anomaly_score.cpu())
        self.devices |= {value.device.type for value in outputs if value is not None}


def scores(method, root, device, **where):
    """Fit, validate and test as Lightning does; the anomaly scores."""
    seed_everything(0, verbose=False)
    sizes = ("image_size", "in_channels")
    model = load_class(method.name)(**{key: value for key, value in method.tiny.items() if key not in sizes})
    data = Folder(root=root, image_size=method.tiny["image_size"], batch_size=4)
    keep = Keep()
    trainer = Trainer(
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,  # wrapped tensors cannot be inference tensors
        callbacks=[AnomalyMetrics(), keep],
        **where,
    )
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert keep.devices == {device}
    return torch.cat(keep.scores)


def main(root, family):
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    for method in (one for one in methods().values() if one.family == family and 2 in one.dims):
        expected = scores(method, root, "cpu", accelerator="cpu")
        strategy = SingleDeviceStrategy(torch.device(NAME, 0), SecondAccelerator())
        try:
            with Calls(), Dispatch():
                found = scores(method, root, NAME, strategy=strategy)
            error, off = "", float((found - expected).abs().max() / expected.abs().max())
        except Exception:
            error, off = traceback.format_exc(chain=False), float("nan")
        print(json.dumps({"method": method.name, "off": off, "error": error}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)
