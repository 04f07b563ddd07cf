"""A run folder from elsewhere: whatever it asks for, nothing of it runs and nothing is written outside."""

import copy
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from zoo.cli import main
from zoo.cli.trust import check_run
from zoo.errors import UserError
from zoo.run_folder import open_run

EVIL = """
from pathlib import Path
Path("ran").touch()
class Evil:
    def __init__(self, *arguments, **keywords): Path("ran").touch()
"""


@pytest.fixture(scope="module")
def good(image_folder, tmp_path_factory):
    """A finished run of two steps."""
    root = tmp_path_factory.mktemp("good")
    command = ["fit", "--config", "models/autoencoder", "--model.hidden_dims", "[8,16]", "--model.latent_dim", "8"]
    command += ["--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32"]
    assert main([*command, "--trainer.max_steps", "2", "--trainer.default_root_dir", str(root)]) == 0
    return next(root.iterdir())


@pytest.fixture
def run(good, tmp_path, monkeypatch):
    """A copy of it, the current folder beside it, and a module that betrays itself when it is imported."""
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(tmp_path))
    for place in (folder, tmp_path):
        (place / "evilmodule.py").write_text(EVIL)
    return folder


def _set(config, key, value):
    *parents, last = key.split(".") if isinstance(key, str) else key
    for parent in parents:
        if config.get(parent) is None:
            config[parent] = {}
        config = config[parent]
    config[last] = value


def _class(path, **arguments):
    return {"class_path": path, "init_args": arguments}


_LIGHTNING = "lightning.pytorch"
_STOPPING = f"{_LIGHTNING}.callbacks.EarlyStopping"
HOSTILE = {
    "model": ("model", _class("evilmodule.Evil")),
    "model as a name": ("model", "evilmodule.Evil"),
    "model of the standard library": ("model", _class("subprocess.Popen", args="touch ran")),
    "model beside the methods": ("model", _class("zoo.nn.unet.UNet")),
    "model in a nested module": ("model", _class("zoo.evilmodule.FAE")),
    "model from a file": ("model", "other.yaml"),
    "model that is no class": ("model", 3),
    "model argument": ("model.init_args.hidden_dims", _class("evilmodule.Evil")),
    "model argument deep down": ("model.init_args.hidden_dims", [1, [{"a": _class("evilmodule.Evil")}]]),
    "keywords": ("model.dict_kwargs", {"x": 1}),
    "data": ("data", _class("evilmodule.Evil")),
    "data argument": ("data.init_args.root", _class("pathlib.Path")),
    "callback": ("trainer.callbacks", [_class("evilmodule.Evil")]),
    "callback as a name": ("trainer.callbacks", ["evilmodule.Evil"]),
    "callback alone": ("trainer.callbacks", "evilmodule.Evil"),
    "callback in a dictionary": ("trainer.callbacks", _class("evilmodule.Evil")),
    "Lightning's callback with a function": (
        "trainer.callbacks",
        [_class(f"{_LIGHTNING}.callbacks.LambdaCallback", on_fit_start=_class("evilmodule.Evil"))],
    ),
    "function by its name": (
        "trainer.callbacks",
        [_class(f"{_LIGHTNING}.callbacks.LambdaCallback", setup="os.system")],
    ),
    "averaging function": (
        "trainer.callbacks",
        [_class(f"{_LIGHTNING}.callbacks.StochasticWeightAveraging", swa_lrs=0.1, avg_fn="os.system")],
    ),
    "callback's module": (
        "trainer.callbacks",
        [_class(f"{_LIGHTNING}.callbacks.evilmodule.EarlyStopping", monitor="x")],
    ),
    "argument of an allowed callback": ("trainer.callbacks", [_class(_STOPPING, monitor=_class("evilmodule.Evil"))]),
    "keywords of an allowed callback": (
        "trainer.callbacks",
        [{**_class(_STOPPING, monitor="x"), "dict_kwargs": {"x": "os.system"}}],
    ),
    "second callback": ("trainer.callbacks", [_class(_STOPPING, monitor="x"), _class("evilmodule.Evil")]),
    "checkpoints elsewhere": (
        "trainer.callbacks",
        [_class(f"{_LIGHTNING}.callbacks.ModelCheckpoint", dirpath="../outside")],
    ),
    "checkpoint names that climb": (
        "trainer.callbacks",
        [_class(f"{_LIGHTNING}.callbacks.ModelCheckpoint", filename="../../outside/x")],
    ),
    "callback on an exception": (
        "trainer.callbacks",
        [_class(f"{_LIGHTNING}.callbacks.OnExceptionCheckpoint", dirpath="outside")],
    ),
    "own callback elsewhere": ("trainer.callbacks", [_class("zoo.callbacks.panels.Panels", folder="outside")]),
    "own callback's neighbour": ("trainer.callbacks", [_class("zoo.callbacks.panels.nn.Evil")]),
    "logger": ("trainer.logger", _class("evilmodule.Evil")),
    "logger as a name": ("trainer.logger", "evilmodule.Evil"),
    "logger elsewhere": ("trainer.logger", _class(f"{_LIGHTNING}.loggers.CSVLogger", save_dir="outside")),
    "logger far away": ("trainer.logger", [_class(f"{_LIGHTNING}.loggers.CSVLogger", save_dir="/tmp/outside")]),
    "logger's name": ("trainer.logger", _class(f"{_LIGHTNING}.loggers.CSVLogger", save_dir=".", name="../outside")),
    "logger's version": (
        "trainer.logger",
        _class(f"{_LIGHTNING}.loggers.TensorBoardLogger", save_dir=".", version="../../outside"),
    ),
    "logger that sends": ("trainer.logger", _class(f"{_LIGHTNING}.loggers.MLFlowLogger", tracking_uri="http://x")),
    "weights sent away": ("trainer.logger", _class(f"{_LIGHTNING}.loggers.WandbLogger", log_model="all")),
    "logger's object": (
        "trainer.logger",
        _class(f"{_LIGHTNING}.loggers.WandbLogger", experiment=_class("evilmodule.Evil")),
    ),
    "strategy": ("trainer.strategy", _class("evilmodule.Evil")),
    "strategy as a name": ("trainer.strategy", "evilmodule.Evil"),
    "strategy's hook": (
        "trainer.strategy",
        _class(f"{_LIGHTNING}.strategies.DDPStrategy", ddp_comm_hook="os.system"),
    ),
    "strategy's environment": (
        "trainer.strategy",
        _class(f"{_LIGHTNING}.strategies.DDPStrategy", cluster_environment=_class("evilmodule.Evil")),
    ),
    "accelerator": ("trainer.accelerator", _class("evilmodule.Evil")),
    "accelerator as a name": ("trainer.accelerator", "evilmodule.Evil"),
    "profiler": ("trainer.profiler", _class("lightning.pytorch.profilers.SimpleProfiler", dirpath="outside")),
    "profiler as a name": ("trainer.profiler", "evilmodule.Evil"),
    "plugin": ("trainer.plugins", [_class("evilmodule.Evil")]),
    "plugin as a name": ("trainer.plugins", "evilmodule.Evil"),
    "model registry": ("trainer.model_registry", "someone/else"),
    "trainer from a file": ("trainer", "other.yaml"),
    "metrics elsewhere": ("metrics.output", "../outside.json"),
    "panels elsewhere": ("panels.folder", "/tmp/outside"),
    "predictions elsewhere": ("predictions.folder", "outside"),
    "last checkpoint elsewhere": ("last_checkpoint.folder", "outside"),
    "checkpoint of the call": ("ckpt_path", "/etc/passwd"),
    "input of the call": ("input", "/etc"),
    "another file": ("config", "other.yaml"),
    "class in another place": ("metrics.max_pixels", _class("evilmodule.Evil")),
    "cache that is no path": ("data.init_args.cache_dir", _class("pathlib.Path")),
    "metrics from a file": ("metrics", "other.yaml"),
    "panels from a file": ("panels", "other.yaml"),
    "predictions from a file": ("predictions", "other.yaml"),
    "last checkpoint from a file": ("last_checkpoint", "other.yaml"),
    "start from a file": ("init_from", "other.yaml"),
    "decision from a file": ("decision", "other.yaml"),
    "a list for options": ("metrics", [_class("evilmodule.Evil")]),
    "environment in a name": (
        "trainer.callbacks",
        [_class(f"{_LIGHTNING}.callbacks.ModelCheckpoint", filename="$HOME/x")],
    ),
    "a link's address in a name": (
        "trainer.logger",
        _class(f"{_LIGHTNING}.loggers.TensorBoardLogger", save_dir=".", name="s3://bucket/x"),
    ),
    "entry point of Lightning": ("trainer.strategy", "evilmodule:Evil"),
    "number in the place of a name": ("trainer.callbacks", 7),
    "names with dots": (["trainer.callbacks"], ["evilmodule.Evil"]),
    "class path with dots": (["model.class_path"], "evilmodule.Evil"),
    "addition": (["trainer", "callbacks+"], ["evilmodule.Evil"]),
    "addition with dots": (["trainer", "logger.class_path"], "evilmodule.Evil"),
    "argument with dots": (["metrics", "x.class_path"], "evilmodule.Evil"),
    "model argument with dots": (["model", "init_args", "hidden_dims.class_path"], "evilmodule.Evil"),
    "a key that is no text": ([7], {"class_path": "evilmodule.Evil"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_configuration(name, run, capsys):
    config = yaml.safe_load((run / "config.yaml").read_text())
    _set(config, *copy.deepcopy(HOSTILE[name]))
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    Path("other.yaml").write_text("output: ../outside.json\nfolder: ../outside\nclass_path: evilmodule.Evil\n")
    before = sorted(run.rglob("*"))
    assert main(["test", "--run", str(run)]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert str(run / "config.yaml") in told[0]
    assert len(told) <= 6
    assert "--trust" in told[-1]
    assert not Path("ran").exists()
    assert "evilmodule" not in sys.modules
    assert sorted(run.rglob("*")) == before
    assert not Path("outside").exists()
    assert not Path("../outside.json").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "predict"])
def test_every_command_asks(command, run, capsys):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["callbacks"] = [_class("evilmodule.Evil")]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main([command, f"--run={run}"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:evilmodule.Evil []",
        "model: !!python/name:evilmodule.Evil",
        "model: !!python/module:evilmodule",
        "trainer: &a\n  logger: *a",
        "- model",
        "",
    ],
)
def test_hostile_yaml(text, run, capsys):
    (run / "config.yaml").write_text(text)
    assert main(["test", "--run", str(run)]) == 2
    assert str(run / "config.yaml") in capsys.readouterr().err
    assert not Path("ran").exists()


def test_links_that_lead_out(run, tmp_path, capsys):
    (tmp_path / "outside").mkdir()
    (run / "panels").symlink_to(tmp_path / "outside")
    assert main(["test", "--run", str(run)]) == 2
    assert "leads out" in capsys.readouterr().err
    assert not list((tmp_path / "outside").iterdir())


def test_what_is_neither_file_nor_folder(run, capsys):
    os.mkfifo(run / "metrics.json.fifo")
    assert main(["test", "--run", str(run)]) == 2
    assert "neither a file nor a folder" in capsys.readouterr().err


def test_only_a_cache_of_this_machine_is_written_to(run, tmp_path, capsys):
    """A run of the user's own names the cache where it was made; one from elsewhere any place."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"]["cache_dir"] = "outside"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "--run", str(run)]) == 0
    assert "data.cache_dir outside is no cache of this machine" in capsys.readouterr().err
    assert not Path("outside").exists()
    assert main(["test", "--run", str(run), "--trust"]) == 0
    assert Path("outside/digests.json").is_file()
    assert main(["test", "--run", str(run)]) == 0
    assert "cache_dir" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cache_dir", "outside"),
        ("class_path", "evilmodule.Evil"),
        ("class_path", "datamodules.base.AnomalyDataModule"),
        ("known", {"image_size": "big"}),
        ("known", ["evil"]),
        ("init_args", {"x.y": "evilmodule.Evil"}),
        ("init_args", {7: 7}),
        ("case_pattern", ["evilmodule.Evil"]),
        ("hidden_dims", {"class_path": "evilmodule.Evil"}),
        ("no_such_argument", 1),
    ],
)
def test_a_checkpoint_alone_builds_shipped_classes_with_plain_values(key, value, run, image_folder, capsys):
    """`predict --ckpt_path FILE` takes method and data from the file."""
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    data = checkpoint["uad_zoo"]["data"]
    if key in ("class_path", "known", "init_args"):
        data[key] = value
    elif key in ("hidden_dims", "no_such_argument"):
        checkpoint["hyper_parameters"][key] = value
    else:
        data["init_args"][key] = value
    torch.save(checkpoint, "evil.ckpt")
    Path("out").mkdir()
    command = ["predict", "--ckpt_path", "evil.ckpt", "--input", str(image_folder / "test")]
    assert main([*command, "--trainer.default_root_dir", "out"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) <= 6
    assert not Path("ran").exists()
    assert "evilmodule" not in sys.modules
    assert not Path("outside").exists()
    assert not list(Path("out").iterdir())


def test_an_unknown_package_is_named(run, capsys):
    assert main(["fit", "--model", "no.such.Module", "--data", "Folder"]) == 2
    assert "no.such.Module" in capsys.readouterr().err


def test_own_classes_with_trust_and_from_a_file(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "owncallback.py").write_text(
        "from pathlib import Path\nfrom lightning.pytorch import Callback\n"
        "class Own(Callback):\n    def on_test_start(self, *_): Path('ran').touch()\n"
    )
    config["trainer"]["callbacks"] = [_class("owncallback.Own")]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "--run", str(run)]) == 2
    assert not Path("ran").exists()
    assert main(["test", "--run", str(run), "--trust"]) == 0
    assert Path("ran").exists()
    assert main(["test", "--config", str(run / "config.yaml"), "--trust"]) == 2  # a file is the user's own anyway


def test_what_lightning_writes_of_allowed_classes_is_allowed(good, tmp_path, monkeypatch, capsys):
    """The full configuration that a run keeps, with all defaults of the classes that it may name."""
    monkeypatch.chdir(tmp_path)
    callbacks = [
        _class(_STOPPING, monitor="val/synthetic_pixel_ap", mode="max"),
        _class(f"{_LIGHTNING}.callbacks.ModelCheckpoint", monitor="val/synthetic_pixel_ap", mode="max"),
        _class(f"{_LIGHTNING}.callbacks.LearningRateMonitor"),
        _class(f"{_LIGHTNING}.callbacks.StochasticWeightAveraging", swa_lrs=0.1, device="cpu"),
        _class(f"{_LIGHTNING}.callbacks.TQDMProgressBar"),
        _class("zoo.callbacks.uncertainty.UncertaintyCurves"),
    ]
    logger = [_class(f"{_LIGHTNING}.loggers.{name}", save_dir=".") for name in ("CSVLogger", "WandbLogger")]
    strategy = _class(f"{_LIGHTNING}.strategies.DDPStrategy", find_unused_parameters=True)
    config = {"trainer": {"callbacks": callbacks, "logger": logger, "strategy": strategy}}
    Path("more.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(good / "config.yaml"), "--config", "more.yaml", "--print_config"]) == 0
    Path("run").mkdir()
    Path("run/config.yaml").write_text(capsys.readouterr().out)
    check_run(open_run(Path("run")))


def test_a_checkpoint_cannot_have_other_files_deleted(run):
    """`ModelCheckpoint` removes the worst of its best checkpoints; a hostile state names somebody else's file."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    best = _class(f"{_LIGHTNING}.callbacks.ModelCheckpoint", monitor="val/synthetic_pixel_ap", mode="max")
    config["trainer"] |= {"callbacks": [best], "max_steps": 9}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    victim = run.parent / "victim.txt"
    victim.write_text("mine")
    assert main(["fit", "--run", str(run)]) == 0
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    (key,) = (key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint"))
    inside = str((run / "checkpoints").absolute() / ".." / ".." / "victim.txt")
    worst = torch.tensor(-1.0)
    checkpoint["callbacks"][key] |= {
        "best_k_models": {inside: worst},
        "kth_best_model_path": inside,
        "kth_value": worst,
    }
    torch.save(checkpoint, path)
    config["trainer"]["max_steps"] = 20
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--run", str(run)]) == 0
    assert victim.read_text() == "mine"


def test_nothing_is_imported_by_the_check(run, monkeypatch):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["class_path"] = "evilmodule.Evil"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"model\.class_path evilmodule\.Evil is no class of this package"):
        check_run(open_run(run))
    assert "evilmodule" not in sys.modules
