"""Methods on other devices and in other precisions than float32 on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datamodules import Folder
from zoo.registry import FAMILIES, load_class, methods

SCRIPT = Path(__file__).with_name("second_device.py")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_does_the_same_on_another_device(family, image_folder):
    found = subprocess.run([sys.executable, SCRIPT, image_folder, family], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    rows = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
    assert [row["method"] for row in rows] == [
        one.name for one in methods().values() if one.family == family and 2 in one.dims
    ]
    assert not "\n".join(f"{row['method']}: {row['error'][-1500:]}" for row in rows if row["error"])
    assert not [row for row in rows if not row["off"] <= 1e-3]


@pytest.mark.parametrize("method", [one for one in methods().values() if 2 in one.dims], ids=lambda one: one.name)
def test_mixed_precision(method, image_folder, quiet_trainer):
    arguments = {key: value for key, value in method.tiny.items() if key not in ("image_size", "in_channels")}
    model = load_class(method.name)(**arguments)
    data = Folder(root=str(image_folder), image_size=method.tiny["image_size"], batch_size=4)
    trainer = quiet_trainer(max_steps=3, precision="bf16-mixed")
    trainer.fit(model, data)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    predictions = trainer.predict(model, data)
    values = [value for batch in predictions for value in batch if value is not None]
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in values)
