"""``zoo data``."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules import BrainMRI
from datamodules.commands import main
from datamodules.overview import facts_of_files
from datamodules.registry import data_sets
from zoo.errors import UserError


def _state(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(root.rglob("*"))}


def test_list_names_without_torch() -> None:
    code = (
        "import sys; from datamodules.commands import main; "
        "assert main(['list', '--names']) == 0; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert out == list(data_sets())
    assert {"folder", "medmnist", "hcp", "brats20", "mood_abdomen"} <= set(out)


def test_list_names_existing_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "--config data/vindr_cxr" in capsys.readouterr().out
    for entry in data_sets().values():
        if entry.config:
            assert (Path(__file__).parents[2] / "configs" / f"{entry.config}.yaml").is_file()


@pytest.mark.parametrize("name", ["folder", "medmnist", "hyper_kvasir", "covidx", "hcp", "brats20", "camcan"])
def test_phantoms_pass_the_check_untouched(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / name
    assert main(["phantom", name, "--root", str(root)]) == 0
    assert f"zoo data check {name} --root {root}" in capsys.readouterr().out
    before = _state(root)
    assert main(["check", name, "--root", str(root), "--json", "--cache_dir", str(tmp_path / "c")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["phantom"] is True
    assert report["errors"] == []
    assert sum(report["counts"].values()) > 0
    assert _state(root) == before


def test_the_hint_tells_where_volunteers_and_patients_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roots = {name: tmp_path / name for name in ("ixi", "brats23")}
    hints = {}
    for name, root in roots.items():
        assert main(["phantom", name, "--root", str(root)]) == 0
        hints[name] = capsys.readouterr().out.splitlines()[-1].split("--config data/brain_mri ")[1]
    assert hints == {
        "ixi": f"--data.train ixi --data.train_root {roots['ixi']} --data.test_root FOLDER --data.unstripped strip",
        "brats23": f"--data.test brats23 --data.test_root {roots['brats23']} --data.train_root FOLDER",
    }
    places = {"train_root": str(roots["ixi"]), "test_root": str(roots["brats23"]), "cache_dir": str(tmp_path / "c")}
    data = BrainMRI(train="ixi", test="brats23", unstripped="strip", image_size=32, **places)  # type: ignore[arg-type]
    assert len(data.dataset("test")) > 0


def test_check_reports_errors_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "f"
    main(["phantom", "folder", "--root", str(root)])
    victim = sorted((root / "test" / "normal").iterdir())[0]
    victim.write_bytes(b"")
    capsys.readouterr()
    assert main(["check", "folder", "--root", str(root), "--cache_dir", str(tmp_path / "c")]) == 1
    assert f"error: {victim}: 0 bytes" in capsys.readouterr().out
    victim.write_bytes(sorted((root / "train" / "normal").iterdir())[0].read_bytes())
    assert main(["check", "folder", "--root", str(root), "--cache_dir", str(tmp_path / "c")]) == 1
    assert "error: same pixels: test/normal/" in capsys.readouterr().out
    (root / "PHANTOM_DATA.json").unlink()
    assert main(["check", "hcp", "--root", str(root)]) == 1
    out = capsys.readouterr().out
    assert "no volume of hcp" in out
    assert "volumes: found 0 of 1,113; partial download? figures are not comparable" in out


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown data set 'brats'; nearest: brats2"):
        main(["check", "brats", "--root", str(tmp_path)])
    with pytest.raises(UserError, match="no such folder"):
        main(["check", "covidx", "--root", str(tmp_path / "no")])
    (tmp_path / "x").write_text("mine")
    for name in ("folder", "hyper_kvasir"):
        with pytest.raises(UserError):
            main(["phantom", name, "--root", str(tmp_path)])
    assert (tmp_path / "x").read_text() == "mine"
    with pytest.raises(SystemExit) as caught:
        main(["phantom", "covidx"])
    assert caught.value.code == 2


def test_the_documentation_shows_every_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "data.md"
    assert main(["list", "--markdown"]) == 0
    table = capsys.readouterr().out.strip()
    assert table in page.read_text(), "renew it: zoo data list --docs docs/data.md"
    copy = tmp_path / "data.md"
    copy.write_text("a\n<!-- data sets -->\nold\n<!-- /data sets -->\nb\n")
    assert main(["list", "--docs", str(copy)]) == 0
    assert copy.read_text() == f"a\n<!-- data sets -->\n{table}\n<!-- /data sets -->\nb\n"
    copy.write_text("no marks")
    with pytest.raises(UserError, match="no marks"):
        main(["list", "--docs", str(copy)])


def test_one_data_set_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "hcp"]) == 0
    out = capsys.readouterr().out
    assert "1,113 volumes" in out
    assert "twins and siblings" in out
    with pytest.raises(UserError, match=r"brain_mri is composed of sources; name one of brats17, .*ixi"):
        main(["list", "brain_mri"])


def test_check_takes_the_options_of_fit_and_draws_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, sheet = tmp_path / "own", tmp_path / "sheet.png"
    assert main(["phantom", "folder", "--root", str(root)]) == 0
    capsys.readouterr()
    command = ["check", "folder", "--root", str(root), "--cache_dir", str(tmp_path / "cache")]
    options = ["--data.image_size", "32", "--data.intensity_range", "(0, 200)", "--sheet", str(sheet)]
    assert main([*command, *options]) == 0
    told = capsys.readouterr().out
    assert "sizes of the files      64x64" in told
    assert "as served               32x32, 1 channel(s)" in told
    assert "subjects                unknown" in told
    from PIL import Image

    with Image.open(sheet) as picture:
        assert picture.size == (12 * 98, 3 * 98)
        assert (np.asarray(picture) == (255, 0, 0)).all(-1).any(), "outlines of the masks"
    with pytest.raises(UserError, match=r"--data.image_sizes: unknown option of folder; nearest: --data.image_size"):
        main([*command, "--data.image_sizes", "32"])


def test_values_of_options_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "own"
    assert main(["phantom", "folder", "--root", str(root)]) == 0
    command = ["check", "folder", "--root", str(root), "--cache_dir", str(tmp_path / "cache")]
    for option, value in (("image_size", "abc"), ("bad_files", "foo"), ("val_fraction", "x"), ("seed", "1.5")):
        with pytest.raises(UserError, match=f"--data.{option} {value}: no value for it; `lightning fit --data.help F"):
            main([*command, f"--data.{option}", value])
    (tmp_path / "mine.yaml").write_text("data:\n  class_path: Folder\n  init_args: {image_size: 48, batch_size: 2}\n")
    capsys.readouterr()
    assert main([*command, "--config", str(tmp_path / "mine.yaml")]) == 0
    assert "as served               48x48" in capsys.readouterr().out
    assert main([*command, "--config", str(tmp_path / "mine.yaml"), "--data.image_size", "40"]) == 0
    assert "as served               40x40" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--config models/fae: no data\.init_args there"):
        main([*command, "--config", "models/fae"])


@pytest.mark.parametrize("name", ["brats17", "ixi", "mood_abdomen", "natural_images"])
def test_sources_have_facts_options_and_a_sheet(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, sheet = tmp_path / name, tmp_path / "sheet.png"
    assert main(["phantom", name, "--root", str(root)]) == 0
    capsys.readouterr()
    options = {"brats17": ["--data.sequence", "t2", "--data.mode", "volumes"], "ixi": ["--data.unstripped", "strip"]}
    command = ["check", name, "--root", str(root), "--sheet", str(sheet)]
    assert main([*command, *options.get(name, [])]) == 0
    told = capsys.readouterr().out
    assert "sizes of the files " in told
    assert "0 errors, 0 warnings" in told, told
    stored = {"brats17": "int16 volume", "natural_images": "8-bit RGB JPEG"}.get(name, "")
    assert f"stored as               {stored}" in told
    from PIL import Image

    with Image.open(sheet) as picture:
        rows = {"ixi": 2}.get(name, 1)  # of sequences
        assert picture.size == (12 * 98, rows * 98)
        red = (np.asarray(picture) == (255, 0, 0)).all(-1).any()
    assert red == (name == "brats17"), "outlines where there are some"
    if name == "brats17":
        assert ("  t2 " in told, "  t1 " in told) == (True, False)
        with pytest.raises(UserError, match=r"--data\.sequence t4: no value for it"):
            main([*command, "--data.sequence", "t4"])
        with pytest.raises(UserError, match="unknown option of brats17"):
            main([*command, "--data.train", "ixi"])
    elif name == "ixi":
        assert main(command) == 0
        assert "8 volumes have a skull" in capsys.readouterr().out
        assert main([*command, "--data.sequence", "flair"]) == 1
        assert "error: --data.sequence: ixi has no flair; it has t1, t2" in capsys.readouterr().out


def test_depths_are_told_for_every_kind_of_file(tmp_path: Path) -> None:
    """The kinds of files crossed with what their headers say."""
    import nibabel
    import tifffile
    from PIL import Image

    grey = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)
    colour = np.dstack([grey % 256] * 3).astype(np.uint8)
    written = {
        "8.png": lambda path: Image.fromarray((grey % 256).astype(np.uint8)).save(path),
        "16.png": lambda path: Image.fromarray(grey).save(path),
        "rgb.jpg": lambda path: Image.fromarray(colour).save(path),
        "1.png": lambda path: Image.fromarray(grey % 2 > 0).save(path),
        "p.gif": lambda path: Image.fromarray(colour[..., 0]).save(path),
        "16.tif": lambda path: tifffile.imwrite(path, grey, photometric="minisblack"),
        "s16.tif": lambda path: tifffile.imwrite(path, grey.astype(np.int16), photometric="minisblack"),
        "32.tif": lambda path: tifffile.imwrite(path, grey.astype(np.float32), photometric="minisblack"),
        "rgb16.tif": lambda path: tifffile.imwrite(path, np.dstack([grey] * 3), photometric="rgb"),
        "x.npy": lambda path: np.save(path, grey.astype(np.float64)),
        "x.nii.gz": lambda path: nibabel.save(nibabel.Nifti1Image(grey[..., None].astype(np.int16), np.eye(4)), path),
        "x.mha": lambda path: _write_itk(path, grey),
    }
    expected = {
        "8.png": "8-bit grey PNG", "16.png": "16-bit grey PNG", "rgb.jpg": "8-bit RGB JPEG", "1.png": "1-bit grey PNG",
        "16.tif": "16-bit grey TIFF", "s16.tif": "16-bit signed grey TIFF", "32.tif": "32-bit float grey TIFF",
        "rgb16.tif": "16-bit RGB TIFF", "x.npy": "float64 array", "x.nii.gz": "int16 volume",
        "x.mha": "16-bit unsigned integer volume", "p.gif": "8-bit grey GIF",
    }  # fmt: skip
    for name, write in written.items():
        write(tmp_path / name)
        found = facts_of_files([str(tmp_path / name)])
        assert found["stored as"] == expected[name], name
        assert found["sizes of the files"].startswith("48x40"), name
    several = facts_of_files([str(tmp_path / name) for name in ("8.png", "16.png", "1.png")] + [str(tmp_path / "none")])
    assert several["stored as"] == "1-bit grey PNG (1), 16-bit grey PNG (1), 8-bit grey PNG (1)"


def _write_itk(path: Path, grey: np.ndarray) -> None:
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.GetImageFromArray(grey.T[None]), str(path))


def test_depth_of_films(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    film = facts_of_files([str(get_testdata_file("CT_small.dcm", download=False))])
    assert film == {"sizes of the files": "128x128", "stored as": "16-bit signed grey DICOM"}


def test_numbers_of_medmnist_are_compared_with_the_official_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 546), ("val", 78), ("test", 156)):
        pixels = np.random.default_rng(count).integers(0, 255, (count, 28, 28), np.uint8)
        arrays |= {f"{part}_images": pixels, f"{part}_labels": np.arange(count)[:, None] % 2}
    for name in ("breastmnist", "breastmnist_64", "retinamnist", "ownmnist"):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        command = ["check", "medmnist", "--root", str(tmp_path), "--data.subset", name]
        assert main([*command, "--cache_dir", str(tmp_path / "cache")]) == 0
        told = capsys.readouterr().out
        wrong = "retinamnist: 546/78/156 images to train, validate and test, officially 1,080/120/400"
        assert (wrong in told) == (name == "retinamnist"), told
        assert ("officially" in told) == (name == "retinamnist"), told


def test_check_opens_files_that_no_configuration_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "isles"
    assert main(["phantom", "isles15", "--root", str(root)]) == 0
    victim = sorted(root.rglob("*MR_DWI*/*.nii"))[0]
    victim.write_bytes(victim.read_bytes()[:2000])
    assert main(["check", "isles15", "--root", str(root)]) == 1
    assert f"{victim}: damaged NIfTI" in capsys.readouterr().out
