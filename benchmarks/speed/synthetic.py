"""Complete samples per second of every synthetic task: shape, place, task, mask and label.

    python -m benchmarks.speed.synthetic [--side 256] [--seconds 2] [--rounds 3] [--batch 32] [--device cpu|cuda]

One table: our path per sample (each dropped when made), per sample and collated, and on a batch, with the batch's ratio
to both; then our path per sample beside the published sampling written plainly (its blends come from ``pie-torch``,
without which they are left out) and beside what the authors' code made where it was timed. On the CPU all figures are
per second of one thread's CPU time, taken in turn in one process; ratios are medians over the rounds.
On a GPU the batch is timed by the clock, draws included.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import zoo
from benchmarks.speed.synthetic_reference import plain_sample
from zoo.synthetic import anomaly_label, poisson_blend, synthesise
from zoo.synthetic.batched import synthesise_batch
from zoo.synthetic.raters import rate
from zoo.synthetic.tasks import Context, Task, five_tasks

Array = NDArray[Any]
NAMES = ("intra blend", "inter blend", "sink", "source", "intensity")
AUTHORS = {  # samples/s of the authors' code, another day, one thread of a shared virtual AMD EPYC: lowest and highest
    2: ("130-139", "130-134", "147-165", "116-141", "175-227"),
    3: ("13-18", "16-18", "24", "25", "31-34"),
}


def per_second(run: Callable[[], Any], seconds: float) -> float:
    """Calls per second of this thread's CPU time."""
    start, calls = time.thread_time(), 0
    while time.thread_time() - start < seconds or not calls:
        run()
        calls += 1
    return calls / (time.thread_time() - start)


def in_turn(runs: Sequence[Callable[[], Any]], seconds: float, rounds: int) -> Array:
    """Calls per second ``(rounds, runs)``, one short turn each, after a call that fills the caches."""
    for run in runs:
        per_second(run, seconds / 4)
    return np.array([[per_second(run, seconds / rounds) for run in runs] for _ in range(rounds)])


def smooth_images(count: int, size: tuple[int, ...]) -> Array:
    """Smooth noise in [-1, 1], ``(count, 1, *size)`` float32."""
    noise = np.random.default_rng(0).standard_normal((count, 1, *size))
    smooth = gaussian_filter(noise, (0, 0, *[4.0] * len(size)))
    images: Array = (smooth / np.abs(smooth).max()).astype(np.float32)
    return images


def one(image: Array, task: Task, rng: np.random.Generator, sources: Array) -> Array:
    """A complete sample, per-sample path."""
    altered, mask = synthesise(image, task, rng, sources=sources)
    return np.asarray(anomaly_label(altered, image, mask))


def collated(images: Array, task: Task, rng: np.random.Generator) -> torch.Tensor:
    """Complete samples, per-sample path, put into one batch."""
    made = []
    for image, own in zip(images, rng.spawn(len(images)), strict=True):
        altered, mask = synthesise(image, task, own, sources=images)
        made.append((altered, mask, anomaly_label(altered, image, mask)))
    return [torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True)][2]


def many(images: torch.Tensor, task: Task, rng: np.random.Generator) -> torch.Tensor:
    """Complete samples of a batch."""
    count = len(images)
    altered, mask = synthesise_batch(images, [task] * count, rng.spawn(count), [Context(images)] * count)
    label: torch.Tensor = anomaly_label(altered, images, mask)
    return label


def tasks_table(size: tuple[int, ...], seconds: float, rounds: int, batch: int) -> None:
    """Print the rows of the five tasks on the CPU."""
    images = smooth_images(batch, size)
    for name, authors, task in zip(NAMES, AUTHORS[len(size)], five_tasks(), strict=True):
        rngs, turn = [np.random.default_rng(0) for _ in range(4)], [cycle(images), cycle(images)]
        runs: list[Callable[[], Any]] = [
            lambda: one(next(turn[0]), task, rngs[0], images),  # noqa: B023
            partial(collated, images, task, rngs[1]),
            partial(many, torch.from_numpy(images), task, rngs[2]),
        ]
        if "blend" not in name or importlib.util.find_spec("pietorch"):
            runs.append(lambda: plain_sample(next(turn[1]), name, rngs[3], images))  # noqa: B023
        speed = in_turn(runs, seconds, rounds) * np.array([1, batch, batch, 1])[: len(runs)]
        ours, stacked, together = np.median(speed[:, :3], 0)
        row = f"{len(size)}-D {name:<12}{ours:12.0f}{stacked:12.0f}{together:12.0f}"
        row += "".join(f"{np.median(speed[:, 2] / speed[:, other]):10.2f}" for other in (0, 1))
        if len(runs) == 4:
            row += f"{np.median(speed[:, 3]):12.0f}{np.median(speed[:, 0] / speed[:, 3]):10.2f}"
        else:
            row += f"{'-':>12}{'-':>10}"
        print(f"{row}{authors:>14}", flush=True)


def device_table(size: tuple[int, ...], device: str, seconds: float, batch: int) -> None:
    """Print samples and blends per second of the batched path on a device, by the clock."""
    images = torch.from_numpy(smooth_images(batch, size)).to(device)
    for name, task in zip(NAMES, five_tasks(), strict=True):
        speed = batch * _by_the_clock(partial(many, images, task, np.random.default_rng(0)), seconds, device)
        print(f"{len(size)}-D {name:<12}{speed:12.0f} samples/s, batches of {batch}", flush=True)
    sides, corners = (
        [n // 4 for n in size],
        np.random.default_rng(0).integers(0, np.array(size) // 2, (batch, len(size))),
    )
    box: Any = (..., *[slice(n) for n in sides])
    source = images[box].flip(0)
    mask = torch.ones(sides, dtype=torch.bool, device=device)
    speed = batch * _by_the_clock(lambda: poisson_blend(images, source, mask, corners, True), seconds, device)
    print(f"{len(size)}-D Poisson     {speed:12.0f} blends/s of {' x '.join(map(str, sides))}")


def _by_the_clock(run: Callable[[], Any], seconds: float, device: str) -> float:
    run()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run()
        calls += 1
        if device.startswith("cuda"):
            torch.cuda.synchronize()
    return calls / (time.perf_counter() - start)


def compare_blends(seconds: float, rounds: int) -> None:
    """Blends per second against pie-torch, for three sides."""
    if importlib.util.find_spec("pietorch") is None:
        print("pie-torch is not installed: blends are not compared")
        return
    from pietorch import blend_dst_numpy

    image = smooth_images(2, (256, 256)).astype(np.float64)
    for side in (24, 64, 128):
        patch, mask = image[1][:, :side, :side], np.ones((side, side))

        def ours(patch: Array = patch, mask: Array = mask) -> Any:
            return poisson_blend(image[0], patch, mask, (20, 30), True)

        def peer(patch: Array = patch, mask: Array = mask) -> Any:
            return blend_dst_numpy(image[0], patch, mask.copy(), np.array([20, 30]), True, channels_dim=0)

        speed = in_turn([ours, peer], seconds, rounds)
        ratio = np.median(speed[:, 0] / speed[:, 1])
        print(
            f"blend {side:>3} px, float64: {np.median(speed[:, 0]):8.0f} /s, "
            f"pie-torch {np.median(speed[:, 1]):8.0f} /s, ratio {ratio:.2f}"
        )


def family_table(side: int, seconds: float, rounds: int) -> None:
    """Print the other makers of the library; their references are in ``benchmarks.speed.self_supervised``."""
    films = torch.from_numpy(smooth_images(8, (side, side))) / 2 + 0.5
    pixels, rng = films.numpy(), np.random.default_rng(0)
    runs: dict[str, tuple[int, Callable[[], Any]]] = {"P-PII": (1, lambda: rate(pixels[0], pixels[1:], rng))}
    for name in ("fpi", "pii", "nsa"):
        model: Any = zoo.create_model(name, image_size=side)
        runs[name] = (8, partial(model.make_anomalies, films, rng))
    speed = np.median(in_turn([run for _, run in runs.values()], seconds, rounds), 0)
    for (name, (count, _)), calls in zip(runs.items(), speed, strict=True):
        print(f"2-D {name:<12}{count * calls:12.0f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=2.0, help="per entry of the table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = ((arguments.side,) * 2, arguments.batch), ((80, 112, 80), max(arguments.batch // 4, 2))
    if arguments.device != "cpu":
        for size, batch in sizes:
            device_table(size, arguments.device, arguments.seconds, batch)
        return
    print(
        f"{'samples/s':<16}{'per sample':>12}{'collated':>12}{'batched':>12}{'/ sample':>10}{'/ collated':>10}"
        f"{'plain':>12}{'ratio':>10}{'authors code':>14}"
    )
    for size, batch in sizes:
        tasks_table(size, arguments.seconds, arguments.rounds, batch)
    family_table(arguments.side, arguments.seconds, arguments.rounds)
    compare_blends(arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
