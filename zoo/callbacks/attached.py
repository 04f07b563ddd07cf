"""The callbacks of a trainer."""

from typing import Any, cast

from lightning.pytorch import Callback, Trainer


def attached(trainer: Trainer) -> list[Callback]:
    """The trainer's own list of callbacks, to be read or changed; a connector sets it, so that no type tells of it."""
    callbacks: list[Callback] = cast(Any, trainer).callbacks
    return callbacks
