"""Models from checkpoints of the original authors' code, and methods around a backbone from timm or torchvision."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.bounds import bounded, check_image_size
from zoo.checkpoints.marks import of_import
from zoo.checkpoints.reading import flatten, read_checkpoint
from zoo.checkpoints.sources import fetch
from zoo.errors import UserError
from zoo.registry import Method, arguments, find, load_class, methods, nearest

if TYPE_CHECKING:
    from zoo.module import AnomalyModule

TIMM = "timm"


def import_checkpoint(
    source: str | Path, format: str = "auto", model: str | None = None, **init_args: Any
) -> "AnomalyModule":
    """Build a method from a file of its original authors, or around a backbone of timm or torchvision.

    The file is read without running anything in it. Formats belong to methods: each that declares a
    ``checkpoint_format`` recognises its files (``recognises``) and translates them (``from_original``). The format
    ``timm`` fills the backbone of the method ``model``, which then still has to be fitted.

    Args:
        source: local file, ``https://...``, ``hf://owner/repository/file[@revision]`` or ``wandb://...``.
        format: name of the format; ``auto`` asks every format whether it recognises the file.
        model: method to build where several share a format; needed for ``timm``.
        **init_args: arguments of the method's class, over those read from the file.

    Returns:
        The method with networks built and filled. Which tensors were filled, new or ignored is logged.

    Raises:
        UserError: unknown format, a file that is unsafe, damaged or of no known format, or tensors that do not fit.
    """
    candidates = _candidates(format, model)
    path = fetch(source, exact=True)
    file = Path(str(source).partition("#")[0]).name
    if format == TIMM:
        made = _around_backbone(path, model, init_args)
        made.marks = of_import(TIMM, file)
        return made
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{source}: expected a dictionary of tensors, found {type(checkpoint).__name__}")
    for method in candidates:
        cls: Any = load_class(method.name)
        with bounded(str(source), path.stat().st_size):
            if not cls.recognises(checkpoint):
                continue
            found: AnomalyModule = cls.from_original(checkpoint, **_checked(method, init_args))
            check_image_size(str(source), found.image_size)
            found.marks = of_import(str(method.checkpoint_format), file)
            return found
    if "uad_zoo" in checkpoint:
        raise UserError(f"{source}: a checkpoint of this package; load it with zoo.load_pretrained or --run FOLDER")
    tried = ", ".join(sorted({str(method.checkpoint_format) for method in candidates}))
    keys = ", ".join(str(key)[:60] for key in list(checkpoint)[:4])
    hint = f"; a backbone of timm or torchvision needs --format {TIMM}" if flatten(checkpoint) else ""
    raise UserError(f"{source}: not recognised as {tried}; its first entries are {keys}{hint}")


def _candidates(format: str, model: str | None) -> list[Method]:
    importable = [method for method in methods().values() if method.checkpoint_format]
    formats = sorted({TIMM, *(str(method.checkpoint_format) for method in importable)})
    if format != "auto" and format not in formats:
        close = nearest(format, formats)
        raise UserError(
            f"unknown checkpoint format '{format}'; {'nearest' if close else 'known'}: {', '.join(close or formats)}"
        )
    if format == TIMM:
        return []
    chosen = [method for method in importable if format in ("auto", method.checkpoint_format)]
    if model is None:
        return chosen
    named = [method for method in chosen if model in (method.name, method.class_name)]
    if not named:
        raise UserError(f"{model} does not read format {format}; methods that do: {', '.join(m.name for m in chosen)}")
    return named


def _around_backbone(path: Path, model: str | None, init_args: dict[str, Any]) -> "AnomalyModule":
    """A method whose backbone (argument ``weights``) or masked autoencoder's encoder comes from a state dict."""
    if model is None:
        raise UserError(
            f"format {TIMM} fills the backbone of a method: name it (--model padim, --model memmc_mae, ...)"
        )
    method = find(model)
    cls: Any = load_class(method.name)
    init_args = _checked(method, init_args)
    if method.checkpoint_format == "mae":
        from zoo.nn.backbone_weights import transformer_names

        tensors = transformer_names(flatten(read_checkpoint(path)))
        if not cls.recognises(tensors):
            found = ", ".join(list(tensors)[:3]) or "no tensors"
            raise UserError(f"{path}: {model} takes a vision transformer of timm or torchvision, found {found}")
        with bounded(str(path), path.stat().st_size):
            filled: AnomalyModule = cls.from_original(tensors, **init_args)
            return filled
    if "weights" not in arguments(cls):
        raise UserError(f"{model} cannot take a backbone's weights: it has no argument weights")
    made: AnomalyModule = cls(**{**init_args, "weights": str(path)})
    made.configure_model()
    return made


def _checked(method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the user, of the types of the method's constructor.

    Raises:
        UserError: unknown, or of another type.
    """
    import jsonargparse

    cls = load_class(method.name)
    known = arguments(cls)
    for key in given:
        if key not in known:
            close = nearest(key, known) or list(known)
            raise UserError(f"{method.name} has no argument '{key}'; nearest: {', '.join(close)}")
    if not given:
        return {}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "model", skip={key for key in known if key not in given})
    try:
        found = parser.parse_object({"model": given})["model"].as_dict()
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rpartition("Parser key ")[2]
        raise UserError(f"{method.name}: {reason}") from error
    return {key: found[key] for key in given}
