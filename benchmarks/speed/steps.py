"""Seconds of a training step of every method, for ``zoo benchmark --dry-run``.

    python -m benchmarks.speed.steps [METHOD ...]           # prints step_seconds.yaml

Each gradient method of ``all_phantom`` trains a few steps on the Covid-X phantom; the first ones are not counted. CPU
seconds of one thread, which other jobs on the machine change little.
"""

import contextlib
import io
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
from zoo.cli.running import main as run
from zoo.registry import methods

WARM, COUNTED, SIDE, BATCH = 2, 5, 64, 16


class _Clock(Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.process_time())


def seconds_per_step(config: dict[str, Any], folder: Path) -> float:
    """Median CPU seconds between the ends of two batches."""
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
    """Print the table, line by line."""
    torch.set_num_threads(1)
    cells = {cell.config["model"]["class_path"]: cell for cell in read_plan("all_phantom").cells}
    print(f"machine: CPU seconds of one thread ({platform.machine()})")
    print(f"image_size: {SIDE}\nbatch_size: {BATCH}\nstart_seconds: 6.0\nmethods:")
    for method in methods().values():
        if (
            method.fitting != "gradient"
            or method.class_path not in cells
            or method.name not in (sys.argv[1:] or methods())
        ):
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                seconds = seconds_per_step(cells[method.class_path].config, Path(folder))
                print(f"  {method.name}: {seconds:.4f}", flush=True)
        except Exception as error:
            print(f"# {method.name}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
