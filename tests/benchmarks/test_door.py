"""Benchmark folders from elsewhere: one bad cell costs itself."""

import json
import zipfile

import numpy as np
import pytest

from benchmarks.door import gallery_may_be_read, known_names, problem_of_content
from benchmarks.results import read_cell


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "0"),
        ("fit_seconds", [1]),
        ("fit_seconds", True),
        ("images_per_second", {"a": 1}),
        ("versions", ["torch"]),
        ("versions", {"torch": {"x": 1}}),
        ("method", 3),
        ("phantom", "yes"),
        ("units", 5),
        ("device", ["<script>"]),
    ],
)
def test_wrong_types_cost_the_cell(key, value, tmp_path):
    content = {
        "metrics": {"image_auroc": 0.5},
        "seed": 0,
        "phantom": True,
        "versions": {"torch": "2"},
        "fit_seconds": None,
    }
    assert problem_of_content(content) is None
    folder = tmp_path / "a--b--0"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(ValueError, match=f"metrics.json: {key}"):
        read_cell(folder)


def test_too_large_a_file_costs_the_cell(tmp_path):
    folder = tmp_path / "a--b--0"
    folder.mkdir()
    (folder / "metrics.json").write_text(" " * (2 << 20))
    with pytest.raises(ValueError, match=r"metrics\.json is larger"):
        read_cell(folder)


def test_galleries(tmp_path):
    good, bomb, other = (tmp_path / name for name in ("good.npz", "bomb.npz", "other.npz"))
    np.savez_compressed(good, a=np.zeros(9))
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("names.npy", bytes(300 << 20))
    other.write_bytes(b"no archive")
    assert [gallery_may_be_read(path) for path in (good, bomb, other)] == [True, False, False]


def test_published_tables_are_the_shipped_ones():
    asked = ["fae", "../../etc/passwd", "/etc/passwd", {"url": "javascript:alert(1)"}, 3]
    kept, others = known_names(asked, ["fae", "nnood"])
    assert kept == ["fae"]
    assert len(others) == 4
    assert known_names("fae", ["fae"]) == (["fae"], [])
    assert known_names(None, ["fae"]) == ([], [])
