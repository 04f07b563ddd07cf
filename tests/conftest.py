"""What many tests share: a cache of their own, a tiny folder of images, quiet trainers."""

import os

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

# Tiny tensors, and test processes side by side on all cores: more threads would only wait for one another.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing is read from or written to the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp().parent / "cache")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A folder in the layout of ``Folder``: 10 training and 4 + 4 test pictures of 40 x 40 pixels with masks."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in (("train/normal", 10), ("test/normal", 4), ("test/anomalous", 4)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            picture = np.kron(rng.integers(60, 160, (5, 5)), np.ones((8, 8))) + rng.normal(0, 8, (40, 40))
            if part == "test/anomalous":
                picture[12:20, 16:26] = 240
                mask = np.zeros((40, 40), np.uint8)
                mask[12:20, 16:26] = 255
                (root / "masks").mkdir(exist_ok=True)
                Image.fromarray(mask).save(root / "masks" / f"a{number}.png")
            name = f"a{number}.png" if part == "test/anomalous" else f"{part.replace('/', '_')}{number}.png"
            Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(root / part / name)
    return root


@pytest.fixture
def quiet_trainer(tmp_path):
    """A trainer without output."""

    def make(**arguments):
        defaults = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
        }
        return Trainer(**defaults | arguments)

    return make
