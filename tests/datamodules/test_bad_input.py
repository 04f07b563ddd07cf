"""Every kind of bad input that users bring, with its message."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from datamodules import Folder, MedMNIST
from datamodules.cache import list_problems
from zoo.errors import UserError


@pytest.fixture
def own(tmp_path: Path, write_folder: Any) -> Path:
    root = tmp_path / "own"
    write_folder(root, 32, (12, 3, 3))
    return root


def _folder(root: Path, **options: Any) -> Folder:
    return Folder(root=str(root), cache_dir=str(root.parent / "cache"), **options)


def _message(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        _folder(root, **options).setup()
    assert len(str(caught.value).splitlines()) <= 6
    return str(caught.value)


def test_missing_root(tmp_path: Path) -> None:
    root = tmp_path / "nowhere"
    assert _message(root) == (f"data.root: no folder {root}; give the folder of the data, or none to run on a phantom")


def test_root_one_level_too_high(own: Path) -> None:
    assert _message(own.parent).endswith(f"pass {own} instead")


def test_wrong_layout(tmp_path: Path) -> None:
    (tmp_path / "x" / "images").mkdir(parents=True)
    message = _message(tmp_path / "x")
    assert "no folder train/normal (found images)" in message
    assert "train/normal, test/normal, test/anomalous" in message


def test_empty_class_folder(own: Path) -> None:
    shutil.rmtree(own / "test" / "normal")
    (own / "test" / "normal").mkdir()
    (own / "test" / "normal" / ".DS_Store").write_bytes(b"x")
    data = _folder(own)
    data.train_dataloader()  # healthy images alone are enough to train
    with pytest.raises(UserError, match=f"{own}/test/normal: no image to test"):
        data.test_dataloader()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>please log in</body></html>")


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (_truncate, "damaged image"),
    "html": (_html, "an HTML page; the download expired or needs a login, fetch the file again"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes; the download was interrupted, fetch the file again"),
    "lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "a git-lfs pointer; run `git lfs pull` where it was cloned",
    ),
    "text": (lambda path: path.write_text("not an image at all"), "not an image; remove it or fetch it again"),
    "16-bit colour": (
        lambda path: path.write_bytes(_png16()),
        "a 16-bit PNG with colour or alpha; save it as 16-bit TIFF or grey PNG",
    ),
}


def _png16() -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(32 * 6) for _ in range(32))
    header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_or_left_out(own: Path, kind: str) -> None:
    harm, expected = BROKEN[kind]
    victim = own / "train" / "normal" / "0005.png"
    harm(victim)
    message = _message(own)
    assert message.startswith(f"{victim}: ")
    assert expected in message
    data = _folder(own, bad_files="lenient")
    with pytest.warns(UserWarning, match=r"1 files left out, listed in .*folder-rejected.csv"):
        data.setup()
    assert len(data.manifest) == 17
    assert str(victim) in (data.cache_dir / "folder-rejected.csv").read_text()
    assert victim.name not in {Path(record.image).name for record in data.manifest}
    assert _message(own) == message  # the lenient entry does not make strict reading pass


def test_many_broken_files_take_six_lines(own: Path) -> None:
    for path in sorted((own / "train" / "normal").iterdir())[2:10]:
        path.write_bytes(b"")
    message = _message(own)
    assert message.startswith("8 files cannot be used (--data.bad_files lenient leaves them out):\n")
    assert message.endswith("\n... and 4 more")


def test_mask_of_another_size(own: Path) -> None:
    mask = sorted((own / "masks").iterdir())[0]
    Image.fromarray(np.full((20, 32), 255, np.uint8)).save(mask)
    image = own / "test" / "anomalous" / mask.name
    assert _message(own) == f"{mask}: a mask of 20x32, its image {image} is 32x32; give matching files"


def test_empty_mask(own: Path) -> None:
    mask = sorted((own / "masks").iterdir())[0]
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(mask)
    assert _message(own).startswith(f"{mask}: an empty mask; ")


def test_missing_mask(own: Path) -> None:
    mask = sorted((own / "masks").iterdir())[0]
    mask.unlink()
    assert f"no mask {own / 'masks' / mask.stem}.*; add it, or remove the folder" in _message(own)


def test_orphaned_mask(own: Path) -> None:
    shutil.copy(sorted((own / "masks").iterdir())[0], own / "masks" / "other.png")
    assert _message(own).startswith(f"{own / 'masks' / 'other.png'}: no image of that name in")


def test_mixed_sizes(own: Path) -> None:
    victim = own / "train" / "normal" / "0003.png"
    Image.fromarray(np.zeros((40, 30), np.uint8)).save(victim)
    assert _message(own) == (
        f"{victim}: 40x30 with 1 channel(s), the first file has 32x32 with 1 channel(s); set --data.image_size"
    )
    _folder(own, image_size=24).setup()


def test_unwritable_cache(own: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="the cache folder is not writable"):
        Folder(root=str(own), cache_dir=str(tmp_path / "file")).setup()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 0}, "data.batch_size must be at least 1, found 0"),
        ({"val_fraction": 1.5}, "data.val_fraction must be in \\[0, 1\\), found 1.5"),
        ({"in_channels": 2}, "data.in_channels must be 1 or 3, found 2"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Folder(**options)


def _npz(root: Path, **changes: Any) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (8, 12, 12), np.uint8)
    arrays: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = images, np.arange(8, dtype=np.uint8)[:, None] % 2
    arrays.update(changes)
    path = root / "some.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"val_images": None}, "no array val_images"),
        ({"train_images": np.zeros((8, 12, 12))}, "train_images is float64"),
        ({"test_images": np.zeros((8, 9, 12, 12, 3), np.uint8)}, "a 2-D subset of uint8 is expected"),
        ({"train_labels": np.zeros((7, 1), np.uint8)}, "8 train images and 7 labels"),
        ({"train_labels": np.full((8, 14), 2, np.uint8)}, "14 labels an image, not all 0 or 1"),
        ({"train_labels": np.full((8, 1), 3, np.uint8)}, r"no image of data.normal_classes \(0,\); classes are 3"),
    ],
)
def test_wrong_medmnist_files(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    path = _npz(tmp_path, **changes)
    with pytest.raises(UserError, match=expected) as caught:
        MedMNIST(root=str(tmp_path), subset="some", cache_dir=str(tmp_path / "c")).setup()
    assert str(path) in str(caught.value)


def test_missing_or_damaged_medmnist_subset(tmp_path: Path) -> None:
    path = _npz(tmp_path)
    with pytest.raises(UserError, match=r"other.npz: no such file \(found some.npz\); set data.subset"):
        MedMNIST(root=str(tmp_path), subset="other", cache_dir=str(tmp_path / "c")).setup()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"some.npz: unreadable"):
        MedMNIST(root=str(tmp_path), subset="some", cache_dir=str(tmp_path / "c")).setup()


def test_volumes_that_cannot_be_used(own: Path) -> None:
    victim = own / "train" / "normal" / "v.nii.gz"
    nib.save(nib.Nifti1Image(np.full((32, 32, 2), np.nan, np.float32), np.eye(4)), victim)
    assert _message(own) == f"{victim}: 2048 values are NaN or infinite; export the volume again"
    nib.save(nib.Nifti1Image(np.zeros((32, 32, 2, 3), np.float32), np.eye(4)), victim)
    assert "one 3-D volume a file is expected" in _message(own)
    victim.write_bytes(victim.read_bytes()[:60])
    assert f"{victim}: damaged NIfTI" in _message(own)


def test_problem_lists_are_short() -> None:
    assert list_problems(["a"]) == "a"
    assert len(list_problems([str(i) for i in range(5)]).splitlines()) == 6
    assert len(list_problems([str(i) for i in range(500)]).splitlines()) == 6
