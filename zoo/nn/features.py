"""Intermediate feature maps of a backbone that is not trained, over timm."""

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.nn.backbone_weights import fill_backbone, imagenet_backbone

Statistics = Literal["frozen", "batch"]
Normalisation = Literal["imagenet", "centre", "none"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_ALIASES = {"layer0": "maxpool"}
_PROBE_SIDE = 64
_IMAGES_AT_ONCE = 4  # on a CPU: the maps of so many images of 256 pixels stay in its caches
_weights_follow: ContextVar[bool] = ContextVar("weights_follow", default=False)


@contextlib.contextmanager
def weights_follow() -> Iterator[None]:
    """Build extractors without fetching weights: a checkpoint that is about to be loaded holds them."""
    token = _weights_follow.set(True)
    try:
        yield
    finally:
        _weights_follow.reset(token)


class FeatureExtractor(nn.Module):
    """Feature maps of named layers of a timm backbone; its weights never get a gradient.

    What the backbone computes after the stage that holds the last of ``layers`` is cut away, by timm's own means, so
    that the pass is the same plain one in training, compiled and exported. Parameter names are the backbone's own
    (torchvision's for ResNets and VGGs) below ``backbone.``.

    A vision transformer's patch tokens become a map of one place a patch, its class and register tokens are left out;
    images whose sides are no multiples of the patch are resized to the nearest ones.

    Args:
        backbone: name of a timm model, for example ``resnet18`` or ``vit_small_patch14_dinov2``.
        layers: module paths in it, for example ``("layer1", "layer2")``, ``("features.1",)`` or ``("norm",)``;
            ``layer0`` is the stem of a ResNet including its max-pool.
        weights: ``imagenet`` (those that timm has for this name), ``random``, or a state dict of torchvision or timm: a
            path, ``https://``, ``hf://owner/repository/file`` or ``wandb://``.
        statistics: ``frozen`` keeps batch norms in evaluation mode under any ``train()``; ``batch`` lets them follow
            the module's mode, so that training uses batch statistics and moves the running ones.
        normalisation: of images in [0, 1]: ``imagenet`` mean and deviation (those that timm's weights of this backbone
            were trained with), ``centre`` to [-1, 1], or ``none``.
        in_channels: 1 (the channel is repeated) or 3.
        differentiable: let gradients through to the image, for losses on features.

    Attributes:
        channels: channels of each layer's map.
        strides: pixels of the image per pixel of each layer's map.
        depths: number of blocks of each top-level part of the whole backbone, those cut away included.

    Raises:
        UserError: unknown backbone or layer, channels other than 1 and 3, weights that are not to be had or do not fit.
    """

    mean: Tensor
    std: Tensor

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
        for name, values in zip(("mean", "std"), _mean_and_deviation(backbone), strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        known = dict(self.backbone.named_modules())
        for layer, path in zip(layers, self.layers, strict=True):
            if path not in known:
                top = ", ".join(name for name, _ in self.backbone.named_children())
                raise UserError(f"backbone {backbone} has no layer '{layer}'; its top-level layers: {top}")
        self.depths = {name: len(list(part.children())) for name, part in self.backbone.named_children()}
        self._found: dict[str, Tensor] = {}
        self._overwritten: frozenset[str] = frozenset()
        for path in self.layers:
            self.backbone.get_submodule(path).register_forward_hook(functools.partial(self._keep, path))
        nn.Module.register_load_state_dict_pre_hook(self, _drop_cut_away)
        embedding: Any = getattr(self.backbone, "patch_embed", None)
        self.patch: tuple[int, ...] = (1, 1) if embedding is None else tuple(embedding.patch_size)
        self._probe_side = side = _PROBE_SIDE if self.patch == (1, 1) else 4 * self.patch[0]
        maps = self._cut(torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
        self.channels = tuple(values.shape[1] for values in maps)
        self.strides = tuple(side // values.shape[-1] for values in maps)
        if weights not in ("imagenet", "random") and not _weights_follow.get():
            fill_backbone(self.backbone, weights, backbone)
        self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Follow the mode only where ``statistics`` is ``batch``."""
        return super().train(mode and self.statistics == "batch")

    @torch.no_grad()
    def signed(self) -> bool:
        """Whether a layer's map can be negative, as seen on an image of noise: not where layers end in ReLUs."""
        noise = torch.rand(1, 3, self._probe_side, self._probe_side, generator=torch.Generator().manual_seed(0))
        return any(bool((values < 0).any()) for values in self(noise))

    def parts(self, image: Tensor) -> Iterator[list[Tensor]]:
        """What calling gives, a few images at a time and with the channels last in memory: faster on a CPU.

        On other devices, and while a graph is exported, all images come at once.
        """
        if image.device.type != "cpu" or torch.compiler.is_exporting():
            yield self(image)
            return
        for part in image.split(_IMAGES_AT_ONCE):
            yield self(part, channels_last=True)

    def forward(self, image: Tensor, channels_last: bool = False) -> list[Tensor]:
        """Maps ``(B, channels[i], H / strides[i], W / strides[i])`` of an image ``(B, 1 or 3, H, W)`` in [0, 1]."""
        image = self._prepared(image)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return self._run(image)

    def tokens(self, image: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """Tokens of a vision transformer with those that are no patches.

        Args:
            image: ``(B, 1 or 3, H, W)`` in [0, 1].

        Returns:
            Of each layer ``(B, prefix + rows * columns, channels[i])``, class and register tokens first; and the grid,
            (rows, columns).
        """
        image = self._prepared(image)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            self._pass(image)
        found = [self._found[path] for path in self.layers]
        self._found.clear()
        return found, self._grid(image)

    def _prepared(self, image: Tensor) -> Tensor:
        """Three channels, normalised, sides in multiples of the patch."""
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        if self.normalisation == "centre":
            image = 2 * (image - 0.5)
        elif self.normalisation == "imagenet":
            image = (image - self.mean) / self.std
        sides = tuple(
            max(1, round(side / patch)) * patch for side, patch in zip(image.shape[2:], self.patch, strict=True)
        )
        if sides != tuple(image.shape[2:]):
            image = F.interpolate(image, size=sides, mode="bilinear", antialias=True)
        return image

    def _grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        return image.shape[2] // self.patch[0], image.shape[3] // self.patch[1]

    def _run(self, image: Tensor) -> list[Tensor]:
        self._pass(image)
        maps = [self._as_map(self._found[path], *self._grid(image)) for path in self.layers]
        self._found.clear()
        return maps

    def _pass(self, image: Tensor) -> None:
        """The backbone's forward pass as far as it was cut; hooks keep the maps."""
        backbone: Any = self.backbone
        if self._last is None:
            backbone.forward_features(image)
        else:
            backbone.forward_intermediates(image, intermediates_only=True, **self._last)

    def _keep(self, path: str, _module: nn.Module, _input: Any, output: Tensor) -> None:
        """Hook: keep a layer's output."""
        self._found[path] = output.clone() if path in self._overwritten else output

    def _as_map(self, values: Tensor, rows: int, columns: int) -> Tensor:
        """Tokens ``(B, prefix + rows * columns, K)`` as a map; maps as they are."""
        if values.ndim != 3:
            return values
        places: Tensor = values[:, values.shape[1] - rows * columns :].mT.unflatten(2, (rows, columns))
        return places

    @torch.no_grad()
    def _cut(self, probe: Tensor) -> list[Tensor]:
        """Drop what does not lead to the layers; returns the maps of the probe image."""
        backbone: Any = self.backbone.eval()
        self._last = self._last_stage(probe)
        if self._last is not None:
            wanted = {path: backbone.get_submodule(path) for path in self.layers}
            backbone.prune_intermediate_layers(self._last["indices"], prune_norm=not self._last["norm"])
            for path, module in wanted.items():  # timm counts the pool behind a stem as what follows it
                parent, _, name = path.rpartition(".")
                setattr(backbone.get_submodule(parent), name, module)
        called: set[nn.Module] = set()
        with contextlib.ExitStack() as hooks:
            for module in backbone.modules():
                hooks.callback(module.register_forward_pre_hook(lambda module, _: called.add(module)).remove)
            self._pass(probe)
        # layers whose output a later one overwrites in place are copied
        given, self._found, self._overwritten = self._found, {}, frozenset(self.layers)
        self._pass(probe)
        self._overwritten = frozenset(path for path in self.layers if not torch.equal(given[path], self._found[path]))
        gone: tuple[str, ...] = ()
        for path, module in list(backbone.named_modules()):
            own = any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
            if path and module not in called and own and not path.startswith(gone or ("\0",)):
                parent, _, name = path.rpartition(".")
                setattr(backbone.get_submodule(parent), name, nn.Identity())
                gone += (f"{path}.",)
        self._found = {}
        return self._run(probe)

    def _last_stage(self, probe: Tensor) -> dict[str, Any] | None:
        """Arguments of timm's ``forward_intermediates`` that reach all layers and least beyond; None where none do.

        The final norm is asked for only of the last stage: elsewhere timm applies it to what it was not made for.
        """
        backbone: Any = self.backbone
        if not hasattr(backbone, "prune_intermediate_layers"):
            return None
        stages = len(backbone.forward_intermediates(probe, intermediates_only=True))
        for number, norm in [*((number, False) for number in range(stages)), (stages - 1, True)]:
            self._found.clear()
            backbone.forward_intermediates(probe, [number], norm=norm, stop_early=True, intermediates_only=True)
            if len(self._found) == len(set(self.layers)):
                return {"indices": [number], "norm": norm}
        return None


def _drop_cut_away(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: leave out a backbone's tensors that are cut away here and were kept by an earlier version."""
    own = {prefix + key for key in module.state_dict()}
    for key in [key for key in state if key.startswith(f"{prefix}backbone.") and key not in own]:
        del state[key]


def _mean_and_deviation(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    import timm

    config = timm.get_pretrained_cfg(backbone)
    return (_IMAGENET_MEAN, _IMAGENET_STD) if config is None else (tuple(config.mean), tuple(config.std))


def create_backbone(backbone: str, weights: str) -> nn.Module:
    """A whole timm model without classifier, for methods that train or rebuild it.

    Args:
        backbone: its name.
        weights: ``imagenet``, ``random`` or a file, as of :class:`FeatureExtractor`.

    Raises:
        UserError: unknown name, or weights that are not to be had or do not fit.
    """
    model = _create(backbone, weights)
    if weights not in ("imagenet", "random") and not _weights_follow.get():
        fill_backbone(model, weights, backbone)
    return model


def _create(backbone: str, weights: str) -> nn.Module:
    import timm

    if not timm.is_model(backbone):
        close = timm.list_models(f"*{backbone}*")[:3] or timm.list_models(f"{backbone[:4]}*")[:3]
        raise UserError(f"timm has no model '{backbone}'; nearest: {', '.join(close) or 'none'}")
    transformer = timm.model_entrypoint(backbone).__module__.endswith(".vision_transformer")
    options: Any = {"dynamic_img_size": True} if transformer else {}
    if weights == "imagenet" and not _weights_follow.get():
        return imagenet_backbone(backbone, **options)
    model: nn.Module = timm.create_model(backbone, pretrained=False, num_classes=0, **options)
    for module in model.modules():
        # timm zeroes the last norm of residual blocks, which would leave a random network's blocks without effect
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)
    return model
