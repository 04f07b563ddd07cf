"""Mistakes are told before torch is imported, and what is right passes."""

import subprocess
import sys
from pathlib import Path

import jsonargparse
import pytest

from datamodules.registry import class_names
from zoo.cli.early import TOP_LEVEL, check_call, constructor_arguments, trainer_arguments
from zoo.configs import shipped_configs
from zoo.errors import UserError
from zoo.registry import load_class, methods

CONFIGS = shipped_configs()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("fit --config models/fay --config data/folder", "nearest shipped: models/fae"),
        ("fit --model fay --data folder", "unknown method 'fay'; nearest: fae"),
        ("fit --model fae --data foldr", "unknown data set 'foldr'"),
        ("fit --config models/fae --config data/folder --model.lrr 3", "option; nearest: --model.lr"),
        ("fit --config models/fae --config data/folder --model.init_args.lrr=3", "--model.lrr: unknown option"),
        ("fit --config models/fae --config data/folder --data.bach_size 3", "--data.batch_size"),
        ("fit --config models/fae --config data/folder --trainer.max_step 3", "--trainer.max_steps"),
        ("fit --config models/fae --config data/folder --seed_everthing 3", "--seed_everything"),
        ("fit --config models/fae --config data/folder --data.root /nowhere", "data.root: no folder /nowhere"),
        ("test --config models/fae --config data/folder --ckpt_path no.ckpt", "--ckpt_path no.ckpt: no such file"),
        ("predict --config models/fae --config data/folder --input /nowhere", "--input /nowhere"),
        ("fit --config data/folder", "no method given"),
        ("fit --run runs/none", "--run runs/none"),
    ],
)  # fmt: skip
def test_a_mistake_imports_neither_torch_nor_lightning(arguments, told, tmp_path):
    code = (
        "import sys, time; from zoo.cli import main; rc = main(sys.argv[1:]); "
        "assert not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules); sys.exit(rc)"
    )
    home = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()], cwd=tmp_path, env=home, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert told in done.stderr


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith(("models/", "papers/", "quickstart"))])
def test_shipped_configurations_pass(name):
    text = CONFIGS[name].read_text()
    missing = [] if "data:" in text else ["--config", "data/folder"]
    missing += [] if "model:" in text else ["--config", "models/autoencoder"]
    check_call(["fit", *missing, "--config", name])


def names_by_import(cls):
    return {one.name for one in jsonargparse._parameter_resolvers.get_signature_parameters(cls, None)}


@pytest.mark.parametrize("name", methods())
def test_arguments_of_methods_are_read_from_their_source(name):
    assert constructor_arguments(methods()[name].class_path) == names_by_import(load_class(name))


@pytest.mark.parametrize("name", class_names())
def test_arguments_of_data_sets_are_read_from_their_source(name):
    import datamodules

    assert constructor_arguments(f"datamodules.{name}") == names_by_import(getattr(datamodules, name))


def test_the_parser_knows_the_same_options():
    from zoo.cli.checking import _parser
    from zoo.cli.parsing import use_short_names

    use_short_names()
    for command in ("fit", "validate", "test", "predict"):
        parser = _parser()._subcommands_action._name_parser_map[command]
        known = {action.dest.split(".")[0] for action in parser._actions} - {"_lightning_config"}
        assert known <= TOP_LEVEL | trainer_arguments(command) | {"input"}, command
    assert "max_steps" in trainer_arguments("__init__")


def test_a_later_class_drops_the_arguments_of_an_earlier_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {class_path: fae, init_args: {window: 5}}\ndata: folder\n")
    check_call(["fit", "--config", str(tmp_path / "mine.yaml"), "--model", "mae"])
    with pytest.raises(UserError, match="window: unknown option"):
        check_call(["fit", "--model", "mae", "--model.window", "5", "--data", "folder"])


def test_what_comes_from_outside_is_left_to_the_parser():
    check_call(["fit", "--model", "pytest.Anything", "--model.whatever", "3", "--data", "folder"])
