"""Complete training samples per second of one core: FPI, PII, NSA, CutPaste, DRAEM, P-PII.

    python -m benchmarks.speed.self_supervised [--side 256] [--seconds 2] [--rounds 3]

Beside each maker runs, interleaved in the same process, a plain version that does what the authors' code does without
its libraries: whole-image Poisson systems, one full image a rater, label medians over the whole image, pictures turned
by Pillow. The originals cannot be installed together; re-timed on another machine (two shared virtual AMD EPYC cores,
seconds of one thread's CPU time) the authors' code made at 256 pixels: NSA logistic 55-60 samples/s (mixed), 180 with
binary labels, its FPI variant 287, its PII variant 167, its CutPaste variant 402, P-PII 12-15.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from skimage.filters import median
from skimage.morphology import disk

import zoo
from zoo.self_supervised.cutpaste import cut_and_paste
from zoo.synthetic.natural import CONSTANTS
from zoo.synthetic.raters import RaterLaw
from zoo.synthetic.rectangles import add_natural_patches, draw_square
from zoo.synthetic.strategy import TASKS, rate_task

Array = NDArray[Any]
BATCH = 8


def films(side: int) -> Array:
    """Smooth bright ovals on black, ``(BATCH, 1, side, side)`` float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal((BATCH, 1, side, side)), (0, 0, side / 60, side / 60))
    rows, columns = np.ogrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    body = np.clip(1.3 - rows**2 - columns**2, 0, 1)
    return np.asarray(np.clip(body * (0.6 + 0.3 * smooth / smooth.std()), 0, 1), np.float32)


# ---- plain versions, one sample a call ----------------------------------------------------------------------------


def plain_fpi(images: Array, rng: np.random.Generator) -> Array:
    """Whole-image weights."""
    side = images.shape[2]
    box, weight = draw_square(rng, (side, side), 0.8), np.zeros((side, side), np.float32)
    weight[box.slices()] = rng.uniform(0.05, 0.95)
    altered = (1 - weight) * images[0] + weight * images[1]
    return np.where(np.abs(altered - images[0]) > 1e-3, weight, 0)


def plain_pii(images: Array, rng: np.random.Generator) -> Array:
    """Sparse system of the whole image, identity outside of the patch."""
    side = images.shape[2]
    box, alpha = draw_square(rng, (side, side), 0.8), rng.uniform(0.05, 0.95)
    inside = np.zeros((side, side), bool)
    inside[box.slices()] = True
    inside[[0, -1]] = inside[:, [0, -1]] = False
    own, other = (image[0].astype(float) for image in images[:2])
    number = np.arange(side * side).reshape(side, side)
    right, rows, columns, values = own.copy(), [number.ravel()], [number.ravel()], [np.where(inside, -4.0, 1.0).ravel()]
    right[inside] = 0
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        kept, foreign = ((np.roll(image, shift, axis) - image) for image in (own, other))
        step = np.where(np.abs(alpha * foreign) > np.abs((1 - alpha) * kept), alpha * foreign, (1 - alpha) * kept)
        right[inside] += step[inside]
        rows.append(number[inside])
        columns.append(np.roll(number, shift, axis)[inside])
        values.append(np.ones(int(inside.sum())))
    system = coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))).tocsr()
    altered = spsolve(system, right.ravel()).reshape(side, side).clip(images.min(), images.max())
    return np.where(inside & (np.abs(altered - own) > 1e-3), alpha, 0)


def plain_nsa(images: Array, rng: np.random.Generator) -> Array:
    """The same patches, but float medians of the whole image before the label, as the authors' code has them."""
    constants, full = CONSTANTS["chest_xray"], 255 * images[0, 0] > 20
    altered, support = add_natural_patches(
        images[0],
        images[1],
        rng,
        law=constants.law,
        foreground=full,
        source_foreground=255 * images[1, 0] > 20,
        label="binary",
    )
    change = median(255 * np.abs(altered[0] - images[0, 0]), disk(5))
    return np.where(median(support, disk(2)) > 0, 1 / (1 + np.exp(-(change - 4) / 2)), 0)


def plain_cutpaste(images: Array, rng: np.random.Generator) -> Array:
    """A patch and a turned scar by Pillow."""
    pictures = []
    for scar in (False, True):
        picture = Image.fromarray(np.uint8(255 * images[0, 0])).convert("RGBA")
        side = picture.width
        size = (int(rng.integers(2, 17)), int(rng.integers(10, 26))) if scar else (side // 4, side // 4)
        corner = [int(rng.integers(0, side - max(size))) for _ in range(4)]
        patch = picture.crop((corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]))
        patch = patch.rotate(float(rng.uniform(-45, 45)), expand=True) if scar else patch
        picture.paste(patch, (corner[2], corner[3]), patch)
        pictures.append(np.asarray(picture.convert("L"), np.float32) / 255)
    return np.stack(pictures)


def plain_raters(images: Array, rng: np.random.Generator) -> Array:
    """One full image a rater, then mean and deviation over all of them."""
    seen: list[Array] = []

    def keep(target: Array, patch: Array, mask: Array, gain: float, one: np.random.Generator) -> Array:
        altered, whole = TASKS["mixed"](target, patch, mask, gain, one), images[0].copy()
        whole[:, : altered.shape[1], : altered.shape[2]] = altered
        seen.append(whole)
        return altered

    rate_task(images[0], images[1:], rng, keep, RaterLaw())
    stack = np.stack(seen)
    return np.stack([stack.mean(0), stack.std(0)])


# ---- timing -------------------------------------------------------------------------------------------------------


def makers(side: int) -> dict[str, tuple[Callable[[], int], Callable[[], int] | None]]:
    """Ours and the plain version of each task; a call returns the number of samples that it made."""
    images, rng = films(side), np.random.default_rng(0)
    batch = torch.from_numpy(images)

    def of(name: str, **arguments: Any) -> Callable[[], int]:
        model: Any = zoo.create_model(name, image_size=side, **arguments)
        return lambda: len(model.make_anomalies(batch, rng)[0])

    def plain(make: Callable[[Array, np.random.Generator], Array]) -> Callable[[], int]:
        def one() -> int:
            make(images[rng.permutation(BATCH)], rng)
            return 1

        return one

    def pasted() -> int:
        for scar in (False, True):
            cut_and_paste(batch, rng, scar=scar)
        return BATCH

    small = {"widths": (8, 8)}
    return {
        "FPI": (of("fpi", **small), plain(plain_fpi)),
        "PII": (of("pii", **small), plain(plain_pii)),
        "NSA, logistic label": (of("nsa", **small), plain(plain_nsa)),
        "NSA, binary label": (of("nsa", label="binary", **small), None),
        "CutPaste, dense": (of("nsa", blend="swap", label="binary", same_image=True, **small), None),
        "CutPaste, patch and scar": (pasted, plain(plain_cutpaste)),
        "DRAEM": (of("draem", reconstruction_width=4, width=4, depth=2), None),
        "P-PII": (of("confidence_aware", depth=2, width=4, clean=0.0), plain(plain_raters)),
        "strategy around FPI": (of("fpi", strategy=True, **small), None),
        "strategy around PII": (of("pii", strategy=True, **small), None),
    }


def speeds(calls: list[Callable[[], int] | None], seconds: float, rounds: int) -> list[float]:
    """Median over interleaved rounds of samples per second of the process's CPU time; nan for None."""
    found: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, rates in zip(calls, found, strict=True):
            if call is None:
                continue
            made, start = 0, time.process_time()
            while made == 0 or time.process_time() - start < (seconds if number else 0):  # the first round warms up
                made += call()
            rates.append(made / (time.process_time() - start))
    return [float(np.median(rates[1:])) if rates else float("nan") for rates in found]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a version in a round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'samples/s of one core, ' + str(arguments.side) + ' px':<34}{'ours':>9}{'plain':>9}{'ratio':>8}")
    for name, (ours, plain) in makers(arguments.side).items():
        own, other = speeds([ours, plain], arguments.seconds, arguments.rounds)
        rest = "" if plain is None else f"{other:9.1f}{own / other:8.1f}"
        print(f"{name:<34}{own:9.1f}{rest}", flush=True)


if __name__ == "__main__":
    main()
