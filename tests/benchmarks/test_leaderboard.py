"""What the leaderboard says: copies, shortcuts, missing and repeated results, conclusions, parts of a paper."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from benchmarks.cases import gallery_of
from benchmarks.findings import conclusions
from benchmarks.leaderboard import datasets_of, is_shown_best, rows_of
from benchmarks.results import read_results
from benchmarks.selection import read_choice
from benchmarks.summary import write_report

COUNT = 120


def write_cell(out, method, seed, scores, *, dataset="mine", copies=(), phantom=False, **more):
    """A finished cell whose brightness gives the label away to an AUROC of 0.816."""
    folder = out / "cells" / f"{method}--{dataset}--{seed}"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"status": "done"}')
    config = "data: {class_path: datamodules.MedMNIST, init_args: {image_size: 64, batch_size: 8}}\n"
    config += "model: {class_path: zoo.pretrained.padim.PaDiM, init_args: {}}\ntrainer: {max_steps: 50}\n"
    (folder / "config.yaml").write_text(config)
    labels = np.arange(COUNT) % 2
    bright = labels * 1.0 + np.random.default_rng(7).normal(0, 1, COUNT)
    lines = [
        f"case{n:03d},p{n},{labels[n]},{scores[n]},{bright[n]},{'train/1.png' if n in copies else ''}"
        for n in range(COUNT)
    ]
    (folder / "scores.csv").write_text("\n".join(["id,subject,label,score,mean,copy_of", *lines]) + "\n")
    content = {
        "metrics": {"image_auroc": area(scores, labels), "image_ap": 0.5, "pixel_ap": 0.2, "pixel_auroc": 0.7},
        "phantom": phantom,
        "fit_seconds": 3.0,
        "parameters": 1000,
        "versions": {"torch": "2.11"},
        "units": {"image": {"units": COUNT, "anomalous": 60}, "pixel": {"units": 1000, "anomalous": 50}},
        "pixel_shortcuts": {"centre": {"pixel_ap": 0.4, "pixel_auroc": 0.8}},
    }
    (folder / "metrics.json").write_text(json.dumps(content | more))
    return folder


def area(scores, labels):
    from zoo.metrics.functional import auroc

    return auroc(scores, labels)


def noisy(strength, seed):
    return (np.arange(COUNT) % 2) * strength + np.random.default_rng(seed).normal(0, 1, COUNT)


def decision(seed, **more):
    """As a test writes it."""
    sure = {"value": 0.8 + seed / 10, "low": 0.6, "high": 0.9}
    content = {
        "n": 40,
        "level": 0.05,
        "sensitivity": sure,
        "specificity": {"value": 0.9, "low": 0.8, "high": 0.95},
        "false_alarms": {"count": 6, "healthy": 60, "expected_99_percent_range": [0, 9 - 5 * seed]},
        "qq": {"healthy": 60, "levels": [{"level": 0.05, "share": 0.1, "band": [0, 0.15]}], "p": [0.02]},
        "froc": {
            "rates": [0.5, 1.0],
            "sensitivity": [0.2, 0.4 + seed / 5],
            "intervals_95_percent": [[0, 1], [0.3, 0.8]],
        },
        "lesions_by_size": [
            {"low": 0, "high": 25, "lesions": 4, "sensitivity": {"value": 0.25, "low": 0.1, "high": 0.8}},
            {"low": 25, "high": None, "lesions": 0, "sensitivity": {"value": None, "low": 0, "high": 1}},
        ],
        "size_unit": "mm2",
        "warnings": [],
    }
    return content | more


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """Three methods: one strong, one weak and the same for every seed, one that failed once and one always."""
    out = tmp_path_factory.mktemp("board")
    memory = noisy(1.5, 3)
    memory[:20:2] = -9.0  # ten healthy test images are known from the training
    for seed in (0, 1):
        write_cell(out, "strong", seed, noisy(3.0, seed), copies=range(0, 20, 2), decision=decision(seed))
        write_cell(out, "memory", seed, memory, copies=range(0, 20, 2))
    write_cell(out, "weak", 0, noisy(0.3, 5), copies=range(0, 20, 2))
    missing = {"weak--mine--1": "killed by SIGKILL", "gone--mine--0": "NaN", "gone--mine--1": "NaN"}
    (out / "benchmark.json").write_text(json.dumps({"name": "a board"}))
    return out, missing


def test_rows_say_what_is_missing_and_what_is_repeated(board):
    out, missing = board
    rows = {row.method: row for row in rows_of(read_results([out]).results, missing)}
    assert list(rows) == ["strong", "memory", "weak", "gone"]
    assert rows["gone"].seeds == 0
    assert dict(rows["gone"].missing) == {0: "NaN", 1: "NaN"}
    assert dict(rows["weak"].missing) == {1: "killed by SIGKILL"}
    assert rows["memory"].repeated
    assert np.isnan(rows["memory"].deviations["image_auroc"])
    assert not rows["strong"].repeated
    assert rows["strong"].deviations["image_auroc"] > 0
    assert is_shown_best(rows["strong"], list(rows.values()))
    assert not is_shown_best(rows["memory"], list(rows.values()))


def test_copies_are_left_out(board):
    out, missing = board
    rows = {row.method: row for row in rows_of(read_results([out]).results, missing)}
    memory = rows["memory"]
    assert memory.without_copies.value < memory.interval.value - 0.01
    (data,) = datasets_of(read_results([out]).results)
    assert len(data.copies) == 10
    assert data.without_copies[0].name == "mean"
    assert data.without_copies[0].auroc != data.shortcuts[0].auroc


def test_a_method_of_whole_volumes_stands_beside_methods_of_slices(tmp_path):
    """Its scores are of other units and of one class: it describes neither the test set nor the gallery."""
    pictures = {f"{n}_{kind}": np.zeros((4, 4), np.uint8) for n in (0, 1) for kind in ("input", "map")}
    for method in ("conv", "dfr"):
        folder = write_cell(tmp_path, method, 0, noisy(1.0, 2))
        np.savez(
            folder / "gallery.npz", names=np.array(["case001", "case002"]), cases=np.array(["p1", "p2"]), **pictures
        )
    folder = write_cell(tmp_path, "a_statistic", 0, noisy(1.0, 2), units={"image": {"units": 2, "anomalous": 2}})
    (folder / "scores.csv").write_text("id,subject,label,score,mean,copy_of\nv1,p1,1,0.5,0.5,\nv2,p2,1,0.4,0.1,\n")
    np.savez(folder / "gallery.npz", names=np.array(["v1", "v2"]), **pictures)
    cells = read_results([tmp_path]).results
    data = datasets_of(cells)[0]
    assert data.images == COUNT
    assert data.units["image"] == {"units": COUNT, "anomalous": 60}
    assert data.shortcuts[0].auroc == pytest.approx(0.816, abs=0.001)
    gallery = gallery_of({cell.method: cell for cell in cells}, {})
    assert {picture.case.name for picture in gallery.pictures} == {"p1", "p2"}
    assert {slide.name for picture in gallery.pictures for slide in picture.slides} == {"case001", "case002"}
    assert all(set(slide.maps) == {"conv", "dfr"} for picture in gallery.pictures for slide in picture.slides)


def test_what_runs_leave_out_of_a_paper_is_told(tmp_path):
    write_cell(tmp_path, "plain", 0, noisy(1.0, 2))
    for method in ("T1", "T2"):
        write_cell(tmp_path, method, 0, noisy(1.0, 3), remarks=["blends from <b>inverted</b> images"])
    assert not write_report([tmp_path], tmp_path, {})
    told = "Not as the paper has it: blends from {}inverted{}/b> images (T1 and T2)."
    assert told.format("&lt;b>", "&lt;") in (tmp_path / "leaderboard.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "Not as the paper has it: blends from &lt;b&gt;inverted&lt;/b&gt; images (T1 and T2)." in page
    write_cell(tmp_path, "broken", 0, noisy(1.0, 3), remarks="a text")
    assert "remarks is no list" in next(iter(read_results([tmp_path]).damaged.values()))


def test_conclusions_follow_from_tests_and_counts(board):
    out, missing = board
    results = read_results([out]).results
    ((name, sentences),) = conclusions(rows_of(results, missing), datasets_of(results))
    assert name == "mine"
    assert sentences[0].startswith(
        "strong is shown to beat brightness alone (image AUROC 0.816); memory and weak are not."
    )
    assert "is better than memory and weak (p " in sentences[1]
    assert sentences[2].startswith("10 of 120 test images look like a training image; without them strong reaches")
    assert "reaches pixel AP 0.400 (chance 0.050); all of 3 methods lie no higher" in sentences[3]
    assert sentences[4] == "Results are missing of weak and gone."


def test_no_conclusion_without_support(tmp_path):
    write_cell(tmp_path, "a", 0, noisy(0.5, 1))
    write_cell(tmp_path, "b", 0, noisy(0.5, 2))
    results = read_results([tmp_path]).results
    rows = rows_of(results)
    ((_, sentences),) = conclusions(rows, datasets_of(results))
    assert sentences[0].startswith("No method is shown to beat brightness alone")
    assert sentences[1].startswith("No difference is shown between")
    assert not any(is_shown_best(row, rows) for row in rows)


def test_chance_stands_beside_what_depends_on_prevalence(board):
    (data,) = datasets_of(read_results([board[0]]).results)
    kinds = {one.kind: one for one in data.references}
    assert kinds["chance"].values["image_ap"] == 0.5
    assert kinds["chance"].values["pixel_ap"] == 0.05
    assert kinds["chance"].values["best_dice"] == pytest.approx(0.1 / 1.05)
    assert kinds["image"].values["image_auroc"] == pytest.approx(data.shortcuts[0].auroc)
    assert kinds["pixel"].values == {"pixel_ap": 0.4, "pixel_auroc": 0.8}


def test_choice_of_the_checkpoint_is_compared_with_the_oracle(tmp_path):
    folder = write_cell(tmp_path, "m", 0, noisy(1, 0))
    assert read_choice(folder) is None
    points = [
        {"step": 10, "val/synthetic_pixel_ap": 0.2, "val/image_auroc": 0.9, "aucp": 0.6, "image_auroc": 0.7},
        {"step": 20, "val/synthetic_pixel_ap": 0.8, "val/image_auroc": 0.5, "aucp": 0.5, "image_auroc": 0.6},
        {"step": 30, "val/synthetic_pixel_ap": 0.8, "val/image_auroc": 0.4, "aucp": 0.4, "image_auroc": 0.65},
    ]
    (folder / "selection.json").write_text(json.dumps({"points": points}))
    assert read_choice(folder) == (0.6, 0.65, 0.7, 0.7)  # the first of equal ones
    for point in points:
        del point["val/synthetic_pixel_ap"]  # a method without a map
    (folder / "selection.json").write_text(json.dumps({"points": points}))
    assert read_choice(folder).synthetic == 0.7
    (folder / "selection.json").write_text("{")
    assert read_choice(folder) is None
    row = rows_of(read_results([tmp_path]).results)[0]
    assert row.choice is None


@pytest.fixture(scope="module")
def paper(board, tmp_path_factory):
    out, missing = board
    folder = tmp_path_factory.mktemp("paper")
    write_report([out], out, missing, folder / "one")
    page = (out / "report.html").read_bytes()
    write_report([out], out, missing, folder / "two")
    assert (out / "report.html").read_bytes() == page
    return folder


def test_page_and_paper_are_the_same_each_time(paper):
    files = sorted(path.relative_to(paper / "one") for path in (paper / "one").rglob("*") if path.is_file())
    assert len(files) > 12
    for file in files:
        assert (paper / "one" / file).read_bytes() == (paper / "two" / file).read_bytes(), file


def test_paper_says_what_was_done_and_bolds_what_is_supported(paper):
    table = (paper / "one" / "leaderboard.tex").read_text()
    assert table.count(r"\textbf") == 1
    assert r"strong & \textbf{0.9" in table
    assert "gone & -- " in table
    assert r"\textsuperscript{\ddag}" in table
    methods = (paper / "one" / "methods.tex").read_text()
    assert r"memory~\cite{padim}" in methods
    assert "120 test images of 120 patients, 60 anomalous" in methods
    assert "torch 2.11" in methods
    references = (paper / "one" / "references.bib").read_text()
    assert "@misc{padim," in references
    assert "@misc{data:medmnist," in references
    assert "near-copies found: 10 on mine" in (paper / "one" / "checklist.md").read_text()


def test_leaderboard_page_of_the_board(board, paper):
    page = (board[0] / "report.html").read_text()
    assert "strong is shown to beat brightness alone" in page
    assert 'data-set="mine"><td>gone' in page
    assert "10 of 120" in page
    assert "<h2>Average rank" not in page


def test_page_and_paper_tell_what_the_rule_does(board, paper):
    page = (board[0] / "report.html").read_text()
    part = page[page.index("At the calibrated threshold") : page.index("<h3>Without learning")]
    for told in (
        "0.850",
        "[0.600, 0.900]",
        "6/60 (0–9), 6/60 (NOT 0–4)",
        "0.500 <span",
        "not decided: tested by an older",
    ):
        assert told in part, told
    for chart in ("FROC", "Lesions by size", "Reliability"):
        assert chart in part
    table = (paper / "one" / "mine-decision.tex").read_text()
    assert r"strong & 40 & 0.850 [0.600, 0.900] & 0.900 [0.800, 0.950] & 6/60 (0--9), 6/60 (NOT 0--4)" in table
    assert (paper / "one" / "figures" / "mine-froc.pdf").is_file()
    assert "yes for 1 of 3 methods and data sets: calibrated" in (paper / "one" / "checklist.md").read_text()


@pytest.mark.parametrize(
    "content",
    [
        [],
        "yes",
        decision(0) | {"sensitivity": {"value": "<script>", "low": 0, "high": 1}},
        decision(0) | {"false_alarms": {"count": -1, "healthy": 3, "expected_99_percent_range": [0, 1]}},
        decision(0) | {"false_alarms": {"count": 1, "healthy": 3, "expected_99_percent_range": [0]}},
        decision(0) | {"froc": {"rates": [1.0], "sensitivity": [0.1, 0.2]}},
        decision(0) | {"n": 1e300},
        decision(0) | {"qq": {"levels": [{"level": 0.1, "share": 0.1, "band": 3}]}},
        {"warnings": ["no decision: <b>x</b> has no calibration. More."]},
    ],
)
def test_decisions_of_foreign_cells(tmp_path, content):
    write_cell(tmp_path, "m", 0, noisy(1, 0), decision=content)
    assert write_report([tmp_path], tmp_path, {}) == set()
    page = (tmp_path / "report.html").read_text()
    assert "not decided: " in page
    assert '<script>"' not in page
    assert "<b>x</b>" not in page


@pytest.mark.slow
def test_latex_compiles(paper, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (texlive-latex-base, texlive-latex-recommended)")
    folder = shutil.copytree(paper / "one", tmp_path / "paper")
    body = "".join(f"\\input{{{path.name}}}\n" for path in sorted(folder.glob("*.tex")))
    figures = "".join(f"\\includegraphics{{figures/{path.name}}}\n" for path in sorted(folder.glob("figures/*.pdf")))
    text = "\\documentclass{article}\\usepackage{booktabs,graphicx,textcomp}\\begin{document}\n"
    text += body + figures + "\\bibliographystyle{plain}\\bibliography{references}\\end{document}\n"
    (folder / "all.tex").write_text(text)
    commands = [["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]]
    if shutil.which("bibtex"):
        commands = [*commands, ["bibtex", "all"], *commands]
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "all.pdf").stat().st_size > 10_000
