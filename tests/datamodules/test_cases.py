"""Cases: files of one patient stay together, and calibration shares no patient with what chooses."""

import numpy as np
import pytest
from PIL import Image

from datamodules import Folder
from datamodules.records import held_out
from zoo.errors import UserError


@pytest.fixture
def patients(tmp_path):
    """Sixteen patients of three pictures to train on, two to test."""
    rng = np.random.default_rng(0)
    for part, count in (("train/normal", 16), ("test/normal", 2), ("test/anomalous", 2)):
        for patient in range(count):
            folder = tmp_path / part / f"{part.replace('/', '_')}{patient}"
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def _data(root, tmp_path, **arguments):
    return Folder(root=str(root), cache_dir=str(tmp_path / "cache"), val_fraction=0.5, **arguments)


def test_no_patient_is_on_both_sides(patients, tmp_path):
    data = _data(patients, tmp_path, case_pattern="([^/]+)/[^/]+$")
    train, val = ({*data.dataset(split).subjects} for split in ("train", "val"))
    assert len(train) == len(val) == 8
    assert not train & val
    batch = data.dataset("test").__getitems__([0, 1, 2, 3])
    assert batch["case"] == ["test_anomalous0"] * 3 + ["test_anomalous1"]
    assert batch["volume"] == batch["id"]
    assert batch["slice"].tolist() == [-1] * 4


def test_calibration_shares_no_case_with_what_chooses(patients, tmp_path):
    data = _data(patients, tmp_path, case_pattern="([^/]+)/[^/]+$")
    assert sorted(data.dataset("calibration").ids) == sorted(data.dataset("val").ids)
    data.reserve_calibration()
    val, calibration = ({*data.dataset(split).subjects} for split in ("val", "calibration"))
    assert len(val) == len(calibration) == 4
    assert not val & calibration
    data.max_val_images = 2
    assert len(data.dataset("calibration")) == 6  # two cases, whole


def test_nothing_held_out_is_nothing_to_calibrate_with(patients, tmp_path):
    data = Folder(root=str(patients), cache_dir=str(tmp_path / "cache"), val_fraction=0)
    with pytest.warns(UserWarning, match="validation uses training images"):
        assert len(data.dataset("calibration")) == 0
    assert len(data.dataset("val"))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "no regular expression"), ("a", "one group is expected, found 0"), ("(zzz)", "finds no patient in")],
)
def test_patterns_that_cannot_be_used(patients, tmp_path, pattern, message):
    with pytest.raises(UserError, match=message):
        _data(patients, tmp_path, case_pattern=pattern).setup()


def test_enough_is_held_out_for_a_decision():
    names = [f"{number:03d}" for number in range(300)]
    assert [len(held_out(names[:count], 0.1, 0)) for count in (59, 60, 300)] == [6, 20, 30]
    assert not held_out(names, 0, 0)


def test_groups_by_path_and_by_table(patients, tmp_path):
    data = _data(patients, tmp_path, group_pattern="normal([0-9])[^/]*/")
    assert {*data.dataset("train").groups} <= {str(digit) for digit in range(10)}
    assert "group" in data.dataset("test").__getitems__([0])
    table = tmp_path / "table.csv"
    files = sorted(path.relative_to(patients) for path in patients.rglob("*.png"))
    lines = [f"{path},{int('anomalous' in str(path))},site{n % 2}" for n, path in enumerate(files)]
    table.write_text("\n".join(["path,label,site", *lines]))
    tabled = Folder(table=str(table), root=str(patients), cache_dir=str(tmp_path / "cache"), group_column="site")
    assert {*tabled.dataset("train").groups} == {"site0", "site1"}
    with pytest.raises(UserError, match=r"group_column site: needs data\.table"):
        _data(patients, tmp_path, group_column="site")
