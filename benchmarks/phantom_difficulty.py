"""How hard the phantoms are for simple baselines: image and pixel AUROC per set and seed.

Usage: ``python -m benchmarks.phantom_difficulty --seeds 0 1 --preset small --folder /tmp/phantoms [--sets covidx ...]``

A phantom is useful while each baseline stays between chance and certainty (0.55 to 0.95), and when gliomas and strokes
are found best in FLAIR, then T2, then T1. Rerun after any change of `datamodules.phantoms`.

What is measured:

- Only what the picture shows counts: the endoscope's window without its inset, the stripped brain, the whole film. The
  black around them is no achievement at all, and would raise every pixel AUROC.
- Brains are equalised as the feature autoencoder does; z-scores and components are taken per axial level.
- Films are equalised as well. That gives all of them the same grey values, so the intensity of a whole film says
  nothing by construction, and the cell stays empty (``-``); its pixels are measured.
- In a frame of an endoscope brightness is distance to the lamp. Intensity and z-score of frames are those of the
  redness (R - G) / (R + G + B), which exposure does not change; the other two baselines see all colours.
- Lesions may be bright or dark, so intensity counts in the direction in which it separates the pixels better.

Some cells stay near chance on purpose, as on patients: in T1 gliomas are as bright as the cortex, so brightness tells
nothing of a slice, and subacute strokes hardly show. The order of the sequences holds for the mean over the baselines;
a single cell rests on 12 to 16 patients and may differ.
"""

from __future__ import annotations

import argparse
import csv
import functools
from collections.abc import Callable
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
from datamodules.phantoms import hcp
from datamodules.phantoms.brain_scans import acquire
from datamodules.phantoms.storage import Settings

SIDE = 64
Pixels = NDArray[np.floating[Any]]
#: Image and pixel AUROC of each baseline.
Figures = dict[str, tuple[float | None, float]]
SETS = ("hyper_kvasir", "covidx", "vindr_cxr", "brats17:flair", "brats17:t2", "brats17:t1")
STROKES = ("isles15:flair", "isles15:t2", "isles15:t1")


class Data(NamedTuple):
    """Healthy training images, test images (N, C, SIDE, SIDE), masks and what is shown (N, SIDE, SIDE), labels (N,).

    Images are ordered by subject and then by level; pictures have one level. `share` is about how much of an image a
    finding fills: a tenth of a frame or film, a fiftieth of a slice.
    """

    train: Pixels
    test: Pixels
    masks: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    labels: NDArray[np.int64]
    levels: int = 1
    share: float = 0.1


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
    shown = np.ones_like(masks)
    if name == "hyper_kvasir":
        places = [root / "_phantom_truth/foreground" / f"{row['path'].removesuffix('.jpg')}.png" for row in test]
        # one pixel less, because the shrunken frame is dim there
        shown = np.stack([ndimage.binary_erosion(_mask(place)) for place in places])
    return Data(images[0], images[1], masks, shown, np.array([int(row["anomalous"]) for row in test]))


LEVELS = 20


def _canonical(path: Path) -> NDArray[np.float32]:
    volume: Any = nib.as_closest_canonical(nib.load(path))
    return np.asarray(volume.dataobj, np.float32)


def _slices(values: Pixels, marks: NDArray[Any]) -> tuple[Pixels, NDArray[np.bool_]]:
    """Axial slices of a stripped volume, equalised inside the brain and cut to its box."""
    where = np.nonzero(values > 0)
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in where)
    levels = np.linspace(0, 1, 257)
    equal = np.interp(values, np.quantile(values[where], levels), levels) * (values > 0)
    places = np.linspace(0.35, 0.85, LEVELS) * (box[2].stop - box[2].start)

    def picked(volume: NDArray[Any]) -> Pixels:
        planes = [Image.fromarray(volume[box][:, :, int(z)].astype(np.float32)) for z in places]
        return np.stack([np.asarray(plane.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for plane in planes])

    return picked(equal)[:, None], picked(marks > 0) > 0.5


@functools.cache
def healthy_slices(preset: str, seed: int, sequence: str) -> Pixels:
    """Slices of the volunteers of the HCP phantom, who are given a FLAIR here that the real set lacks."""
    settings = Settings("hcp", preset, seed, 1.0, False, "official")
    scans = [acquire(hcp.SPEC, settings, job, (sequence,)) for job in hcp.jobs(settings)]
    return np.concatenate([_slices(one.volumes[sequence], one.labels)[0] for one in scans])


def slices(healthy: Pixels, sick: Path, sequence: str) -> Data:
    """Add the slices of tumour or stroke patients to those of volunteers; slices without lesion count as healthy."""
    rows = list(csv.DictReader((sick / "_phantom_truth/truth.csv").open()))
    names = {"t1": ("_t1.", "MR_T1."), "t2": ("_t2.", "MR_T2."), "flair": ("_flair.", "MR_Flair.")}[sequence]
    rows = [row for row in rows if any(name in row["path"] for name in names)]
    parts = [_slices(_canonical(sick / row["path"]), _canonical(sick / row["mask"])) for row in rows]
    masks = np.concatenate([part[1] for part in parts])
    images = np.concatenate([part[0] for part in parts])
    return Data(healthy, images, masks, images[:, 0] > 0, np.asarray(masks.any((1, 2)), np.int64), LEVELS, 0.02)


def _plain(images: Pixels) -> Pixels:
    """Grey values, or the redness of colour images, as (N, 1, SIDE, SIDE)."""
    if images.shape[1] == 1:
        return images
    # the small summand calms the noise of dark pixels
    redness: Pixels = ((images[:, 0] - images[:, 1]) / (images.sum(1) + 0.05))[:, None]
    return redness


def _autoencode(train: Pixels, test: Pixels, seed: int) -> Pixels:
    """Residual of a small autoencoder with 32 latent values after 600 steps."""
    generator = torch.Generator().manual_seed(seed)
    nn, channels = torch.nn, train.shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            *(nn.Conv2d(channels, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 4), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(512, 32), nn.Linear(32, 512), nn.ReLU(), nn.Unflatten(1, (32, 4, 4))),
            *(nn.ConvTranspose2d(32, 16, 4, 4), nn.ReLU(), nn.ConvTranspose2d(16, channels, 4, 4)),
        )
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    images = torch.from_numpy(np.asarray(train, np.float32))
    for _ in range(600):
        batch = images[torch.randint(len(images), (32,), generator=generator)]
        loss = nn.functional.mse_loss(net(batch), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        values = torch.from_numpy(np.asarray(test, np.float32))
        errors: Pixels = (net(values) - values).abs().mean(1).numpy()
        return errors


def _z_scores(train: Pixels, test: Pixels) -> Pixels:
    """Absolute z-score of each pixel; images as rows."""
    spread = train.std(0)
    # pixels that hardly vary, such as rims, would rule otherwise
    floor = 0.25 * np.median(spread[spread > 0])
    scores: Pixels = np.abs(test - train.mean(0)) / (spread + floor)
    return scores


def _residuals(train: Pixels, test: Pixels) -> Pixels:
    """Absolute residual after projection on at most 40 principal components; images as rows."""
    mean = train.mean(0)
    basis = np.linalg.svd(train - mean, full_matrices=False)[2][: min(40, len(train) * 2 // 5)]
    centred = test - mean
    residuals: Pixels = np.abs(centred - centred @ basis.T @ basis)
    return residuals


def _by_level(statistic: Callable[[Pixels, Pixels], Pixels], train: Pixels, test: Pixels, levels: int) -> Pixels:
    """Apply a statistic of rows to the images of each level, and average the channels: (N, SIDE, SIDE)."""
    out = np.zeros_like(test)
    for level in range(levels):
        part = slice(level, None, levels)
        rows = (images[part].reshape(len(images[part]), -1) for images in (train, test))
        out[part] = statistic(*rows).reshape(out[part].shape)
    return np.asarray(out.mean(1))


def maps(data: Data, seed: int) -> dict[str, Pixels]:
    """Return (N, SIDE, SIDE) anomaly maps of the baselines."""
    plain = (_plain(data.train), _plain(data.test))
    return {
        "intensity": plain[1][:, 0],
        "z-score": _by_level(_z_scores, *plain, data.levels),
        "pca": _by_level(_residuals, data.train, data.test, data.levels),
        "autoencoder": _autoencode(data.train, data.test, seed),
    }


def measure(data: Data, seed: int, *, flat: bool) -> Figures:
    """Return image and pixel AUROC of each baseline; an image's score is the mean of its highest `data.share`.

    Args:
        flat: images are equalised one by one, so that the intensity of a whole image is no score.
    """
    out: Figures = {}
    for key, sharp in maps(data, seed).items():
        values = ndimage.gaussian_filter(sharp, (0, 1.5, 1.5))
        pixel = float(roc_auc_score(data.masks[data.shown], values[data.shown]))
        if key == "intensity" and pixel < 0.5:
            values, pixel = -values, 1 - pixel
        inside = [np.sort(one[part]) for one, part in zip(values, data.shown, strict=True)]
        scores = [float(one[-max(1, int(len(one) * data.share)) :].mean()) for one in inside]
        image = float(roc_auc_score(data.labels, scores))
        out[key] = (None if flat and key == "intensity" else image, pixel)
    return out


def _spell(values: list[float | None]) -> str:
    """Mean and range of a cell over the seeds, as `.62 (.58-.66)`."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    short = [f"{value:.2f}".removeprefix("0") for value in (float(np.mean(known)), min(known), max(known))]
    return f"{short[0]} ({short[1]}-{short[2]})"


def table(found: dict[str, list[Figures]]) -> str:
    """Return image / pixel AUROC of each set and baseline as Markdown: mean and range over the seeds."""
    baselines = list(next(iter(found.values()))[0])
    lines = [f"| set | {' | '.join(baselines)} |", "|---" * (len(baselines) + 1) + "|"]
    for entry, seeds in found.items():
        cells = [" / ".join(_spell([one[key][kind] for one in seeds]) for kind in (0, 1)) for key in baselines]
        lines.append(f"| {entry} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the phantoms that are missing, measure, print each seed and then a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[*SETS, *STROKES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--difficulty", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    found: dict[str, list[Figures]] = {}
    for seed in options.seeds:
        for entry in options.sets:
            name, _, sequence = entry.partition(":")
            root = options.folder / f"{name}-{options.preset}-{seed}"
            phantoms.write(name, root, options.preset, seed, difficulty=options.difficulty)
            volunteers = healthy_slices(options.preset, seed, sequence) if sequence else None
            data = pictures(root, name) if volunteers is None else slices(volunteers, root, sequence)
            one = measure(data, seed, flat=name in ("covidx", "vindr_cxr"))
            found.setdefault(entry, []).append(one)
            cells = [
                f"{key} {'-' if image is None else f'{image:.2f}'}/{pixel:.2f}" for key, (image, pixel) in one.items()
            ]
            print(f"seed {seed} {entry:15s} image/pixel  " + "  ".join(cells), flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
