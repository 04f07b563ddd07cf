"""The small phantom of ``Folder`` and ``MedMNIST``: bright discs on textured ground; anomalies are smooth spots."""

import json
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from datamodules.reading import Array


def picture(seed: int, number: int, side: int, anomalous: bool) -> tuple[Array, Array]:
    """One picture and the outline of its anomaly.

    Args:
        seed: of the whole phantom.
        number: of the picture; the anomaly has a random stream of its own, so that the healthy twin is exact.
        side: pixels.
        anomalous: add a spot.

    Returns:
        tuple: ``(side, side)`` uint8 and bool.
    """
    anatomy, lesion = (np.random.Generator(np.random.PCG64([seed, number, stream])) for stream in (0, 1))
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    image = 0.15 + 0.05 * _texture(anatomy, side, side / 14)
    for x in (-0.2, 0.2):  # two dark lungs in a bright body
        body = (columns / 0.46) ** 2 + (rows / 0.48) ** 2 < 1
        image = np.where(body, np.maximum(image, 0.62), image)
        x, y = x + anatomy.uniform(-0.02, 0.02), anatomy.uniform(-0.03, 0.03)
        width, height = anatomy.uniform(0.12, 0.16), anatomy.uniform(0.26, 0.34)
        lung = ((columns - x) / width) ** 2 + ((rows - y) / height) ** 2 < 1
        image = np.where(lung, 0.33 + anatomy.uniform(-0.03, 0.03), image)
    image = gaussian_filter(image, side / 64) + 0.04 * _texture(anatomy, side, side / 40)
    image += 0.015 * anatomy.standard_normal((side, side))
    mask = np.zeros((side, side), bool)
    if anomalous:
        x, y = lesion.choice([-0.2, 0.2]) + lesion.uniform(-0.06, 0.06), lesion.uniform(-0.18, 0.18)
        radius = lesion.uniform(0.05, 0.1)
        mask = ((columns - x) / radius) ** 2 + ((rows - y) / (radius * lesion.uniform(0.7, 1.4))) ** 2 < 1
        image = image + gaussian_filter(mask.astype(float), side / 50) * lesion.uniform(0.12, 0.3)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), mask


def _texture(generator: np.random.Generator, side: int, sigma: float) -> Array:
    field = gaussian_filter(generator.standard_normal((side, side)), sigma, mode="wrap")
    return field / (field.std() + 1e-12)


def write_folder(root: Path, seed: int, side: int = 64, counts: tuple[int, int, int] = (64, 16, 16)) -> None:
    """Write the layout of :class:`~datamodules.folder.Folder`.

    Args:
        root: new folder.
        seed: of all random streams.
        side: pixels.
        counts: training, normal test and anomalous test pictures.
    """
    from PIL import Image

    for folder in ("train/normal", "test/normal", "test/anomalous", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    number = 0
    for folder, count in zip(("train/normal", "test/normal", "test/anomalous"), counts, strict=True):
        for _ in range(count):
            image, mask = picture(seed, number, side, folder == "test/anomalous")
            Image.fromarray(image).save(root / folder / f"{number:04d}.png")
            if folder == "test/anomalous":
                Image.fromarray(mask.astype(np.uint8) * 255).save(root / "masks" / f"{number:04d}.png")
            number += 1
    _mark(root, "folder", seed)


def write_medmnist(root: Path, subset: str, seed: int) -> None:
    """Write ``<subset>.npz`` with two classes, 28 x 28: 0 normal, 1 with a spot."""
    root.mkdir(parents=True, exist_ok=True)
    arrays = {}
    number = 0
    for part, count in (("train", 256), ("val", 64), ("test", 128)):
        labels = np.arange(count) % 2
        pictures = [picture(seed, number + i, 56, bool(label))[0] for i, label in enumerate(labels)]
        small = [image.reshape(28, 2, 28, 2).mean((1, 3)) for image in pictures]
        arrays[f"{part}_images"] = np.rint(small).astype(np.uint8)
        arrays[f"{part}_labels"] = labels.astype(np.uint8)[:, None]
        number += count
    np.savez_compressed(root / f"{subset}.npz", **arrays)  # type: ignore[arg-type]
    _mark(root, subset, seed)


def _mark(root: Path, name: str, seed: int) -> None:
    content = {"synthetic": True, "data_set": name, "preset": "smoke", "seed": seed, "version": 1}
    (root / "PHANTOM_DATA.json").write_text(json.dumps(content, indent=1) + "\n")
