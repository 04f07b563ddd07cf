"""The sets of MedIAnomaly, BMAD and Uni-Medical: lists, patients, official counts, damaged copies, fit and test."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import phantoms
from datamodules.commands import data_options, examine
from datamodules.registry import data_module, find
from zoo.cli import main
from zoo.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
NEW = ("tumour_slices", "isic", "meta_json")


def _open(name: str, root: Path, **options: Any) -> Any:
    return data_module(name, root=str(root), cache_dir=str(root.parent / "c"), image_size=32, **options)


def _real(root: Path) -> Path:
    """As if it were no phantom."""
    (root / phantoms.MARKER).unlink()
    return root


@pytest.mark.parametrize("name", NEW)
def test_fit_and_test(name: str, tmp_path: Path) -> None:
    arguments = ["fit", "--config", "models/statistical", "--config", f"data/{name}", "--data.image_size", "32"]
    arguments += ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--data.cache_dir", str(tmp_path / "c")]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "runs"), "--trainer.logger", "false"]
    assert main([*arguments, "--test_after_fit", "true"]) == 0
    found = json.loads(next((tmp_path / "runs").rglob("metrics.json")).read_text())
    assert found["phantom"] is True
    assert 0 <= found["metrics"]["image_auroc"] <= 1


def test_slices_of_a_patient_stay_together_and_outlines_are_found(tmp_path: Path) -> None:
    root = tmp_path / "BraTS2021"
    phantoms.write("tumour_slices", root)
    data = _open("tumour_slices", tmp_path, subset="BraTS2021")
    assert data.phantom  # its mark lies in the set's own folder
    batch = data.dataset("test").__getitems__(range(24))
    assert (batch["mask"].flatten(1).any(1) == batch["label"].bool()).all()
    assert 0.3 < batch["foreground"].float().mean() < 0.7
    by_split = {split: set(data.dataset(split).subjects) for split in ("train", "val")}
    assert by_split["val"] == {one.subject for one in data.records if one.split == "val"}
    assert not by_split["train"] & by_split["val"]
    (root / "test" / "annotation" / "BraTS2021_00015_seg_72.png").unlink()
    with pytest.raises(UserError, match=r"BraTS2021_00015_flair_72\.png: no outline .*seg_72\.png"):
        _open("tumour_slices", root).setup()


def test_isic_goes_by_its_tables(tmp_path: Path) -> None:
    root = tmp_path / "i"
    phantoms.write("isic", root)
    data = _open("isic", root, in_channels=1)
    assert data.image_shape == (1, 32, 32)
    assert len(data.dataset("train")) + len(data.dataset("val")) == 32  # 38 lesions, 6 of them no moles
    lesions = {split: {one.subject for one in data.records if one.split == split} for split in ("train", "val")}
    assert lesions["val"]
    assert not lesions["train"] & lesions["val"]
    table = root / "ISIC2018_Task3_Test_GroundTruth" / "ISIC2018_Task3_Test_GroundTruth.csv"
    rows = list(csv.reader(table.open()))
    table.write_text("\n".join(",".join([row[0] + (".jpg" if row[0] != "image" else ""), *row[1:]]) for row in rows))
    assert len(_open("isic", root).dataset("test")) == 24
    (root / "ISIC2018_Task3_Test_Input" / f"{rows[1][0]}.jpg").unlink()
    with pytest.raises(UserError, match=r"ISIC_\d+\.jpg: listed but absent; unpack the archive again"):
        _open("isic", root).setup()
    table.write_text("image,MEL\na,1\n")
    with pytest.raises(UserError, match="no column NV"):
        _open("isic", root).setup()
    table.unlink()
    with pytest.raises(UserError, match=r"fetch ISIC2018_Task3_Test_GroundTruth\.zip \(`zoo data get isic`\)"):
        _open("isic", root).setup()


def test_classes_are_groups_and_may_be_chosen(tmp_path: Path) -> None:
    root = tmp_path / "m"
    phantoms.write("meta_json", root)
    data = _open("meta_json", root)
    tests = data.dataset("test")
    assert set(tests.groups) == {"brain", "liver", "retinal"}
    assert len(tests) == 36
    assert {one.source for one in data.records if one.split == "val"} == {"brain", "liver", "retinal"}
    alone = _open("meta_json", root, classes=("liver",))
    assert set(alone.dataset("train").groups or ()) == {"liver"}
    with pytest.raises(UserError, match=r"meta\.json has no class lung; it has brain, liver, retinal"):
        _open("meta_json", root, classes=("lung",)).setup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.update(img_path="/etc/passwd"), "leads outside of the folder"),
        (lambda one: one.update(img_path="../x.png"), "leads outside of the folder"),
        (lambda one: one.update(img_path="brain/gone.png"), r"brain/gone\.png: listed but absent"),
        (lambda one: one.update(anomaly=1), "an anomalous image in train"),
        (lambda one: one.update(img_path=3), r"meta\.json: no lists \(img_path and mask_path are texts\)"),
        (lambda one: one.pop("anomaly"), r"meta\.json: no lists \('anomaly'\); expected"),
    ],
)
def test_wrong_lists(change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    root = tmp_path / "m"
    phantoms.write("meta_json", root)
    lists = json.loads((root / "meta.json").read_text())
    change(lists["train"]["brain"][0])
    (root / "meta.json").write_text(json.dumps(lists))
    with pytest.raises(UserError, match=message):
        _open("meta_json", root).setup()


def test_paths_with_backslashes(tmp_path: Path) -> None:
    root = tmp_path / "m"
    phantoms.write("meta_json", root)
    text = (root / "meta.json").read_text()
    (root / "meta.json").write_text(text.replace("/", "\\\\"))
    assert len(_open("meta_json", root).dataset("test")) == 36


@pytest.mark.parametrize(
    ("name", "folder", "found"),
    [
        ("data_json", "RSNA", "training images: found 32 of 3,851; figures are not comparable with published ones"),
        ("tumour_slices", "BraTS2021", "test anomalous: found 12 of 1,948;"),
        ("isic", "anything", "test normal: found 12 of 909;"),
        ("good_folders", "Brain_AD", "training images: found 32 of 7,500;"),
        ("meta_json", "medical", "training images: found 48 of 13,339;"),
    ],
)
def test_a_partial_download_is_told(name: str, folder: str, found: str, tmp_path: Path) -> None:
    root = tmp_path / folder
    phantoms.write(name, root, layout="bmad" if name == "good_folders" else "official")
    options = {"cache_dir": str(tmp_path / "c")}
    assert not [line for line in examine(find(name), root, options).warnings if "not comparable" in line]
    report = examine(find(name), _real(root), options)
    assert [line for line in report.warnings if line.startswith(found)]
    with pytest.warns(UserWarning, match="not comparable"):
        _open(name, root).setup()


def test_patients_in_the_names_of_bmad(tmp_path: Path) -> None:
    phantoms.write("good_folders", tmp_path / "Liver", layout="bmad")
    data = _open("good_folders", tmp_path, subset="Liver")
    data.setup()
    subjects = {split: {one.subject for one in data.records if one.split == split} for split in ("train", "test")}
    assert all(one.startswith("BTCV-") for one in subjects["train"])
    assert all(one.startswith("LiTS-") for one in subjects["test"])
    assert len(subjects["train"]) == 8  # four slices of each
    shutil.move(tmp_path / "Liver", tmp_path / "bottle")
    data = _open("good_folders", tmp_path, subset="bottle")
    data.setup()
    assert {one.subject for one in data.records} == {""}


def test_options_of_all_ancestors_are_known_to_the_check() -> None:
    options = data_options(find("data_json"), ["--data.subset", "RSNA", "--data.image_size=64", "--data.seed", "3"])
    assert options == {"subset": "RSNA", "image_size": 64, "seed": 3}
