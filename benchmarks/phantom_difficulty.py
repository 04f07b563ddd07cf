"""How hard the phantoms are for simple baselines: image and pixel AUROC per set and seed.

Usage: ``python -m benchmarks.phantom_difficulty --seeds 0 1 --preset small --folder /tmp/phantoms [--sets covidx ...]``

A phantom is useful while each baseline stays between chance and certainty (0.55 to 0.95), and when gliomas and strokes
are found best in FLAIR, then T2, then T1. Rerun after any change of `datamodules.phantoms`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from datamodules import phantoms

SIDE = 64
Pixels = NDArray[np.floating[Any]]
SETS = ("hyper_kvasir", "covidx", "vindr_cxr", "brats17:flair", "brats17:t2", "brats17:t1")
STROKES = ("isles15:flair", "isles15:t2", "isles15:t1")


class Data(NamedTuple):
    """Healthy training images, test images (N, C, SIDE, SIDE), masks (N, SIDE, SIDE) and labels (N,)."""

    train: Pixels
    test: Pixels
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]


def _picture(path: Path) -> Pixels:
    """Read an image file as (C, SIDE, SIDE) in [0, 1]."""
    if path.suffix == ".dicom":
        data = pydicom.dcmread(path)
        values = data.pixel_array.astype(np.float32) / 2**data.BitsStored
        values = 1 - values if data.PhotometricInterpretation == "MONOCHROME1" else values
        return np.asarray(Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BOX))[None]
    with Image.open(path) as image:
        small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32).transpose(2, 0, 1) / 255


def _mask(path: Path) -> NDArray[np.bool_]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)) > 127


def _equalise(images: Pixels) -> Pixels:
    """Replace grey values by their ranks within each image, which removes exposure."""
    flat = images.reshape(len(images), -1)
    ranks = flat.argsort(1).argsort(1).astype(np.float32) / flat.shape[1]
    return ranks.reshape(images.shape)


def pictures(root: Path, name: str) -> Data:
    """Load a set of two-dimensional images."""
    rows = list(csv.DictReader((root / "_phantom_truth/truth.csv").open()))
    rows = [row for row in rows if "unlabeled" not in row["path"]]
    if name == "hyper_kvasir":
        pool = [row for row in rows if "/cecum/" in row["path"] or "/bbps-2-3/" in row["path"]]
        held = len(pool) * 500 // 2100
        train, test = pool[held:], pool[:held] + [row for row in rows if row["anomalous"] == "1"]
    else:
        train = [row for row in rows if row["path"].startswith("train/") and row["anomalous"] == "0"]
        test = [row for row in rows if row["path"].startswith("test/")]
    images = [np.stack([_picture(root / row["path"]) for row in part]) for part in (train, test)]
    if name != "hyper_kvasir":
        images = [_equalise(part[:, :1]) for part in images]
    empty = np.zeros((SIDE, SIDE), bool)
    masks = np.stack([_mask(root / row["mask"]) if row["mask"] else empty for row in test])
    return Data(images[0], images[1], masks, np.array([int(row["anomalous"]) for row in test]))


def _slices(path: Path, mask: Path | None) -> tuple[Pixels, NDArray[np.bool_]]:
    """Axial slices of a stripped volume, cut to the brain's box and scaled to its 99th percentile."""
    volume: Any = nib.as_closest_canonical(nib.load(path))
    values = np.asarray(volume.dataobj, np.float32)
    where = np.nonzero(values > 0)
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in where)
    values = np.clip(values / np.percentile(values[where], 99), 0, 1.2)[box]
    marks = np.zeros(values.shape, np.float32)
    if mask is not None:
        truth: Any = nib.as_closest_canonical(nib.load(mask))
        marks = (np.asarray(truth.dataobj)[box] > 0).astype(np.float32)
    levels = np.linspace(0.35, 0.85, 20) * values.shape[2]
    size, kind = (SIDE, SIDE), Image.Resampling.BILINEAR
    picked = [np.asarray(Image.fromarray(values[:, :, int(z)]).resize(size, kind)) for z in levels]
    marked = [np.asarray(Image.fromarray(marks[:, :, int(z)]).resize(size, kind)) > 0.5 for z in levels]
    return np.stack(picked)[:, None], np.stack(marked)


def slices(healthy: Path, sick: Path, sequence: str) -> Data:
    """Load slices: HCP for training, tumour or stroke patients for testing, FLAIR from half of the healthy twins."""
    rows = list(csv.DictReader((sick / "_phantom_truth/truth.csv").open()))
    names = {"t1": ("_t1.", "MR_T1."), "t2": ("_t2.", "MR_T2."), "flair": ("_flair.", "MR_Flair.")}[sequence]
    rows = [row for row in rows if any(name in row["path"] for name in names)]
    if sequence == "flair":
        # HCP has no FLAIR: the twins of every second patient train, the other patients test
        train_files = [sick / row["healthy"] for row in rows[::2]]
        rows = rows[1::2]
    else:
        train_files = sorted(healthy.glob(f"*/T1w/{sequence.upper()}w_acpc_dc_restore_brain.nii.gz"))
    train = np.concatenate([_slices(path, None)[0] for path in train_files])
    parts = [_slices(sick / row["path"], sick / row["mask"]) for row in rows]
    masks = np.concatenate([part[1] for part in parts])
    return Data(train, np.concatenate([part[0] for part in parts]), masks, np.asarray(masks.any((1, 2)), np.int64))


def _autoencode(train: Pixels, test: Pixels, seed: int) -> Pixels:
    """Residual of a small convolutional autoencoder after 300 steps."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        channels = train.shape[1]
        net = torch.nn.Sequential(
            *(torch.nn.Conv2d(channels, 16, 4, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 4, 2, 1)),
            *(torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 4, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(32, 8, 1)),
            *(torch.nn.ConvTranspose2d(8, 32, 4, 2, 1), torch.nn.ReLU(), torch.nn.ConvTranspose2d(32, 16, 4, 2, 1)),
            *(torch.nn.ReLU(), torch.nn.ConvTranspose2d(16, channels, 4, 2, 1)),
        )
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    images = torch.from_numpy(train)
    for _ in range(300):
        batch = images[torch.randint(len(images), (16,), generator=generator)]
        loss = (net(batch) - batch).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        values = torch.from_numpy(test)
        return (net(values) - values).abs().mean(1).numpy()


def maps(data: Data, seed: int) -> dict[str, Pixels]:
    """Return (N, SIDE, SIDE) anomaly maps of the baselines."""
    train, test = (part.reshape(len(part), -1) for part in (data.train, data.test))
    mean, spread = train.mean(0), train.std(0) + 0.02
    basis = np.linalg.svd(train - mean, full_matrices=False)[2][:40]
    centred = test - mean
    residual = np.abs(centred - centred @ basis.T @ basis)
    shaped = {"intensity": test, "z-score": np.abs(centred) / spread, "pca": residual}
    out = {key: value.reshape(data.test.shape).mean(1) for key, value in shaped.items()}
    return {**out, "autoencoder": _autoencode(data.train, data.test, seed)}


def measure(data: Data, seed: int) -> dict[str, tuple[float, float]]:
    """Return image and pixel AUROC of each baseline; an image's score is the mean of its highest fiftieth."""
    out = {}
    for key, sharp in maps(data, seed).items():
        values = ndimage.gaussian_filter(sharp, (0, 1.5, 1.5))
        flat = np.sort(values.reshape(len(values), -1), axis=1)[:, -SIDE * SIDE // 50 :].mean(1)
        out[key] = (float(roc_auc_score(data.labels, flat)), float(roc_auc_score(data.masks.ravel(), values.ravel())))
    return out


def main() -> None:
    """Write the phantoms that are missing, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[*SETS, *STROKES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    for seed in options.seeds:
        for entry in options.sets:
            name, _, sequence = entry.partition(":")
            roots = {key: options.folder / f"{key}-{options.preset}-{seed}" for key in ("hcp", name)}
            for key in roots if sequence else (name,):
                phantoms.write(key, roots[key], options.preset, seed)
            data = slices(roots["hcp"], roots[name], sequence) if sequence else pictures(roots[name], name)
            cells = [f"{key} {a:.2f}/{b:.2f}" for key, (a, b) in measure(data, seed).items()]
            print(f"seed {seed} {entry:15s} image/pixel  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
