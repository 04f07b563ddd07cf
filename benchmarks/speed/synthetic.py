"""Samples per second of one core for every synthetic task, with shape, placement, task and label.

    python -m benchmarks.speed.synthetic [--side 256] [--seconds 3]

Where ``pie-torch`` is installed its blend is timed beside ours on the same boxes in the same run.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import zoo
from zoo.synthetic import anomaly_label, poisson_blend, synthesise
from zoo.synthetic.raters import rate
from zoo.synthetic.tasks import five_tasks

Array = NDArray[Any]
NAMES = ("intra blend", "inter blend", "sink", "source", "intensity")


def per_second(run: Callable[[], Any], seconds: float) -> float:
    """Calls per second of this thread's CPU time."""
    run()
    start, calls = time.thread_time(), 0
    while time.thread_time() - start < seconds:
        run()
        calls += 1
    return calls / (time.thread_time() - start)


def smooth_images(count: int, size: tuple[int, ...]) -> Array:
    """Smooth noise in [-1, 1], ``(count, 1, *size)`` float32."""
    noise = np.random.default_rng(0).standard_normal((count, 1, *size))
    smooth = gaussian_filter(noise, (0, 0, *[4.0] * len(size)))
    return (smooth / np.abs(smooth).max()).astype(np.float32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for size in ((arguments.side,) * 2, (80, 112, 80)):
        images = smooth_images(4, size)
        for name, task in zip(NAMES, five_tasks(), strict=True):

            def sample(task: Any = task, images: Array = images) -> Array:
                altered, mask = synthesise(images[0], task, rng, sources=images)
                return anomaly_label(altered, images[0], mask)

            print(f"{len(size)}-D {name:<14}{per_second(sample, arguments.seconds):10.1f} samples/s per core")
    films = torch.from_numpy(smooth_images(8, (arguments.side,) * 2)) / 2 + 0.5
    for name in ("fpi", "pii", "nsa"):
        model: Any = zoo.create_model(name, image_size=arguments.side)
        speed = 8 * per_second(lambda model=model: model.make_anomalies(films, rng), arguments.seconds)  # type: ignore[misc]
        print(f"2-D {name:<14}{speed:10.1f} samples/s per core")
    pixels = films.numpy()
    speed = per_second(lambda: rate(pixels[0], pixels[1:], rng), arguments.seconds)
    print(f"2-D {'P-PII':<14}{speed:10.1f} samples/s per core")
    compare_blends(arguments.seconds)


def compare_blends(seconds: float) -> None:
    """Blends per second against pie-torch, for three sides."""
    try:
        from pietorch import blend_dst_numpy
    except ImportError:
        print("pie-torch is not installed: no comparison")
        return
    image = smooth_images(2, (256, 256)).astype(np.float64)
    for side in (24, 64, 128):
        patch, mask = image[1][:, :side, :side], np.ones((side, side))
        ours = per_second(lambda p=patch, m=mask: poisson_blend(image[0], p, m, (20, 30), True), seconds)  # type: ignore[misc]
        peer = per_second(
            lambda p=patch, m=mask: blend_dst_numpy(image[0], p, m.copy(), np.array([20, 30]), True, channels_dim=0),  # type: ignore[misc]
            seconds,
        )
        print(f"blend {side} x {side}: {ours:8.0f} /s, pie-torch {peer:8.0f} /s, ratio {ours / peer:.2f}")


if __name__ == "__main__":
    main()
