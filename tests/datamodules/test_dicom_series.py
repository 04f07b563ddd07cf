"""A series of DICOM slices is one volume, whatever its files are called; findings go back to the right slices."""

import csv

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from datamodules import Folder
from zoo.cli import main


def _write_series(folder, rng, patient, lesion=None, count=6):
    """A CT series in files in no order; the lesion brightens slices 2 and 3."""
    folder.mkdir(parents=True)
    uid, study = generate_uid(), generate_uid()
    for number in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"IM{(number * 5) % 7:04d}.dcm"
        made = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        made.PatientID, made.StudyInstanceUID, made.SeriesInstanceUID = patient, study, uid
        made.Modality, made.InstanceNumber, made.FrameOfReferenceUID = "CT", number + 1, "1.2.3"
        made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 3.0 * number], [1, 0, 0, 0, 1, 0]
        made.PixelSpacing, made.SliceThickness = [0.5, 0.5], 3.0
        made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 40, 48, 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
        made.WindowCenter, made.WindowWidth = 2000, 4000
        pixels = rng.integers(900, 1200, (40, 48)).astype(np.uint16)
        if lesion is not None and number in (2, 3):
            pixels[lesion] = 3500
        made.PixelData = pixels.tobytes()
        made.save_as(path)
    return uid


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    root = tmp_path_factory.mktemp("series")
    rng = np.random.default_rng(0)
    for number in range(64):
        _write_series(root / "train" / "normal" / f"h{number:02d}", rng, f"H{number}", count=4 if number % 2 else 6)
    _write_series(root / "test" / "normal" / "n", rng, "N")
    _write_series(root / "test" / "anomalous" / "a", rng, "A", (slice(10, 20), slice(30, 40)))
    return root


def test_series_are_volumes_in_the_order_of_their_positions(patients, tmp_path):
    data = Folder(root=str(patients), image_size=32, cache_dir=str(tmp_path / "cache"))
    test = data.dataset("test")
    assert test.ids[:2] == ["test/anomalous/a#000", "test/anomalous/a#001"]
    batch = test.__getitems__(list(range(6)))
    assert batch["case"] == ["A"] * 6
    assert batch["slice"].tolist() == list(range(6))
    assert batch["image"].amax((1, 2, 3)).argsort()[-2:].sort().values.tolist() == [2, 3]
    assert len({*data.dataset("calibration").subjects}) == 20
    assert not {*data.dataset("calibration").subjects} & {*data.dataset("train").subjects}


def test_a_series_in_segmentation_and_report_out(patients, tmp_path, capsys):
    pytest.importorskip("highdicom")
    arguments = ["--model", "Statistical", "--data", "Folder", "--data.root", str(patients), "--data.image_size", "32"]
    assert main(["fit", *arguments, "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]) == 0
    run = next(tmp_path.glob("statistical*"))
    source = patients / "test" / "anomalous"
    formats = ["--predictions.formats", "[png,html,seg,sr,pm,sc]"]
    assert main(["predict", "--run", str(run), "--input", str(source), *formats]) == 0
    made = run / "predictions-001"
    assert {path.name for path in (made / "dicom").iterdir()} == {f"a_{kind}.dcm" for kind in ("seg", "sr", "pm", "sc")}
    written = pydicom.dcmread(made / "dicom" / "a_seg.dcm")
    truth = {}
    for path in (source / "a").iterdir():
        one = pydicom.dcmread(path)
        truth[one.SOPInstanceUID] = one.InstanceNumber - 1
    for frame, mask in zip(written.PerFrameFunctionalGroupsSequence, written.pixel_array, strict=True):
        of = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        marked = mask[10:20, 30:40].mean()
        assert marked > 0.8 if truth[of] in (2, 3) else marked == 0
        assert mask.sum() < 160
    rows = list(csv.DictReader((made / "components.csv").open()))
    assert rows[0]["space"] == "LPS mm"
    assert rows[0]["size_unit"] == "mm3"
    place = [float(rows[0][axis]) for axis in "xyz"]
    assert place == pytest.approx([34.5 * 0.5, 14.5 * 0.5, 7.5], abs=0.6)
    assert 100 < float(rows[0]["size"]) < 250  # 150 mm³, blurred by resizing
    (case,) = csv.DictReader((made / "cases.csv").open())
    assert (case["case"], case["images"], case["decision"]) == ("A", "6", "flagged")
    assert float(case["largest_component_mm3"]) == float(rows[0]["size"])
