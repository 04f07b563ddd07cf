"""What lies in the cache is what was put there, or it is made again with a word."""

import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from datamodules import Folder
from datamodules.integrity import NAME, damage, entries
from zoo.cli import main


def opened(root, cache, **options):
    """Images of all splits, and what was said."""
    data = Folder(root=None if root is None else str(root), image_size=32, cache_dir=str(cache), **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data.setup()
    store = data.store
    everything = np.arange(len(store))
    arrays = [store.image(everything), store.mask(everything), store.foreground(everything), store.labels]
    return arrays, [str(one.message) for one in said if "made again" in str(one.message)]


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_is_told_and_mended(image_folder, tmp_path):
    wanted, said = opened(image_folder, tmp_path)
    assert not said
    (entry,) = entries(tmp_path)
    files = sorted(path.name for path in entry.folder.iterdir())
    assert {"images.bin", "index.npz", NAME} <= set(files)
    for name in files:
        for place in (0.0, 0.3, 0.99):
            flip(entry.folder / name, place)
            found, said = opened(image_folder, tmp_path)
            assert len(said) == 1, (name, place)
            assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
            assert damage(entry.folder) is None
    found, said = opened(image_folder, tmp_path)
    assert not said


@pytest.mark.parametrize("harm", ["truncate", "remove", "empty", "more", "folder"])
def test_other_damage(harm, image_folder, tmp_path):
    wanted, _ = opened(image_folder, tmp_path)
    (entry,) = entries(tmp_path)
    path = entry.folder / "images.bin"
    if harm == "truncate":
        path.write_bytes(path.read_bytes()[:-7])
    elif harm == "empty":
        (entry.folder / "index.npz").write_bytes(b"")
    elif harm == "more":
        (entry.folder / "stray").write_text("")
    elif harm == "remove":
        path.unlink()
    else:
        path.unlink()
        path.mkdir()
    found, said = opened(image_folder, tmp_path)
    assert len(said) == 1
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_a_flipped_bit_in_a_phantom(tmp_path):
    wanted, _ = opened(None, tmp_path)
    picture = next(path for path in sorted((tmp_path / "phantoms").rglob("*.png")) if path.stat().st_size > 100)
    flip(picture, 0.8)
    found, said = opened(None, tmp_path)
    assert len(said) == 1
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_list_verify_and_clean(image_folder, tmp_path, capsys):
    opened(image_folder, tmp_path)
    opened(None, tmp_path)
    command = ["data", "cache"]
    place = ["--cache_dir", str(tmp_path)]
    assert main([*command, *place]) == 0
    assert "in 3 entries" in capsys.readouterr().out  # pictures, phantom, pictures of the phantom
    flip(entries(tmp_path)[0].folder / "images.bin")
    assert main([*command, "verify", *place]) == 1
    assert "images.bin has other bytes" in capsys.readouterr().out
    assert main([*command, "verify", *place]) == 0
    assert len(entries(tmp_path)) == 2
    old = entries(tmp_path)[0]
    assert main([*command, "clean", *place]) == 2
    assert main([*command, "clean", "--to", "nonsense", *place]) == 2
    assert main([*command, "clean", "--older", "1", *place]) == 0
    assert len(entries(tmp_path)) == 2
    for path in (old.folder / NAME, old.folder.with_name(f"{old.folder.name}.{NAME}")):
        if path.exists():
            os.utime(path, (time.time() - 3 * 86400,) * 2)
    assert main([*command, "clean", "--older", "1", *place]) == 0
    assert old.folder not in [entry.folder for entry in entries(tmp_path)]
    assert main([*command, "clean", "--to", "0B", *place]) == 0
    assert not entries(tmp_path)
    assert not list(Path(tmp_path).rglob("*.png"))
