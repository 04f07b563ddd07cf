"""The four families: layouts, lists, splits, geometry, and what is wrong with files in the wild."""

import csv
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from datamodules import BrainMRI, CovidX, HyperKvasir, MedMNIST, VinDrCXR, brain_mri, phantoms
from datamodules.brain import find_volumes, sources
from datamodules.brain.preparing import prepare_slices, prepare_volume, read_volume
from datamodules.covidx import parse_list, version
from datamodules.phantoms import storage
from datamodules.reading import BadFile
from datamodules.records import Record, hash_order, held_out, manifest_hash
from datamodules.registry import find
from datamodules.vindr_cxr import ddad_lists, healthy_films, read_boxes, reader_notes
from zoo.errors import UserError

SPECS = {
    name: importlib.import_module(f"datamodules.phantoms.{entry.phantom}").SPEC for name, entry in sources().items()
}
RNG = np.random.default_rng(0)


def _jpg(path: Path, size: tuple[int, int] = (40, 48), mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = RNG.integers(60, 200, (*size, 3), np.uint8)
    if mask:
        image = np.zeros((*size, 3), np.uint8)
        image[10:20, 10:24] = 255
    Image.fromarray(image).save(path, quality=92)


# ---- splits ---------------------------------------------------------------------------------------------------------


def test_rule_splits_depend_on_ids_and_seed_alone() -> None:
    ids = [f"id{i}" for i in range(30)]
    assert hash_order(ids, 0) == hash_order(reversed(ids), 0)
    assert hash_order(ids, 0) != hash_order(ids, 1)
    assert len(held_out(ids, 0.1, 0)) == 3
    assert len(held_out(ids[:2], 0.1, 0)) == 1
    assert held_out(ids[:1], 0.5, 0) == set()


def test_the_manifest_hash_tells_splits_apart() -> None:
    one = [Record("a", "/a", "train"), Record("b", "/b", "test", 1)]
    moved = [Record("a", "/elsewhere/a", "train"), Record("b", "/b", "test", 1)]
    other = [Record("a", "/a", "test"), Record("b", "/b", "test", 1)]
    assert manifest_hash(one) == manifest_hash(moved[::-1])
    assert manifest_hash(one) != manifest_hash(other)


# ---- Hyper-Kvasir ---------------------------------------------------------------------------------------------------


@pytest.fixture
def kvasir(tmp_path: Path) -> Path:
    root = tmp_path / "hk"
    for i in range(14):
        group, name = ("anatomical-landmarks", "cecum") if i % 2 else ("quality-of-mucosal-views", "bbps-2-3")
        _jpg(root / "labeled-images" / "lower-gi-tract" / group / name / f"h{i}.jpg")
        _jpg(root / "labeled-images" / "lower-gi-tract" / "pathological-findings" / "polyps" / f"p{i}.jpg")
    for i in range(4):
        _jpg(root / "segmented-images" / "images" / f"p{i}.jpg")
        _jpg(root / "segmented-images" / "masks" / f"p{i}.jpg", mask=True)
    return root


def _kvasir(root: Path, **options: Any) -> HyperKvasir:
    return HyperKvasir(root=str(root), cache_dir=str(root.parent / "c"), image_size=32, **options)


def test_kvasir_official_layout(kvasir: Path) -> None:
    data = _kvasir(kvasir)
    data.setup()
    tests = [record for record in data.manifest if record.split == "test"]
    assert sum(record.label for record in tests) == 4
    assert len(tests) == 4 + 3
    assert len(data.manifest) == 18
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape[1:] == (3, 32, 32)
    assert (batch["mask"].flatten(1).any(1) == batch["label"].bool()).all()


def test_kvasir_older_folder_names_and_the_papers_layout(kvasir: Path, tmp_path: Path) -> None:
    folder = kvasir / "labeled-images" / "lower-gi-tract" / "anatomical-landmarks"
    (folder / "cecum").rename(folder / "normal-cecum")
    data = _kvasir(kvasir)
    data.setup()
    assert len(data.manifest) == 18
    for i in range(6):
        _jpg(tmp_path / "igd" / "Colon_AD_public" / "train_set" / f"{i}.jpg")
        _jpg(tmp_path / "igd" / "Colon_AD_public" / "test_set" / "normal_test" / f"n{i}.jpg")
        _jpg(tmp_path / "igd" / "Colon_AD_public" / "test_set" / "abnormal_test" / f"a{i}.jpg")
    data = _kvasir(tmp_path / "igd", normalise="imagenet", crop="ccd")
    batch = next(iter(data.test_dataloader()))
    assert "mask" not in batch
    assert batch["label"].sum() == 6
    assert batch["image"].min() < -0.5
    assert data.value_range == (-2.2, 2.7)


def test_kvasir_wrong_levels_are_told(kvasir: Path) -> None:
    with pytest.raises(UserError, match=f"found {kvasir}/labeled-images: pass {kvasir}"):
        _kvasir(kvasir.parent).setup()
    with pytest.raises(UserError, match=f"pass {kvasir}$"):
        _kvasir(kvasir / "segmented-images").setup()


def test_kvasir_masks(kvasir: Path) -> None:
    mask = kvasir / "segmented-images" / "masks" / "p1.jpg"
    _jpg(mask, (80, 96), mask=True)  # the same frame at twice the size
    _kvasir(kvasir).setup()
    _jpg(mask, (40, 40), mask=True)
    with pytest.raises(UserError, match=r"p1.jpg: a mask of 40x40, its image .*p1.jpg is 40x48"):
        _kvasir(kvasir).setup()
    mask.unlink()
    with pytest.raises(UserError, match=r"images/p1.jpg: no mask .*masks/p1.jpg; unpack segmented-images again"):
        _kvasir(kvasir).setup()
    data = _kvasir(kvasir, bad_files="lenient")
    with pytest.warns(UserWarning, match="1 files left out"):
        data.setup()
    assert len(data.manifest) == 17


# ---- COVIDx ---------------------------------------------------------------------------------------------------------


def test_covidx_lists_are_parsed_from_the_right(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(
        b"1 a.png normal\r\nCOVID 1 COVID(1).PNG positive sirm\r\n3\tb.jpeg\tnegative\trsna\n\n4 c.jpg COVID-19 rnsa\n"
    )
    rows, problems = parse_list(path)
    assert [tuple(row)[:4] for row in rows] == [
        ("1", "a.png", "normal", ""),
        ("COVID 1", "COVID(1).PNG", "positive", "sirm"),
        ("3", "b.jpeg", "negative", "rsna"),
        ("4", "c.jpg", "COVID-19", "rnsa"),
    ]
    assert not problems


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1 a.png postive rsna", "unknown label 'postive'"),
        ("1 a.png positive mars", "unknown source 'mars'"),
        ("1 a.png", "'1 a.png'; expected: patient file label [source]"),
        ("1 picture normal rsna", "no file name in '1 picture normal rsna'"),
    ],
)
def test_covidx_wrong_lines_are_told_by_number(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "train.txt").write_text(f"0 z.png normal\n{line}\n")
    rows, problems = parse_list(tmp_path / "train.txt")
    assert len(rows) == 1
    assert str(problems[0]).startswith(f"{tmp_path}/train.txt:2: ")
    assert expected in str(problems[0])


def test_covidx_versions() -> None:
    rows = parse_list.__globals__["Row"]("p", "f.png", "negative", "", 1)
    assert version([rows] * 15952, [rows] * 400).startswith("8B (15952 negative")
    assert version([rows], [rows]).startswith("unknown")


def _covidx(root: Path, train: str, test: str) -> CovidX:
    for split, text in (("train", train), ("test", test)):
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text(text)
        for row in parse_list(root / f"{split}.txt")[0]:
            Image.fromarray(RNG.integers(0, 255, (24, 24), np.uint8)).save(root / split / row.file)
    return CovidX(root=str(root), cache_dir=str(root.parent / "c"), image_size=24)


TRAIN = "".join(f"p{i} t{i}.png negative rsna\n" for i in range(9)) + "q u.png positive ricord\n"
TEST = "x x.png negative rsna\ny y.png positive ricord\n"


def test_covidx_trains_on_negatives_only(tmp_path: Path) -> None:
    data = _covidx(tmp_path / "r", TRAIN, TEST)
    data.setup()
    assert {record.split for record in data.manifest} == {"train", "val", "test"}
    assert not any("u.png" in record.id for record in data.manifest)
    assert data.dataset("test").labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (TRAIN, TEST + "p0 t0.png negative rsna\n", r"test.txt:3: t0.png is in train.txt too"),
        (TRAIN + "p0 t0.png positive rsna\n", TEST, r"train.txt:11: t0.png is positive, in line 1 negative"),
    ],
)
def test_covidx_contradictory_lists(tmp_path: Path, train: str, test: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        _covidx(tmp_path / "r", train, test).setup()


def test_covidx_absent_files_and_patients_in_both_lists(tmp_path: Path) -> None:
    data = _covidx(tmp_path / "r", TRAIN, TEST)
    (tmp_path / "r" / "train" / "t3.png").unlink()
    with pytest.raises(UserError, match=r"train/t3.png: listed but absent; download it again"):
        data.setup()
    data = _covidx(tmp_path / "s", TRAIN, TEST.replace("x x.png", "p1 x.png"))
    with pytest.warns(UserWarning, match=r"subject rsna:p1: test/x.png \(test\) and train/t1.png \(train\)"):
        data.setup()


def test_covidx_normal_only_needs_three_classes(tmp_path: Path) -> None:
    _covidx(tmp_path / "r", TRAIN, TEST)
    with pytest.raises(UserError, match="needs a list of version 8A or 9A"):
        CovidX(root=str(tmp_path / "r"), cache_dir=str(tmp_path / "c"), variant="normal_only").setup()
    with pytest.raises(UserError, match=r"needs data.variant normal_only"):
        CovidX(anomaly="pneumonia")


# ---- VinDr-CXR ------------------------------------------------------------------------------------------------------

BOX_COLUMNS = ["image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max"]


def _csv(path: Path, columns: list[str], rows: list[list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def test_vindr_boxes_and_votes(tmp_path: Path) -> None:
    path = _csv(
        tmp_path / "a.csv",
        BOX_COLUMNS,
        [
            ["a", "R1", "No finding", "", "", "", ""],
            ["b", "R1", "Nodule/Mass", 1.5, 2, 30, 40],
            ["b", "R2", "COPD", "", "", "", ""],
            ["c", "R1", "Edema", "", 2, 30, 40],
            ["d", "R1", "Edema", 30, 2, 1, 40],
        ],
    )
    boxes, problems = read_boxes(path)
    assert boxes == {"a": (), "b": ((1.5, 2.0, 30.0, 40.0),), "c": (), "d": ()}
    assert str(problems[0]) == f"{path}:5: Edema without box; give four numbers"
    assert str(problems[1]).startswith(f"{path}:6: box [30.0, 2.0, 1.0, 40.0] has no area")
    votes = [["a", "R1", 1], ["a", "R2", 1], ["b", "R1", 1], ["b", "R2", 0]]
    assert healthy_films(_csv(tmp_path / "l.csv", ["image_id", "rad_id", "No finding"], votes)) == {"a"}
    with pytest.raises(UserError, match=r"l.csv: no column class_name \(found image_id, rad_id, No finding\)"):
        read_boxes(tmp_path / "l.csv")


def test_vindr_readers_are_counted(tmp_path: Path) -> None:
    votes = [["a", f"R{i}", 1] for i in range(3)] + [["b", "R1", 1], ["b", "R1", 0], ["b", "R2", 0], ["c", "R1", 0]]
    path = _csv(tmp_path / "l.csv", ["image_id", "rad_id", "No finding"], votes)
    assert reader_notes(path) == [f"{path}: 2 films without three different readers, first b"]


def test_vindr_ddad_repair(tmp_path: Path) -> None:
    path = tmp_path / "ddad.json"
    content = {"train": {"0": ["h1", "x1", "h2"], "unlabeled": {}}, "test": {"0": ["h3", "x2"], "1": ["i1"]}}
    path.write_text(json.dumps(content))
    healthy = ["h1", "h2", "h3", "r1", "r2", "r3"]
    assert ddad_lists(path, healthy) == (["h1", "h2", "r1"], ["h3", "r3"], ["i1"])
    with pytest.raises(UserError, match="2 films are not healthy by all readers, only 1 to replace them"):
        ddad_lists(path, [*healthy[:3], "r1"])
    path.write_text("{}")
    with pytest.raises(UserError, match="no DDAD list"):
        ddad_lists(path, healthy)


def test_vindr_kaggle_copy(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[f"h{i}", "No finding", 14, "R1", "", "", "", ""] for i in range(10)]
    rows += [[f"i{i}", "Cardiomegaly", 3, "R1", 4, 4, 20, 20] for i in range(4)]
    columns = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
    _csv(tmp_path / "k" / "train.csv", columns, rows)
    (tmp_path / "k" / "train").mkdir()
    for row in rows:
        film = RNG.integers(0, 255, (40, 40), np.uint8)
        Image.fromarray(film).save(tmp_path / "k" / "train" / f"{row[0]}.png")
    data = VinDrCXR(root=str(tmp_path / "k"), split="rule", image_size=32, cache_dir=str(tmp_path / "c"))
    data.setup()
    counts = [len(data.dataset(split)) for split in ("train", "val", "test")]
    assert counts == [7, 1, 4]
    with pytest.raises(UserError, match=r"Kaggle's copy has no labelled test films; set data.split rule"):
        VinDrCXR(root=str(tmp_path / "k"), cache_dir=str(tmp_path / "c")).setup()


def test_vindr_arguments_and_absent_films(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs data.ddad_json"):
        VinDrCXR(split="ddad")
    labels = [["a", "R1", 1], ["b", "R1", 1]]
    root = tmp_path / "v"
    _csv(root / "annotations" / "image_labels_train.csv", ["image_id", "rad_id", "No finding"], labels)
    _csv(root / "annotations" / "annotations_train.csv", BOX_COLUMNS, [])
    _csv(root / "annotations" / "annotations_test.csv", BOX_COLUMNS, [])
    (root / "train").mkdir()
    with pytest.raises(UserError, match=r"train/b.dicom: listed but absent"):
        VinDrCXR(root=str(root), cache_dir=str(tmp_path / "c")).setup()


# ---- brains ---------------------------------------------------------------------------------------------------------


def _head(signs: tuple[int, int, int], step: float, full: bool = False) -> tuple[Any, Any]:
    """A brain with a lesion at its left front, stored with the given axis directions."""
    size = np.rint(np.array([200, 240, 170]) / step).astype(int)
    grid = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * step for n in size], indexing="ij"), -1)
    brain = ((grid / [66, 84, 62]) ** 2).sum(-1) < 1
    lesion = (((grid - [-30, 40, 10]) / 13) ** 2).sum(-1) < 1
    image = np.where(brain | full, 100 + 10 * np.cos(grid[..., 0] / 9) + 5 * np.sin(grid[..., 2] / 7), 0)
    image = np.where(lesion, 160, image).astype(np.float32)
    flips = tuple(slice(None, None, sign) for sign in signs)
    affine = np.diag([*(step * np.array(signs)), 1.0])
    return nib.Nifti1Image(image[flips], affine), nib.Nifti1Image(lesion[flips].astype(np.uint8), affine)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)], ids=["RAS", "HCP LAS", "BraTS LPS"])
@pytest.mark.parametrize("step", [2.0, 4.0])
def test_a_left_lesion_stays_left_and_keeps_its_place(tmp_path: Path, signs: Any, step: float) -> None:
    for image, name in zip(_head(signs, step), ("x.nii.gz", "seg.nii.gz"), strict=True):
        nib.save(image, tmp_path / name)
    record = Record("x", str(tmp_path / "x.nii.gz"), mask=str(tmp_path / "seg.nii.gz"))
    slices = prepare_slices(record, size=(120, 120), unstripped="refuse")
    assert slices.mask is not None
    # z, x, y in mm from the middle of the brain; slices are 1 mm from 55 on, their pixels 2 mm
    place = np.argwhere(slices.mask).mean(0) * [1, 2, 2] + [55 - 77, -119, -119]
    np.testing.assert_allclose(place, [10, -30, 40], atol=2.5)
    assert slices.labels is not None
    assert 18 <= sum(slices.labels) <= 30
    inside = slices.image[:, 0][slices.mask]
    assert inside.mean() > slices.image[:, 0][slices.foreground & ~slices.mask].mean() + 0.2
    volume = prepare_volume(record, size=(80, 112, 80), unstripped="refuse")
    assert volume.mask is not None
    place = np.argwhere(volume.mask[0]).mean(0) - [39.5, 55.5, 39.5]
    np.testing.assert_allclose(place * 2, [10, 40, 30], atol=4)  # z, y, x to the left
    assert volume.mask.sum() * 8 == pytest.approx(4 / 3 * np.pi * 13**3, rel=0.25)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_left_lesion_stays_left_in_the_grid_of_every_set(tmp_path: Path, name: str) -> None:
    spec = SPECS[name]
    grid = spec.grid.coarser(4)  # the spacing is in the header alone
    plain = grid.canonical()
    axes = [plain.affine[i, 3] + plain.affine[i, i] * np.arange(n) - spec.centre[i] for i, n in enumerate(plain.shape)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    lesion = (x + 30) ** 2 + (y - 40) ** 2 + (z - 10) ** 2 < 13**2
    brain = (x / 66) ** 2 + (y / 84) ** 2 + (z / 62) ** 2 < 1
    for values, file in ((brain * (100 + 10 * np.cos(x / 9)) + 60 * lesion, "x.nii.gz"), (lesion, "seg.nii.gz")):
        storage.write_volume(tmp_path / file, values.astype(np.float32), grid)
    record = Record("x", str(tmp_path / "x.nii.gz"), mask=str(tmp_path / "seg.nii.gz"))
    mask = prepare_slices(record, size=(120, 120), unstripped="refuse").mask
    assert mask is not None
    place = np.argwhere(mask).mean(0) * [1, 2, 2] + [55 - 77, -119, -119]
    np.testing.assert_allclose(place, [10, -30, 40], atol=3.5)


def test_brain_volumes_that_cannot_be_used(tmp_path: Path) -> None:
    image, lesion = _head((1, 1, 1), 8.0)
    path, seg = tmp_path / "x.nii.gz", tmp_path / "seg.nii.gz"
    record = Record("x", str(path), mask=str(seg))
    nib.save(image, path)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), seg)
    with pytest.raises(BadFile, match=r"seg.nii.gz: grid \(4, 4, 4\), its image has \(25, 30, 21\)"):
        read_volume(record)
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 3, np.uint8), np.eye(4)), path)
    with pytest.raises(BadFile, match="a constant volume"):
        read_volume(record)
    nib.save(_head((1, 1, 1), 8.0, full=True)[0], path)
    with pytest.raises(BadFile, match=r"100% of the voxels are not 0, .*: looks unstripped"):
        read_volume(record)
    nib.save(lesion, seg)


def test_almost_whole_labels_are_rounded(tmp_path: Path) -> None:
    image, lesion = _head((1, 1, 1), 8.0)
    nib.save(image, tmp_path / "x.nii.gz")
    nib.save(nib.Nifti1Image(lesion.get_fdata().astype(np.float32) * 0.9999, lesion.affine), tmp_path / "seg.nii.gz")
    _, _, truth = read_volume(Record("x", str(tmp_path / "x.nii.gz"), mask=str(tmp_path / "seg.nii.gz")))
    assert truth is not None
    assert set(np.unique(truth)) == {0, 1}


def _case(folder: Path, names: dict[str, bool]) -> None:
    folder.mkdir(parents=True)
    image, lesion = _head((-1, -1, 1), 8.0)
    for name, is_label in names.items():
        nib.save(lesion if is_label else image, folder / name)


@pytest.fixture
def brains(tmp_path: Path) -> Path:
    root = tmp_path / "b"
    for subject in ("100206", "100307"):
        _case(root / "hcp" / subject / "T1w", {f"T{i}w_acpc_dc_restore_brain.nii.gz": False for i in (1, 2)})
    names = {f"BraTS20_Training_001_{s}.nii": False for s in ("t1", "t1ce", "t2", "flair")}
    _case(root / "brats" / "BraTS20_Training_001", {**names, "BraTS20_Training_001_seg.nii": True})
    alias = {name.replace("001", "355"): False for name in names}
    _case(root / "brats" / "BraTS20_Training_355", {**alias, "W39_1998.09.19_Segm.nii": True})
    return root


def _brain(root: Path, **options: Any) -> BrainMRI:
    return BrainMRI(root=str(root), cache_dir=str(root.parent / "c"), image_size=32, **{"sequence": "t2", **options})


def test_brain_layouts(brains: Path) -> None:
    data = _brain(brains)
    data.setup()
    assert {record.subject for record in data.manifest if record.split == "test"} == {
        "brats20:BraTS20_Training_001",
        "brats20:BraTS20_Training_355",
    }
    tests = data.dataset("test")
    assert tests.ids[0].endswith("_t2.nii#055")
    assert 0 < tests.labels.sum() < len(tests)
    assert {record.split for record in data.manifest if record.subject.startswith("hcp")} == {"train", "val"}


def test_a_slab_is_the_slices_as_one_volume(brains: Path) -> None:
    """For statistics that know heights: the same pixels, masks and brains, in the same order."""
    slices, slab = _brain(brains), _brain(brains, mode="slab")
    flat, whole = slices.dataset("test"), slab.dataset("test")
    assert slab.image_shape == (1, 80, 32, 32)
    assert slab.name == "brats20_t2_slab"
    one, other = flat.__getitems__(range(len(flat))), whole.__getitems__([0, 1])
    for key in ("image", "mask", "foreground"):
        assert (one[key].reshape(2, 80, 32, 32) == other[key][:, 0]).all(), key
    assert other["spacing"][0].tolist() == [1.0, 7.5, 7.5]
    with pytest.raises(UserError, match="a slab has 80 slices"):
        _ = BrainMRI(mode="slab", image_size=(40, 32, 32)).image_shape


def test_isles_tokens_are_exact(tmp_path: Path) -> None:
    root = tmp_path / "i"
    for number, word in enumerate(("MR_T1", "MR_T1c", "MR_T2", "MR_Flair", "OT")):
        stem = f"VSD.Brain.XX.O.{word}.{70613 + number}"
        _case(root / "SISS2015_Training" / "1" / stem, {f"{stem}.nii": word == "OT"})
    shutil.copytree(root / "SISS2015_Training" / "1", root / "SISS2015_Training" / "02")
    _case(root / "100206" / "T1w", {f"T{i}w_acpc_dc_restore_brain.nii.gz": False for i in (1, 2)})
    data = BrainMRI(root=str(root), test="isles15", sequence="t1", image_size=32, cache_dir=str(tmp_path / "c"))
    with pytest.warns(UserWarning, match=r"too few healthy images|in more than one split"):
        data.setup()
    assert all(".MR_T1." in record.image for record in data.manifest if record.split == "test")
    shutil.rmtree(root / "SISS2015_Training" / "02")
    for folder in (root / "SISS2015_Training" / "1").glob("*OT*"):
        shutil.rmtree(folder)
    data = BrainMRI(root=str(root), test="isles15", sequence="t1", image_size=32, cache_dir=str(tmp_path / "c"))
    with pytest.raises(
        UserError, match="no ground truth; validation and testing data have none, give the training data"
    ):
        data.setup()


def test_brain_layout_mistakes(brains: Path) -> None:
    (brains / "hcp" / "100206" / "T1w" / "T1w_acpc_dc_restore_brain.nii.gz").unlink()
    with pytest.raises(UserError, match=r"subject 100206 has no T1w_acpc_dc_restore_brain.nii.gz"):
        _brain(brains).setup()
    with pytest.raises(UserError, match=r"no t2 volume of brats21 below it"):
        _brain(brains, test="brats21", bad_files="lenient").setup()
    (brains / "brats" / "BraTS20_Training_001" / "BraTS20_Training_001_seg.nii").unlink()
    with pytest.raises(UserError, match=r"BraTS20_Training_001: no ground truth"):
        _brain(brains).setup()
    with pytest.raises(UserError, match="hcp has no FLAIR"):
        BrainMRI(sequence="flair")
    with pytest.raises(UserError, match="has 2 sides, mode volumes needs 3"):
        _ = BrainMRI(mode="volumes", image_size=(32, 32)).image_shape


def test_outlines_of_another_sequence_come_to_the_grid_of_the_image(tmp_path: Path) -> None:
    phantoms.write("isles22", tmp_path / "i")
    records = list(find_volumes(tmp_path / "i", "isles22", "flair", []))
    assert [record.subject for record in records] == [f"isles22:sub-strokecase000{i}" for i in (1, 2, 3)]
    for record in records:
        volume, affine, truth = read_volume(record)
        assert truth is not None
        assert truth.shape == volume.shape
        drawn = nib.load(record.mask)
        millilitres = [
            float((np.asarray(labels) > 0).sum() * abs(np.linalg.det(frame[:3, :3])))
            for labels, frame in ((truth, affine), (drawn.dataobj, drawn.affine))
        ]
        assert millilitres[0] == pytest.approx(millilitres[1], rel=0.3)
        assert volume[truth > 0].mean() > 1.1 * volume[volume > 0].mean()  # strokes are bright in FLAIR
    empty = nib.Nifti1Image(np.zeros(drawn.shape, np.uint8), drawn.affine)
    nib.save(empty, records[0].mask)
    truth = read_volume(records[0])[2]  # patients without a lesion are among the cases
    assert truth is not None
    assert not truth.any()


def test_radiotherapy_scans_of_meningiomas_are_named(tmp_path: Path) -> None:
    problems: list[BadFile] = []
    for number in (1, 2):
        _case(tmp_path / f"BraTS-MEN-RT-000{number}-1", {f"BraTS-MEN-RT-000{number}-1_t1c.nii.gz": False})
    _case(tmp_path / "BraTS-MEN-00004-000", {f"BraTS-MEN-00004-000-{w}.nii.gz": w == "seg" for w in ("t1n", "seg")})
    (record,) = find_volumes(tmp_path, "brats24_men", "t1", problems)
    assert record.subject == "brats24_men:BraTS-MEN-00004"
    (problem,) = problems
    assert str(problem) == (
        f"{tmp_path}/BraTS-MEN-RT-0001-1: a radiotherapy scan of 2024: T1ce alone, with skull; "
        "give the meningiomas of 2023, BraTS-MEN-*"
    )


def test_a_folder_of_another_source_is_named(brains: Path) -> None:
    seen = r"\d+ other volumes are there, such as brats/BraTS20_Training_001/\S+; they look like "
    with pytest.raises(UserError, match=rf"no t2 volume of brats17 below it, {seen}brats20 or hcp; `zoo data list`"):
        _brain(brains, test="brats17").setup()
    shutil.rmtree(brains / "hcp")
    report = brain_mri.examine(find("isles15"), brains)
    assert "no volume of isles15 below it" in report.errors[0]
    assert report.errors[0].endswith("they look like brats20")
    for path in brains.rglob("*.nii"):
        path.rename(path.with_name(path.name.replace("BraTS20", "Tumour")))
    for folder in list((brains / "brats").iterdir()):
        folder.rename(folder.with_name(folder.name.replace("BraTS20", "Tumour")))
    assert brain_mri.examine(find("brats20"), brains).errors[0].endswith("of no known source")


def test_fourteen_findings_and_none_of_them(tmp_path: Path) -> None:
    data = MedMNIST(subset="chestmnist", cache_dir=str(tmp_path))
    labels = np.load(data.file())["test_labels"]
    assert labels.shape == (128, 14)
    assert data.dataset("test").labels.tolist() == labels.any(1).astype(int).tolist()
    assert len(data.dataset("train")) == 128
