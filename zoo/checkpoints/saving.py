"""Writing models: this package's ``.ckpt``, safetensors with ``config.yaml``, ONNX and torch's exported programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml
from torch import Tensor, nn

from zoo.checkpoints.sources import file_digest
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.module import AnomalyModule

ExportFormat = Literal["onnx", "pt2", "safetensors"]


def save_checkpoint(model: "AnomalyModule", path: Path, origin: Mapping[str, str] | None = None) -> None:
    """Write a ``.ckpt`` that :func:`zoo.load_pretrained` and ``lightning test --ckpt_path`` read.

    Args:
        model: built.
        path: new file.
        origin: format and name of the file that the weights were imported from.
    """
    from importlib.metadata import version

    checkpoint: dict[str, Any] = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": version("lightning"),
        "epoch": 0,
        "global_step": 0,
        "loops": {},
    }
    model.on_save_checkpoint(checkpoint)
    checkpoint["uad_zoo"] |= {"origin": dict(origin)} if origin else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(checkpoint, partial)
    partial.replace(path)


def save_safetensors(model: "AnomalyModule", folder: Path, origin: Mapping[str, str] | None = None) -> None:
    """Write ``model.safetensors`` and ``config.yaml`` (method, arguments and the weights' SHA-256) into a folder.

    Args:
        model: built.
        folder: made if missing.
        origin: format and name of the file that the weights were imported from.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial)
    header: dict[str, Any] = {}
    model.on_save_checkpoint(header)
    header["uad_zoo"] |= {"origin": dict(origin)} if origin else {}
    content = {"uad_zoo": header["uad_zoo"], "hyper_parameters": _plain(dict(model.hparams))}
    content["sha256"] = file_digest(partial)
    text = yaml.safe_dump(content, sort_keys=False)
    config = folder / "config.yaml.partial"
    config.write_text(text, encoding="utf-8")
    partial.replace(folder / "model.safetensors")
    config.replace(folder / "config.yaml")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


class _Head(nn.Module):
    """What is exported: image to score and, for methods that localise, map."""

    def __init__(self, model: "AnomalyModule") -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        prediction = self.model.predict_anomaly(image)
        found = (prediction.anomaly_score, prediction.anomaly_map)
        return tuple(part for part in found if part is not None)


def _compare(head: _Head, exported: Any, image: Tensor) -> None:
    """The exported graph must give what the model gives, for another batch too (sampling methods do not)."""
    for expected, found in zip(head(image), exported(image), strict=True):
        difference = float((expected - found).abs().max()) / max(float(expected.abs().max()), 1e-6)
        if not difference <= 1e-4:
            raise ValueError(f"the exported graph differs from the model by {difference:.1g}; it draws random numbers?")


def export(model: "AnomalyModule", form: ExportFormat, path: Path) -> None:
    """Export score and map with a dynamic batch; preprocessing inside the method is part of the graph.

    Args:
        model: trained.
        form: ``onnx``, ``pt2`` (torch.export) or ``safetensors`` (a folder).
        path: file, or folder for safetensors.

    Raises:
        UserError: the method cannot be exported, with the reason.
    """
    if form == "safetensors":
        return save_safetensors(model, path)
    if model.scores_with_gradient:
        raise UserError(f"{type(model).__name__} scores with gradients, which exported graphs do not hold")
    head = _Head(model).eval().requires_grad_(False)
    image = torch.rand(2, model.in_channels, *model.image_size)
    batch = torch.export.Dim("batch", min=1, max=4096)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("partial-" + path.name)
    try:
        program = torch.export.export(head, (image,), dynamic_shapes=({0: batch},), strict=False)
        _compare(head, program.module(), torch.rand(3, *image.shape[1:]))
        if form == "pt2":
            torch.export.save(program, partial)
        else:
            names = ["anomaly_score", "anomaly_map"][: len(head(image))]
            torch.onnx.export(
                program,
                (image,),
                partial,
                input_names=["image"],
                output_names=names,
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise UserError(f"ONNX needs more packages ({error}): pip install 'uad-zoo[export]'") from error
    except Exception as error:  # the exporters raise many types
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{type(model).__name__} cannot be exported to {form}: {type(error).__name__}: {reason}"
        ) from error
    partial.replace(path)
    return None
