"""`zoo report` on folders from anywhere: one bad cell costs itself, nothing else is read, and the page stays text."""

import csv
import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from zoo.cli import main

SECRET = "the content of somebody's file"
MARKUP = "<script>alert(1)</script>"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def write_cell(folder, strength):
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"status": "done"}')
    (folder / "config.yaml").write_text("data: {class_path: x, init_args: {}}\nmodel: {class_path: y, init_args: {}}\n")
    labels, rng = np.arange(24) % 2, np.random.default_rng(0)
    scores, bright = labels * strength + rng.normal(0, 1, 24), rng.normal(0, 1, 24)
    rows = [f"case{n},p{n},{labels[n]},{scores[n]},{bright[n]}," for n in range(24)]
    (folder / "scores.csv").write_text("\n".join(["id,subject,label,score,mean,copy_of", *rows]) + "\n")
    content = {
        "metrics": {"image_auroc": 0.75, "image_ap": 0.5, "pixel_ap": 0.2},
        "phantom": False,
        "seed": 0,
        "fit_seconds": 3.0,
        "images_per_second": 2.0,
        "peak_memory_bytes": 10,
        "parameters": 1000,
        "device": "cpu",
        "versions": {"torch": "2.11"},
        "units": {"image": {"units": 24, "anomalous": 12}, "pixel": {"units": 1000, "anomalous": 50}},
        "pixel_shortcuts": {"centre": {"pixel_ap": 0.4}},
    }
    (folder / "metrics.json").write_text(json.dumps(content))
    points = [{"step": step, "image_auroc": 0.6, "aucp": 0.5, "val/synthetic_pixel_ap": 0.3} for step in (1, 2)]
    (folder / "selection.json").write_text(json.dumps({"points": points}))
    pictures = {f"{n}_{kind}": np.full((8, 8), n, np.uint8) for n in range(8) for kind in ("input", "map", "truth")}
    names = np.array([f"case{n}" for n in range(8)])
    np.savez_compressed(folder / "gallery.npz", names=names, labels=np.arange(8) % 2, **pictures)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Three cells, the last of which is to become hostile, and the page of it all."""
    out = tmp_path_factory.mktemp("clean") / "lb"
    write_cell(out / "cells" / "good--mine--0", 1.5)
    write_cell(out / "cells" / "other--mine--0", 0.5)
    write_cell(out / "cells" / "evil--mine--0", 1.0)
    (out / "benchmark.json").write_text(json.dumps({"name": "a board", "published": ["fae"]}))
    assert main(["report", str(out)]) == 0
    return out


@pytest.fixture
def out(clean, tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET)
    shutil.copytree(clean, tmp_path / "lb")
    return tmp_path / "lb"


def scripts(page):
    """How many scripts, handlers and links that run something a page holds."""
    return [len(re.findall(one, page)) for one in (r"<script", r"<[^>]*\son\w+=", r"(?:href|src)=.?javascript:")]


def check(out, clean, code, capsys):
    """The good cells are there, and nothing of the hostile one but text."""
    assert main(["report", str(out)]) == code
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    assert all(letter.isprintable() or letter == "\n" for letter in found.out)
    page = (out / "report.html").read_text()
    assert scripts(page) == scripts((clean / "report.html").read_text())
    assert SECRET not in page
    board = (out / "leaderboard.md").read_text()
    assert "<script" not in board
    assert not re.search(r"(?<!\\)\]\(javascript", board)
    rows = list(csv.DictReader(io.StringIO((out / "leaderboard.csv").read_text())))
    assert {"good", "other"} <= {row["method"] for row in rows if row["image_auroc"]}
    assert not any(str(cell).startswith(("=", "@", "+")) for row in rows for cell in row.values())
    return found.out, page


def metrics(key, value):
    def change(cell):
        content = json.loads((cell / "metrics.json").read_text())
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
        (cell / "metrics.json").write_text(json.dumps(content))

    return change


def text(name, content):
    return lambda cell: (cell / name).write_text(content)


def scores(column, value, row=3):
    def change(cell):
        rows = list(csv.DictReader((cell / "scores.csv").open()))
        rows[row][column] = value
        with (cell / "scores.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    return change


def link(name, target):
    def change(cell):
        (cell / name).unlink()
        (cell / name).symlink_to(target)

    return change


def fifo(name):
    def change(cell):
        (cell / name).unlink()
        os.mkfifo(cell / name)

    return change


def instead(name):
    def change(cell):
        (cell / name).unlink()
        (cell / name).mkdir()

    return change


COSTS_ITSELF = {
    "huge number": metrics("metrics.image_auroc", 10**400),
    "infinite number": text("metrics.json", '{"metrics": {"image_auroc": Infinity}}'),
    "not a number": text("metrics.json", '{"metrics": {"image_auroc": NaN}}'),
    "a number as text": metrics("metrics.image_auroc", "0.9"),
    "a truth as number": metrics("metrics.image_auroc", True),
    "metrics as a list": metrics("metrics", [1, 2]),
    "a metric's name": metrics(f"metrics.{MARKUP.replace('.', '')}", 0.5),
    "a thousand metrics": metrics("metrics", {f"m{n}": 0.5 for n in range(1000)}),
    "a cost as text": metrics("fit_seconds", MARKUP),
    "an endless cost": text("metrics.json", '{"metrics": {}, "fit_seconds": 1e999}'),
    "units as texts": metrics("units.image", {"units": "many", "anomalous": 1}),
    "units as a list": metrics("units", [3]),
    "more anomalous than there are": metrics("units.pixel", {"units": 1, "anomalous": 2}),
    "negative units": metrics("units.pixel", {"units": -5, "anomalous": -9}),
    "a level's name": metrics("units.pixel</td>", {"units": 1, "anomalous": 1}),
    "shortcuts of texts": metrics("pixel_shortcuts.centre", {"pixel_ap": MARKUP}),
    "shortcuts of lists": metrics("pixel_shortcuts.centre", [1]),
    "device as a list": metrics("device", [MARKUP]),
    "deep JSON": text("metrics.json", '{"metrics": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "no JSON": text("metrics.json", "\0\1\2"),
    "large JSON": text("metrics.json", json.dumps({"metrics": {}, "more": "x" * (2 << 20)})),
    "infinite score": scores("score", "inf"),
    "score of another world": scores("score", "1e300"),
    "score as text": scores("score", "=1+1"),
    "statistic without value": scores("mean", "nan"),
    "label of another kind": scores("label", "7"),
    "too many columns": text("scores.csv", "id,subject,label,score\na,b,0,1,2,3\n"),
    "an endless field": text("scores.csv", "id,subject,label,score\n" + "a" * 200_000 + ",p,0,1\n"),
    "no scores": text("scores.csv", "id,subject,label,score\n"),
    "no text": lambda cell: (cell / "scores.csv").write_bytes(b"\xff\xfe\0"),
    "metrics elsewhere": link("metrics.json", "../good--mine--0/metrics.json"),
    "scores from a device": link("scores.csv", "/dev/zero"),
    "metrics from a device": link("metrics.json", "/dev/zero"),
    "configuration elsewhere": link("config.yaml", "/etc/passwd"),
    "gallery elsewhere": link("gallery.npz", "../../../secret.txt"),
    "a pipe for metrics": fifo("metrics.json"),
    "a pipe for scores": fifo("scores.csv"),
    "a folder for scores": instead("scores.csv"),
}


def many(out, changes):
    """A cell for each change, in the place of the hostile one."""
    for number, change in enumerate(changes.values()):
        folder = out / "cells" / f"evil{number}--mine--0"
        shutil.copytree(out / "cells" / "evil--mine--0", folder)
        change(folder)
    shutil.rmtree(out / "cells" / "evil--mine--0")


def test_a_bad_cell_costs_itself(out, clean, capsys):
    many(out, COSTS_ITSELF)
    told, _ = check(out, clean, 1, capsys)
    used = [name for number, name in enumerate(COSTS_ITSELF) if f"LEFT OUT evil{number}--mine--0: " not in told]
    assert used == []


def selection(points):
    return text("selection.json", json.dumps({"points": points}))


def gallery(**arrays):
    def change(cell):
        kept = dict(np.load(cell / "gallery.npz"))
        np.savez_compressed(cell / "gallery.npz", **{**kept, **arrays})

    return change


def pickled(cell):
    np.savez(cell / "gallery.npz", names=np.array([{"a": 1}], object))


def declares_terabytes(cell):
    header = b"\x93NUMPY\x01\x00" + b"v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999,), }"
    with zipfile.ZipFile(cell / "gallery.npz", "w") as archive:
        archive.writestr("names.npy", header.ljust(128) + b"x")


IS_TEXT = {
    "device": metrics("device", MARKUP),
    "versions": metrics("versions", {MARKUP: MARKUP}),
    "anything more": metrics("more", {"url": "javascript:alert(1)"[:10], "deep": [[[MARKUP]]]}),
    "id": scores("id", MARKUP, 0),
    "copy": scores("copy_of", f'"><img src=x onerror=alert(1)>{MARKUP}', 0),
    "formula": scores("id", "=HYPERLINK(1)", 0),
    "patient": scores("subject", MARKUP, 0),
    "points that are none": selection([3, None, {"image_auroc": "x"}, {"image_auroc": {}}]),
    "points that are no list": selection({"a": 1}),
    "infinite points": text("selection.json", '{"points": [{"image_auroc": Infinity}, {"image_auroc": NaN}]}'),
    "no selection": text("selection.json", "[" * 100_000),
    "configuration as a bomb": text("config.yaml", BOMB),
    "configuration of objects": text("config.yaml", "model: !!python/object/apply:os.mkdir [ran]\n"),
    "configuration of other things": text("config.yaml", "model: [1]\ndata: 3\ntrainer: x\n"),
    "steps as text": text(
        "config.yaml", yaml.safe_dump({"model": {"class_path": MARKUP}, "data": {}, "trainer": {"max_steps": MARKUP}})
    ),
    "an empty gallery": lambda cell: (cell / "gallery.npz").write_bytes(b""),
    "a gallery of pickles": pickled,
    "a gallery that declares terabytes": declares_terabytes,
    "a gallery of volumes": gallery(**{"0_input": np.zeros((2, 3, 4, 5), np.uint8)}),
    "a gallery of numbers": gallery(**{"0_map": np.full((8, 8), np.nan)}),
    "a gallery of nothing": gallery(**{"0_truth": np.zeros((0, 0), np.uint8)}),
    "a gallery of different sizes": gallery(**{"0_truth": np.zeros((9, 9), np.uint8)}),
    "a gallery without names": gallery(names=np.zeros(3)),
    "a large picture": gallery(**{"0_input": np.zeros((2000, 2000), np.uint8)}),
    "names of a gallery": gallery(names=np.array([MARKUP] * 8)),
}


def test_what_a_cell_says_stays_text(out, clean, capsys):
    many(out, IS_TEXT)
    told, _ = check(out, clean, 0, capsys)
    assert "LEFT OUT" not in told
    assert not Path("ran").exists()


NAMES = (
    f"{MARKUP.replace('/', '')}--mine--0",
    "evil--<b>--0",
    "evil--mine--x",
    "evil--mine---1",
    "--mine--0",
    "$evil--mine--0",
    "evil\x1b[2J--mine--0",
    "a`b--mine--0",
    "=1+1--mine--0",
    f"{'x' * 120}--mine--0",
    "..--mine--0",
)


def test_names_of_cells(out, clean, capsys):
    for name in NAMES:
        shutil.copytree(out / "cells" / "evil--mine--0", out / "cells" / name)
    told, _ = check(out, clean, 1, capsys)
    assert told.count("LEFT OUT") == len(NAMES)


def test_a_cell_that_lies_elsewhere(out, clean, capsys):
    shutil.move(out / "cells" / "evil--mine--0", out.parent / "elsewhere")
    (out / "cells" / "evil--mine--0").symlink_to(out.parent / "elsewhere")
    told, _ = check(out, clean, 1, capsys)
    assert "LEFT OUT evil--mine--0: no folder of this benchmark" in told


@pytest.mark.parametrize(
    "content",
    [
        {"name": MARKUP + "[x](javascript:alert)\x1b]0;title\x07", "published": "../../../secret.txt"},
        {"name": {"a": [MARKUP]}, "published": 3, "cells": [MARKUP], "selection": [MARKUP]},
        {
            "name": "x" * 10_000,
            "published": ["../../../secret", {"source": {"url": "javascript:alert(1)"}}, ["fae"], "\x1b[2J"],
        },
        {"cells": {f"{MARKUP}--mine--0": "x", "a--<b>--1": "", "late--mine--1": None, "no": 3}, "keep": True},
    ],
)
def test_what_the_benchmark_says_of_itself(content, out, clean, capsys):
    if content.pop("keep", False):
        content["cells"] |= dict.fromkeys(cell.name for cell in (out / "cells").iterdir())
    (out / "benchmark.json").write_text(json.dumps(content))
    _, page = check(out, clean, 0, capsys)
    assert len(page) < 2 * len((clean / "report.html").read_text())


def test_reasons_of_failed_cells(out, clean, capsys):
    reason = f"|{MARKUP}\x1b[2J[x](javascript:alert(1))" + "y" * 5000
    (out / "cells" / "evil--mine--0" / "status.json").write_text(json.dumps({"status": "failed", "reason": reason}))
    assert main(["report", str(out)]) == 1
    assert "\x1b" not in capsys.readouterr().out
    page, board = (out / "report.html").read_text(), (out / "leaderboard.md").read_text()
    assert scripts(page) == scripts((clean / "report.html").read_text())
    assert "<script" not in board
    assert "[x](" not in board
    assert "y" * 1000 not in page


def test_a_paper_of_hostile_cells(out, tmp_path):
    metrics("device", r"\input{/etc/passwd}$^")(out / "cells" / "evil--mine--0")
    metrics("versions", {r"\write18": r"\write18{touch ran}"})(out / "cells" / "evil--mine--0")
    scores("id", r"\write18{x}", 0)(out / "cells" / "evil--mine--0")
    assert main(["report", str(out), "--paper", str(tmp_path / "paper")]) == 0
    for path in (tmp_path / "paper").glob("*.tex"):
        assert r"\write18" not in path.read_text()
        assert r"\input" not in path.read_text()


# ---- the page of a run ----


DECISIONS = [
    [1, 2],
    "text",
    {"warnings": MARKUP},
    {"warnings": [MARKUP], "sensitivity": "x"},
    {"warnings": [], "sensitivity": {"value": "x"}, "cases": 1},
    {"warnings": [], "qq": {"levels": "x"}},
    {"warnings": [], "froc": {"sensitivity": [MARKUP], "rates": []}},
    {"warnings": [], "net_benefit": [{"threshold": {}}], "prevalence": "x"},
    {"warnings": 3},
    {"no": "warnings"},
]


def test_the_page_of_a_run(out, capsys):
    run = out / "cells" / "evil--mine--0"
    metrics("method", MARKUP)(run)
    for decision in DECISIONS:
        metrics("decision", decision)(run)
        assert main(["report", str(run)]) == 0
        page = (run / "report.html").read_text()
        assert MARKUP not in page
        assert "Metrics" in page


@pytest.mark.parametrize("name", COSTS_ITSELF)
def test_a_damaged_run_is_told_in_a_sentence(name, out, capsys):
    run = out / "cells" / "evil--mine--0"
    COSTS_ITSELF[name](run)
    assert main(["report", str(run)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (run / "report.html").exists()


def test_panels_of_a_run_are_its_own_pictures(out):
    run = out / "cells" / "evil--mine--0"
    (run / "panels").mkdir()
    (run / "panels" / "a.png").symlink_to(out.parent / "secret.txt")
    (run / "panels" / "b.png").write_text(SECRET)
    (run / "panels" / "c.png").mkdir()
    (run / "panels" / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text().count("data:image/png") == 1
