"""DICOM objects: valid, on the right slices, and nothing made up."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from zoo.decision import dicom
from zoo.decision.findings import Component
from zoo.errors import UserError

pytest.importorskip("highdicom")
FOUND = Component(1, 0.01, 5.0, 12, 9.0, (4.0, 10.0, 12.0))
REPORT = dicom.Report("fae", "0.1", "ab12", "flagged", 99.0, 0.01, [FOUND], [60.0], "mm3")


def _header(path, storage, rows=24, columns=32):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    made.PatientID, made.PatientName, made.PatientBirthDate, made.PatientSex = "1", "A^B", "19700101", "O"
    made.StudyInstanceUID, made.StudyID, made.AccessionNumber = "1.2.3.4", "1", ""
    made.StudyDate, made.StudyTime, made.ReferringPhysicianName = "20260101", "120000", ""
    made.SeriesInstanceUID, made.SeriesNumber = "1.2.3.4.5", 1
    made.Manufacturer = "none"
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PixelData = np.random.default_rng(0).integers(0, 4000, (rows, columns), np.uint16).tobytes()
    return made


@pytest.fixture
def series(tmp_path):
    """A CT series of nine slices, in files whose names are in no order."""
    files = []
    for number in range(9):
        path = tmp_path / f"{(number * 5) % 9}.dcm"
        made = _header(path, CTImageStorage)
        made.Modality, made.ImageType, made.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], number + 1
        made.FrameOfReferenceUID, made.PositionReferenceIndicator = "1.2.3.9", ""
        made.ImagePositionPatient, made.ImageOrientationPatient = [-10, 5, 2.5 * number], [1, 0, 0, 0, 1, 0]
        made.PixelSpacing, made.SliceThickness = [0.5, 0.75], 2.5
        made.RescaleSlope, made.RescaleIntercept, made.KVP, made.AcquisitionNumber = 1, -1024, "", "1"
        made.save_as(path)
        files.append(path)
    return sorted(files)


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.dcm"
    made = _header(path, DigitalXRayImageStorageForPresentation)
    made.Modality, made.ImageType, made.InstanceNumber = "DX", ["ORIGINAL", "PRIMARY"], 1
    made.PatientOrientation, made.Laterality, made.ImagerPixelSpacing = ["L", "F"], "", [0.2, 0.2]
    made.save_as(path)
    return path


def _errors(path):
    """Errors of David Clunie's validator."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def _labels(shape):
    labels = np.zeros(shape, np.int32)
    labels[3:6, 8:13, 10:15] = 1
    return labels


def test_series_in_segmentation_and_report_out(series, tmp_path):
    headers = dicom.read_series(series)
    assert [one.InstanceNumber for one in headers] == list(range(1, 10))
    labels = _labels((9, 24, 32))
    dicom.write("seg", headers, tmp_path / "seg.dcm", REPORT, labels=labels)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert written.SeriesDescription == "fae SEG (research)"
    masks = written.pixel_array
    by_uid = {one.SOPInstanceUID: labels[k] > 0 for k, one in enumerate(headers)}
    for frame, mask in zip(written.PerFrameFunctionalGroupsSequence, masks, strict=True):
        of = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert (mask.astype(bool) == by_uid[of]).all()
    dicom.write("sr", headers, tmp_path / "sr.dcm", REPORT, labels=labels)
    text = str(pydicom.dcmread(tmp_path / "sr.dcm"))
    assert "flagged" in text
    assert "robability" not in text
    for kind in ("seg", "sr"):
        assert _errors(tmp_path / f"{kind}.dcm") == []


def test_percentile_map_and_capture(series, tmp_path):
    headers = dicom.read_series(series)
    values = np.random.default_rng(0).uniform(0, 100, (9, 24, 32)).astype(np.float32)
    dicom.write("pm", headers, tmp_path / "pm.dcm", REPORT, percentiles=values)
    written = pydicom.dcmread(tmp_path / "pm.dcm")
    frames = np.frombuffer(written.FloatPixelData, np.float32).reshape(9, 24, 32)
    by_uid = {one.SOPInstanceUID: values[k] for k, one in enumerate(headers)}
    for frame, found in zip(written.PerFrameFunctionalGroupsSequence, frames, strict=True):
        of = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert (found == by_uid[of]).all()
    picture = np.zeros((40, 50, 3), np.uint8)
    dicom.write("sc", headers, tmp_path / "sc.dcm", REPORT, picture=picture)
    assert pydicom.dcmread(tmp_path / "sc.dcm").BurnedInAnnotation == "YES"
    assert [_errors(tmp_path / f"{kind}.dcm") for kind in ("pm", "sc")] == [[], []]


def test_film(film, tmp_path):
    headers = dicom.read_series([film])
    flat = REPORT._replace(components=[FOUND._replace(centre=(10.0, 12.0))], unit="mm2")
    dicom.write("seg", headers, tmp_path / "seg.dcm", flat, labels=np.ones((1, 24, 32), np.int32))
    dicom.write("sr", headers, tmp_path / "sr.dcm", flat)
    with pytest.raises(UserError, match=r"pm.dcm: not written: the source has no .*FrameOfReferenceUID"):
        dicom.write("pm", headers, tmp_path / "pm.dcm", flat, percentiles=np.zeros((1, 24, 32), np.float32))
    assert [_errors(tmp_path / f"{kind}.dcm") for kind in ("seg", "sr")] == [[], []]


def test_stripped_headers(series, tmp_path):
    headers = dicom.read_series(series)
    for one in headers:
        for key in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"):
            delattr(one, key)
    labels = _labels((9, 24, 32))
    dicom.write("seg", headers, tmp_path / "seg.dcm", REPORT, labels=labels)
    assert _errors(tmp_path / "seg.dcm") == []
    assert "PatientID" not in headers[0]
    for one in headers:
        del one.FrameOfReferenceUID
    with pytest.raises(UserError, match="the source has no FrameOfReferenceUID, which is not made up"):
        dicom.write("seg", headers, tmp_path / "other.dcm", REPORT, labels=labels)
    dicom.write("sr", headers, tmp_path / "sr.dcm", REPORT, labels=labels)
    assert not (tmp_path / "other.dcm").exists()


def test_mixed_series_are_refused(series, tmp_path):
    other = pydicom.dcmread(series[0])
    other.SeriesInstanceUID = "9.9"
    other.save_as(series[0])
    with pytest.raises(UserError, match="2 different SeriesInstanceUID"):
        dicom.read_series(series)
    other.SeriesInstanceUID = "1.2.3.4.5"
    other.ImagePositionPatient = pydicom.dcmread(series[1]).ImagePositionPatient
    other.save_as(series[0])
    with pytest.raises(UserError, match="two slices at one position"):
        dicom.read_series(series)


def test_places_are_in_the_patients_space(series):
    headers = dicom.read_series(series)
    assert dicom.place(headers, (2.5, 10, 4)) == pytest.approx((-10 + 0.75 * 4, 5 + 0.5 * 10, 6.25))
    assert dicom.pixel_size(headers) == (pytest.approx(0.5 * 0.75 * 2.5), "mm3")
    assert dicom.pixel_size(headers[:1]) == (pytest.approx(0.375), "mm2")


@pytest.mark.slow
def test_an_independent_reader_finds_the_same_mask(series, tmp_path):
    reader = shutil.which("segimage2itkimage")
    if reader is None:
        pytest.skip("dcmqi is not installed")
    labels = _labels((9, 24, 32))
    dicom.write("seg", dicom.read_series(series), tmp_path / "seg.dcm", REPORT, labels=labels)
    command = [reader, "--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path), "-t", "nii"]
    subprocess.run(command, check=True, capture_output=True)
    import nibabel

    image = nibabel.load(next(tmp_path.glob("*.nii*")))
    marked = np.argwhere(np.asarray(image.dataobj) > 0)
    ras = np.c_[marked, np.ones(len(marked))] @ image.affine.T
    expected = np.array([dicom.place(dicom.read_series(series), place) for place in np.argwhere(labels)])
    found = ras[:, :3] * [-1, -1, 1]
    assert sorted(map(tuple, found.round(3))) == sorted(map(tuple, expected.round(3)))
