"""Named variants: configurations that ship go by their names everywhere, as methods do."""

import subprocess
import sys

import pytest
import torch
import yaml

import zoo
from zoo.cli import main
from zoo.configs import shipped_configs
from zoo.registry import arguments, find, load_class, methods, names, variants


def test_every_shipped_configuration_of_a_method_is_listed_and_known():
    shipped = {name.rpartition("/")[2] for name in shipped_configs() if name.startswith("models/")}
    assert set(zoo.list_models()) == shipped == {*methods(), *variants()}
    assert len(zoo.list_models()) == len(set(zoo.list_models()))
    for variant in variants().values():
        assert variant.summary
        assert variant.name in names(variant.method.family)
        assert set(variant.arguments) <= set(arguments(load_class(variant.method.name))), variant.name


def test_a_variant_is_made_by_name_with_its_arguments_and_others_over_them():
    model = zoo.create_model("mem_ae_dense", image_size=32, hidden_dims=(4, 8))
    assert (model.hparams["memory"], model.hparams["slots"], model.hparams["hidden_dims"]) == ("dense", 25, (4, 8))
    assert model(torch.rand(2, 1, 32, 32)).anomaly_score.shape == (2,)
    with pytest.raises(zoo.errors.UserError, match=r"nearest: .*vae_restoration"):
        zoo.create_model("vae_restoraton", image_size=32)


@pytest.mark.parametrize("option", [["--model", "mem_ae_dense"], ["--model=mem_ae_dense"], ["--config", "short.yaml"]])
def test_a_variant_is_a_name_on_the_command_line(option, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.yaml").write_text("model: mem_ae_dense\n")
    common = ["--model.slots", "7", "--data", "Folder", "--data.root", str(image_folder), "--data.image_size", "32"]
    common += ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--model.hidden_dims", "[4, 8]"]
    assert main(["fit", *option, *common]) == 0
    given = yaml.safe_load(next(tmp_path.glob("runs/*/config.yaml")).read_text())["model"]["init_args"]
    assert (given["memory"], given["slots"], given["hidden_dims"]) == ("dense", 7, [4, 8])


def test_list_and_description(capsys):
    main(["models"])
    listed = capsys.readouterr().out
    assert all(f" {name} " in listed for name in zoo.list_models())
    main(["models", "dn2"])
    told = capsys.readouterr().out
    assert "variant of panda" in told
    assert "adapt: False" in told


def test_lineages_hand_on_the_parents_arguments():
    child, parent = load_class("memmc_mae"), load_class("mae")
    assert set(arguments(parent)) < set(arguments(child))
    assert (arguments(child)["lr"], arguments(parent)["lr"]) == (1.5e-3, 1.5e-4)
    model = child(**{**find("memmc_mae").tiny, "mask_ratio": 0.5})
    assert set(model.hparams) == set(arguments(child))
    assert (model.hparams["mask_ratio"], model.hparams["lr"]) == (0.5, 1.5e-3)
    assert "restoration_steps" in arguments(load_class("ce_vae"))


def test_help_shows_the_parents_arguments(capsys):
    main(["fit", "--model.help", "memmc_mae"])
    told = capsys.readouterr().out
    assert "--model.num_memory" in told
    assert "--model.mask_ratio" in told
    assert "share of removed patches" in " ".join(told.split())


def test_public_names_cost_nothing_and_show():
    code = "import sys, zoo; assert 'torch' not in sys.modules; print(*dir(zoo))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {*zoo.__all__} <= set(found)
    assert {"Stage", "pool_map", "Sample", "Prediction"} <= set(found)
    assert all(getattr(zoo, name) is not None for name in zoo.__all__)
