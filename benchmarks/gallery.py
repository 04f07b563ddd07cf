"""The gallery: pictures that every cell keeps of the same test images; the report chooses among them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from zoo.files import whole

Array = NDArray[Any]
KEPT_PER_CLASS = 32
SIDE = 128
DECADES = 3.0


class Gallery(Callback):
    """Keeps input, truth and map of the same test images for every method, small and in 8 bits (:func:`levels`).

    The images are chosen by a hash of their names, before any result is known: of each class those with the smallest.

    Args:
        folder: of the cell, where ``gallery.npz`` goes.
        count: images of each class.
    """

    def __init__(self, folder: Path, count: int = KEPT_PER_CLASS) -> None:
        self.folder, self.count = folder, count
        self.kept: dict[int, dict[str, tuple[str, dict[str, Array]]]] = {0: {}, 1: {}}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep what belongs to the smallest hashes so far."""
        for row, name in enumerate(batch["id"]):
            key, part = hashlib.sha256(name.encode()).hexdigest(), self.kept[int(batch["label"][row])]
            if len(part) < self.count or key < max(part):
                part[key] = name, pictures(outputs, batch, row)
                if len(part) > self.count:
                    del part[max(part)]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``gallery.npz`` (of the first process)."""
        if not trainer.is_global_zero:
            return
        chosen = [(name, label, images) for label in (1, 0) for _, (name, images) in sorted(self.kept[label].items())]
        healthy = [images["map"] for _, label, images in chosen if label == 0 and "map" in images]
        arrays: dict[str, Any] = {"names": np.array([name for name, _, _ in chosen])}
        arrays["labels"] = np.array([label for _, label, _ in chosen])
        arrays["by_healthy_pixels"] = np.array(bool(healthy))
        for number, (_, _, images) in enumerate(chosen):
            if "map" in images:
                images["map"] = levels(images["map"], healthy) if healthy else _greys(images["map"])
            arrays |= {f"{number}_{kind}": image for kind, image in images.items()}
        with whole(self.folder / "gallery.npz") as partial:
            np.savez_compressed(partial, **arrays)


def levels(values: Array, healthy: list[Array]) -> Array:
    """A map in 8 bits on the scale that all methods share: how rare a value is among pixels of healthy images.

    ``255 * -log10(share of healthy pixels that are not below) / DECADES``: 0 is below all of them, a third is exceeded
    by one pixel in ten, two thirds by one in a hundred, 255 by one in a thousand or none.

    Args:
        values: any shape.
        healthy: maps of healthy images.
    """
    reference = np.sort(np.concatenate([one.ravel() for one in healthy]))
    above = reference.size - np.searchsorted(reference, values, "left")
    rare = -np.log10(np.maximum(above, 1e-9) / reference.size)
    return np.rint(255 * np.clip(rare / DECADES, 0, 1)).astype(np.uint8)


def pictures(outputs: Any, batch: Any, row: int) -> dict[str, Array]:
    """Input and truth of one image as small 2-D uint8 arrays, each over its own range, and its map in float32.

    Of a volume the slice with the largest true anomaly, else the middle one: the same for every method.
    """
    parts = {"input": batch["image"], "map": outputs.anomaly_map, "truth": batch.get("mask")}
    found = {kind: part[row].detach().float().cpu().numpy() for kind, part in parts.items() if part is not None}
    if found["input"].ndim == 4:
        sizes = found["truth"].sum((0, 2, 3)) if "truth" in found else np.zeros(1)
        depth = int(sizes.argmax()) if sizes.any() else found["input"].shape[1] // 2
        found = {kind: image[:, depth] for kind, image in found.items()}
    small = {kind: _small(image.mean(0)) for kind, image in found.items()}
    return {kind: image if kind == "map" else _greys(image) for kind, image in small.items()}


def _small(image: Array) -> Array:
    """At most :data:`SIDE` pixels a side, float32."""
    from PIL import Image

    picture = Image.fromarray(image.astype(np.float32))
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def _greys(image: Array) -> Array:
    """8 bits over the image's own range."""
    low, high = float(image.min()), float(image.max())
    return np.rint(255 * (image - low) / (high - low if high > low else 1)).astype(np.uint8)
