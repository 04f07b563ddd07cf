"""Speed and memory of the pixel metrics against scikit-learn and torchmetrics.

``python -m benchmarks.speed.metrics [--pixels 1000000 10000000] [--rounds 3]``. Candidates are interleaved in one
process on one thread; ratios are medians over rounds of CPU seconds within a round. Peak memory is that of a forked
child, over what it inherited.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from zoo.metrics.functional import Array, binary_summary, pixel_summary
from zoo.metrics.streaming import StreamingPixelMetrics

Candidate = Callable[[Array, Array], tuple[float, float]]


def data(pixels: int) -> tuple[Array, Array]:
    """Maps of 256 x 256 with one square lesion in every second one (2 % of the pixels), half of the pixels zero."""
    rng = np.random.default_rng(0)
    count = max(1, pixels // 65536)
    masks = np.zeros((count, 256, 256), bool)
    for number in range(0, count, 2):
        top, left = rng.integers(0, 204, 2)
        masks[number, top : top + 52, left : left + 52] = True
    maps = rng.standard_normal(masks.shape, dtype=np.float32)
    maps += 1.3 * masks
    np.maximum(maps, 0, out=maps)
    return maps, masks


def ours(maps: Array, masks: Array) -> tuple[float, float]:
    found = binary_summary(maps, masks)
    return found.auroc, found.average_precision


def ours_with_aupro(maps: Array, masks: Array) -> tuple[float, float]:
    found = pixel_summary(maps, masks).binary
    return found.auroc, found.average_precision


def streaming(maps: Array, masks: Array) -> tuple[float, float]:
    metric = StreamingPixelMetrics(sync_on_compute=False)
    for start in range(0, len(maps), 16):
        metric.update(torch.from_numpy(maps[start : start + 16]), torch.from_numpy(masks[start : start + 16]))
    found = metric.compute()
    return found["auroc"].value, found["average_precision"].value


def scikit_learn(maps: Array, masks: Array) -> tuple[float, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels = maps.ravel(), masks.ravel()
    return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))


def torchmetrics_exact(maps: Array, masks: Array) -> tuple[float, float]:
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    scores, labels = torch.from_numpy(maps).flatten(), torch.from_numpy(masks).flatten().int()
    return float(binary_auroc(scores, labels)), float(binary_average_precision(scores, labels))


def peak_bytes(run: Candidate, maps: Array, masks: Array) -> int:
    """Largest resident size of a child that runs it once, over the child's size at its start."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident()
        run(maps, masks)
        os.write(writing, str(_resident() - before).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = int(pipe.read() or -1)
    os.waitpid(child, 0)
    return found


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def cpu_seconds(run: Candidate, maps: Array, masks: Array) -> tuple[float, tuple[float, float]]:
    start = time.process_time()
    values = run(maps, masks)
    return time.process_time() - start, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="skip scikit-learn and torchmetrics")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    candidates: dict[str, Candidate] = {"ours": ours, "ours with AUPRO": ours_with_aupro, "streaming": streaming}
    if not arguments.no_peers:
        candidates = {"scikit-learn": scikit_learn, "torchmetrics": torchmetrics_exact} | candidates
    small = data(65536)
    for run in candidates.values():
        run(*small)  # imports
    for pixels in sorted(arguments.pixels):
        maps, masks = data(pixels)
        first = next(iter(candidates))
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        values = {}
        # before any timing: a child of a process with freed pages would reuse them unseen
        memory = {name: peak_bytes(run, maps, masks) / maps.size for name, run in candidates.items()}
        for _ in range(arguments.rounds):
            for name, run in candidates.items():
                spent, values[name] = cpu_seconds(run, maps, masks)
                seconds[name].append(spent)
        print(f"{maps.size} pixels, load {os.getloadavg()[0]:.1f}; ratios to {first}")
        for name in candidates:
            ratios = [a / b for a, b in zip(seconds[first], seconds[name], strict=True)]
            gap = max(abs(a - b) for a, b in zip(values[name], values[first], strict=True))
            spent = statistics.median(seconds[name])
            print(
                f"  {name:16s} {spent:8.4f} s  {statistics.median(ratios):7.2f}x"
                f" ({min(ratios):.2f} to {max(ratios):.2f})"
                f"  {maps.size / spent / 1e6:7.0f} Mpixel/s  {memory[name]:6.1f} B/pixel  off by {gap:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
