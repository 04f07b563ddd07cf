"""The README says what the code does."""

import re
from pathlib import Path

from zoo.cli.models import markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_table_of_methods_is_generated():
    table = re.search(r"<!-- methods -->\n(.*)\n<!-- /methods -->", README, re.DOTALL).group(1)
    assert table == markdown(), "run `zoo models --readme README.md`"


def test_check_script_runs_the_test_command():
    command = re.search(r"^python3 -m venv \.venv-test.*$", README, re.MULTILINE).group(0)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_example_of_a_method_works(tmp_path, image_folder, quiet_trainer):
    import torch

    from datamodules import Folder

    code = re.search(r"```python\n([^`]*class MeanImage.*?)```", README, re.DOTALL).group(1)
    names: dict = {}
    exec(code, names)  # as pasted
    model = names["MeanImage"]()
    data = Folder(root=str(image_folder), image_size=32, batch_size=4)
    quiet_trainer(max_epochs=1).fit(model, data)
    images = torch.cat([batch["image"] for batch in data.train_dataloader()])
    assert torch.allclose(model.total / model.count, images.mean(dim=0), atol=1e-6)
    assert model(images).anomaly_map.shape == (len(images), 1, 32, 32)
