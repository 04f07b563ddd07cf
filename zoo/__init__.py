"""uad-zoo: reference implementations of unsupervised anomaly detection in medical images.

``import zoo`` costs nothing: torch is imported when one of the names below is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.checkpoints.importing import import_checkpoint
    from zoo.checkpoints.loading import load_pretrained
    from zoo.module import AnomalyModule, Prediction
    from zoo.sample import DataSource, Sample
    from zoo.scoring.pooling import pool_map
    from zoo.staging import Stage

__version__ = "0.2.0"
__all__ = [
    "AnomalyModule",
    "DataSource",
    "Prediction",
    "Sample",
    "Stage",
    "create_model",
    "import_checkpoint",
    "list_models",
    "load_pretrained",
    "pool_map",
]

_HOMES = {
    "AnomalyModule": "zoo.module",
    "DataSource": "zoo.sample",
    "Prediction": "zoo.module",
    "Sample": "zoo.sample",
    "Stage": "zoo.staging",
    "import_checkpoint": "zoo.checkpoints.importing",
    "load_pretrained": "zoo.checkpoints.loading",
    "pool_map": "zoo.scoring.pooling",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def list_models(family: str | None = None) -> list[str]:
    """Names of all methods and their variants (shipped configurations such as ``dn2``), or of one family.

    Args:
        family: ``reconstruction``, ``self_supervised``, ``pretrained`` or ``statistical``; None = all.

    Raises:
        UserError: unknown family.
    """
    from zoo.errors import UserError
    from zoo.registry import FAMILIES, names

    if family is not None and family not in FAMILIES:
        raise UserError(f"unknown family '{family}'; families: {', '.join(FAMILIES)}")
    return names(family)


def create_model(
    name: str, *, image_size: int | tuple[int, ...], in_channels: int = 1, **init_args: Any
) -> "AnomalyModule":
    """A method with its networks built, ready for training or :meth:`AnomalyModule.predict_anomaly`.

    Args:
        name: a name of :func:`list_models`, for example ``"fae"`` or ``"dn2"``.
        image_size: side of a square image, or ``(H, W)`` or ``(D, H, W)`` in pixels.
        in_channels: image channels.
        **init_args: further arguments of the method's class; and what otherwise a DataModule says: ``value_range``,
            ``(0, 1)`` if not given, and ``foreground_rule`` (:mod:`zoo.foreground`).

    Raises:
        UserError: unknown name (the nearest ones are listed), unknown argument or a size that the method refuses.
    """
    from zoo.errors import UserError
    from zoo.module import OF_THE_DATA
    from zoo.registry import arguments, find_settings, load_class, nearest

    method, settings = find_settings(name)
    cls = load_class(method.name)
    known = [*arguments(cls), *OF_THE_DATA]
    for key in init_args:
        if key not in known:
            raise UserError(f"{name} has no argument '{key}'; nearest: {', '.join(nearest(key, known)) or list(known)}")
    model = cls.from_hparams({"image_size": image_size, "in_channels": in_channels, **settings, **init_args})
    model.configure_model()
    return model
