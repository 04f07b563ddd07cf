"""Models from checkpoints of the original authors' code."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.reading import read_checkpoint
from zoo.errors import UserError
from zoo.registry import Method, load_class, methods, nearest

if TYPE_CHECKING:
    from zoo.module import AnomalyModule


def import_checkpoint(
    source: str | Path, format: str = "auto", model: str | None = None, **init_args: Any
) -> "AnomalyModule":
    """Build a method from a file of its original authors.

    The file is read without running anything in it. Formats belong to methods: each that declares a
    ``checkpoint_format`` recognises its files (``recognises``) and translates them (``from_original``).

    Args:
        source: local file.
        format: name of the format; ``auto`` asks every format whether it recognises the file.
        model: method to build where several share a format.
        **init_args: arguments of the method's class, over those read from the file.

    Returns:
        The method with networks built and filled. Which tensors were filled, new or ignored is logged.

    Raises:
        UserError: unknown format, a file that is unsafe, damaged or of no known format, or tensors that do not fit.
    """
    candidates = _candidates(format, model)
    checkpoint = read_checkpoint(source)
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{source}: expected a dictionary of tensors, found {type(checkpoint).__name__}")
    for method in candidates:
        cls: Any = load_class(method.name)
        if cls.recognises(checkpoint):
            return cls.from_original(checkpoint, **init_args)
    if "uad_zoo" in checkpoint:
        raise UserError(f"{source}: a checkpoint of this package; load it with zoo.load_pretrained or --run FOLDER")
    tried = ", ".join(sorted({str(method.checkpoint_format) for method in candidates}))
    keys = ", ".join(str(key) for key in list(checkpoint)[:4])
    raise UserError(f"{source}: not recognised as {tried}; its first entries are {keys}")


def _candidates(format: str, model: str | None) -> list[Method]:
    importable = [method for method in methods().values() if method.checkpoint_format]
    formats = sorted({str(method.checkpoint_format) for method in importable})
    if format != "auto" and format not in formats:
        close = nearest(format, formats)
        raise UserError(
            f"unknown checkpoint format '{format}'; {'nearest' if close else 'known'}: {', '.join(close or formats)}"
        )
    chosen = [method for method in importable if format in ("auto", method.checkpoint_format)]
    if model is None:
        return chosen
    named = [method for method in chosen if model in (method.name, method.class_name)]
    if not named:
        raise UserError(f"{model} does not read format {format}; methods that do: {', '.join(m.name for m in chosen)}")
    return named
