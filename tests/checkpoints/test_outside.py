"""A method from the user's own module: trained, tested, reloaded, exported, pushed and compared by its class path."""

import json
import sys
from pathlib import Path

import pytest
import torch

import zoo
from zoo.checkpoints.saving import save_checkpoint
from zoo.cli import main
from zoo.errors import UserError

SOURCE = '''
import torch
from zoo import AnomalyModule, Prediction
from zoo.module import Stage

class MeanImage(AnomalyModule):
    """Distance to the mean image."""

    fitting = "single_pass"

    def __init__(self, *, image_size: int | tuple[int, ...] | None = None, in_channels: int | None = None,
                 power: float = 2.0) -> None:
        super().__init__()

    def build(self):
        self.register_buffer("mean", torch.zeros(self.in_channels, *self.image_size))
        self.register_buffer("count", torch.zeros(()))

    def stages(self):
        return (Stage("collect", self.add),)

    def add(self, batch, batch_idx):
        self.count += len(batch["image"])
        self.mean += (batch["image"] - self.mean).sum(0) / self.count

    def detect(self, image, foreground):
        found = (image - self.mean).abs().pow(self.hparams["power"]).mean(1, keepdim=True)
        return Prediction(found.flatten(1).mean(1), found)
'''
NAME = "own_methods_of_a_test.MeanImage"
MODULE = NAME.partition(".")[0]


@pytest.fixture
def run(image_folder, tmp_path, monkeypatch):
    """A finished run of the own method; its module is on the path of this and other processes."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / f"{MODULE}.py").write_text(SOURCE)
    root = Path(zoo.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'own'}:{root}")
    monkeypatch.syspath_prepend(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    data = ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32"]
    options = ["--model", NAME, *data, "--trainer.accelerator", "cpu", "--panels.count", "0"]
    assert main(["fit", *options, "--test_after_fit", "true"]) == 0
    yield next(Path("runs").iterdir())
    sys.modules.pop(MODULE, None)


def test_from_the_fit_to_other_files(run, image_folder, capsys):
    found = json.loads((run / "metrics.json").read_text())
    assert found["method"] == "mean_image"
    assert main(["test", "--run", str(run)]) == 2
    assert "add --trust" in capsys.readouterr().err
    assert main(["test", "--run", str(run), "--trust"]) == 0
    again = json.loads((run / "test-001" / "metrics.json").read_text())
    assert again["metrics"] == found["metrics"]
    assert main(["export", str(run), "--format", "pt2", "--out", "m.pt2", "--trust"]) == 0
    assert main(["push", str(run), "--out", "pushed", "--trust"]) == 0
    assert "# mean_image: Distance to the mean image" in Path("pushed/README.md").read_text()
    new = ["--input", str(image_folder / "test")]
    assert main(["predict", "--ckpt_path", "pushed", *new, "--trust", "--predictions.folder", "scored"]) == 0
    assert main(["models", NAME]) == 0
    assert f"lightning fit --model {NAME} --config data/folder" in capsys.readouterr().out
    image = torch.rand(2, 1, 32, 32)
    expected = zoo.load_pretrained(run)(image).anomaly_score  # imported already: no trust needed
    assert torch.equal(torch.export.load("m.pt2").module()(image)[0], expected)
    assert torch.equal(zoo.load_pretrained("pushed")(image).anomaly_score, expected)


def test_a_file_imports_nothing_by_itself(run, capsys):
    sys.modules.pop(MODULE)
    with pytest.raises(UserError, match="a class outside of this package"):
        zoo.load_pretrained(run)
    for command in (["export", str(run), "--format", "pt2", "--out", "m.pt2"], ["push", str(run), "--out", "pushed"]):
        assert main(command) == 2
        assert "--trust" in capsys.readouterr().err
    assert MODULE not in sys.modules
    assert not Path("m.pt2").exists()
    assert zoo.load_pretrained(run, trust=True).method().class_path == NAME


def test_a_file_cannot_name_any_object():
    save_checkpoint(zoo.create_model("autoencoder", image_size=16, hidden_dims=(4,), latent_dim=2), Path("a.ckpt"))
    content = torch.load("a.ckpt", weights_only=True)
    for name, told in (("os.system", "no method"), ("json.JSONDecoder", "no method"), ("json.nothing", "no nothing")):
        content["uad_zoo"]["method"] = name
        torch.save(content, "b.ckpt")
        with pytest.raises(UserError, match=told):
            zoo.load_pretrained("b.ckpt")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_in_a_benchmark(run, image_folder):
    content = {
        "models": {"mine": {"class_path": NAME, "init_args": {"power": 1.0}}},
        "data": {"own": {"class_path": "Folder", "init_args": {"root": str(image_folder), "image_size": 32}}},
        "trainer": {"accelerator": "cpu"},
    }
    Path("suite.yaml").write_text(json.dumps(content))
    assert main(["benchmark", "suite.yaml", "--out", "bench"]) == 0
    cell = Path("bench/cells/mine--own--0")
    assert json.loads((cell / "status.json").read_text())["status"] == "done"
    assert json.loads((cell / "metrics.json").read_text())["metrics"]["image_auroc"] is not None


def test_off_the_path_a_sentence_says_what_to_do(image_folder, capsys):
    data = ["--data", "Folder", "--data.root", str(image_folder)]
    assert main(["fit", "--model", "nowhere_at_all.Mine", *data]) == 2
    told = capsys.readouterr().err
    assert "Python finds no module nowhere_at_all; put the folder that holds nowhere_at_all.py on its path" in told
    assert len(told.strip().splitlines()) == 1
    assert main(["fit", "--model", "fae", "--data", "nowhere_at_all.Mine"]) == 2
    assert "PYTHONPATH" in capsys.readouterr().err
    assert main(["models", "nowhere_at_all.Mine"]) == 2
    assert "PYTHONPATH" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_advice_names_configurations_that_are_there(capsys):
    from zoo.configs import shipped_configs
    from zoo.registry import methods

    for name in methods():
        assert main(["models", name]) == 0
        (used,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("use:"))
        words = used.split()
        assert words[words.index("--config") + 1] in shipped_configs() or f"--model {name}" in used
