"""``zoo benchmark`` from configuration to page, with real methods on tiny data."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.cases import choose_cases
from benchmarks.leaderboard import rows_of
from benchmarks.plan import Cell, read_plan, with_threads
from benchmarks.published import Published, known_tables
from benchmarks.resources import threads_of
from benchmarks.results import Result
from zoo.cli import main
from zoo.configs import shipped_configs
from zoo.errors import UserError
from zoo.metrics.table import TABLE
from zoo.registry import methods

ROOT = Path(__file__).parents[2]
CONFIG = """\
name: tiny
models:
  ae: {{config: autoencoder, init_args: {{hidden_dims: [8, 16], latent_dim: 8}}, trainer: {{max_steps: 3}}}}
  threshold: {{config: histogram_threshold}}
data:
  mine: {{config: folder, init_args: {{root: {root}, image_size: 32, batch_size: 4}}}}
seeds: [0, 1]
trainer: {{accelerator: cpu, check_val_every_n_epoch: 1000}}
"""


@pytest.fixture
def config(tmp_path, image_folder):
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.format(root=image_folder))
    return path


def benchmark(config, out, *options):
    return main(["benchmark", str(config), "--out", str(out), *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, image_folder):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(CONFIG.format(root=image_folder))
    assert benchmark(folder / "tiny.yaml", folder / "lb", "--workers", "2") == 0
    return folder / "tiny.yaml", folder / "lb"


def test_all_files_of_the_contract(finished):
    _, out = finished
    cells = sorted(path.name for path in (out / "cells").iterdir())
    assert cells == [f"{name}--mine--{seed}" for name in ("ae", "threshold") for seed in (0, 1)]
    for name in cells:
        for file in ("config.yaml", "metrics.json", "status.json", "log.txt", "panel.png", "scores.csv"):
            assert (out / "cells" / name / file).is_file(), (name, file)
        content = json.loads((out / "cells" / name / "metrics.json").read_text())
        assert {"method", "dataset", "seed", "phantom", "metrics", "fit_seconds", "images_per_second"} <= content.keys()
        assert {"peak_memory_bytes", "parameters", "device", "versions"} <= content.keys()
        assert {"config_sha256", "data_fingerprint"} <= content.keys()
        assert content["phantom"] is False
    rows = list(csv.DictReader((out / "leaderboard.csv").open()))
    assert {(row["method"], row["seeds"]) for row in rows} == {("ae", "2"), ("threshold", "2")}
    assert [row["best"] for row in rows].count("True") == 1
    markdown = (out / "leaderboard.md").read_text()
    assert "Without learning" in markdown
    assert "PHANTOM" not in markdown


def test_finished_cells_are_not_run_again(finished, capsys):
    config, out = finished
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*") if path.is_file()}
    table = (out / "leaderboard.csv").read_bytes()
    assert benchmark(config, out) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*") if path.is_file()} == before
    assert (out / "leaderboard.csv").read_bytes() == table
    assert "4 done" in capsys.readouterr().out
    assert benchmark(config, out, "--dry-run", "--only", "ae--*") == 0
    assert "0 to run, 2 done" in capsys.readouterr().out


def test_page_is_whole_and_self_contained(finished):
    page = (finished[1] / "report.html").read_text()
    assert page.count("<tr data-set=") == 2
    assert "ROC (image)" in page
    assert page.count("data:image/png;base64,") >= 12
    for heading in ("seen best by all", "seen worst by all", "methods differ most", "chosen by a hash"):
        assert heading in page
    assert "PHANTOM" not in page.replace("PHANTOMS", "")
    outside = [url for url in re.findall(r"(?:src|href)=[\"']?([^\"' >]+)", page) if not url.startswith("data:")]
    assert [url for url in outside if not url.startswith("#")] == []


def test_folders_of_several_machines_merge(finished, tmp_path):
    _, out = finished
    parts = [tmp_path / "one", tmp_path / "two"]
    for part, seed in zip(parts, (0, 1), strict=True):
        for name in ("ae", "threshold"):
            shutil.copytree(out / "cells" / f"{name}--mine--{seed}", part / "cells" / f"{name}--mine--{seed}")
    assert main(["report", *map(str, parts), "--out", str(tmp_path / "all")]) == 0
    assert (tmp_path / "all" / "leaderboard.csv").read_bytes() == (out / "leaderboard.csv").read_bytes()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("metrics.json", '{"metrics": {"image_auroc"'),
        ("metrics.json", '{"metrics": {"image_auroc": "high"}}'),
        ("metrics.json", "[]"),
        ("scores.csv", "id,subject,label,score"),
        ("scores.csv", "id,subject,label,score\nx,,0,nan\n"),
        ("scores.csv", None),
    ],
)
def test_damaged_results_are_named_and_left_out(finished, tmp_path, capsys, file, damage):
    out = shutil.copytree(finished[1], tmp_path / "lb")
    path = out / "cells" / "ae--mine--1" / file
    path.unlink() if damage is None else path.write_text(damage)
    assert main(["report", str(out)]) == 1
    assert f"LEFT OUT ae--mine--1: {file}" in capsys.readouterr().out
    rows = {row["method"]: row["seeds"] for row in csv.DictReader((out / "leaderboard.csv").open())}
    assert rows == {"ae": "1", "threshold": "2"}
    assert "ae--mine--1</b>" in (out / "report.html").read_text()
    assert benchmark(finished[0], out, "--dry-run") == 0
    assert "run   ae--mine--1" in capsys.readouterr().out


def test_cells_of_another_configuration_are_not_mixed_in(finished, tmp_path, capsys):
    """As if the configuration had been changed and only one of its cells had been run again."""
    out = shutil.copytree(finished[1], tmp_path / "lb")
    cell = out / "cells" / "ae--mine--0"
    (cell / "config.yaml").write_text((cell / "config.yaml").read_text().replace("max_steps: 3", "max_steps: 4"))
    (cell / "status.json").write_text(json.dumps(json.loads((cell / "status.json").read_text()) | {"fingerprint": "n"}))
    about = json.loads((out / "benchmark.json").read_text())
    cells = about["cells"] | {"ae--mine--0": "n", "ae--mine--1": "n"}
    (out / "benchmark.json").write_text(json.dumps(about | {"cells": cells}))
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    assert "of an earlier configuration: ae--mine--1" in capsys.readouterr().out
    rows = {row["method"]: row["seeds"] for row in csv.DictReader((out / "leaderboard.csv").open())}
    assert rows == {"ae": "1", "threshold": "2"}
    assert main(["report", str(out), str(finished[1]), "--out", str(tmp_path / "all")]) == 1
    told = capsys.readouterr().out
    assert f"{finished[1]}/cells/ae--mine--0: another configuration than {out}" in told
    assert "LEFT OUT ae--mine--1: configuration, data or tested images differ from ae--mine--0" in told


def test_published_figures_stand_apart_with_their_source(finished, tmp_path, monkeypatch):
    tables = tmp_path / "published"
    tables.mkdir()
    (tables / "paper.yaml").write_text(
        "source: {title: A paper, venue: MICCAI 2024, url: https://example.org/paper, approximate: true}\n"
        "ours: {Plain AE: ae}\n"
        "tables:\n"
        "  - {name: Table 1, metric: image_auroc, columns: [mine, other], unit: percent,\n"
        "     rows: {Plain AE: [61.7, 50.1], Threshold: [null, 12]}}\n"
        "  - {name: Table 2, columns: [mine/pixel_ap], rows: {T-hreshold: 0.123}}\n"
    )
    monkeypatch.setattr("benchmarks.published.FOLDER", tables)
    out = shutil.copytree(finished[1], tmp_path / "lb")
    about = json.loads((out / "benchmark.json").read_text())
    (out / "benchmark.json").write_text(json.dumps(about | {"published": ["paper"]}))
    before = (out / "leaderboard.csv").read_bytes()
    assert main(["report", str(out)]) == 0
    assert (out / "leaderboard.csv").read_bytes() == before
    markdown, page = (out / "leaderboard.md").read_text(), (out / "report.html").read_text()
    head, ae, threshold = (
        next(line for line in markdown.splitlines() if line.startswith(f"| {word}"))
        for word in ("method", "ae", "threshold")
    )
    assert head.endswith("| *published image AUROC* | *published pixel AP* |")
    assert re.search(r"\| \*≈0\.617\* \[2\] ours [+-]0\.\d{3}, (in|out)side the interval \|  \|$", ae)
    assert re.search(r"\|  \| \*≈0\.123\* \[1\] ours [+-]0\.\d{3} \|$", threshold)
    assert "[2] A paper, MICCAI 2024, Table 1: https://example.org/paper (≈: read off a plot)" in markdown
    assert ">published image AUROC</button>" in page
    assert '<td class="published" data-metric="image_auroc" data-value="0.617000">≈0.617' in page
    assert "0.501" not in page.split("Published:")[0]


def test_all_published_tables_are_read():
    published = Published(known_tables(), list(TABLE))
    assert published.get("covidx", "memmc_mae", "image_auroc").text == "0.917"
    assert published.get("hyper_kvasir", "conv_ae", "image_auroc").row == "DAE"
    assert published.get("camcan_brats20", "autoencoder_ssim", "fae_pixel_ap").text == "≈0.192"
    assert published.get("covidx", "denoising_ae", "image_auroc") is None
    figures = {key: figure for key, figure in published.found.items() if key[2] in TABLE}
    assert len(figures) > 200
    assert all(0 <= figure.value <= 1 for figure in figures.values())
    assert {key[2] for key in published.found} - set(TABLE) <= {"epochs", "image_f1max"}


def phantom_copy(source, target, dataset):
    """A folder whose cells are said to be of a phantom called ``dataset``."""
    for cell in (source / "cells").iterdir():
        copy = shutil.copytree(cell, target / "cells" / cell.name.replace("--mine--", f"--{dataset}--"))
        content = json.loads((copy / "metrics.json").read_text())
        (copy / "metrics.json").write_text(json.dumps(content | {"phantom": True}))
    return target


def test_semi_supervised_rows_are_marked_everywhere(finished, tmp_path):
    made = shutil.copytree(finished[1], tmp_path / "semi")
    for path in made.glob("cells/ae--*/metrics.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"semi_supervised": True}))
    assert main(["report", str(made)]) == 0
    assert "<td>ae (semi-supervised)" in (made / "report.html").read_text()
    assert "| ae (semi-supervised)" in (made / "leaderboard.md").read_text()
    methods = {row["method"] for row in csv.DictReader((made / "leaderboard.csv").open())}
    assert methods == {"ae (semi-supervised)", "threshold"}


def test_phantoms_are_marked_section_by_section(finished, tmp_path):
    made = phantom_copy(finished[1], tmp_path / "phantom", "made_up")
    assert main(["report", str(made)]) == 0
    assert "PHANTOM DATA: generated images; these figures" in (made / "report.html").read_text()
    assert main(["report", str(finished[1]), str(made), "--out", str(tmp_path / "all")]) == 0
    page, markdown = ((tmp_path / "all" / name).read_text() for name in ("report.html", "leaderboard.md"))
    assert "Some data sets are PHANTOMS, generated images: made_up." in page
    sections = dict(re.findall(r'<section data-set="(\w+)"(.*?)</section>', page, re.DOTALL))
    assert "PHANTOM" in sections["made_up"]
    assert "PHANTOM" not in sections["mine"]
    assert page.count("<span class=tag>PHANTOM</span></td>") == 2
    assert "<h2>Average rank" not in page  # never over real data and phantoms together, never over one data set
    assert "## made_up (PHANTOM" in markdown
    assert "## mine\n" in markdown


def test_display_on_a_terminal_and_elsewhere(tmp_path, monkeypatch):
    from rich.console import Console

    from benchmarks.display import Display

    cell = Cell("fae", "covidx", 0, {}, "")
    progress = {"stage": "fit 1/2", "epoch": 3, "done": 40, "total": 100, "left": 75.4, "image_auroc": 0.8125}
    monkeypatch.setattr("benchmarks.display.LINE_SECONDS", 0.0)
    plain = io.StringIO()
    with Display(tmp_path, 2, plain) as display:
        display(cell, "running", {})
        display(cell, "running", progress)
        display(cell, "failed", {"reason": "took longer than 1 minutes [sic]"})
    lines = plain.getvalue().splitlines()
    assert " ".join(lines[0].split()) == "fae--covidx--0 fit 1/2 epoch 3 40/100 1:15 left 0.812 (validation, synthetic)"
    assert re.fullmatch(r"  1/2 failed  fae--covidx--0 +took longer than 1 minutes \[sic\]  \(0:00 left\)", lines[1])
    assert "\x1b" not in plain.getvalue()
    screen = io.StringIO()
    display = Display(tmp_path, 2, screen)
    display.console = Console(file=screen, force_terminal=True, width=120)
    with display:
        display(cell, "running", progress | {"stage": "test"})
        display.live.refresh()
    assert "0.812 (test)" in screen.getvalue()
    assert "0 of 2 cells finished" in screen.getvalue()


def test_progress_file_of_a_training(tmp_path, image_folder, quiet_trainer, monkeypatch):
    import zoo
    from benchmarks.progress import Progress
    from datamodules import Folder
    from zoo.callbacks.anomaly_metrics import AnomalyMetrics

    monkeypatch.setattr("benchmarks.progress.SECONDS", 0.0)
    told = []
    monkeypatch.setattr("benchmarks.progress.write_text", lambda path, text: told.append(json.loads(text)))
    model = zoo.create_model(
        "padim", image_size=32, in_channels=1, layers=("layer1",), weights="random", feature_channels=16
    )
    data = Folder(root=str(image_folder), image_size=32, batch_size=2)
    trainer = quiet_trainer(callbacks=[Progress(tmp_path), AnomalyMetrics()])
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    stages = [one["stage"] for one in told]
    assert stages[0] == "fit"
    assert "validate" in stages
    assert stages[-1] == "test"
    fit = [one for one in told if one["stage"] == "fit"]
    assert [one["done"] for one in fit] == list(range(1, fit[-1]["total"] + 1))
    assert fit[-1]["left"] == 0
    assert told[-1]["done"] == told[-1]["total"]
    assert 0 <= told[-1]["image_auroc"] <= 1


def test_gallery_chooses_the_same_cases_whatever_the_order():
    ids = np.array([f"case{number}" for number in range(20)])
    labels = np.arange(20) % 2
    rng = np.random.default_rng(0)

    def result(scores, order):
        columns = {"id": ids[order], "label": labels[order], "score": scores[order]}
        return Result(Path(), "", "data", 0, {}, columns)

    good, odd = labels + rng.normal(0, 0.1, 20), labels + rng.normal(0, 0.1, 20)
    odd[3], good[4], odd[4] = -5.0, 9.0, 9.0  # methods differ on case 3, both fail on case 4
    plain, mixed = np.arange(20), rng.permutation(20)
    cases = choose_cases({"a": result(good, plain), "b": result(odd, plain)}, ids)
    assert cases == choose_cases({"a": result(good, mixed), "b": result(odd, mixed)}, ids)
    by_reason = {why: [case.name for case in cases if case.why == why] for why in ("best", "worst", "disagreement")}
    assert by_reason["worst"][0] == "case4"
    assert "case3" in by_reason["worst"] + by_reason["disagreement"]
    assert len({case.name for case in cases}) == len(cases) == 10
    assert all(case.places.keys() == {"a", "b"} for case in cases)
    alone = choose_cases({"a": result(good, plain)}, ids)
    assert "disagreement" not in {case.why for case in alone}


def test_gallery_and_panels_count_cases(tmp_path):
    """Slices of a volume are one case: a patient's many slices do not fill gallery and panels."""
    from types import SimpleNamespace

    import torch

    from benchmarks.gallery import IMAGES_OF_A_CASE, Gallery
    from zoo.callbacks.panels import Panels
    from zoo.module import Prediction

    rng = np.random.default_rng(0)
    gallery, panels = Gallery(tmp_path), Panels(str(tmp_path / "panels"), count=2)
    for volume in range(6):
        image = torch.from_numpy(rng.random((12, 1, 8, 8), np.float32))
        mask = torch.zeros(12, 1, 8, 8, dtype=torch.bool)
        if volume % 2:
            mask[5, :, :2], mask[7, :, :5] = True, True
        batch = {"image": image, "mask": mask, "label": mask.any(3).any(2).any(1).long()}
        batch |= {"id": [f"v{volume}#{k:03d}" for k in range(12)], "case": [f"v{volume}"] * 12}
        batch["slice"] = torch.arange(12)
        outputs = Prediction(image.amax((1, 2, 3)) + volume, image)
        gallery.on_test_batch_end(None, None, outputs, batch)
        panels.on_test_batch_end(None, None, outputs, batch, volume)
    gallery.on_test_epoch_end(SimpleNamespace(is_global_zero=True), None)
    assert [one.case for one in panels._most] == ["v5", "v4"]
    assert [one.case for one in panels._least] == ["v0", "v1"]
    with np.load(tmp_path / "gallery.npz") as kept:
        names = kept["names"].tolist()
    cases = [name.partition("#")[0] for name in names]
    assert {case: cases.count(case) for case in cases} == {f"v{k}": IMAGES_OF_A_CASE for k in range(6)}
    assert {f"v{k}#007" for k in (1, 3, 5)} <= set(names)  # the largest true anomaly of each
    assert set(cases[:15]) == {"v1", "v3", "v5"}
    own = [name for name in names if name.startswith("v1#")]
    assert own == sorted(own)


def test_gallery_ranks_cases_by_their_most_unusual_image():
    columns = {"id": np.array(list("abcdef")), "case": np.array(["p", "p", "q", "q", "r", "s"])}
    columns |= {"label": np.array([0, 1, 0, 0, 0, 1]), "score": np.array([0.0, 9.0, 5.0, 1.0, 3.0, 4.0])}
    cases = choose_cases({"m": Result(Path(), "m", "d", 0, {}, columns)}, np.array(["p", "s", "q", "r"]))
    assert {case.name: (case.label, case.places["m"]) for case in cases} == {
        "p": (1, 0.875),
        "q": (0, 0.625),
        "s": (1, 0.375),
        "r": (0, 0.125),
    }


def test_estimates_say_what_they_rest_on(config, tmp_path):
    from benchmarks.estimate import estimate

    ae = read_plan(str(config)).cells[0]
    steps = {"image_size": 32, "batch_size": 8, "start_seconds": 5.0, "methods": {"autoencoder": 0.1}}
    assert estimate(ae, {"ae--mine": [2.0, 4.0], "ae": [9.0]}, steps) == (3.0, "finished cells")
    assert estimate(ae, {"ae": [9.0]}, steps) == (9.0, "cells on other data")
    assert estimate(ae, {}, steps).seconds == pytest.approx(5 + 3 * 0.1 / 2)  # half the batch
    assert estimate(ae, {}, steps | {"methods": {}}) == (None, "never measured")
    on_gpu = ae._replace(config={**ae.config, "trainer": {"accelerator": "gpu", "max_steps": 3}})
    assert estimate(on_gpu, {}, steps) == (None, "not measured on this device")


def test_killed_benchmark_resumes_to_the_same_table(finished, tmp_path):
    config, out = finished
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "zoo", "benchmark", str(config), "--out", str(tmp_path / "lb")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("lb/cells/*/metrics.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.glob("lb/cells/*/metrics.json"))) < 4
    assert benchmark(config, tmp_path / "lb", "--workers", "2") == 0
    assert (tmp_path / "lb" / "leaderboard.csv").read_bytes() == (out / "leaderboard.csv").read_bytes()


def test_broken_methods_are_reported_and_the_rest_goes_on(config, tmp_path, capsys):
    text = config.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    broken = "  nan: {config: autoencoder, init_args: {hidden_dims: [8], lr: 1.0e+30}, trainer: {max_steps: 6}}\n"
    config.write_text(text.replace("models:\n", "models:\n" + broken))
    assert benchmark(config, tmp_path / "lb", "--workers", "2") == 1
    told = capsys.readouterr().out
    assert "FAILED nan--mine--0" in told
    assert "NaN" in told
    status = {
        path.parent.name: json.loads(path.read_text())["status"] for path in tmp_path.glob("lb/cells/*/status.json")
    }
    assert status == {"nan--mine--0": "failed", "ae--mine--0": "done", "threshold--mine--0": "done"}
    assert benchmark(config, tmp_path / "lb") == 1  # told again, not run again
    assert "1 failed before, 0 to run" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "lb")]) == 1
    assert "FAILED nan--mine--0" in capsys.readouterr().out
    assert "nan--mine--0</b>" in (tmp_path / "lb" / "report.html").read_text()


def test_changed_configuration_or_data_is_run_again(config, image_folder, tmp_path):
    root = shutil.copytree(image_folder, tmp_path / "images")
    config.write_text(CONFIG.format(root=root))
    prints = [cell.fingerprint for cell in read_plan(str(config)).cells]
    assert prints == [cell.fingerprint for cell in read_plan(str(config)).cells]
    config.write_text(config.read_text().replace("max_steps: 3", "max_steps: 4"))
    changed = [cell.fingerprint for cell in read_plan(str(config)).cells]
    assert [a == b for a, b in zip(prints, changed, strict=True)] == [False, False, True, True]
    (root / "train/normal/new.png").write_bytes((root / "train/normal/train_normal0.png").read_bytes())
    assert not set(changed) & {cell.fingerprint for cell in read_plan(str(config)).cells}


def test_sets_in_one_file_or_two_places_are_followed(tmp_path):
    from datamodules import phantoms

    phantoms.write("medmnist", tmp_path / "mnist", layout="pneumoniamnist")
    for name in ("hcp", "brats20"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.nii").write_bytes(b"1")
    file = tmp_path / "mnist" / "pneumoniamnist.npz"
    text = (
        "name: tiny\nmodels:\n  ae: {config: autoencoder, init_args: {hidden_dims: [8, 16], latent_dim: 8}}\ndata:\n"
        f"  one: {{config: medmnist, init_args: {{root: {file}, image_size: 32}}}}\n"
        f"  two: {{config: brain_mri, init_args: {{train_root: {tmp_path}/hcp, test_root: {tmp_path}/brats20}}}}\n"
        "trainer: {accelerator: cpu, max_epochs: 1}\nseeds: [0]\n"
    )
    (tmp_path / "tiny.yaml").write_text(text)
    prints = [cell.fingerprint for cell in read_plan(str(tmp_path / "tiny.yaml")).cells]
    for changed, path in ((0, file), (1, tmp_path / "hcp" / "one.nii"), (1, tmp_path / "brats20" / "one.nii")):
        os.utime(path, (1, 1))
        now = [cell.fingerprint for cell in read_plan(str(tmp_path / "tiny.yaml")).cells]
        assert [a != b for a, b in zip(prints, now, strict=True)] == [number == changed for number in (0, 1)]
        prints = now
    assert benchmark(tmp_path / "tiny.yaml", tmp_path / "lb", "--only", "ae--one--0") == 0


def test_star_adds_the_methods_without_an_entry_of_their_own():
    models = {cell.method: cell.config["model"] for cell in read_plan("all_phantom").cells}
    assert set(methods()) - {"ensemble"} <= models.keys()
    assert models["mae"]["init_args"]["patch_size"] == 8  # the entry's own configuration, mae_small
    assert models["ae_u"]["init_args"]["lr"] == 1e-3
    assert "lr" not in models["statistical"]["init_args"]  # it has no such argument


def test_another_phantom_generator_is_run_again(monkeypatch):
    prints = [cell.fingerprint for cell in read_plan("quick").cells]
    assert prints == [cell.fingerprint for cell in read_plan("quick").cells]
    monkeypatch.setattr("datamodules.phantoms.VERSION", -1)
    assert not set(prints) & {cell.fingerprint for cell in read_plan("quick").cells}


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("benchmarks/")])
def test_shipped_benchmarks_are_complete(name, tmp_path, capsys):
    plan = read_plan(name.removeprefix("benchmarks/"))
    assert plan.cells
    assert main(["benchmark", name.removeprefix("benchmarks/"), "--out", str(tmp_path), "--dry-run"]) == 0
    assert f"{len(plan.cells)} to run, 0 done" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert len({cell.name for cell in plan.cells}) == len(plan.cells)
    for table in plan.published:
        assert (ROOT / "benchmarks" / "published" / f"{table}.yaml").is_file()


@pytest.mark.parametrize("name", ["all_phantom", "gpu_all"])
def test_all_methods_are_in(name):
    classes = {cell.config["model"]["class_path"] for cell in read_plan(name).cells}
    assert classes == {method.class_path for method in methods().values() if method.name != "ensemble"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("models:", "modls:", "models"),
        ("autoencoder", "autoencodr", "autoencoder"),
        ("config: folder", "config: foldr", "data/folder"),
        ("seeds: [0, 1]", "seeds: zero", "seeds must be"),
        ("  ae:", "  a--e:", "a--e"),
        ("trainer: {max", "trainr: {max", "trainr"),
        ("seeds: [0, 1]", "seeds: [0]\nbudget: saturation", "needs trainer.max_steps"),
        ("seeds: [0, 1]", "seeds: [0]\nbudget: some", "budget must be"),
    ],
)
def test_mistakes_in_the_configuration(config, old, new, words):
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(UserError, match=words):
        read_plan(str(config))


def test_mistakes_on_the_command_line(config, tmp_path, capsys):
    assert benchmark(config, tmp_path / "lb", "--only", "no*") == 2
    assert "ae--mine--0" in capsys.readouterr().err
    assert benchmark(config, tmp_path / "lb", "--workers", "0") == 2
    assert main(["report", str(tmp_path)]) == 2
    assert main(["benchmark", "quik", "--out", str(tmp_path / "lb")]) == 2
    assert "benchmarks/quick" in capsys.readouterr().err
    assert main(["benchmark", str(config)]) == 2


def test_folds_and_their_ensemble(config, tmp_path):
    text = config.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    folds = (
        "  mt: {config: multi_task, folds: [0, 3], ensemble: true, trainer: {max_steps: 2},\n"
        "       init_args: {depth: 3, width: 4, positions: 2, num_train_tasks: 4}}\n"
    )
    config.write_text(text[: text.index("  ae:")] + folds + text[text.index("data:") :])
    names = [cell.name for cell in read_plan(str(config), tmp_path / "lb").cells]
    assert names == ["mt_fold0--mine--0", "mt_fold3--mine--0", "mt_ensemble--mine--0"]
    assert benchmark(config, tmp_path / "lb", "--workers", "2") == 0
    assert benchmark(config, tmp_path / "lb", "--only", "mt_ensemble*", "--dry-run") == 0
    import torch

    states = [
        torch.load(tmp_path / "lb/cells" / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in names
    ]
    key = "network.encoder.0.0.conv.weight"
    assert torch.equal(states[2][f"members.1.{key}"], states[1][key])
    assert not torch.equal(states[0][key], states[1][key])


def test_saturation_stops_early(config, tmp_path):
    text = config.read_text().replace("seeds: [0, 1]", "seeds: [0]\nbudget: saturation")
    text = text.replace("check_val_every_n_epoch: 1000", "max_steps: 9, check_val_every_n_epoch: 1")
    config.write_text(text)
    assert benchmark(config, tmp_path / "lb", "--only", "ae--*") == 0
    callbacks = read_plan(str(config)).cells[0].config["trainer"]["callbacks"]
    assert callbacks[0]["init_args"]["stopping_threshold"] == 0.875
    (log,) = (tmp_path / "lb" / "cells" / "ae--mine--0").glob("logs/*/metrics.csv")
    assert "val/synthetic_pixel_ap" in log.read_text().splitlines()[0]


@pytest.mark.slow
def test_ray_gives_the_same_table(finished, tmp_path):
    pytest.importorskip("ray")
    config, out = finished
    assert benchmark(config, tmp_path / "lb", "--engine", "ray", "--workers", "2") == 0
    assert (tmp_path / "lb" / "leaderboard.csv").read_bytes() == (out / "leaderboard.csv").read_bytes()


LARGER = CONFIG.replace("hidden_dims: [8, 16], latent_dim: 8", "hidden_dims: [32, 64, 128]").replace(
    "_size: 32", "_size: 64"
)


def bytes_of(out):
    """What the cells found, byte for byte: the table, scores and weights."""
    found = {"leaderboard.csv": (out / "leaderboard.csv").read_bytes()}
    for cell in sorted((out / "cells").iterdir()):
        found[f"{cell.name}/scores.csv"] = (cell / "scores.csv").read_bytes()
        state = torch.load(cell / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        found[cell.name] = b"".join(value.numpy().tobytes() for value in state.values())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_the_same_bytes_whatever_the_layout(engine, tmp_path, image_folder, monkeypatch):
    """The network is large enough for more threads to add in another order."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if engine == "ray":
        pytest.importorskip("ray")
    path = tmp_path / "larger.yaml"
    path.write_text(LARGER.format(root=image_folder))
    assert benchmark(path, tmp_path / "one") == 0
    assert benchmark(path, tmp_path / "two", "--workers", "2", "--engine", engine) == 0
    one, two = bytes_of(tmp_path / "one"), bytes_of(tmp_path / "two")
    assert [name for name in one if one[name] != two[name]] == []
    threads = {json.loads(file.read_text())["threads"] for file in tmp_path.glob("*/cells/*/metrics.json")}
    assert threads == {1}


def test_the_number_of_threads_belongs_to_the_cell(config, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    plan = read_plan(str(config))
    prints = [with_threads(plan, threads_of(cores)).cells[0].fingerprint for cores in (1, 2, 4)]
    assert prints[0] == plan.cells[0].fingerprint
    assert len(set(prints)) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert with_threads(plan, threads_of(4)) == plan


@pytest.mark.slow
def test_cells_become_offline_wandb_runs(finished, tmp_path):
    out = shutil.copytree(finished[1], tmp_path / "lb")
    assert benchmark(finished[0], out, "--wandb", "offline") == 0
    runs = sorted((out / "wandb").glob("offline-run-*"))
    assert len(runs) == 5  # four cells and the leaderboard
    tables = [json.loads(path.read_text()) for path in out.glob("wandb/offline-run-*/files/media/table/**/*.json")]
    columns = [tuple(table["columns"]) for table in tables]
    assert columns.count(("id", "subject", "label", "score")) == 4
    assert columns.count(("false-positive rate", "sensitivity")) == 4
    (board,) = [table for table in tables if "published in" in table["columns"]]
    rows = list(csv.DictReader((out / "leaderboard.csv").open()))
    told = {row[board["columns"].index("method")]: row[board["columns"].index("image_auroc")] for row in board["data"]}
    assert told == pytest.approx({row["method"]: float(row["image_auroc"]) for row in rows}, abs=1e-6)
    assert len(list(out.glob("wandb/offline-run-*/files/media/images/**/*.png"))) >= 4
    ids = {path.name.rpartition("-")[2] for path in runs}
    assert benchmark(finished[0], out, "--wandb", "offline") == 0
    assert {path.name.rpartition("-")[2] for path in (out / "wandb").glob("offline-run-*")} == ids


def test_statistics_are_by_patient_and_name_their_shortcut(tmp_path):
    """Ten images of each patient: the interval is wider than that of independent images; a shortcut is not beaten."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 10)
    labels = patients % 2
    scores = labels * 1.0 + rng.normal(0, 1, 20)[patients] + rng.normal(0, 0.1, 200)
    columns = {"label": labels, "score": scores, "id": np.array([f"{n:03d}" for n in range(200)])}
    shortcut = {"mean": scores + rng.normal(0, 0.01, 200)}

    def row(subjects, **more):
        cell = Result(Path(), "m", "d", 0, {"metrics": {"image_auroc": 0.7}}, {**columns, "subject": subjects, **more})
        return rows_of([cell])[0]

    grouped = row(np.array([f"p{n}" for n in patients]), mean=rng.random(200))
    volumes = row(np.full(200, ""), case=np.array([f"v{n}" for n in patients]), mean=rng.random(200))
    assert volumes.interval == grouped.interval  # slices of volumes of unknown patients are no independent cases
    alone = row(np.full(200, ""), mean=rng.random(200))
    assert grouped.interval.high - grouped.interval.low > 2 * (alone.interval.high - alone.interval.low)
    assert alone.beats_shortcuts
    assert grouped.advantage.low < alone.advantage.low
    beaten = row(np.full(200, ""), **shortcut)
    assert not beaten.beats_shortcuts
    assert beaten.advantage.low <= beaten.advantage.value <= beaten.advantage.high
    assert np.isnan(row(np.full(200, "")).advantage.value)  # no statistic is known
