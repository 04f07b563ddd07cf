"""Files as users have them: every kind crossed with the walker, the readers, the grey scale and the masks."""

import gzip
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from datamodules import Folder
from datamodules.listing import is_dicom, kind, list_files, shown, stem, walk
from datamodules.preprocessing import read_mask, read_picture
from datamodules.reading import BadFile, picture_size, read_picture_file, read_volume_file
from zoo.errors import UserError

RNG = np.random.default_rng(0)
SQUARE = np.zeros((32, 32), bool)
SQUARE[8:16, 8:16] = True


def _grey(side: int = 32) -> Any:
    return RNG.integers(0, 256, (side, side), np.uint8)


def _dicom(path: Path, pixels: Any, **fields: Any) -> Path:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.PixelData = pixels.astype("<u2").tobytes()
    for key, value in fields.items():
        setattr(header, key, value)
    header.save_as(path, enforce_file_format=True)
    return path


def _layout(root: Path, train: int = 8, test: int = 0) -> Path:
    for part, count in (("train/normal", train), ("test/normal", test), ("test/anomalous", test)):
        for number in range(count):
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(_grey()).save(root / part / f"{part[-3:]}{number}.png")
    return root


def _folder(root: Path, **options: Any) -> Folder:
    return Folder(root=str(root), cache_dir=str(root.parent / "cache"), **options)


# ---- the walker -----------------------------------------------------------------------------------------------------


def test_links_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for place in ("a/x.png", "a/deep/y.png", "out/z.png"):
        (tmp_path / place).write_bytes(b"x")
    (tmp_path / "a" / "away").symlink_to(tmp_path / "out")
    (tmp_path / "a" / "deep" / "circle").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "file.png").symlink_to(tmp_path / "out" / "z.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    listing = walk(tmp_path / "a")
    found = [path.relative_to(tmp_path / "a").as_posix() for path in listing.files]
    assert found == ["away/z.png", "deep/y.png", "file.png", "x.png"]
    assert listing.unread == {"broken link": 1}


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", ".git"])
def test_left_over_folders_are_skipped(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "x.png").write_bytes(b"x")
    (tmp_path / "y.png").write_bytes(b"x")
    assert [path.name for path in list_files(tmp_path)] == ["y.png"]


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    for name in ("a.heic", "b.heic", "c.svs", "noname", "list.csv", "x.img", "x.hdr", "d.mhd", "d.raw"):
        (tmp_path / name).write_bytes(b"x")
    listing = walk(tmp_path)
    assert listing.unread == {".heic": 2, ".svs": 1, "": 1, ".csv": 1}
    assert "2 .heic, 1 .svs, 1 of no known kind" in listing.note() or "2 .heic" in listing.note()
    assert "csv" not in listing.note()
    assert "1 .csv" in listing.note(texts=True)


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113619.2", "x.IMA", "scan.0003"])
def test_dicom_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    path = _dicom(tmp_path / name, np.arange(64).reshape(8, 8) * 60)
    assert is_dicom(path)
    assert kind(path) in (".dcm", ".ima")
    assert read_picture(str(path)).shape == (8, 8, 1)
    assert [one.name for one in list_files(tmp_path)] == [name]


def test_names_are_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.fromarray(_grey()).save(tmp_path / name)
    (path,) = list_files(tmp_path)
    assert shown(path.name) == "caf\\xe9.png"
    root = _layout(tmp_path / "r")
    (tmp_path / name).rename(root / "train/normal" / name)
    assert "train/normal/caf\\xe9.png" in {record.id for record in _folder(root).index(root)}


@pytest.mark.parametrize(
    ("name", "expected"), [("a/x.nii.gz", "a/x"), ("x.ome.tif", "x"), ("v1.2.png", "v1.2"), ("1.2.840.5", "1.2.840.5")]
)
def test_stems_lose_known_suffixes_only(name: str, expected: str) -> None:
    assert stem(name) == expected


# ---- the guard ------------------------------------------------------------------------------------------------------


def _png(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _nifti_header(shape: tuple[int, ...]) -> bytes:
    header = nib.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header["dim"][: len(shape) + 1] = [len(shape), *shape]
    header["vox_offset"], header["magic"] = 544, b"n+2\0\r\n\032\n"
    return header.binaryblock + bytes(16)


def _npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _npz(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy_header("(1000000, 1000000)") + bytes(1000))


BOMBS = {
    "huge.png": lambda path: path.write_bytes(_png(100_000, 100_000)),
    "huge.nii": lambda path: path.write_bytes(_nifti_header((10_000, 10_000, 10_000))),
    "huge.nii.gz": lambda path: path.write_bytes(gzip.compress(_nifti_header((10_000, 10_000, 10_000)))),
    "huge.npy": lambda path: path.write_bytes(_npy_header("(1000000, 1000000)")),
    "huge.npz": _npz,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_header(tmp_path: Path, name: str) -> None:
    BOMBS[name](tmp_path / name)
    with pytest.raises(BadFile, match=r"million (values|pixels)") as caught:
        read_volume_file(tmp_path / name, canonical=False) if ".nii" in name else read_picture(str(tmp_path / name))
    assert "UAD_MAX_MEGAPIXELS" in str(caught.value)


def test_deflated_dicoms_are_counted_before_they_are_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    path = _dicom(tmp_path / "x.dcm", np.zeros((20, 20)))
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.PixelComments, header.ImageComments = "", "x" * 10_000
    header.add_new((0x0009, 0x0010), "LO", "bomb")
    header.add_new((0x0009, 0x1001), "OB", bytes(80_000_000))
    header.save_as(path)
    monkeypatch.setenv("UAD_MAX_MEGAPIXELS", "0.001")
    with pytest.raises(BadFile, match="a deflated DICOM of more than"):
        read_picture(str(path))


def test_the_user_can_raise_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(_grey()).save(tmp_path / "x.png")
    monkeypatch.setenv("UAD_MAX_MEGAPIXELS", "0.0009")
    with pytest.raises(BadFile, match=r"32x32, 0 million values; the limit is 0; .*UAD_MAX_MEGAPIXELS=1"):
        read_picture(str(tmp_path / "x.png"))
    monkeypatch.setenv("UAD_MAX_MEGAPIXELS", "0.002")
    assert read_picture(str(tmp_path / "x.png")).shape == (32, 32, 1)
    monkeypatch.setenv("UAD_MAX_MEGAPIXELS", "many")
    with pytest.raises(UserError, match="expected a number of million pixels"):
        read_picture(str(tmp_path / "x.png"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("ending", [".tif", ".npy", ".npz", ".nii.gz"])
def test_not_numbers_are_found_after_every_reader(tmp_path: Path, ending: str, value: float) -> None:
    import tifffile

    values = RNG.random((16, 16, 4)).astype(np.float32)
    values[3, 3, 0] = value
    path = tmp_path / f"x{ending}"
    if ending == ".nii.gz":
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    elif ending == ".tif":
        tifffile.imwrite(path, values[..., 0])
    else:
        (np.save if ending == ".npy" else np.savez)(path, values[..., 0])
    with pytest.raises(BadFile, match="1 values are NaN or infinite"):
        read_volume_file(path, canonical=False) if ending == ".nii.gz" else read_picture(str(path))


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
@pytest.mark.parametrize("ending", [".npy", ".nii"])
def test_values_that_cannot_be_shown_are_refused(tmp_path: Path, ending: str, dtype: Any) -> None:
    path = tmp_path / f"x{ending}"
    values = np.zeros((8, 8, 3), dtype)
    if ending == ".nii":
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    else:
        np.save(path, values[..., 0])
    with pytest.raises(BadFile, match="instead of grey values"):
        read_volume_file(path, canonical=False) if ending == ".nii" else read_picture(str(path))


@pytest.mark.parametrize("ending", [".tif", ".gif", ".webp", ".png"])
def test_several_pages_and_frames_are_refused(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(_grey()) for _ in range(3)]
    frames[0].save(tmp_path / f"x{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(BadFile, match=r"of 3 (pages|frames); one image a file is expected"):
        read_picture_file(tmp_path / f"x{ending}")


@pytest.mark.parametrize("ending", [".gif", ".webp", ".jp2", ".pgm", ".bmp"])
def test_pillow_s_kinds_are_read(tmp_path: Path, ending: str) -> None:
    Image.fromarray(_grey()).save(tmp_path / f"x{ending}")
    assert read_picture(str(tmp_path / f"x{ending}")).shape[:2] == picture_size(tmp_path / f"x{ending}") == (32, 32)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".img", ".mgz", ".nii"])
def test_volumes_of_all_kinds_hold_the_same(tmp_path: Path, ending: str) -> None:
    values = RNG.integers(0, 900, (6, 5, 4)).astype(np.int16)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    if ending in (".mha", ".nrrd"):
        sitk = pytest.importorskip("SimpleITK")
        image = sitk.GetImageFromArray(values.T)
        image.SetSpacing((2.0, 3.0, 4.0))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # towards left and back: the NIfTI of the other kinds
        sitk.WriteImage(image, str(tmp_path / f"x{ending}"))
    else:
        makers = {".img": nib.Nifti1Pair, ".mgz": nib.MGHImage, ".nii": nib.Nifti1Image}
        nib.save(makers[ending](values, affine), tmp_path / f"x{ending}")
    read = read_volume_file(tmp_path / f"x{ending}", canonical=True)
    assert (read.values == values).all()
    np.testing.assert_allclose(np.abs(np.diag(read.affine)), [2, 3, 4, 1], atol=1e-5)


# ---- one grey scale -------------------------------------------------------------------------------------------------


def test_films_are_shown_as_their_header_states(tmp_path: Path) -> None:
    ramp = np.linspace(0, 2000, 400).reshape(20, 20)
    _dicom(tmp_path / "a.dcm", ramp, RescaleSlope=1, RescaleIntercept=-1000)
    assert read_picture(str(tmp_path / "a.dcm")).max() == pytest.approx(2000 / 4095, abs=1e-3)
    window = {"RescaleIntercept": -1000, "RescaleSlope": 1, "WindowCenter": 0, "WindowWidth": 1000}
    _dicom(tmp_path / "b.dcm", ramp, **window)
    shown_ = read_picture(str(tmp_path / "b.dcm"))
    assert (shown_.min(), shown_.max()) == (0, 1)
    _dicom(tmp_path / "c.dcm", ramp, **window, VOILUTFunction="SIGMOID")
    assert read_picture(str(tmp_path / "c.dcm"))[0, 0] == pytest.approx(1 / (1 + np.exp(4)), abs=1e-4)
    _dicom(tmp_path / "d.dcm", ramp, **window, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read_picture(str(tmp_path / "d.dcm")), 1 - shown_, atol=1e-6)
    own = read_picture(str(tmp_path / "d.dcm"), (-1000.0, 1000.0))  # the user's range wins, in modality values
    assert own[0, 0, 0] == pytest.approx(1, abs=1e-3)


def test_white_is_zero_and_twelve_bits_of_tiffs(tmp_path: Path) -> None:
    import tifffile

    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    tifffile.imwrite(tmp_path / "w.tif", values, photometric="miniswhite")
    np.testing.assert_allclose(read_picture(str(tmp_path / "w.tif"))[..., 0], 1 - values / 65535, atol=1e-6)
    tifffile.imwrite(tmp_path / "f.tif", np.linspace(0, 300, 64, dtype=np.float32).reshape(8, 8))
    with pytest.raises(BadFile, match=r"set --data.intensity_range, for example \[0, 300\]"):
        read_picture(str(tmp_path / "f.tif"))


def test_a_set_without_a_stated_scale_has_one(tmp_path: Path) -> None:
    root = tmp_path / "r"
    (root / "train/normal").mkdir(parents=True)
    for number in range(4):
        np.save(root / "train/normal" / f"{number}.npy", np.full((8, 8), 10.0 * number) + RNG.random((8, 8)))
    data = _folder(root, val_fraction=0)
    low, high = data.grey_scale() or (0.0, 0.0)
    assert 0 <= low < 1
    assert 30 < high < 31
    with pytest.warns(UserWarning, match="val_fraction is 0"):
        means = data.dataset("train").store.image(np.arange(4)).mean((1, 2, 3))
    assert np.allclose(np.diff(means), 10 / (high - low), atol=0.02), "alike files get alike values"
    assert data.recipe()["known"]["grey_scale"] == [low, high]


# ---- masks ----------------------------------------------------------------------------------------------------------


def _drawn(name: str) -> Image.Image:
    square = SQUARE.astype(np.uint8)
    colours = {"green": (0, 255, 0), "dark": (0, 0, 60), "white": (255, 255, 255)}
    if name in colours:
        return Image.fromarray(square[..., None] * np.array(colours[name], np.uint8))
    if name == "on white":
        return Image.fromarray(np.where(SQUARE[..., None], (200, 0, 0), 255).astype(np.uint8))
    if name == "alpha":
        return Image.fromarray(np.dstack([square * 0, square * 0, square * 0, square * 255]))
    if name == "palette":
        image = Image.fromarray(1 - square, mode="P")
        image.putpalette([255, 0, 0, 0, 0, 0] + [0] * 762)
        return image
    return Image.fromarray(square * int(name))


@pytest.mark.parametrize("name", ["green", "dark", "white", "on white", "alpha", "palette", "1", "100", "255"])
def test_any_colour_palette_label_or_opacity_marks(tmp_path: Path, name: str) -> None:
    _drawn(name).save(tmp_path / "m.png")
    assert (read_mask(str(tmp_path / "m.png")) == SQUARE).all()


def test_labels_count_and_soft_edges_are_cut(tmp_path: Path) -> None:
    labels = SQUARE.astype(np.uint8) * 40
    for place, value in enumerate((80, 120, 200, 255)):
        labels[20:24, 4 * place : 4 * place + 4] = value
    Image.fromarray(labels).save(tmp_path / "l.png")
    assert (read_mask(str(tmp_path / "l.png")) == (labels > 0)).all()
    soft = Image.fromarray(SQUARE.astype(np.uint8) * 255).resize((100, 100), Image.Resampling.BILINEAR)
    soft.save(tmp_path / "s.png")
    assert read_mask(str(tmp_path / "s.png")).mean() == pytest.approx(1 / 16, abs=0.003)


def _volumes(root: Path, mask: Any, affine: Any) -> Folder:
    for part in ("train/normal", "test/normal", "test/anomalous"):
        (root / part).mkdir(parents=True)
        nib.save(
            nib.Nifti1Image(RNG.random((8, 9, 5)).astype(np.float32), np.eye(4)), root / part / f"{part[-3:]}.nii.gz"
        )
    (root / "masks").mkdir()
    nib.save(nib.Nifti1Image(mask, affine), root / "masks" / "ous_seg.nii.gz")
    return _folder(root)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_volume_masks_are_brought_to_their_image_or_refused(tmp_path: Path) -> None:
    truth = np.zeros((8, 9, 5), np.uint8)
    truth[1:3, 4:9, 2] = 1
    turned = np.diag([-1.0, 1.0, 1.0, 1.0])
    turned[0, 3] = 7
    data = _volumes(tmp_path / "a", np.ascontiguousarray(truth[::-1]), turned).dataset("test")
    masks = data.store.mask(data.indices)[data.labels == 1, 0]
    assert (masks[0] == (truth[..., 2] > 0)).all()
    away = np.eye(4)
    away[2, 3] = 40
    with pytest.raises(UserError, match=r"another place or direction than its image, 40\.0 mm apart"):
        _volumes(tmp_path / "b", truth, away).setup()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_masks_that_fill_the_image_are_told(tmp_path: Path) -> None:
    root = _layout(tmp_path / "r", test=2)
    (root / "masks").mkdir()
    for number in range(2):
        Image.fromarray(~SQUARE).convert("L").save(root / "masks" / f"ous{number}.png")
    data = _folder(root)
    data.setup()
    assert any("2 masks fill nearly all of their image" in note for note in data.check_notes())


# ---- layouts and tables ---------------------------------------------------------------------------------------------


def test_healthy_images_alone_train(tmp_path: Path) -> None:
    data = _folder(_layout(tmp_path / "r"))
    assert len(data.dataset("train")) == 7
    with pytest.raises(UserError, match="training does without, the test needs both kinds"):
        data.test_dataloader()


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (("train/good", "test/good", "test/crack", "ground_truth/crack"), "mv train/good train/normal"),
        (("train/NORMAL", "train/PNEUMONIA", "test/NORMAL", "test/PNEUMONIA"), "mv test/PNEUMONIA test/anomalous/"),
        (("Train/Normal", "Test/Normal"), "mv Train/Normal train/normal"),
    ],
)
def test_layouts_of_others_are_told_their_mend(tmp_path: Path, names: tuple[str, ...], advice: str) -> None:
    for name in names:
        (tmp_path / "r" / name).mkdir(parents=True)
        Image.fromarray(_grey()).save(tmp_path / "r" / name / "x.png")
    with pytest.raises(UserError, match="no folder train/normal") as caught:
        _folder(tmp_path / "r").setup()
    assert advice in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 6


def test_masks_in_a_folder_of_another_name(tmp_path: Path) -> None:
    root = _layout(tmp_path / "r", test=1)
    (root / "ground_truth").mkdir()
    with pytest.raises(UserError, match=r"masks are expected in .*masks; rename the folder"):
        _folder(root).setup()


def _table(tmp_path: Path, text: str) -> Folder:
    for number in range(8):
        Image.fromarray(_grey()).save(tmp_path / f"{number}.png")
    Image.fromarray(SQUARE).save(tmp_path / "m.png")
    (tmp_path / "t.csv").write_text(text, encoding="utf-8-sig")
    return Folder(table=str(tmp_path / "t.csv"), cache_dir=str(tmp_path / "cache"), val_fraction=0.25)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_says_what_folders_say(tmp_path: Path, separator: str) -> None:
    lines = ["path,label,mask,subject,split,age"]
    lines += [f"{n}.png,0,,p{n // 2},train,{40 + n}" for n in range(4)]
    lines += ["4.png,normal,,p8,test,50", "5.png,1,m.png,p9,test,51"]
    data = _table(tmp_path, "\n".join(lines).replace(",", separator) + "\n")
    assert {one.subject for one in data.index(tmp_path) if one.split == "train"} in ({"p0"}, {"p1"}), "by subject"
    test = data.dataset("test")
    assert test.labels.tolist() == [0, 1]
    assert (test.store.mask(test.indices)[1, 0] == SQUARE).all()
    assert dict(next(one for one in data.records if one.id == "5.png").columns) == {"age": "51"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n0.png,0\n", r"no column path \(found file, label\)"),
        ("path,label\n0.png,0\n9.png,0\n", r"9.png: no such file \(line 3 of t.csv\)"),
        ("path,label\n0.png,2\n", "label '2'; write 0 for healthy, 1 for anomalous"),
        ("path,label,split\n0.png,1,train\n", "an anomalous image in train"),
        ("path,split\n0.png,training set\n", "split 'training set'; write one of train, val, test, unlabeled"),
        ("path,label\n0.png,0\n0.png,0\n", "line 3 of t.csv names it again, line 2 did"),
        ("path,label\n0.png,0,1\n", "line 2 has 3 cells, the first line 2"),
    ],
)
def test_mistakes_in_a_table_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _table(tmp_path, text).setup()


# ---- workers --------------------------------------------------------------------------------------------------------


def test_data_sets_travel_to_spawned_workers_without_pixels(tmp_path: Path) -> None:
    data = _folder(_layout(tmp_path / "r", train=20, test=2))
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        packed = pickle.dumps(loader.dataset)
        assert len(packed) < 4000
        again, first = pickle.loads(packed).__getitems__([0]), loader.dataset.__getitems__([0])  # type: ignore[attr-defined]
        assert (again["image"] == first["image"]).all()


@pytest.mark.parametrize("ending", ["_seg", "-Mask", "_GT", "_Label", ""])
def test_masks_are_found_by_their_endings(ending: str, tmp_path: Path) -> None:
    """Also where an image's own name ends so."""
    from datamodules.folder_layout import match_masks

    images = [tmp_path / "test/anomalous" / name for name in ("a.png", "b_GT.png", "B.v1.png")]
    for image in images:
        mask = tmp_path / "masks" / f"{image.stem}{ending}.png"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(path)
    found, problems = match_masks(tmp_path, images)
    assert problems == []
    assert {image.name: mask.name for image, mask in found.items()} == {
        image.name: f"{image.stem}{ending}.png" for image in images
    }
