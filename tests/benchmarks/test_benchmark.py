"""``zoo benchmark`` from configuration to page, with real methods on tiny data."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.plan import read_plan
from zoo.cli import main, shipped_configs
from zoo.errors import UserError

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


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("benchmarks/")])
def test_shipped_benchmarks_are_complete(name):
    plan = read_plan(name.removeprefix("benchmarks/"))
    assert plan.cells
    assert len({cell.name for cell in plan.cells}) == len(plan.cells)
    for table in plan.published:
        assert (ROOT / "benchmarks" / "published" / f"{table}.yaml").is_file()


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


@pytest.mark.slow
def test_cells_become_offline_wandb_runs(finished, tmp_path):
    out = shutil.copytree(finished[1], tmp_path / "lb")
    assert benchmark(finished[0], out, "--wandb", "offline") == 0
    assert len(list((out / "wandb").glob("offline-run-*"))) == 4


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="the page is looked at in Chromium, which is not installed")
def test_page_sorts_and_filters_in_a_browser(finished, tmp_path):
    """The page's own handlers are driven by a script appended to a copy, whose outcome is the title."""
    page = (finished[1] / "report.html").read_text()
    probe = """<script>window.onerror = (m) => { document.title = 'error ' + m; };
    const names = () => rows().filter(r => !r.hidden).map(r => r.cells[0].textContent.replace(' †', '')).join();
    const button = document.querySelectorAll('#board th button')[0], told = [];
    button.click(); told.push(names()); button.click(); told.push(names());
    const text = document.getElementById('text'); text.value = 'thresh'; text.dispatchEvent(new Event('input'));
    told.push(names());
    told.push([...document.images].every(i => i.complete && i.naturalWidth > 0));
    document.title = told.join(' | ');</script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", probe + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    shown = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'page.html'}"],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", shown).group(1)
    assert title == "threshold,ae | ae,threshold | threshold | true"
