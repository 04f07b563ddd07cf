"""Trained models as graphs that need no Python: ONNX and torch's exported programs."""

import contextlib
import copy
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.callbacks.gathering import method_name
from zoo.checkpoints.saving import save_safetensors
from zoo.decision import conformal
from zoo.decision.decide import LEVEL
from zoo.errors import UserError
from zoo.files import whole

if TYPE_CHECKING:
    from zoo.module import AnomalyModule

ExportFormat = Literal["onnx", "pt2", "safetensors"]
_TOLERANCE = 1e-4
_DRAWS = (torch.rand, torch.randn, torch.randint, torch.randperm)


class _Head(nn.Module):
    """What is exported: image to score, for methods that localise map, and if asked for the calibrated p-value."""

    calibration: Tensor | None

    def __init__(self, model: "AnomalyModule", with_p_value: bool = False) -> None:
        super().__init__()
        self.model = model
        known = None
        if with_p_value and model.calibration is not None:
            known = torch.tensor(model.calibration.scores, dtype=torch.float32)  # as they were predicted: exact
        self.register_buffer("calibration", known)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        prediction = self.model.predict_anomaly(image.clone() if self.model.scores_with_gradient else image)
        score, p_value = prediction.anomaly_score, None
        if self.calibration is not None:
            higher = (self.calibration[None] >= score[:, None]).float().sum(1)
            p_value = (1 + higher) / (len(self.calibration) + 1)
        return tuple(part for part in (score, prediction.anomaly_map, p_value) if part is not None)


class _Draws(TorchFunctionMode):
    """Records what a prediction draws, and gives it back while the graph is traced: it becomes constants.

    Methods that draw do so from a fixed seed, the same for all images, so that the constants are the method's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Tensor] = []
        self.replay: Iterator[Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _DRAWS:
            return func(*args, **(kwargs or {}))
        if self.replay is None:
            self.drawn.append(func(*args, **(kwargs or {})))
            return self.drawn[-1]
        return next(self.replay)


def export(model: "AnomalyModule", form: ExportFormat, path: Path, *, with_p_value: bool = False) -> None:
    """Export score and map with a dynamic batch; preprocessing inside the method is part of the graph.

    ONNX and pt2 files say what they are: method, version, value range, image size, marks and calibration, as metadata
    ``uad_zoo.*`` of an ONNX file and as the extra file ``uad_zoo.json`` of a pt2 file.

    Args:
        model: trained.
        form: ``onnx``, ``pt2`` (torch.export) or ``safetensors`` (a folder).
        path: file, or folder for safetensors.
        with_p_value: also give the p-value of each image among the calibration cases; right where a case is one image.

    Raises:
        UserError: the method cannot be exported, with the reason, or a p-value without a calibration.
    """
    if with_p_value and model.calibration is None:
        raise UserError("p_value: the model has no calibration: zoo calibrate --run RUN --healthy DIR")
    if form == "safetensors":
        return save_safetensors(model, path)
    head = _Head(copy.deepcopy(model).cpu(), with_p_value).eval().requires_grad_(False)
    image = torch.rand(2, model.in_channels, *model.image_size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.set_grad_enabled(model.scores_with_gradient):
            program = _trace(head, image)
            _compare(head, program)
        with whole(path) as partial:
            if form == "pt2":
                content = io.BytesIO()  # written by torch to a file, a full disk would end the process
                torch.export.save(program, content, extra_files={"uad_zoo.json": json.dumps(_metadata(head.model))})
                partial.write_bytes(content.getbuffer())
            else:
                _save_onnx(program, image, partial, head)
    except (UserError, OSError):
        raise
    except ImportError as error:
        raise UserError(f"ONNX needs more packages ({error}): pip install 'uad-zoo[export]'") from error
    except Exception as error:  # the exporters raise many types
        raise UserError(f"{type(model).__name__} cannot be exported to {form}: {_reason(error)}") from error
    return None


def _trace(head: _Head, image: Tensor) -> torch.export.ExportedProgram:
    draws = _Draws()
    with draws:
        head(image)
    draws.replay = iter(draws.drawn)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with draws if draws.drawn else contextlib.nullcontext():
        module = _with_backward(head, image) if head.model.scores_with_gradient else head
        return torch.export.export(module, (image,), dynamic_shapes=({0: batch},), strict=False)


def _with_backward(head: _Head, image: Tensor) -> nn.Module:
    """The head as a graph of plain operations in which the gradients are written out."""
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    table = {**core_aten_decompositions(), torch.ops.aten.convolution_backward.default: _convolution_backward}
    return make_fx(head, table, "symbolic", _allow_non_fake_inputs=True)(image)


def _convolution_backward(
    gradient: Tensor,
    image: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    output_mask: list[bool],
) -> tuple[Tensor | None, None, None]:
    """Gradient with respect to the image, which is a convolution too; the weights are constants here."""
    if transposed:
        found = torch.ops.aten.convolution(gradient, weight, None, stride, padding, dilation, False, [0], groups)
        return found, None, None
    sides = zip(image.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    left = [side - ((out - 1) * s - 2 * p + d * (k - 1) + 1) for side, out, k, s, p, d in sides]
    found = torch.ops.aten.convolution(gradient, weight, None, stride, padding, dilation, True, left, groups)
    return found, None, None


def _compare(head: _Head, program: torch.export.ExportedProgram) -> None:
    """The exported graph must give what the model gives, for other batches too."""
    exported = program.module()
    shape = (head.model.in_channels, *head.model.image_size)
    for count in (1, 3):
        image = torch.rand(count, *shape, generator=torch.Generator().manual_seed(count))
        for expected, found in zip(head(image), exported(image), strict=True):
            difference = float((expected - found).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-6))
            if not difference <= _TOLERANCE:
                random = torch.Tag.nondeterministic_seeded
                drawn = [str(node.target) for node in program.graph.nodes if random in getattr(node.target, "tags", ())]
                hint = f"; does it draw random numbers in every prediction ({', '.join(drawn)})?" if drawn else ""
                raise ValueError(f"the graph's output differs from the model's by {difference:.1g} (relative){hint}")


def _save_onnx(program: torch.export.ExportedProgram, image: Tensor, path: Path, head: _Head) -> None:
    import onnx

    last = [] if head.calibration is None else ["p_value"]
    count = len(program.graph_signature.user_outputs) - len(last)
    names = ["anomaly_score", "anomaly_map"][:count] + last
    torch.onnx.export(
        program, (image,), path, input_names=["image"], output_names=names, external_data=False, verbose=False
    )
    model = onnx.load(path)
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in _metadata(head.model).items()}
    onnx.helper.set_model_props(model, {f"uad_zoo.{key}": value for key, value in told.items()})
    onnx.save(model, path)


def _metadata(model: "AnomalyModule") -> dict[str, Any]:
    """What a program without this package needs to know to read images and to decide."""
    import zoo

    found: dict[str, Any] = {
        "method": method_name(model),
        "version": zoo.__version__,
        "value_range": [float(bound) for bound in model.hparams.get("value_range") or (0.0, 1.0)],
        "image_size": list(model.image_size),
        "in_channels": model.in_channels,
        "marks": model.marks.plain(),
    }
    calibration = model.calibration
    if calibration is not None:
        r = conformal.rank(len(calibration), LEVEL)
        found["calibration"] = {
            "scores": calibration.scores,
            "n": len(calibration),
            "smallest_p": calibration.smallest_p,
            "rule": "flagged where the score is above the threshold",
            "level": LEVEL,
            "threshold": conformal.threshold(calibration.scores, r) if r else None,
            "case_score": calibration.case_score,
            "source": calibration.source,
            "phantom": calibration.phantom,
            "digest": calibration.digest(),
        }
    return found


def _reason(error: Exception) -> str:
    """What of a method does not fit into a graph, in one line."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'", text)
    if missing:
        return f"ONNX has no operation for {missing.group(1)}.{missing.group(2)}; pt2 may do"
    if "Constraints violated (batch)" in text:
        return "its code fixes the batch size"
    if "data-dependent" in text.lower():
        return f"its code decides by values that are only known at run time ({text[:120]})"
    return f"{type(error).__name__}: {text[:200]}"
