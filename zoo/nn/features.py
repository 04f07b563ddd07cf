"""Intermediate feature maps of a backbone that is not trained, over timm."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.checkpoints.reading import read_tensors
from zoo.errors import UserError

Statistics = Literal["frozen", "batch"]
Normalisation = Literal["imagenet", "centre", "none"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_ALIASES = {"layer0": "maxpool"}
_PROBE_SIDE = 64
_weights_follow: ContextVar[bool] = ContextVar("weights_follow", default=False)


@contextlib.contextmanager
def weights_follow() -> Iterator[None]:
    """Build extractors without fetching weights: a checkpoint that is about to be loaded holds them."""
    token = _weights_follow.set(True)
    try:
        yield
    finally:
        _weights_follow.reset(token)


class _AllFound(Exception):
    """Ends a forward pass whose wanted maps are all there."""


class FeatureExtractor(nn.Module):
    """Feature maps of named layers of a timm backbone; its weights never get a gradient.

    What the backbone computes after the last of ``layers`` is cut away. Parameter names are the backbone's own
    (torchvision's for ResNets and VGGs) below ``backbone.``.

    Args:
        backbone: name of a convolutional timm model, for example ``resnet18`` or ``wide_resnet50_2``.
        layers: module paths in it, for example ``("layer1", "layer2")`` or ``("features.1",)``; ``layer0`` is the stem
            of a ResNet including its max-pool.
        weights: ``imagenet`` (downloaded by timm), ``random``, or the path of a state dict of torchvision or timm.
        statistics: ``frozen`` keeps batch norms in evaluation mode under any ``train()``; ``batch`` lets them follow
            the module's mode, so that training uses batch statistics and moves the running ones.
        normalisation: of images in [0, 1]: ``imagenet`` mean and deviation, ``centre`` to [-1, 1], or ``none``.
        in_channels: 1 (the channel is repeated) or 3.
        differentiable: let gradients through to the image, for losses on features.

    Attributes:
        channels: channels of each layer's map.
        strides: pixels of the image per pixel of each layer's map.

    Raises:
        UserError: unknown backbone or layer, channels other than 1 and 3, weights that are not to be had or do not fit.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        layers: tuple[str, ...] = ("layer1", "layer2", "layer3"),
        *,
        weights: str = "imagenet",
        statistics: Statistics = "frozen",
        normalisation: Normalisation = "imagenet",
        in_channels: int = 3,
        differentiable: bool = False,
    ) -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise UserError(f"pretrained backbones take images of 1 or 3 channels, the data have {in_channels}")
        self.layers = tuple(_ALIASES.get(layer, layer) for layer in layers)
        self.statistics = statistics
        self.normalisation = normalisation
        self.differentiable = differentiable
        self.backbone = _create(backbone, weights)
        known = dict(self.backbone.named_modules())
        for layer, path in zip(layers, self.layers, strict=True):
            if path not in known:
                top = ", ".join(name for name, _ in self.backbone.named_children())
                raise UserError(f"backbone {backbone} has no layer '{layer}'; its top-level layers: {top}")
        maps = self._prune()
        self.channels = tuple(values.shape[1] for values in maps)
        self.strides = tuple(_PROBE_SIDE // values.shape[-1] for values in maps)
        if weights not in ("imagenet", "random") and not _weights_follow.get():
            _load(self.backbone, Path(weights), backbone)
        self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Follow the mode only where ``statistics`` is ``batch``."""
        return super().train(mode and self.statistics == "batch")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps ``(B, channels[i], H / strides[i], W / strides[i])`` of an image ``(B, 1 or 3, H, W)`` in [0, 1]."""
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        if self.normalisation == "centre":
            image = 2 * (image - 0.5)
        elif self.normalisation == "imagenet":
            mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
            image = (image - mean) / std
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return self._run(image)

    def _run(self, image: Tensor) -> list[Tensor]:
        found: dict[str, Tensor] = {}
        with contextlib.ExitStack() as hooks:
            for path in self.layers:

                def keep(_module: nn.Module, _input: Any, output: Tensor, path: str = path) -> None:
                    exporting = torch.compiler.is_exporting()  # exporters do not follow exceptions
                    found[path] = output.clone() if exporting else output
                    if len(found) == len(self.layers) and not exporting:
                        raise _AllFound  # what follows may write into the last map in place

                hooks.callback(self.backbone.get_submodule(path).register_forward_hook(keep).remove)
            hooks.enter_context(contextlib.suppress(_AllFound))
            self.backbone.forward_features(image)  # type: ignore[operator]  # every timm model has it
        return [found[path] for path in self.layers]

    @torch.no_grad()
    def _prune(self) -> list[Tensor]:
        """Replace what does not lead to the layers by identities; returns the maps of a blank probe image."""
        self.backbone.eval()
        needed: set[str] = set()
        with contextlib.ExitStack() as hooks:
            for path, module in self.backbone.named_modules():

                def note(_module: nn.Module, _input: Any, _output: Any, path: str = path) -> None:
                    needed.add(path)

                hooks.callback(module.register_forward_hook(note).remove)
            maps = self._run(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
        leaves = [path for path, module in self.backbone.named_modules() if not any(module.children())]
        for path in leaves:
            if path not in needed:
                parent, _, name = path.rpartition(".")
                setattr(self.backbone.get_submodule(parent), name, nn.Identity())
        return maps


def _create(backbone: str, weights: str) -> nn.Module:
    import timm

    if not timm.is_model(backbone):
        close = timm.list_models(f"*{backbone}*")[:3] or timm.list_models(f"{backbone[:4]}*")[:3]
        raise UserError(f"timm has no model '{backbone}'; nearest: {', '.join(close) or 'none'}")
    if weights == "imagenet" and not _weights_follow.get():
        try:
            return timm.create_model(backbone, pretrained=True, num_classes=0)
        except Exception as error:  # the hub client raises dozens of types when it is offline
            raise UserError(
                f"ImageNet weights of {backbone} could not be fetched ({type(error).__name__}): copy a torchvision or "
                "timm state dict (.pth or .safetensors) to this machine and give its path as weights, or weights=random"
            ) from error
    model: Any = timm.create_model(backbone, pretrained=False, num_classes=0)
    for module in model.modules():
        # timm zeroes the last norm of residual blocks, which would leave a random network's blocks without effect
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)
    return model


def _load(model: nn.Module, path: Path, backbone: str) -> None:
    tensors = read_tensors(path)
    missing = [key for key in model.state_dict() if key not in tensors and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{path}: no state dict of {backbone}: {len(missing)} tensors are missing, for example {missing[0]}; "
            "expected the names of torchvision or timm"
        )
    try:
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise UserError(f"{path}: tensors do not fit {backbone}: {str(error).splitlines()[-1].strip()}") from error
