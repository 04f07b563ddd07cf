"""The suites run the papers: every stated setting reaches the cells, or the deviation says why."""

import json
import math
from pathlib import Path

import pytest
import yaml

from benchmarks import papers
from benchmarks.plan import read_plan
from zoo.cli import main
from zoo.cli import papers as papers_command
from zoo.cli.checking import problems
from zoo.configs import config_path, read_yaml, shipped_configs
from zoo.errors import UserError
from zoo.metrics.table import TABLE
from zoo.registry import find

DOCUMENT = Path(__file__).parents[2] / "docs" / "papers.md"


@pytest.mark.parametrize("suite", sorted(papers.suites()))
def test_every_stated_setting_is_followed_or_its_deviation_told(suite):
    found = papers.settings(suite, read_plan(suite))
    assert found
    for one in found:
        assert one.where, one
        assert one.follows == (not one.deviation), one


def test_every_suite_is_shipped_and_every_shipped_table_has_its_suite():
    shipped = {name.removeprefix("benchmarks/") for name in shipped_configs() if name.startswith("benchmarks/")}
    assert papers.suites().keys() <= shipped
    tables = {name for name in shipped if "_table" in name or "_figure" in name}
    assert tables <= papers.suites().keys()


def test_the_document_is_up_to_date():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert papers.renewed(text) == text, "run `zoo papers --markdown docs/papers.md`"


def test_listing_names_suites_and_says_where_no_table_is_known(capsys):
    assert papers_command.main([]) == 0
    listed = capsys.readouterr().out
    assert "zoo benchmark fae_figure3" in listed
    assert "no table known" in listed
    assert papers_command.main(["memmc_mae_table2"]) == 0
    shown = capsys.readouterr().out
    assert "row   MAE + memory encoder: memory" in shown
    assert "data.batch_size 256 (section 3)" in shown
    with pytest.raises(UserError, match="fae_figure3"):
        papers_command.main(["fae_figure"])


def write(path, **content):
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_configurations_carry_serving_and_metrics_to_the_cell(tmp_path):
    """Which images are read is the data entry's affair, how they are served the method's."""
    base = write(
        tmp_path / "paper.yaml",
        model={"class_path": "zoo.reconstruction.fae.FeatureAutoencoder", "init_args": {"dropout": 0.2}},
        data={"class_path": "datamodules.Folder", "init_args": {"batch_size": 7, "image_size": 96, "val_fraction": 0}},
        metrics={"protocol": "fae"},
        trainer={"max_steps": 3},
    )
    entries = {
        "plain": {"config": base},
        "own": {"config": base, "data": {"batch_size": 3, "image_size": 48}, "metrics": {"foreground_only": True}},
    }
    data = {"medmnist": {"init_args": {"image_size": 64}}, "covidx": {"init_args": {"batch_size": 5}}}
    plan = read_plan(write(tmp_path / "suite.yaml", models=entries, data=data, metrics={"neighbours": 0}))
    cells = {f"{cell.method}-{cell.dataset}": cell.config for cell in plan.cells}

    def served(name, key):
        return cells[name]["data"]["init_args"][key]

    assert served("plain-medmnist", "batch_size") == 7
    assert served("plain-medmnist", "image_size") == 64, "which images: the data entry"
    assert served("plain-medmnist", "val_fraction") == 0
    assert served("plain-covidx", "batch_size") == 5, "the benchmark's own word"
    assert served("own-covidx", "batch_size") == 3, "said of this method"
    assert served("own-covidx", "image_size") == 48
    assert cells["plain-covidx"]["metrics"] == {"protocol": "fae", "neighbours": 0}
    assert cells["own-covidx"]["metrics"] == {"protocol": "fae", "foreground_only": True, "neighbours": 0}
    assert len({cell.fingerprint for cell in plan.cells}) == 4


def test_a_dry_run_checks_every_cell(tmp_path, capsys):
    models = {
        "autoencoder": {"init_args": {"latent_dim": 8}},
        "wrong_key": {"config": "autoencoder", "init_args": {"latent": 8}},
        "wrong_value": {"config": "autoencoder", "init_args": {"lr": "fast"}},
        "wrong_size": {"config": "autoencoder", "data": {"image_size": 50}},
        "wrong_trainer": {"config": "autoencoder", "trainer": {"max_step": 3}},
    }
    data = {"medmnist": {"init_args": {"image_size": 64}}}
    config = write(tmp_path / "suite.yaml", models=models, data=data, seeds=[0, 1])
    assert main(["benchmark", config, "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    told = capsys.readouterr().out
    wrong = [line.split()[1].rstrip(":") for line in told.splitlines() if line.startswith("WRONG")]
    kinds = ("key", "size", "trainer", "value")
    assert wrong == [f"wrong_{kind}--medmnist--{seed}" for kind in kinds for seed in (0, 1)]
    assert "data  medmnist: no data.root, a PHANTOM; official files: " in told
    assert not (tmp_path / "out").exists()


SHIPPED = sorted(name for name in shipped_configs() if name.startswith("benchmarks/"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "benchmarks/quick" else pytest.mark.slow) for name in SHIPPED]
)
def test_no_cell_of_a_shipped_benchmark_is_wrong(name):
    assert problems(read_plan(name).cells) == {}


def reduced(suite, path):
    """A shipped suite with all its methods at their tiniest, on small phantoms, for a few steps and one seed."""
    content = read_yaml(config_path(f"benchmarks/{suite}"))
    for name, entry in content["models"].items():
        entry = content["models"][name] = dict(entry or {})
        config = str(entry.get("config", name))
        shipped = read_yaml(config_path(config if "/" in config else f"models/{config}"))
        tiny = dict(find(shipped["model"]["class_path"]).tiny)
        tiny.pop("image_size")
        entry["init_args"] = {
            **{key: list(one) if isinstance(one, tuple) else one for key, one in tiny.items()},
            **entry.get("init_args", {}),
        }
        if "folds" in entry:
            entry["folds"] = entry["folds"][: 2 if name == "T1" else 1]
    for name, entry in content["data"].items():
        entry = content["data"][name] = {**(entry or {})}
        size = [16, 24, 16] if name.endswith("_3d") else 64
        entry["init_args"] = {**entry.get("init_args", {}), "image_size": size, "batch_size": 4, "max_val_images": 4}
    trainer = {"accelerator": "cpu", "precision": "32-true", "max_steps": 4, "limit_train_batches": 2}
    more = {"seeds": content["seeds"][:1], "budget": "equal_steps", "trainer": trainer}
    metrics = {**content.get("metrics", {}), "neighbours": 5}
    return write(path, **{**content, **more, "metrics": metrics})


@pytest.mark.slow
@pytest.mark.parametrize("suite", sorted(papers.suites()))
def test_every_suite_runs_on_phantoms_to_the_page(suite, tmp_path):
    config = reduced(suite, tmp_path / "suite.yaml")
    assert main(["benchmark", config, "--out", str(tmp_path / "out")]) == 0
    cells = read_plan(config).cells
    assert {cell.method for cell in cells} >= {
        name for row in papers.rows(suite, read_plan(suite)) for name in row.methods
    }
    for cell in cells:
        found = json.loads((tmp_path / "out" / "cells" / cell.name / "metrics.json").read_text())
        assert found["phantom"] is True
        protocol = cell.config["metrics"].get("protocol", "common")
        protocols = protocol if isinstance(protocol, list) else [protocol]
        own = {name for name, metric in TABLE.items() if metric.protocol in set(protocols) - {"common"}}
        for name in own or {"image_auroc"}:
            value = found["metrics"][name]
            assert value is not None, (cell.name, name)
            assert math.isfinite(value), (cell.name, name)
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(cell.method in page for cell in cells)
    assert "PHANTOM" in (tmp_path / "out" / "leaderboard.md").read_text()
