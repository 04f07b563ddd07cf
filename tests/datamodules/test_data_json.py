"""MedIAnomaly's lists."""

import json
from pathlib import Path

import pytest

from datamodules import DataJson, phantoms
from zoo.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    phantoms.write("data_json", tmp_path / "RSNA")
    return tmp_path / "RSNA"


def _open(root: Path, **options: object) -> DataJson:
    return DataJson(root=str(root), cache_dir=str(root.parent / "c"), image_size=32, **options)


def test_the_lists_decide(root: Path) -> None:
    data = _open(root.parent, subset="RSNA")
    lists = json.loads((root / "data.json").read_text())
    tests = data.dataset("test")
    assert {name.rpartition("/")[2] for name in tests.ids} == {*lists["test"]["0"], *lists["test"]["1"]}
    assert tests.labels.sum() == 12
    assert len(data.dataset("train")) + len(data.dataset("val")) == 32
    with pytest.raises(UserError, match=r"no data.json; set data.subset to one of RSNA$"):
        _open(root.parent).setup()


def test_older_copies_bring_a_pool(root: Path) -> None:
    path = root / "data.json"
    lists = json.loads(path.read_text())
    lists["train"]["unlabeled"] = {"0": [lists["train"]["0"].pop()], "1": [lists["test"]["1"].pop()]}
    path.write_text(json.dumps(lists))
    data = _open(root)
    data.setup()
    assert {record.split for record in data.records} == {"train", "val", "test"}
    pool = [record for record in _open(root, unlabeled=True).index(root) if record.split == "unlabeled"]
    assert sorted(record.label for record in pool) == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lists: lists["test"].pop("1"), r"data.json: no lists \('1'\); expected"),
        (lambda lists: lists.update(train=["a"]), r"data.json: no lists \(list indices"),
        (lambda lists: lists["train"].update({"0": "a.png"}), "train/0 is no list of names"),
        (lambda lists: lists["train"]["0"].append("gone.png"), r"images/gone.png: listed but absent; unpack"),
        (lambda lists: lists["test"]["0"].append("00000.png"), r"00000.png is in .* and in test; correct the lists"),
    ],
)
def test_wrong_lists(root: Path, change: object, message: str) -> None:
    path = root / "data.json"
    lists = json.loads(path.read_text())
    change(lists)  # type: ignore[operator]
    path.write_text(json.dumps(lists))
    with pytest.raises(UserError, match=message):
        _open(root).setup()
