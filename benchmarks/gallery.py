"""The gallery: pictures that every cell keeps of the same test cases; the report chooses among them."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from zoo.files import whole
from zoo.sample import cases_of

Array = NDArray[Any]
KEPT_PER_CLASS = 32
IMAGES_OF_A_CASE = 5
SIDE = 128
DECADES = 3.0


class Kept(NamedTuple):
    """An image, or a slice of a volume.

    Attributes:
        name: its id.
        slice: in its volume, -1 for an image that is none.
        label: 1 = anomalous.
        pictures: ``input``, ``truth`` and ``map``, see :func:`pictures`.
    """

    name: str
    slice: int
    label: int
    pictures: dict[str, Array]


class Gallery(Callback):
    """Keeps input, truth and map of the same test cases for every method, small and in 8 bits (:func:`levels`).

    The cases are chosen by a hash of their names, before any result is known: of each class those with the smallest. Of
    a case with many images those with the smallest hashes are kept, and the one with the largest true anomaly.

    Args:
        folder: of the cell, where ``gallery.npz`` goes.
        count: cases of each class.
    """

    def __init__(self, folder: Path, count: int = KEPT_PER_CLASS) -> None:
        self.folder, self.count = folder, count
        self.kept: dict[int, dict[str, list[Kept]]] = {0: {}, 1: {}}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep what belongs to the smallest hashes so far."""
        numbers = batch["slice"].tolist() if "slice" in batch else [-1] * len(batch["id"])
        for row, case in enumerate(cases_of(batch, batch["id"])):
            label = int(batch["label"][row])
            key, part = _hash(case), self.kept[label]
            if key not in part and len(part) >= self.count and key > max(part):
                continue
            images = pictures(outputs, batch, row)
            new = [
                Kept(batch["id"][row] + (f"#{depth:03d}" if depth >= 0 else ""), max(numbers[row], depth), label, one)
                for depth, one in images
            ]
            part[key] = thinned([*part.get(key, []), *new])
            if len(part) > self.count:
                del part[max(part)]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``gallery.npz`` (of the first process)."""
        if not trainer.is_global_zero:
            return
        healthy, ill = self.kept[0], self.kept[1]
        cases = [thinned([*images, *healthy.get(key, [])]) for key, images in sorted(ill.items())]
        cases += [images for key, images in sorted(healthy.items()) if key not in ill]
        chosen = [image for images in cases for image in images]
        maps = [one.pictures["map"] for one in chosen if one.label == 0 and "map" in one.pictures]
        arrays: dict[str, Any] = {
            "names": np.array([one.name for one in chosen]),
            "labels": np.array([one.label for one in chosen]),
            "by_healthy_pixels": np.array(bool(maps)),
        }
        reference = np.sort(np.concatenate([one.ravel() for one in maps])) if maps else None
        for number, one in enumerate(chosen):
            for kind, picture in one.pictures.items():
                small = picture
                if kind == "map":
                    small = _greys(picture) if reference is None else levels(picture, reference)
                arrays[f"{number}_{kind}"] = small
        with whole(self.folder / "gallery.npz") as partial:
            np.savez_compressed(partial, **arrays)


def thinned(images: list[Kept]) -> list[Kept]:
    """At most :data:`IMAGES_OF_A_CASE`, in the order of slices: the largest true anomaly, then the smallest hashes."""
    if len(images) > IMAGES_OF_A_CASE:
        by_hash = sorted(images, key=lambda one: _hash(one.name))
        first = max(by_hash, key=_true_area)
        images = [first, *(one for one in by_hash if one is not first)][:IMAGES_OF_A_CASE]
    return sorted(images, key=lambda one: (one.slice, one.name))


def _true_area(one: Kept) -> int:
    return int((one.pictures["truth"] > 127).sum()) if "truth" in one.pictures else 0


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def levels(values: Array, reference: Array) -> Array:
    """A map in 8 bits on the scale that all methods share: how rare a value is among pixels of healthy images.

    ``255 * -log10(share of healthy pixels that are not below) / DECADES``: 0 is below all of them, a third is exceeded
    by one pixel in ten, two thirds by one in a hundred, 255 by one in a thousand or none.

    Args:
        values: any shape.
        reference: pixels of maps of healthy images, ascending.
    """
    above = reference.size - np.searchsorted(reference, values, "left")
    rare = -np.log10(np.maximum(above, 1e-9) / reference.size)
    return np.rint(255 * np.clip(rare / DECADES, 0, 1)).astype(np.uint8)


def pictures(outputs: Any, batch: Any, row: int) -> list[tuple[int, dict[str, Array]]]:
    """Input and truth of one image as small 2-D uint8 arrays, each over its own range, and its map in float32.

    Of a 3-D volume several slices: some spread evenly, and the one with the largest true anomaly.

    Returns:
        list: number of the slice, -1 where the image has none, and the pictures by kind.
    """
    parts = {"input": batch["image"], "map": outputs.anomaly_map, "truth": batch.get("mask")}
    found = {kind: part[row].detach().float().cpu().numpy() for kind, part in parts.items() if part is not None}
    if found["input"].ndim == 3:
        return [(-1, _small_ones(found))]
    depth = found["input"].shape[1]
    chosen = set(np.linspace(0, depth - 1, IMAGES_OF_A_CASE + 2).round().astype(int)[1:-1].tolist())
    sizes = found["truth"].sum((0, 2, 3)) if "truth" in found else np.zeros(1)
    if sizes.any():
        chosen = {*sorted(chosen)[: IMAGES_OF_A_CASE - 1], int(sizes.argmax())}
    return [(k, _small_ones({kind: image[:, k] for kind, image in found.items()})) for k in sorted(chosen)]


def _small_ones(found: dict[str, Array]) -> dict[str, Array]:
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
