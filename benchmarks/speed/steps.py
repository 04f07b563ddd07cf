"""Seconds of a training step of every method, for ``zoo benchmark --dry-run``.

    python -m benchmarks.speed.steps            # prints step_seconds.yaml

Each gradient method of ``all_phantom`` trains a few steps on the Covid-X phantom; the first ones are not counted.
"""

import contextlib
import io
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback

from benchmarks.plan import read_plan
from zoo.registry import methods
from zoo.running import main as run

WARM, COUNTED, SIDE, BATCH = 3, 8, 64, 16


class _Clock(Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def seconds_per_step(config: dict[str, Any], folder: Path) -> float:
    """Median seconds between the ends of two batches."""
    trainer = {**config["trainer"], "max_steps": WARM + COUNTED, "accelerator": "cpu", "default_root_dir": str(folder)}
    data = {"class_path": "datamodules.CovidX", "init_args": {"image_size": SIDE, "batch_size": BATCH}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"model": config["model"], "data": data, "trainer": trainer}))
    clock = _Clock()
    with contextlib.redirect_stdout(io.StringIO()):
        run(["fit", "--config", str(path), "--trainer.limit_val_batches", "0"], [clock])
    gaps = sorted(b - a for a, b in zip(clock.times[WARM - 1 :], clock.times[WARM:], strict=False))
    return gaps[len(gaps) // 2]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    cells = {cell.method: cell for cell in read_plan("all_phantom").cells if cell.dataset == "covidx"}
    found: dict[str, float] = {}
    for method in methods().values():
        matching = [cell for cell in cells.values() if cell.config["model"]["class_path"] == method.class_path]
        if method.fitting == "gradient" and matching:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    found[method.name] = round(seconds_per_step(matching[0].config, Path(folder)), 4)
            except Exception as error:
                print(f"# {method.name}: {error}", file=sys.stderr)
    about = {
        "machine": f"one thread of {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "image_size": SIDE,
        "batch_size": BATCH,
        "start_seconds": 6.0,
    }
    print(yaml.safe_dump(about | {"methods": found}, sort_keys=False), end="")


if __name__ == "__main__":
    main()
