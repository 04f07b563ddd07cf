"""Files are written whole or not at all, and a failure names the file."""

import errno
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.files import stem, suffix, whole, write_text


@pytest.fixture
def full_disk():
    """No file may grow beyond 64 KiB: writes fail as they do on a full disk, with another number."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def _numpy(path):
    np.save(path, np.zeros(1 << 16))


def _numpy_zip(path):
    np.savez(path, zeros=np.zeros(1 << 16))


def _text(path):
    path.write_text("0" * (1 << 20))


def _torch(path):
    with path.open("wb") as stream:
        torch.save(torch.zeros(1 << 16), stream)


def _folder(path):
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "one.txt").write_text("0" * (1 << 20))


@pytest.mark.parametrize("write", [_numpy, _numpy_zip, _text, _torch, _folder])
def test_full_disk_names_the_file_and_leaves_nothing(write, tmp_path, full_disk):
    path = tmp_path / "made" / "out.npz" if write is _numpy_zip else tmp_path / "made" / "out.npy"
    with pytest.raises(OSError) as found, whole(path) as partial:
        write(partial)
    assert found.value.filename == str(path)
    assert found.value.errno in (errno.EFBIG, errno.EIO)
    assert list((tmp_path / "made").iterdir()) == []


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old\n")

    def half(error):
        with whole(path) as partial:
            partial.write_text("half")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            half(error)
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError) as found, whole(tmp_path / "out.txt"):
        (tmp_path / "in.txt").read_text()
    assert found.value.filename == str(tmp_path / "in.txt")


def test_a_killed_process_remains_are_written_over(tmp_path):
    path = tmp_path / "last.ckpt"
    child = os.fork()
    if child == 0:
        with whole(path) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert [left.name for left in tmp_path.iterdir()] == [".partial-last.ckpt"]
    write_text(path, "whole")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError) as found:
        write_text(tmp_path / "runs" / "a.txt", "")
    assert found.value.filename == str(tmp_path / "runs")


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("a/scan.nii.gz", "scan", ".nii.gz"),
        ("SCAN.NII.GZ", "SCAN", ".nii.gz"),
        ("scan.nii", "scan", ".nii"),
        ("v1.2.png", "v1.2", ".png"),
        ("x.PNG", "x", ".png"),
        ("sub.01_T1w.nii.gz", "sub.01_T1w", ".nii.gz"),
        ("archive.gz", "archive", ".gz"),
        ("noextension", "noextension", ""),
        (".hidden", ".hidden", ""),
    ],
)
def test_stem_and_suffix(name, first, last):
    assert (stem(name), suffix(name)) == (stem(Path(name)), suffix(Path(name))) == (first, last)
