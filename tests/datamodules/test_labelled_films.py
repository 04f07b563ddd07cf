"""Tables of films with age and sex: NIH, CheXpert, RSNA."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset

from datamodules import LabelledFilms, phantoms
from datamodules.commands import examine
from datamodules.registry import find
from zoo.cli import main
from zoo.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    phantoms.write("labelled_films", folder / "nih")
    phantoms.write("labelled_films", folder / "chexpert", layout="chexpert")
    return folder


def _open(root: Path, **options: Any) -> LabelledFilms:
    return LabelledFilms(root=str(root), cache_dir=str(root.parent / "c"), image_size=32, **options)


def test_fit_and_test_by_group(made: Path, tmp_path: Path) -> None:
    arguments = ["fit", "--config", "models/statistical", "--config", "data/labelled_films", "--data.image_size", "32"]
    arguments += ["--data.root", str(made / "nih"), "--data.cache_dir", str(made / "c"), "--trainer.logger", "false"]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "runs"), "--trainer.accelerator", "cpu"]
    assert main([*arguments, "--data.group_column", "sex", "--test_after_fit", "true"]) == 0
    found = json.loads(next((tmp_path / "runs").rglob("metrics.json")).read_text())
    assert 0 <= found["metrics"]["image_auroc"] <= 1


def test_official_lists_divide_and_patients_stay_together(made: Path) -> None:
    data = _open(made / "nih", group_column="age_group")
    data.setup()
    tested = set((made / "nih/test_list.txt").read_text().split())
    assert {Path(one.image).name for one in data.records if one.split == "test"} == tested
    assert not any(one.label for one in data.records if one.split != "test")
    split: dict[str, set[str]] = {}
    for record in data.records:
        split.setdefault(record.subject, set()).add(record.split)
    assert all(len(parts) == 1 for parts in split.values())
    groups = set(data.dataset("test").groups or ())
    assert groups <= {"young", "middle", "old", ""}
    assert {"middle", "old"} <= groups
    ages = {dict(one.columns)["age"] for one in data.records if one.subject == "1"}
    assert ages == {""}  # 414 years
    assert data.official_counts() == {"films": 72, "films without finding": 48}


def test_without_lists_patients_are_divided_by_hash(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made / "nih", tmp_path / "r")
    for name in ("test_list.txt", "train_val_list.txt"):
        (root / name).unlink()
    (root / "images").rename(root / "images_001")
    data = _open(root)
    data.setup()
    tested = {one.subject for one in data.records if one.split == "test"}
    assert len(tested) == 7  # a fifth of 36
    assert not tested & {one.subject for one in data.records if one.split != "test"}
    next((root / "images_001").iterdir()).unlink()
    with pytest.raises(UserError, match=r"listed in Data_Entry_2017_v2020\.csv but absent; fetch the missing part"):
        _open(root).setup()


def test_chexpert_is_frontal_and_certain(made: Path) -> None:
    data = _open(made / "chexpert")
    data.setup()
    assert all("frontal" in one.image for one in data.records)
    assert "patient00001" not in {one.subject for one in data.records}  # uncertain
    assert {dict(one.columns)["sex"] for one in data.records} == {"F", "M"}


def test_rsna_goes_by_its_classes_and_headers(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "rsna"
    (root / "stage_2_train_images").mkdir(parents=True)
    kinds = ["Normal"] * 8 + ["Lung Opacity", "No Lung Opacity / Not Normal"] * 4
    rows = []
    for number, kind in enumerate(kinds):
        name = f"p{number:02d}"
        rows += [(name, kind)] * (2 if kind == "Lung Opacity" else 1)  # a line a box
        _dicom(root / "stage_2_train_images" / f"{name}.dcm", "FM"[number % 2], number)
    with (root / "stage_2_detailed_class_info.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("patientId", "class"), *rows])
    data = _open(root, group_column="sex", test_fraction=0.5)
    data.setup()
    assert data.set_name == "rsna"
    labels = {one.subject: one.label for one in data.records}
    assert all(labels[name] == int(int(name[1:]) >= 8) for name in labels)
    assert set(data.dataset("test").groups or ()) == {"F", "M"}


def _dicom(path: Path, sex: str, number: int) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientSex, data.PatientAge, data.ViewPosition, data.Modality = sex, f"{20 + number:03d}Y", "PA", "CR"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.Rows = data.Columns = 48
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = np.random.default_rng(number).integers(0, 255, (48, 48), np.uint8).tobytes()
    data.save_as(path, enforce_file_format=True)


def test_wrong_tables(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set data\.subset to one of chexpert, nih"):
        _open(made).setup()
    root = shutil.copytree(made / "nih", tmp_path / "r")
    table = root / "Data_Entry_2017_v2020.csv"
    text = table.read_text()
    table.write_text(text.replace("Patient Gender", "Gender"))
    with pytest.raises(UserError, match=r"no column patient gender \(found image index"):
        _open(root).setup()
    table.write_text(text)
    table.rename(root / "Data_Entry_2017.csv")  # the older name
    (root / phantoms.MARKER).unlink()
    report = examine(find("labelled_films"), root, {"cache_dir": str(tmp_path / "c"), "image_size": 32})
    assert "films: found 72 of 112,120; figures are not comparable with published ones" in report.warnings
    with pytest.raises(UserError, match=r"data\.group_column race: sex, age_group or view"):
        _open(root, group_column="race")
