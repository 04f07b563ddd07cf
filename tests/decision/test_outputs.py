"""Overlay, NIfTI and worklist: one scale, the source's header, and nothing that a file's name could do."""

import itertools

import nibabel
import numpy as np
import pytest

from zoo.decision import nifti, overlay
from zoo.decision.worklist import Entry, page
from zoo.errors import UserError

QUANTILES = np.linspace(0, 1, 1025).tolist()


def test_same_value_same_colour_in_two_images():
    grey = np.full((20, 30), 0.5)
    one, other = np.zeros((20, 30)), np.zeros((20, 30))
    one[3, 4] = other[15, 20] = 0.995
    other[0, 0] = 1e6
    first, second = overlay.blend(grey, one, QUANTILES), overlay.blend(grey, other, QUANTILES)
    assert (first[3, 4] == second[15, 20]).all()
    assert (first[10, 10] == 128).all()  # below the healthy 90th percentile: the image's own grey


def test_outline_at_the_resolution_of_the_file():
    picture = np.full((120, 160, 3), 0.2)
    labels = np.zeros((30, 40), np.int32)
    labels[10:20, 10:20] = 1
    pixels = overlay.blend(picture, np.zeros((30, 40)), QUANTILES, labels)
    cyan = (pixels == overlay.OUTLINE).all(-1)
    assert pixels.shape == (120, 160, 3)
    rows, columns = np.flatnonzero(cyan.any(1)), np.flatnonzero(cyan.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (40, 79, 40, 79)
    assert not cyan[42:78, 42:78].any()  # one pixel wide


def test_captions_survive_any_name():
    pixels = np.zeros((28, 28, 3), np.uint8)
    lines = overlay.caption("a" * 400 + "\n\x00日本", float("nan"), float("nan"), "not decided", "5 %", True)
    drawn = overlay.with_caption(pixels, lines, "percentile of healthy pixels")
    assert drawn.shape[1] == 28 * 13
    assert drawn.dtype == np.uint8
    assert lines[-1] == "research, not for diagnosis"
    assert "PHANTOM" in lines[0]


FLIPS = list(itertools.product((1, -1), repeat=3))


@pytest.mark.parametrize("signs", [*FLIPS, None])
def test_nifti_keeps_affine_codes_and_units(tmp_path, signs):
    if signs is None:  # oblique
        angle = 0.3
        affine = np.diag([0.7, 0.8, 2.5, 1.0])
        affine[:2, :2] = [[0.7 * np.cos(angle), -0.8 * np.sin(angle)], [0.7 * np.sin(angle), 0.8 * np.cos(angle)]]
    else:
        affine = np.diag([0.7 * signs[0], 0.8 * signs[1], 2.5 * signs[2], 1.0])
    affine[:3, 3] = [-12.5, 7.25, 33]
    source = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)
    source.header.set_xyzt_units("mm", "sec")
    source.header.set_slope_inter(2.0, -7)
    source.set_sform(affine, 1)
    source.set_qform(affine, 1)
    nibabel.save(source, tmp_path / "a.nii.gz")
    values = np.linspace(0, 100, 60, dtype=np.float32).reshape(3, 4, 5)
    nifti.write_like(tmp_path / "a.nii.gz", values, tmp_path / "b.nii.gz", name="percentile", method="fae", largest=100)
    before, after = nibabel.load(tmp_path / "a.nii.gz"), nibabel.load(tmp_path / "b.nii.gz")
    assert (before.affine == after.affine).all()
    for key in ("sform_code", "qform_code", "xyzt_units", "pixdim", "quatern_b", "srow_x"):
        assert (before.header[key] == after.header[key]).all(), key
    assert (np.asarray(after.dataobj) == values).all()
    assert after.header["cal_max"] == 100
    assert nifti.place(tmp_path / "a.nii.gz", (0, 0, 0)) == pytest.approx((-12.5, 7.25, 33))


def test_nifti_of_several_volumes_is_refused_by_name(tmp_path):
    path = tmp_path / "bold.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 6), np.float32), np.eye(4)), path)
    with pytest.raises(UserError, match=r"bold.nii: a NIfTI of shape \(3, 4, 5, 6\)"):
        nifti.write_like(path, np.zeros((3, 4, 5), np.float32), tmp_path / "x.nii", name="a", method="b", largest=1)
    with pytest.raises(UserError, match=r"bold.nii"):
        nifti.shape_of(path)
    single = tmp_path / "single.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 1), np.float32), np.eye(4)), single)
    nifti.write_like(single, np.zeros((3, 4, 5), np.uint8), tmp_path / "x.nii", name="a", method="b", largest=1)
    assert nibabel.load(tmp_path / "x.nii").shape == (3, 4, 5)


def _entry(case, p=0.5, **more):
    nan = float("nan")
    content = {"score": 1.0, "percentile": 50.0, "q_value": nan, "decision": "not flagged", "note": "", "images": 1}
    return Entry(case, p_value=p, thumbnail=None, overlay="", components=[], **content | more)


def test_worklist_is_ordered_escaped_and_alone():
    hostile = "<script>alert(1)</script>\"'&.png"
    thumbnail = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    entries = [
        _entry("b", 0.5),
        _entry(hostile, 0.01, decision="flagged", note="<b>")._replace(
            thumbnail=thumbnail, overlay=f'overlays/{hostile}" onerror="x'
        ),
        _entry("c", float("nan"), decision="not decided"),
        _entry("a", 0.5, score=2.0),
    ]
    text = page("<i>", [("model", "<u>")], ["<s> & more"], entries, True)
    assert "<script" not in text
    assert "<i>" not in text
    assert 'onerror="x' not in text
    assert "PHANTOM" in text
    places = [text.index(f'<td class="case">{name}') for name in ("&lt;script", "a", "b", "c")]
    assert places == sorted(places)
    for outside in ("http:", "https:", "src='", "@import", "url("):
        assert outside not in text
    assert "probability" not in text.lower()
    assert "normal" not in text.lower()


def test_a_thousand_cases_stay_below_ten_megabytes():
    thumbnail = np.random.default_rng(1).integers(0, 60, (40, 40, 1), np.uint8).repeat(8, 0).repeat(8, 1).repeat(3, 2)
    text = page("list", [], [], [_entry(f"{n}")._replace(thumbnail=thumbnail) for n in range(1000)], False)
    assert len(text.encode()) < 10_000_000
