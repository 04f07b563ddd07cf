"""MedIAnomaly, BMAD, Uni-Medical: published figures beside ours, on real folders alone."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.papers import rows
from benchmarks.plan import read_plan
from benchmarks.published import Figure, Published, Source, difference, read_table
from datamodules import phantoms
from zoo.cli import main
from zoo.metrics.table import TABLE


def test_published_figures_of_the_collections() -> None:
    found = Published(["medianomaly", "bmad", "uni_medical", "uad_imag"], list(TABLE))
    assert found.get("rsna", "fae_ssim", "image_auroc").text == "0.911"  # type: ignore[union-attr]
    assert found.get("vincxr", "ae_u", "image_ap").text == "0.754"  # type: ignore[union-attr]
    assert found.get("lag", "perceptual_ae", "image_auroc").text == "0.856"  # type: ignore[union-attr]
    assert found.get("brats2021", "denoising_ae", "pixel_ap").text == "0.755"  # type: ignore[union-attr]
    assert found.get("brats21", "patchcore", "image_auroc").text == "0.916"  # type: ignore[union-attr]
    assert found.get("uni_medical_liver", "reverse_distillation", "pixel_ap").text == "0.057"  # type: ignore[union-attr]
    assert not read_table("uad_imag")["tables"]
    for name in ("medianomaly", "bmad", "uni_medical", "uad_imag"):
        assert read_table(name)["source"]["url"].startswith("https://arxiv.org/abs/")


@pytest.mark.parametrize(("suite", "twins", "all_rows"), [("medianomaly", 29, 38), ("bmad", 15, 15)])
def test_suites_name_the_twins(suite: str, twins: int, all_rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(suite, read_plan(suite))
    assert (sum(bool(row.methods) for row in found), len(found)) == (twins, all_rows)
    assert main(["papers"]) == 0
    assert f"{twins} of {all_rows} published rows have a runnable twin: zoo papers {suite}" in capsys.readouterr().out


def test_the_protocol_reaches_the_cells() -> None:
    cells = {(cell.method, cell.dataset): cell.config for cell in read_plan("medianomaly").cells}
    epochs = {key: config["trainer"]["max_epochs"] for key, config in cells.items()}
    assert epochs["vae", "rsna"] == 250
    assert epochs["vae", "brain_tumor"] == 600
    assert epochs["gaussian_density_resnet18", "rsna"] == 1
    sizes = {key: config["data"]["init_args"]["image_size"] for key, config in cells.items()}
    assert (sizes["vae", "lag"], sizes["denoising_ae", "lag"], sizes["fpi", "lag"]) == (64, 128, 224)
    channels = {dataset: config["data"]["init_args"]["in_channels"] for (_, dataset), config in cells.items()}
    assert {name for name, count in channels.items() if count == 3} == {"camelyon16"}


def test_a_difference_says_whether_the_published_figure_lies_inside() -> None:
    figure = Figure(0.8, "AE", False, Source("", "", "", ""))
    assert difference(0.75, figure, (0.75, 0.7, 0.81)) == "-0.050, inside the interval"
    assert difference(0.9, figure, (0.9, 0.85, 0.95)) == "+0.100, outside the interval"
    assert difference(0.9, figure, None) == "+0.100"
    assert difference(float("nan"), figure, None) == ""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_folders_show_differences_and_phantoms_do_not(tmp_path: Path) -> None:
    root = tmp_path / "RSNA"
    phantoms.write("data_json", root)
    (root / phantoms.MARKER).unlink()  # as if it were real
    common = {"image_size": 32, "cache_dir": str(tmp_path / "c")}
    data = {
        "rsna": {"config": "data_json", "init_args": {**common, "root": str(tmp_path), "subset": "RSNA"}},
        "vincxr": {"config": "data_json", "init_args": {**common, "subset": "VinCXR"}},
    }
    models = {"autoencoder_l2": "statistical"}  # a fast stand-in under the twin's name
    content = {"models": models, "data": data, "published": ["medianomaly"], "trainer": {"accelerator": "cpu"}}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(content))
    out = tmp_path / "out"
    assert main(["benchmark", str(tmp_path / "suite.yaml"), "--out", str(out)]) == 0
    marked = {path.parent.name: json.loads(path.read_text())["phantom"] for path in out.glob("cells/*/metrics.json")}
    assert marked == {"autoencoder_l2--rsna--0": False, "autoencoder_l2--vincxr--0": True}
    _, real, generated = (out / "leaderboard.md").read_text().split("\n## ")[:3]
    assert "(PHANTOM" in generated
    assert "(PHANTOM" not in real
    assert "*0.675* [1] ours " in real
    assert " the interval" in real
    assert "*0.564* [1] |" in generated  # published, but nothing to compare
    assert " ours " not in generated.partition("## ")[0].partition("| method")[2].partition("\n\n")[0]
    page = (out / "report.html").read_text()
    assert page.count("<br><small>ours ") == 2  # AUROC and AP of the real set
