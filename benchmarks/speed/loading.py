"""Loading VinDr-sized films: the paper's preprocessing, the leanest decoding, and a warm epoch from the cache.

``python -m benchmarks.speed.loading --films 32`` writes uncompressed 2048 x 2048 16-bit DICOM films, times the three
paths in turn, several times, in CPU seconds of this process, and prints medians and their spread per film as JSON.
The paper's path, which costs the same for each film, is timed on the first four.
"""

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules import VinDrCXR
from datamodules.preprocessing import multi_task_film
from datamodules.reading import Array, read_dicom
from datamodules.vindr_cxr import NO_FINDING

SIDE = 2048


def write_films(root: Path, count: int) -> list[Path]:
    """A root in VinDr's layout: ``count`` healthy training films, and one test film with a box.

    Returns:
        list: the training films.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    base = 4000 - 6000 * (rows**2 + columns**2)
    paths = []
    for number in range(count + 1):
        film = f"{number:032x}"
        header = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
        header.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[film])
        header.Rows = header.Columns = SIDE
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.WindowCenter, header.WindowWidth = 2000, 3600
        noisy = base + rng.integers(0, 90, base.shape) + 300 * np.sin(columns * (20 + number))
        header.PixelData = np.clip(noisy, 0, 4095).astype(np.uint16).tobytes()
        path = root / ("train" if number < count else "test") / f"{film}.dicom"
        path.parent.mkdir(parents=True, exist_ok=True)
        header.save_as(path, enforce_file_format=True)
        paths.append(path)
    _annotate(root, [path.stem for path in paths])
    return paths[:-1]


def _annotate(root: Path, films: list[str]) -> None:
    boxes = ["image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
    tables: dict[str, list[list[Any]]] = {
        "annotations_train": [boxes, *([film, "R1", NO_FINDING, "", "", "", ""] for film in films[:-1])],
        "annotations_test": [boxes, [films[-1], "", "Nodule/Mass", 400, 400, 800, 900]],
        "image_labels_train": [["image_id", "rad_id", NO_FINDING], *([film, "R1", "1"] for film in films[:-1])],
    }
    (root / "annotations").mkdir()
    for name, rows in tables.items():
        with (root / "annotations" / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)


def lean(path: Path) -> Array:
    """The least that gives an equalised 256 x 256 film: area mean, then equalisation through a table."""
    film = read_dicom(path)
    pooled = torch.nn.functional.avg_pool2d(torch.from_numpy(film.pixels.astype(np.float32))[None], SIDE // 256)
    small = pooled[0].numpy().astype(np.uint16)
    shares = np.bincount(small.ravel(), minlength=65536).cumsum() / small.size
    return (2 * shares - 1).astype(np.float32)[small]


def main() -> None:
    """Write films, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_films(Path(folder) / "vindr", arguments.films)
        data = VinDrCXR(root=f"{folder}/vindr", cache_dir=f"{folder}/cache", val_fraction=0, batch_size=32)
        data.setup()
        loader = data.train_dataloader()
        few = paths[:4]
        ways: dict[str, tuple[Callable[[], object], int]] = {
            "paper": (lambda: [multi_task_film(read_dicom(path)) for path in few], len(few)),
            "lean": (lambda: [lean(path) for path in paths], len(paths)),
            "warm epoch": (lambda: [None for _ in range(20) for _ in loader], 20 * len(paths)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, (run, films) in ways.items():
                start = time.process_time()
                run()
                seconds[name].append((time.process_time() - start) / films)
    print(json.dumps(_summary(seconds), indent=1))


def _summary(seconds: dict[str, list[float]]) -> dict[str, object]:
    def ratios(name: str) -> list[float]:
        return [slow / fast for slow, fast in zip(seconds[name], seconds["warm epoch"], strict=True)]

    def spell(values: list[float], digits: int) -> str:
        return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"

    return {
        "cpu_ms_per_film": {name: spell([1000 * value for value in values], 3) for name, values in seconds.items()},
        "times_faster_than_paper": spell(ratios("paper"), 0),
        "times_faster_than_lean": spell(ratios("lean"), 0),
        "load_average": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    main()
