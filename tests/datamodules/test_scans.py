"""Sets of volumes: Behrendt's lists with their defects, nnU-Net's folders, BIDS; slices of planes, volumes."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from datamodules import phantoms
from datamodules.commands import examine
from datamodules.registry import data_module, find
from zoo.cli import main
from zoo.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SETS = ("volume_lists", "nnunet", "bids")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for name in SETS:
        phantoms.write(name, folder / name)
    return folder


def _open(name: str, made: Path, **options: Any) -> Any:
    root = options.pop("root", made / name)
    return data_module(name, root=str(root), cache_dir=str(made / "c"), **{"image_size": 32, **options})


def _batch(data: Any, split: str) -> dict[str, Any]:
    images = data.dataset(split)
    return images.__getitems__(range(len(images)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SETS)
def test_fit_and_test(name: str, made: Path, tmp_path: Path) -> None:
    arguments = ["fit", "--config", "models/statistical", "--config", f"data/{name}", "--data.image_size", "32"]
    arguments += ["--data.root", str(made / name), "--data.cache_dir", str(made / "c"), "--trainer.logger", "false"]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "runs"), "--trainer.accelerator", "cpu"]
    assert main([*arguments, "--test_after_fit", "true"]) == 0
    found = json.loads(next((tmp_path / "runs").rglob("metrics.json")).read_text())
    assert found["phantom"] is True
    assert 0 <= found["metrics"]["pixel_ap"] <= 1


@pytest.mark.parametrize("name", SETS)
def test_no_subject_is_on_both_sides_and_all_slices_of_a_volume_are_one_case(name: str, made: Path) -> None:
    data = _open(name, made)
    data.setup()
    split: dict[str, set[str]] = {}
    for record in data.records:
        split.setdefault(record.subject, set()).add(record.split)
    assert all(len(parts) == 1 for parts in split.values())
    batch = _batch(data, "test")
    assert len(set(batch["subject"])) < len(batch["id"])
    assert len(set(batch["volume"])) == len({record.id for record in data.records if record.split == "test"})
    assert not _batch(data, "train")["label"].any()


def test_slices_of_three_planes_and_whole_volumes(made: Path) -> None:
    axial = _batch(_open("bids", made), "test")
    three = _batch(_open("bids", made, planes=("axial", "coronal", "sagittal")), "test")
    assert len(three["id"]) > 2 * len(axial["id"])
    assert len(set(three["id"])) == len(three["id"])
    whole = _open("bids", made, mode="volumes", image_size=(16, 24, 24))
    batch = _batch(whole, "test")
    assert batch["image"].shape[1:] == (1, 16, 24, 24)
    assert whole.image_shape == (1, 16, 24, 24)
    ill = {record.id for record in whole.records if record.label}
    assert {name for name, label in zip(batch["id"], batch["label"], strict=True) if label} == ill
    # the same voxels, however they are served
    shares = {name: batch["mask"][k].float().mean() for k, name in enumerate(batch["id"])}
    by_volume = Counter[str]()
    for name, mask in zip(axial["volume"], axial["mask"].flatten(1).sum(1), strict=True):
        by_volume[name] += int(mask)
    assert {name for name, share in shares.items() if share} == {name for name, count in by_volume.items() if count}
    with pytest.raises(UserError, match=r"data\.planes \['top'\]: name some of sagittal, coronal, axial"):
        _open("bids", made, planes=("top",))
    with pytest.raises(UserError, match="has 2 sides, mode volumes needs 3"):
        _ = _open("bids", made, mode="volumes", image_size=(16, 24)).image_shape


# ---- lists --------------------------------------------------------------------------------------------------------


def test_defects_of_the_lists_are_told_and_mended(made: Path) -> None:
    data = _open("volume_lists", made)
    data.setup()
    used = Counter(record.subject for record in data.records)
    assert set(used.values()) == {1}
    leaked = next(csv.DictReader((made / "volume_lists/splits/IXI_test.csv").open()))["img_name"]
    assert {record.split for record in data.records if record.subject == leaked} == {"test"}
    notes = " ".join(data.notes())
    assert "IXI_train_fold0.csv: 8 names in 9 rows; each is read once" in notes
    assert f"1 scans of IXI_test.csv also train or validate, first {leaked}; left out of training" in notes
    kept = _open("volume_lists", made, drop_leaks=False)
    kept.setup()
    assert {record.split for record in kept.records if record.subject == leaked} == {"train"}
    assert "kept there and not tested" in " ".join(kept.notes())
    report = examine(find("volume_lists"), made / "volume_lists", {"cache_dir": str(made / "c")})
    assert report.counts["training rows"] == 9
    assert any("each is read once" in line for line in report.warnings)


def test_sequences_and_names_of_lists(made: Path, tmp_path: Path) -> None:
    names = {
        Path(record.image).name for record in _open("volume_lists", made, sequence="t1").index(made / "volume_lists")
    }
    assert all(name.endswith("_t1.nii.gz") for name in names)
    with pytest.raises(UserError, match=r"MSLUB_test\.csv: no such list \(there are Brats21_test"):
        _open("volume_lists", made, test="MSLUB").setup()
    root = shutil.copytree(made / "volume_lists", tmp_path / "r")
    table = root / "splits" / "Brats21_test.csv"
    text = table.read_text()
    table.write_text(text.replace("/Test/Brats21/", "\\Test\\Brats21\\"))
    _open("volume_lists", made, root=root).setup()
    table.write_text(text.replace("/Test/", "/../Test/"))
    with pytest.raises(UserError, match="leads outside of"):
        _open("volume_lists", made, root=root).setup()
    table.write_text(text.replace("_seg.nii", "_gone.nii"))
    with pytest.raises(UserError, match=r"_gone\.nii\.gz: listed but absent \(BraTS2021_00013\)"):
        _open("volume_lists", made, root=root).setup()
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"no column img_name \(found a, b\)"):
        _open("volume_lists", made, root=root).setup()


# ---- nnU-Net ------------------------------------------------------------------------------------------------------


def test_slices_without_label_train(made: Path) -> None:
    data = _open("nnunet", made)
    data.setup()
    assert data.store is not None
    assert {record.split for record in data.records} == {"train", "val", "test"}
    batch = _batch(data, "test")
    assert (batch["mask"].flatten(1).any(1) == batch["label"].bool()).all()


def test_wrong_folders_of_nnunet(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made / "nnunet", tmp_path / "r")
    with pytest.raises(UserError, match=r"no file \*_0001\.nii\.gz \(found case_000_0000\.nii\.gz"):
        _open("nnunet", made, root=root, channel=1).setup()
    (root / "labelsTr" / "case_003.nii.gz").unlink()
    with pytest.raises(UserError, match=r"case_003_0000\.nii\.gz: no label .*case_003\.nii\.gz"):
        _open("nnunet", made, root=root).setup()
    data = _open("nnunet", made, root=root, bad_files="lenient")
    data.setup()
    assert "dataset.json says 16 training cases, found 15" in data.notes()[0]
    for folder in ("images", "labels"):  # an official test set
        (root / f"{folder}Ts").mkdir()
        for case in ("case_001", "case_014"):
            end = "_0000.nii.gz" if folder == "images" else ".nii.gz"
            (root / f"{folder}Tr" / f"{case}{end}").rename(root / f"{folder}Ts" / f"{case}{end}")
    data = _open("nnunet", made, root=root, bad_files="lenient")
    data.setup()
    assert {record.subject for record in data.records if record.split == "test"} == {"case_001", "case_014"}
    for text, found in (("[]", "a JSON object is expected"), ("{", "no JSON"), ('{"file_ending": ".b2nd"}', "b2nd")):
        (root / "dataset.json").write_text(text)
        with pytest.raises(UserError, match=found):
            _open("nnunet", made, root=root).setup()
    (root / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"dataset\.json: no such file; nnU-Net's raw folders have one"):
        _open("nnunet", made, root=root).setup()


def test_one_scale_for_ct(made: Path) -> None:
    wide = _batch(_open("nnunet", made, intensity_range=(0, 6000)), "test")["image"].max()
    own = _batch(_open("nnunet", made), "test")["image"].max()
    assert own > 0.99
    assert wide < 0.5


# ---- BIDS ---------------------------------------------------------------------------------------------------------


def test_the_table_says_who_is_healthy_and_groups(made: Path) -> None:
    data = _open("bids", made, group_column="sex")
    tests = data.dataset("test")
    assert set(tests.groups) == {"F", "M"}
    assert {record.label for record in data.records if record.split != "test"} == {0}
    assert dict(data.records[0].columns)["age"]
    whole = {record.subject for record in data.records if record.label}
    assert whole == {"sub-012", "sub-013", "sub-014", "sub-015"}


def test_wrong_tables_of_participants(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made / "bids", tmp_path / "r")
    table = root / "participants.tsv"
    text = table.read_text()
    with pytest.raises(UserError, match=r"no column site \(found participant_id, age, sex, group\)"):
        _open("bids", made, root=root, group_column="site").setup()
    with pytest.raises(UserError, match=r"group is control, patient, none of data\.healthy"):
        _open("bids", made, root=root, healthy=("young",)).setup()
    table.write_text(text.replace("group", "cohort"))
    with pytest.raises(UserError, match=r"name the one that says who is healthy: data\.label_column"):
        _open("bids", made, root=root).setup()
    assert len(_open("bids", made, root=root, label_column="cohort").index(root)) == 16
    table.write_text(text + "sub-099\t40\tF\tcontrol\n")
    with pytest.raises(UserError, match=r"sub-099: no \*_T1w\.nii\* of sub-099"):
        _open("bids", made, root=root).setup()
    table.write_text(text.replace("sub-000\t", "sub-000 \t").replace("control", "n/a", 1))
    data = _open("bids", made, root=root)
    data.setup()
    assert data.notes() == ["1 participants without group are left out, first sub-000"]


def test_a_mask_of_the_brain_is_the_foreground(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made / "bids", tmp_path / "r")
    for image in sorted(root.glob("sub-*/anat/*_T1w.nii.gz")):  # with a skull around it
        volume = nib.load(image)
        nib.save(nib.Nifti1Image(np.asarray(volume.dataobj) + np.int16(30), volume.affine), image)
    data = _open("bids", made, root=root)
    assert 0.1 < _batch(data, "test")["foreground"].float().mean() < 0.6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nnunet", {"planes": ("axial",)}),
        ("nnunet", {"planes": ("coronal",)}),
        ("nnunet", {"planes": ("sagittal",)}),
        ("bids", {"mode": "volumes", "image_size": (20, 30, 24)}),
        ("volume_lists", {"image_size": 64}),
    ],
)
def test_the_way_back_into_the_file(name: str, options: dict[str, Any], made: Path) -> None:
    """Every voxel of an outline lies, by the way that the batch carries, on the outline in the file."""
    data = _open(name, made, **options)
    data.setup()
    record = next(record for record in data.records if record.mask and nib.load(record.mask).get_fdata().any())
    prepared = data.preprocessing()(record)
    assert prepared.to_file is not None
    assert prepared.mask is not None
    mask = prepared.mask if prepared.slices is not None else prepared.mask[0]
    places = np.argwhere(mask).astype(float)
    if prepared.slices is not None:
        places[:, 0] = np.array(prepared.slices)[places[:, 0].astype(int)]
    voxels = np.rint((prepared.to_file @ np.c_[places, np.ones(len(places))].T)[:3]).astype(int)
    truth = nib.load(record.mask).get_fdata() > 0
    voxels = np.clip(voxels, 0, np.array(truth.shape)[:, None] - 1)
    assert truth[tuple(voxels)].mean() > 0.8


def test_a_checkpoint_keeps_what_other_files_are_read_by(made: Path) -> None:
    data = _open("nnunet", made, mode="volumes", image_size=(16, 24, 24), intensity_range=(0, 3000), channel=0)
    data.setup()
    kept = data.recipe()["init_args"]
    assert (kept["mode"], kept["intensity_range"], kept["channel"]) == ("volumes", [0, 3000], 0)
    assert "root" not in kept
    assert "batch_size" not in kept
