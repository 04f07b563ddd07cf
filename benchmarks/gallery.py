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


class Gallery(Callback):
    """Keeps input, truth and map of the same test images for every method, small and in 8 bits.

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
        arrays: dict[str, Any] = {"names": np.array([name for name, _, _ in chosen])}
        arrays["labels"] = np.array([label for _, label, _ in chosen])
        for number, (_, _, images) in enumerate(chosen):
            arrays |= {f"{number}_{kind}": image for kind, image in images.items()}
        with whole(self.folder / "gallery.npz") as partial:
            np.savez_compressed(partial, **arrays)


def pictures(outputs: Any, batch: Any, row: int) -> dict[str, Array]:
    """Input, map and truth of one image as small 2-D uint8 arrays, each over its own range.

    Of a volume the slice with the largest true anomaly, else the middle one: the same for every method.
    """
    parts = {"input": batch["image"], "map": outputs.anomaly_map, "truth": batch.get("mask")}
    found = {kind: part[row].detach().float().cpu().numpy() for kind, part in parts.items() if part is not None}
    if found["input"].ndim == 4:
        sizes = found["truth"].sum((0, 2, 3)) if "truth" in found else np.zeros(1)
        depth = int(sizes.argmax()) if sizes.any() else found["input"].shape[1] // 2
        found = {kind: image[:, depth] for kind, image in found.items()}
    return {kind: _small(image.mean(0)) for kind, image in found.items()}


def _small(image: Array) -> Array:
    """At most :data:`SIDE` pixels a side, in 8 bits over its own range."""
    from PIL import Image

    low, high = float(image.min()), float(image.max())
    level = (image - low) / (high - low if high > low else 1)
    picture = Image.fromarray(np.rint(255 * level).astype(np.uint8))
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)
