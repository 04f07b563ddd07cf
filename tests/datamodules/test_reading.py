"""Decoding at full depth, on files of every kind and on pydicom's own samples."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from datamodules.listing import list_files
from datamodules.preprocessing import read_mask, read_picture, to_unit
from datamodules.reading import BadFile, read_dicom, read_nifti, read_raster
from datamodules.reading.films import _undecodable

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 7), np.uint8)
COLOUR = RNG.integers(0, 256, (9, 7, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (9, 7), np.uint16)


@pytest.mark.parametrize("kind", ["png", "tif", "bmp"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, kind: str) -> None:
    for array in (GREY, COLOUR):
        Image.fromarray(array).save(tmp_path / f"x.{kind}")
        values = read_raster(tmp_path / f"x.{kind}")
        assert values.dtype == np.uint8
        assert (values.squeeze() == array).all()


def test_16_bits_are_kept(tmp_path: Path) -> None:
    import tifffile

    for kind in ("png", "tif"):
        Image.fromarray(DEEP).save(tmp_path / f"x.{kind}")
        assert (read_raster(tmp_path / f"x.{kind}")[..., 0] == DEEP).all()
        np.testing.assert_allclose(read_picture(str(tmp_path / f"x.{kind}"))[..., 0], DEEP / 65535, atol=1e-7)
    colour = RNG.integers(0, 65536, (9, 7, 3), np.uint16)
    tifffile.imwrite(tmp_path / "c.tif", colour, photometric="rgb")
    assert (read_raster(tmp_path / "c.tif") == colour).all()
    floats = RNG.normal(size=(9, 7)).astype(np.float32)
    tifffile.imwrite(tmp_path / "f.tif", floats)
    assert (read_raster(tmp_path / "f.tif")[..., 0] == floats).all()


def test_colour_kinds_become_grey_or_rgb(tmp_path: Path) -> None:
    cases: dict[str, tuple[Image.Image, Any]] = {
        "rgba": (Image.fromarray(np.dstack([COLOUR, GREY])), COLOUR),
        "la": (Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY)]), GREY[..., None]),
        "bits": (Image.fromarray(GREY > 127), (GREY[..., None] > 127) * np.uint8(255)),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / f"{name}.png")
        assert (read_raster(tmp_path / f"{name}.png") == expected).all(), name
    palette = Image.fromarray(GREY).convert("P")
    palette.save(tmp_path / "grey_palette.png")
    assert read_raster(tmp_path / "grey_palette.png").shape == (9, 7, 1)
    few = Image.fromarray(COLOUR).quantize(8)
    few.save(tmp_path / "palette.png")
    assert (read_raster(tmp_path / "palette.png") == np.asarray(few.convert("RGB"))).all()
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert read_raster(tmp_path / "cmyk.jpg").shape == (9, 7, 3)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    image.save(tmp_path / "x.jpg", exif=exif, quality=100)
    values = read_raster(tmp_path / "x.jpg")[..., 0].astype(int)
    assert values.shape == (56, 72)
    assert np.abs(values - np.rot90(np.asarray(image), -1).astype(int)).mean() < 5


def test_masks_of_jpeg_and_small_labels(tmp_path: Path) -> None:
    truth = np.zeros((64, 64), bool)
    truth[16:48, 16:40] = True
    Image.fromarray(np.repeat(truth[..., None] * np.uint8(255), 3, -1)).save(tmp_path / "m.jpg", quality=85)
    assert (read_mask(str(tmp_path / "m.jpg")) == truth).all()
    Image.fromarray(truth.astype(np.uint8) * 2).save(tmp_path / "m.png")
    assert (read_mask(str(tmp_path / "m.png")) == truth).all()


def test_hidden_files_are_ignored_and_case_is_not(tmp_path: Path) -> None:
    (tmp_path / "__MACOSX").mkdir()
    for name in ("A.PNG", "b.nii.GZ", "._A.PNG", "Thumbs.db", "__MACOSX/c.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in list_files(tmp_path)] == ["A.PNG", "b.nii.GZ"]


def test_nifti_axes_follow_the_header(tmp_path: Path) -> None:
    values = RNG.normal(size=(4, 5, 6)).astype(np.float32)  # right, anterior, superior
    for signs in ((1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)):
        steps = tuple(slice(None, None, sign) for sign in signs)
        affine = np.diag([2.0 * signs[0], 3.0 * signs[1], 4.0 * signs[2], 1])
        stored = nib.Nifti1Image(values[steps].transpose(2, 0, 1), affine[:, [2, 0, 1, 3]])
        nib.save(stored, tmp_path / "x.nii.gz")
        volume, found = read_nifti(tmp_path / "x.nii.gz", canonical=True)
        assert (volume == values).all()
        np.testing.assert_allclose(np.diag(found)[:3], [2, 3, 4])
        assert (read_nifti(tmp_path / "x.nii.gz", canonical=False)[0] == stored.get_fdata()).all()


def test_nifti_scaling_and_a_trailing_axis(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "x.nii")
    volume, _ = read_nifti(tmp_path / "x.nii", canonical=True)
    assert volume.shape == (2, 3, 4)


def _sample(name: str) -> str:
    from pydicom.data import get_testdata_file

    return str(get_testdata_file(name, download=False))


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPEG2000.dcm",
     "image_dfl.dcm", "JPGExtended.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm"],
)  # fmt: skip
def test_transfer_syntaxes_are_read(name: str) -> None:
    pytest.importorskip("pylibjpeg")
    film = read_dicom(_sample(name))
    assert film.pixels.ndim == 2
    assert film.pixels.std() > 0


def _lossless_jpeg(pixels: Any) -> bytes:
    """A JPEG stream of process 14, selection value 1: differences to the left, five bits for each category."""
    values = pixels.astype(int)
    rows, columns = values.shape
    predicted = np.roll(values, 1, 1)
    predicted[1:, 0], predicted[0, 0] = values[:-1, 0], 1 << 15
    bits = ""
    for difference in (values - predicted).ravel().tolist():
        size = abs(difference).bit_length()
        bits += f"{size:05b}"
        bits += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}" if size else ""
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    table = bytes([0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    frame = bytes([16, *rows.to_bytes(2, "big"), *columns.to_bytes(2, "big"), 1, 1, 0x11, 0])
    parts = [(0xC3, frame), (0xC4, b"\0" + table), (0xDA, bytes([1, 1, 0, 1, 0, 0]))]
    marked = b"".join(bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body for kind, body in parts)
    return b"\xff\xd8" + marked + scan + b"\xff\xd9"


@pytest.mark.parametrize("selection", ["57", "70"])
def test_lossless_jpeg_comes_back_exactly(tmp_path: Path, selection: str) -> None:
    pytest.importorskip("libjpeg")
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    pixels = (RNG.normal(0, 300, (40, 31)).cumsum(1) + 30000).astype(np.uint16)
    header = pydicom.dcmread(_sample("CT_small.dcm"))
    header.file_meta.TransferSyntaxUID = UID(f"1.2.840.10008.1.2.4.{selection}")
    header.Rows, header.Columns, header.PixelRepresentation = 40, 31, 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelData = encapsulate([_lossless_jpeg(pixels)])
    header["PixelData"].VR = "OB"
    header.save_as(tmp_path / "x.dicom")
    assert (read_dicom(tmp_path / "x.dicom").pixels == pixels).all()


def test_deflated_headers_hold_the_same_pixels(tmp_path: Path) -> None:
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    header = pydicom.dcmread(_sample("MR_small.dcm"))
    expected = header.pixel_array
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.save_as(tmp_path / "x.dicom")
    assert (read_dicom(tmp_path / "x.dicom").pixels == expected).all()


def test_compressed_copies_hold_the_same_pixels() -> None:
    pytest.importorskip("pylibjpeg")
    plain = read_dicom(_sample("MR_small.dcm")).pixels
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"):
        assert (read_dicom(_sample(name)).pixels == plain).all()


@pytest.mark.parametrize(
    ("syntax", "packages"),
    [
        ("1.2.840.10008.1.2.4.70", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.57", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.80", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.5", "pylibjpeg pylibjpeg-rle"),
        ("1.2.840.10008.1.2.4.90", "pylibjpeg pylibjpeg-openjpeg"),
        ("1.2.840.10008.1.2.4.202", "pylibjpeg pylibjpeg-openjpeg"),
    ],
)
def test_a_missing_decoder_is_named(syntax: str, packages: str) -> None:
    error = RuntimeError("Unable to decompress because all plugins are missing dependencies:")
    expected = f"x.dicom: compressed ({syntax}) and no decoder installed; pip install {packages}"
    assert str(_undecodable("x.dicom", syntax, error)) == expected


def test_a_missing_decoder_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import JPEG2000Lossless

    decoder = get_decoder(JPEG2000Lossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(BadFile, match="pip install pylibjpeg pylibjpeg-openjpeg"):
        read_dicom(_sample("MR_small_jp2klossless.dcm"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rtplan.dcm", "a DICOM header without PixelData"),
        ("SC_rgb_small_odd.dcm", r"a colour DICOM \(RGB, 3 samples a pixel\); one grey film"),
        ("examples_palette.dcm", r"a colour DICOM \(PALETTE COLOR, 1 samples a pixel\); one grey film"),
        ("badVR.dcm", "a damaged DICOM header"),
        ("MR_truncated.dcm", "damaged pixels"),
        ("README.txt", "not a DICOM file"),
    ],
)
def test_unusable_dicoms_are_named(name: str, expected: str) -> None:
    path = _sample(name) if name.endswith("dcm") else str(Path(_sample("CT_small.dcm")).with_name(name))
    with pytest.raises(BadFile, match=expected):
        read_dicom(path)


def _write(path: Path, **tags: Any) -> None:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    header = pydicom.dcmread(_sample("CT_small.dcm"))
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for key, value in tags.items():
        setattr(header, key, value)
    header.save_as(path)


def test_windows_inversion_and_rescaling(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    _write(path, WindowCenter=[40, 400], WindowWidth=[80, 2000], RescaleSlope=2, RescaleIntercept=-1000)
    film = read_dicom(path)
    assert film.window == (40, 80)
    modality = np.clip(2.0 * film.pixels - 1000, 0, 79)  # C.11.2.1.2: a window of width 80 has 79 steps
    np.testing.assert_allclose(read_picture(str(path))[..., 0], modality / 79, atol=1e-6)
    _write(path, WindowCenter=40, WindowWidth=0)
    assert read_dicom(path).window is None
    _write(path)
    plain = read_picture(str(path))
    _write(path, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read_picture(str(path)), 1 - plain, atol=1e-6)


def test_a_missing_transfer_syntax_is_mended_or_told(tmp_path: Path) -> None:
    import pydicom

    header = pydicom.dcmread(_sample("CT_small.dcm"))
    expected = header.pixel_array
    del header.file_meta.TransferSyntaxUID
    header.save_as(tmp_path / "x.dcm", implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert (read_dicom(tmp_path / "x.dcm").pixels == expected).all()
    header = pydicom.dcmread(_sample("MR_small_jp2klossless.dcm"))
    del header.file_meta.TransferSyntaxUID
    header.save_as(tmp_path / "y.dcm", implicit_vr=False, little_endian=True, enforce_file_format=False)
    with pytest.raises(BadFile, match="no TransferSyntaxUID and compressed pixels"):
        read_dicom(tmp_path / "y.dcm")


def test_scaling_to_unit_range() -> None:
    assert to_unit(np.array([0, 255], np.uint8)).tolist() == [0, 1]
    assert to_unit(np.array([0, 65535], np.uint16)).tolist() == [0, 1]
    assert to_unit(np.array([0, 4095], np.uint16), (0, 4095)).tolist() == [0, 1]
    assert to_unit(np.array([-3.0, 1.0, 5.0])).tolist() == [0, 0.5, 1]
    assert to_unit(np.full(3, 7.0)).tolist() == [0, 0, 0]
