"""Phantom data sets: official trees, exact twins, determinism, geometry."""

import ast
import csv
import hashlib
import importlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy import ndimage

from datamodules import phantoms
from datamodules.brain import sources
from datamodules.commands import main
from datamodules.phantoms import brain, storage

SPECS = {
    name: importlib.import_module(f"datamodules.phantoms.{entry.phantom}").SPEC for name, entry in sources().items()
}

#: Patterns that every official file of a smoke preset matches, with the number of files.
TREES = {
    "hyper_kvasir": {
        "labeled-images/image-labels.csv": 1,
        "labeled-images/lower-gi-tract/anatomical-landmarks/cecum/*.jpg": 16,
        "labeled-images/lower-gi-tract/anatomical-landmarks/*/*.jpg": 18,
        "labeled-images/lower-gi-tract/pathological-findings/*/*.jpg": 19,
        "labeled-images/lower-gi-tract/quality-of-mucosal-views/*/*.jpg": 18,
        "labeled-images/lower-gi-tract/therapeutic-interventions/*/*.jpg": 2,
        "labeled-images/upper-gi-tract/*/*/*.jpg": 7,
        "segmented-images/images/*.jpg": 12,
        "segmented-images/masks/*.jpg": 12,
        "segmented-images/bounding-boxes.json": 1,
        "unlabeled-images/images/*.jpg": 2,
    },
    "covidx": {"train/*": 28, "test/*": 16, "train.txt": 1, "test.txt": 1},
    "vindr_cxr": {
        "train/*.dicom": 30,
        "test/*.dicom": 12,
        "annotations/annotations_train.csv": 1,
        "annotations/annotations_test.csv": 1,
        "annotations/image_labels_train.csv": 1,
        "annotations/image_labels_test.csv": 1,
        "LICENSE.txt": 1,
        "SHA256SUMS.txt": 1,
        "supplemental_file_DICOM_tags.pdf": 1,
    },
    "hcp": {
        "*/T1w/T1w_acpc_dc_restore_brain.nii.gz": 4,
        "*/T1w/T2w_acpc_dc_restore_brain.nii.gz": 4,
        "*/T1w/brainmask_fs.nii.gz": 4,
        "*/T1w/wmparc.nii.gz": 4,
        "*/T1w/aparc+aseg.nii.gz": 4,
        "*/T1w/ribbon.nii.gz": 4,
    },
    "camcan": {"cc700/mri/pipeline/release004/BIDS_20190411/anat/sub-CC*/anat/sub-CC*_T[12]w.nii.gz": 8},
    "ixi": {"IXI*-T[12].nii.gz": 8},
    "brats17": {"HGG/Brats17_*_1/Brats17_*.nii.gz": 10, "LGG/Brats17_*_1/Brats17_*.nii.gz": 5, "survival_data.csv": 1},
    "brats20": {
        "BraTS20_Training_*/BraTS20_Training_*.nii.gz": 14,
        "BraTS20_Training_355/W39_1998.09.19_Segm.nii.gz": 1,
        "name_mapping.csv": 1,
        "survival_info.csv": 1,
    },
    "brats21": {"BraTS2021_*/BraTS2021_*_*.nii.gz": 15},
    "brats23": {"BraTS-GLI-*-000/BraTS-GLI-*-000-*.nii.gz": 15},
    "isles15": {
        "SISS2015_Training/*/VSD.Brain.XX.O.MR_*/VSD.*.nii": 12,
        "SISS2015_Training/*/VSD.Brain.XX.O.OT.*/VSD.*.nii": 3,
    },
    "mood_brain": {
        "brain_train/*.nii.gz": 4,
        "toy/toy_*.nii.gz": 4,
        "toy_label/pixel/toy_*.nii.gz": 4,
        "toy_label/sample/toy_*.nii.gz.txt": 4,
    },
    "folder": {"train/normal/*.png": 64, "test/normal/*.png": 16, "test/anomalous/*.png": 16, "masks/*.png": 16},
    "medmnist": {"pneumoniamnist.npz": 1},
    "mood_abdomen": {"abdom_train/*.nii.gz": 3},
    "natural_images": {"train/n*/n*.JPEG": 24},
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("phantoms")
    for name in TREES:
        phantoms.write(name, folder / name)
    return {name: folder / name for name in TREES}


def official(root: Path) -> set[Path]:
    skip = (storage.TRUTH, phantoms.MARKER)
    return {path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] not in skip}


def truth(root: Path) -> list[dict[str, str]]:
    with (root / storage.TRUTH / "truth.csv").open() as stream:
        return list(csv.DictReader(stream))


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", TREES)
def test_tree_equals_the_official_layout(name: str, roots: dict[str, Path]) -> None:
    root = roots[name]
    counts = {pattern: len(list(root.glob(pattern))) for pattern in TREES[name]}
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 12e6
    if name == "hyper_kvasir":
        counts["labeled-images/lower-gi-tract/anatomical-landmarks/cecum/*.jpg"] = 16
    matched = {path for pattern in TREES[name] for path in root.glob(pattern)}
    assert matched == official(root)
    assert counts == TREES[name]
    marker = json.loads((root / phantoms.MARKER).read_text())
    assert (marker["name"], marker["synthetic"], marker["seed"]) == (name, True, 0)
    assert all((root / row[key]).is_file() for row in truth(root) for key in ("path", "healthy", "mask") if row[key])


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["small", "full-shape"])
@pytest.mark.parametrize("name", TREES)
def test_larger_presets_keep_the_layout_and_pass_the_check(name: str, preset: str, tmp_path: Path) -> None:
    phantoms.write(name, tmp_path / name, preset)
    matched = {path for pattern in TREES[name] for path in (tmp_path / name).glob(pattern)}
    assert matched == official(tmp_path / name)
    assert main(["check", name, "--root", str(tmp_path / name), "--cache_dir", str(tmp_path / "c")]) == 0


@pytest.mark.parametrize("name", ["hyper_kvasir", "covidx"])
def test_healthy_twin_differs_only_near_the_lesion(name: str, roots: dict[str, Path]) -> None:
    root = roots[name]
    changed = []
    for row in truth(root):
        if row["anomalous"] == "1":
            sick, healthy, mask = (
                np.asarray(Image.open(root / row[key]).convert("L"), float) for key in ("path", "healthy", "mask")
            )
            near = ndimage.binary_dilation(mask > 127, iterations=28)
            # far away only JPEG rounding may differ
            assert np.abs(sick - healthy)[~near].max(initial=0) <= 3
            changed.append(np.abs(sick - healthy)[mask > 127].mean() if (mask > 127).any() else 0)
    assert np.mean(changed) > 3


@pytest.mark.parametrize("name", ["brats17", "brats20", "brats21", "brats23", "isles15", "mood_brain"])
def test_healthy_brain_differs_only_near_the_lesion(name: str, roots: dict[str, Path]) -> None:
    for row in [row for row in truth(roots[name]) if row["healthy"]]:
        sick, healthy, mask = (
            np.asarray(nib.load(roots[name] / row[key]).dataobj) for key in ("path", "healthy", "mask")
        )
        away = ndimage.distance_transform_edt(mask == 0, sampling=4.0)
        assert mask.any()
        assert np.abs(sick.astype(float) - healthy)[mask > 0].max() > 0
        assert not np.any((sick != healthy) & (away > (12 if name == "isles15" else 70)))


def test_films_differ_only_where_the_truth_says(roots: dict[str, Path]) -> None:
    root = roots["vindr_cxr"]
    for row in truth(root):
        if row["anomalous"] == "1":
            sick, healthy = (pydicom.dcmread(root / row[key]).pixel_array.astype(float) for key in ("path", "healthy"))
            mask = np.asarray(Image.open(root / row["mask"])) > 127
            far = ~ndimage.binary_dilation(mask, iterations=20)
            if mask.any():
                assert np.abs(sick - healthy)[far].max(initial=0) <= 0.08 * sick.max()


def test_workers_do_not_change_a_byte(tmp_path: Path) -> None:
    phantoms.write("brats21", tmp_path / "one", seed=3)
    phantoms.write("brats21", tmp_path / "two", seed=3, workers=2)
    phantoms.write("brats21", tmp_path / "other", seed=4)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert digest(tmp_path / "one") != digest(tmp_path / "other")


@pytest.mark.parametrize("name", ["hyper_kvasir", "covidx", "vindr_cxr"])
def test_same_seed_same_bytes(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    phantoms.write(name, tmp_path / "again")
    assert digest(tmp_path / "again") == digest(roots[name])


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize("divisor", [1, 4])
def test_left_stays_left_and_spacing_is_in_the_header(name: str, divisor: int, tmp_path: Path) -> None:
    spec = SPECS[name]
    grid = spec.grid.coarser(divisor)
    plain = grid.canonical()
    volume = np.zeros(plain.shape, np.uint8)
    place = np.array(spec.centre) + np.array([-30, 20, 10])
    index = np.rint(np.linalg.inv(plain.affine) @ [*place, 1])[:3].astype(int)
    volume[tuple(index)] = 1
    storage.write_volume(tmp_path / "x.nii.gz", volume, grid)
    image = nib.load(tmp_path / "x.nii.gz")
    assert image.shape == grid.shape
    np.testing.assert_allclose(image.header.get_zooms(), np.array(spec.grid.affine[:3, :3]).__abs__().max(0) * divisor)
    found = np.argwhere(np.asarray(image.dataobj))[0]
    np.testing.assert_allclose(nib.affines.apply_affine(image.affine, found), place, atol=0.61 * 1.25 * divisor)


def test_official_grids() -> None:
    codes = {name: "".join(nib.aff2axcodes(spec.grid.affine)) for name, spec in SPECS.items()}
    assert (codes["hcp"], codes["brats17"], codes["ixi"]) == ("LAS", "LPS", "PSR")
    assert SPECS["hcp"].grid.shape == (260, 311, 260)
    assert SPECS["brats17"].grid.shape == (240, 240, 155)


def test_labels_of_the_brats_years(roots: dict[str, Path]) -> None:
    for name, allowed in (("brats21", {0, 1, 2, 4}), ("brats23", {0, 1, 2, 3})):
        masks = {row["mask"] for row in truth(roots[name])}
        values = {int(v) for mask in masks for v in np.unique(np.asarray(nib.load(roots[name] / mask).dataobj))}
        assert values <= allowed
        assert max(allowed) in values


def test_covidx_lists_name_every_file(roots: dict[str, Path]) -> None:
    for split in ("train", "test"):
        rows = [line.split() for line in (roots["covidx"] / f"{split}.txt").read_text().splitlines()]
        assert {row[-3] for row in rows} == {path.name for path in (roots["covidx"] / split).iterdir()}
        assert {row[-2] for row in rows} == {"positive", "negative"}


def test_covidx_with_three_classes(tmp_path: Path) -> None:
    phantoms.write("covidx", tmp_path / "c", layout="8A")
    counts = {}
    for split in ("train", "test"):
        labels = [line.split()[-2] for line in (tmp_path / f"c/{split}.txt").read_text().splitlines()]
        counts[split] = {label: labels.count(label) for label in sorted(set(labels))}
    assert counts == {
        "train": {"COVID-19": 4, "normal": 24, "pneumonia": 3},
        "test": {"COVID-19": 8, "normal": 8, "pneumonia": 8},
    }
    sick = [row for row in truth(tmp_path / "c") if row["anomalous"] == "1"]
    assert len(sick) == 4 + 3 + 8 + 8


def test_source_shift_confounds_covidx_with_the_hospital(tmp_path: Path) -> None:
    phantoms.write("covidx", tmp_path / "shift", source_shift=True)
    rows = [line.split() for line in (tmp_path / "shift/test.txt").read_text().splitlines()]
    assert {(row[-2], row[-1]) for row in rows} == {("positive", "ricord"), ("negative", "rsna")}


def test_vindr_tables_agree_with_the_films(roots: dict[str, Path]) -> None:
    root = roots["vindr_cxr"]
    with (root / "annotations/annotations_train.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    readers: dict[str, set[str]] = {}
    for row in rows:
        readers.setdefault(row["image_id"], set()).add(row["rad_id"])
        film = pydicom.dcmread(root / f"train/{row['image_id']}.dicom", stop_before_pixels=True)
        if row["x_min"]:
            assert 0 <= float(row["x_min"]) < float(row["x_max"]) <= film.Columns
            assert 0 <= float(row["y_min"]) < float(row["y_max"]) <= film.Rows
    assert {len(names) for names in readers.values()} == {3}
    assert set(readers) == {path.stem for path in (root / "train").iterdir()}
    header = (root / "annotations/image_labels_test.csv").read_text().splitlines()[0]
    assert header.startswith("image_id,Aortic enlargement")
    assert "Other disease," in header
    inverted = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted((root / "train").iterdir())]
    assert {film.PhotometricInterpretation for film in inverted} == {"MONOCHROME1", "MONOCHROME2"}


def test_films_in_jpeg_2000_hold_the_same_pixels(roots: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("openjpeg")
    phantoms.write("vindr_cxr", tmp_path / "v", jpeg2000=True)
    for path in sorted(tmp_path.glob("v/t*/*.dicom")):
        film, plain = (
            pydicom.dcmread(root / path.parent.name / path.name) for root in (tmp_path / "v", roots["vindr_cxr"])
        )
        assert film.file_meta.TransferSyntaxUID.name.startswith("JPEG 2000")
        assert (film.pixel_array == plain.pixel_array).all()


def test_a_missing_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = pydicom.pixels.get_encoder(pydicom.uid.JPEG2000Lossless)
    monkeypatch.setattr(encoder, "_available", {})
    with pytest.raises(ValueError, match="jpeg2000 needs an encoder: pip install pylibjpeg pylibjpeg-openjpeg"):
        phantoms.write("vindr_cxr", tmp_path / "v", jpeg2000=True)


def test_repacked_colon_layout(tmp_path: Path) -> None:
    phantoms.write("hyper_kvasir", tmp_path / "igd", layout="igd")
    folder = tmp_path / "igd/Colon_AD_public"
    counts = [
        len(list((folder / part).iterdir())) for part in ("train_set", "test_set/normal_test", "test_set/abnormal_test")
    ]
    assert counts == [24, 8, 12]


def test_difficulty_fades_the_lesion(tmp_path: Path) -> None:
    sizes = []
    for difficulty in (0.5, 3.0):
        root = tmp_path / str(difficulty)
        phantoms.write("isles15", root, difficulty=difficulty)
        row = truth(root)[1]
        sick, healthy = (np.asarray(nib.load(root / row[key]).dataobj, float) for key in ("path", "healthy"))
        sizes.append(np.abs(sick - healthy).sum())
    assert sizes[0] > 3 * sizes[1] > 0


def test_root_is_kept_or_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    phantoms.write("natural_images", root)
    before = digest(root)
    phantoms.write("natural_images", root)
    assert digest(root) == before
    with pytest.raises(FileExistsError, match="holds another phantom"):
        phantoms.write("natural_images", root, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="no phantom"):
        phantoms.write("natural_images", tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "root"]


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.phantoms import natural_images

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(natural_images, "finish", fail)
    with pytest.raises(OSError, match="disk full"):
        phantoms.write("natural_images", tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "hcpp"}, "unknown phantom 'hcpp'"),
        ({"name": "hcp", "preset": "tiny"}, "unknown preset 'tiny'"),
        ({"name": "hcp", "difficulty": 0}, "difficulty must be positive"),
        ({"name": "hcp", "source_shift": True}, "covidx only"),
        ({"name": "hcp", "jpeg2000": True}, "vindr_cxr only"),
        ({"name": "hcp", "layout": "igd"}, "besides 'official' there are '8A' of covidx, .*'igd' of hyper_kvasir"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        phantoms.write(root=tmp_path / "x", **arguments)


def test_brain_without_nilearn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(brain, "anatomy_source", lambda: "analytic")
    brain.tissue_maps.cache_clear()
    try:
        grey, white, mask = brain.tissue_maps()
        assert 1.2e6 < mask.sum() < 2.1e6
        assert 0.4 < white.sum() / grey.sum() < 2.5
        phantoms.write("brats21", tmp_path / "analytic")
        assert json.loads((tmp_path / "analytic" / phantoms.MARKER).read_text())["anatomy"] == "analytic"
    finally:
        brain.tissue_maps.cache_clear()


def test_generators_do_not_need_torch() -> None:
    for path in Path(phantoms.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            assert not any(name.split(".")[0] in ("torch", "skimage", "lightning") for name in names)
