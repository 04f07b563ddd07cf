"""How a folder of many small images scales: listing, hashing, cache, epoch, near-copies; CPU seconds and memory.

``python -m benchmarks.speed.scale [--files 10000 100000] [--side 16]``. Files are 8-bit PNGs of noise, nine in ten of
them for training, written into a temporary folder; each count runs in a process of its own. ``growth`` is the exponent
between two counts: 1 is proportional.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_A_FOLDER = 1000


def write(root: Path, files: int, side: int) -> None:
    """Folders of a thousand images each, in the layout of ``Folder``."""
    from PIL import Image

    rng = np.random.default_rng(0)
    parts = {"train/normal": files * 9 // 10, "test/normal": files // 20, "test/anomalous": files // 20}
    for part, count in parts.items():
        for number in range(count):
            folder = root / part / f"{number // _A_FOLDER:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)).save(folder / f"{number:07d}.png")


def measure(root: Path, side: int) -> dict[str, float]:
    """CPU seconds of each step, and the largest resident size in MiB."""
    from datamodules import Folder

    spent: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        before = time.process_time()
        found = run()
        spent[name] = time.process_time() - before
        return found

    def make() -> Folder:
        return Folder(root=str(root), image_size=side, in_channels=1, cache_dir=str(root / "cache"), batch_size=64)

    def epoch(loader: Any) -> None:
        for _ in loader:
            pass

    warnings.simplefilter("ignore")
    data = make()
    timed("list", lambda: data.index(data.folder()))
    timed("check, hash and cache", data.setup)
    data = make()
    timed("open again", data.setup)
    timed("an epoch", lambda: epoch(data.train_dataloader()))
    timed("test set", lambda: epoch(data.test_dataloader()))
    timed("near-copies", data.near_copies)
    spent["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--root", type=Path, help="of one run: already written")
    arguments = parser.parse_args()
    if arguments.root is not None:
        print(json.dumps(measure(arguments.root, arguments.side)))
        return
    before: tuple[int, dict[str, float]] | None = None
    for files in sorted(arguments.files):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), files, arguments.side)
            command = [sys.executable, "-m", __spec__.name, "--root", folder, "--side", str(arguments.side)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        for name, value in found.items():
            growth = "" if before is None else f"  growth {_exponent(before, files, name, value):.2f}"
            print(f"{files:>9,} files  {name:22s} {value:10.2f}{'' if name == 'MiB' else ' s'}{growth}", flush=True)
        before = files, found


def _exponent(before: tuple[int, dict[str, float]], files: int, name: str, value: float) -> float:
    return math.log(max(value, 1e-9) / max(before[1][name], 1e-9)) / math.log(files / before[0])


if __name__ == "__main__":
    main()
