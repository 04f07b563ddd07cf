"""A new data set is three files, a new source of brains is one: tried on a copy of the package, with no other edit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

MODULE = '''
"""Spots: healthy squares against spotted ones."""

from functools import partial
from typing import Any

from datamodules.base import AnomalyDataModule
from datamodules.folder import prepare_file
from datamodules.listing import list_files
from datamodules.preprocessing import plain
from datamodules.records import Record, held_out


class Spots(AnomalyDataModule):
    """Spotted squares."""

    card = {
        "title": "squares with spots",
        "access": "a test",
        "licence": "none",
        "layout": "good bad",
        "official": {"squares": 5},
        "phantom": "spots",
        "config": "data/spots",
        "images": "pictures",
        "channels": (1,),
        "value_range": (0.0, 1.0),
        "foreground": "all",
        "subject": "unknown",
        "leaks": "none known",
    }

    def __init__(self, *, image_size: int = 32, **common: Any) -> None:
        """Remember the size."""
        super().__init__(image_size=image_size, **common)

    def index(self, root):
        good = [file.name for file in list_files(root / "good")]
        test, train = good[:8], good[8:]
        val = held_out(train, self.val_fraction, self.seed)
        split = {name: "test" if name in test else "val" if name in val else "train" for name in good}
        records = [Record(f"good/{name}", str(root / "good" / name), split[name]) for name in good]
        bad = list_files(root / "bad")
        return records + [Record(f"bad/{file.name}", str(file), "test", 1) for file in bad]

    def preprocessing(self):
        return partial(prepare_file, size=self.spatial_size, channels=1)

    @property
    def channels(self):
        return 1

    @property
    def parameters(self):
        return plain({"size": self.spatial_size})
'''

WRITER = '''
"""Spots."""

from typing import NamedTuple

from datamodules.phantoms.shapes import picture
from datamodules.phantoms.storage import Result, Truth, write_image


class Job(NamedTuple):
    number: int
    folder: str


def jobs(settings):
    return [Job(number, "bad" if number % 3 == 0 else "good") for number in range(36)]


def render(root, settings, job):
    path = f"{job.folder}/{job.number}.png"
    write_image(root / path, picture(settings.seed, job.number, 40, job.folder == "bad")[0])
    return Result([Truth(path, int(job.folder == "bad"))], {})


def finish(root, settings, results):
    pass
'''

CONFIG = """
data:
  class_path: datamodules.Spots
  init_args:
    image_size: 32
    batch_size: 8
"""

SOURCE = '''
"""BraTS of the year 2099: gliomas."""

from functools import partial

from datamodules.brain.brats import find_cases

card = {
    "title": "brain tumours, 2099",
    "access": "the future",
    "licence": "unknown",
    "layout": "BraTS99-*",
    "official": {},
    "phantom": "brats",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "the patient",
    "leaks": "unknown",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 3),
    "case": "BraTS99-{even:05d}-000",
}
find = partial(find_cases, prefix="BraTS99-")
'''

BENCHMARK = """
models: {statistical: }
data: {spots: }
trainer: {accelerator: cpu, max_epochs: 1}
"""

DRIVER = """
import contextlib, io, pathlib, sys
import pytest
from zoo.cli import main


def run(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(list(words))
    assert code == 0, (words, code, out.getvalue())
    return out.getvalue()


if __name__ == "__main__":
    names = run("data", "list", "--names").split()
    assert {"spots", "brats99"} <= set(names), names
    assert "squares with spots" in run("data", "list")
    assert "5 squares" in run("data", "list", "spots")
    assert "--data.image_size" in run("fit", "--data.help", "spots")
    assert "brats99" in run("fit", "--data.help", "BrainMRI")
    for name in ("spots", "brats99"):
        assert f"zoo data check {name}" in run("data", "phantom", name, "--root", f"p/{name}")
        assert "0 errors" in run("data", "check", name, "--root", f"p/{name}")
    run("data", "list", "--docs", "docs/data.md")
    table = pathlib.Path("docs/data.md").read_text()
    assert "| `spots` | squares with spots |" in table and "| `brats99` |" in table
    run("benchmark", "spots.yaml", "--out", "board")
    assert "spots" in pathlib.Path("board/leaderboard.md").read_text()
    assert pytest.main(["-q", "-p", "no:cacheprovider", "-k", "spots or brats99", "tests/test_data_contract.py"]) == 0
    print("all well")
"""


def test_three_files_make_a_data_set_and_one_a_source(tmp_path: Path) -> None:
    house = tmp_path / "house"
    for part in ("zoo", "datamodules", "benchmarks", "configs"):
        shutil.copytree(ROOT / part, house / part, ignore=shutil.ignore_patterns("__pycache__"))
    (house / "docs").mkdir()
    (house / "tests").mkdir()
    shutil.copy(ROOT / "docs" / "data.md", house / "docs")
    for name in ("conftest.py", "test_data_contract.py"):
        shutil.copy(ROOT / "tests" / name, house / "tests")
    shutil.copy(ROOT / "pyproject.toml", house)
    for name, text in {
        "datamodules/spots.py": MODULE,
        "datamodules/phantoms/spots.py": WRITER,
        "configs/data/spots.yaml": CONFIG,
        "datamodules/brain/brats99.py": SOURCE,
        "spots.yaml": BENCHMARK,
        "driver.py": DRIVER,
    }.items():
        (house / name).write_text(text)
    places = {"PYTHONPATH": str(house), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "driver.py"], cwd=house, env=os.environ | places, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.endswith("all well\n")
