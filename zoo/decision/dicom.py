"""Findings as DICOM objects beside their source: segmentation, structured report, parametric map, secondary capture.

Written by ``highdicom`` (extra ``dicom``). Every object is of a new series with numbers from 900, named "research", and
refers to the source by UID. What the source does not say about geometry is never made up.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.decision.findings import Component
from zoo.errors import UserError
from zoo.files import whole

Array = NDArray[Any]
Kind = Literal["seg", "sr", "pm", "sc"]
SERIES = {"seg": 901, "sr": 902, "pm": 903, "sc": 904}
_MANUFACTURER = "uad-zoo"
# Of type 2: they must be there, and may be empty. De-identified files often lack them.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_SPACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "FrameOfReferenceUID")


class Report(NamedTuple):
    """What the objects say of a case.

    Attributes:
        method: that scored it.
        version: of this package.
        digest: of the calibration, empty without one.
        decision: *flagged*, *not flagged* or *not decided*.
        percentile: nan without a calibration.
        p_value: the same.
        components: findings, numbered as in the label map.
        sizes: their sizes in mm² or mm³, or in pixels where spacing is unknown.
        unit: ``mm2``, ``mm3`` or ``pixels``.
    """

    method: str
    version: str
    digest: str
    decision: str
    percentile: float
    p_value: float
    components: Sequence[Component]
    sizes: Sequence[float]
    unit: str


def read_series(files: Sequence[str | Path]) -> list[Any]:
    """Headers and pixels of a series, sorted along the normal of its slices.

    Raises:
        UserError: mixed series or orientations, or two slices at one position.
    """
    import pydicom

    found = [pydicom.dcmread(file) for file in files]
    if len(found) == 1:
        return found
    for key in ("SeriesInstanceUID", "ImageOrientationPatient", "Rows", "Columns"):
        values = {str(one.get(key)) for one in found}
        if len(values) > 1:
            raise UserError(f"{files[0]}: its series has {len(values)} different {key}; give one series a folder")
    places = [position(one) for one in found]
    if len(set(np.round(places, 3))) < len(places):
        raise UserError(f"{files[0]}: its series has two slices at one position; give one series a folder")
    return [found[k] for k in np.argsort(places, kind="stable")]


def position(header: Any) -> float:
    """Place of a slice along the normal of its plane in mm; its instance number where the plane is not told."""
    if "ImageOrientationPatient" not in header or "ImagePositionPatient" not in header:
        return float(header.get("InstanceNumber") or 0)
    row, column = np.reshape(np.asarray(header.ImageOrientationPatient, float), (2, 3))
    return float(np.cross(row, column) @ np.asarray(header.ImagePositionPatient, float))


def place(headers: Sequence[Any], index: Sequence[float]) -> tuple[float, float, float] | None:
    """Position in mm (LPS) of ``(row, column)`` or ``(slice, row, column)``; None where the header does not tell."""
    row, column = index[-2:]
    first = headers[0]
    if any(key not in first for key in _SPACE[:3]):
        return None
    origins = np.array([one.ImagePositionPatient for one in headers], float)
    depth = index[0] if len(index) == 3 else 0.0
    below = min(int(depth), len(headers) - 1)
    above = min(below + 1, len(headers) - 1)
    origin = origins[below] + (depth - below) * (origins[above] - origins[below])
    across, down = np.reshape(np.asarray(first.ImageOrientationPatient, float), (2, 3))
    spacing = np.asarray(first.PixelSpacing, float)
    x, y, z = origin + across * spacing[1] * column + down * spacing[0] * row
    return float(x), float(y), float(z)


def pixel_size(headers: Sequence[Any]) -> tuple[float, str] | None:
    """mm² of a pixel or mm³ of a voxel, with its unit; None where the header does not tell."""
    spacing = headers[0].get("PixelSpacing") or headers[0].get("ImagerPixelSpacing")
    if not spacing:
        return None
    area = float(spacing[0]) * float(spacing[1])
    if len(headers) == 1:
        return area, "mm2"
    gaps = np.diff([position(one) for one in headers])
    return area * float(np.median(gaps)), "mm3"


def write(
    kind: Kind,
    headers: Sequence[Any],
    path: Path,
    report: Report,
    *,
    labels: Array | None = None,
    percentiles: Array | None = None,
    picture: Array | None = None,
) -> None:
    """Write one object.

    Args:
        kind: ``seg``: binary mask of the findings, one segment; ``sr``: p, percentile, decision and a measurement group
            a finding (TID 1500); ``pm``: percentile map, float32; ``sc``: the overlay, colour.
        headers: see :func:`read_series`.
        path: new file.
        report: what is said.
        labels: ``(n, H, W)`` findings on the source's grid (``seg``, and ``sr`` to refer to slices).
        percentiles: ``(n, H, W)`` float32 (``pm``).
        picture: ``(H, W, 3)`` uint8 (``sc``).

    Raises:
        UserError: highdicom is missing, or the source lacks what the object needs, which is named.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UserError("DICOM objects need highdicom: pip install 'uad-zoo[dicom]'") from error
    source = [_completed(one) for one in headers]
    need = list(_SPACE) if len(source) > 1 or kind == "pm" else []
    if kind in ("seg", "pm"):
        lacking = [key for key in ["StudyInstanceUID", *need] if key not in source[0]]
        if lacking:
            raise UserError(f"{path.name}: not written: the source has no {', '.join(lacking)}, which is not made up")
    if "StudyInstanceUID" not in source[0]:
        raise UserError(f"{path.name}: not written: the source has no StudyInstanceUID, which is not made up")
    maker = {"seg": _segmentation, "sr": _structured_report, "pm": _parametric_map, "sc": _secondary_capture}[kind]
    values = {"seg": labels, "sr": labels, "pm": percentiles, "sc": picture}[kind]
    try:
        made = maker(source, report, values)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{path.name}: not written: {' '.join(str(error).split())[:200]}") from error
    if kind in ("pm", "sc") and "Laterality" not in made:  # the standard wants it here, and highdicom does not copy it
        made.Laterality = source[0].get("Laterality", "")
    if kind != "sr" and "PatientOrientation" not in made and len(source) == 1:
        made.PatientOrientation = source[0].get("PatientOrientation", "")
    made.SeriesDescription = f"{report.method} {kind.upper()} (research)"
    with whole(path) as partial:
        made.save_as(partial)


def _completed(header: Any) -> Any:
    """A copy with the attributes that may be empty."""
    found = copy.deepcopy(header)
    for key in _MAY_BE_EMPTY:
        if key not in found:
            setattr(found, key, "")
    return found


def _identity(kind: Kind, report: Report) -> dict[str, Any]:
    from pydicom.uid import generate_uid

    common = {
        "series_instance_uid": generate_uid(prefix=None),
        "series_number": SERIES[kind],
        "sop_instance_uid": generate_uid(prefix=None),
        "instance_number": 1,
        "manufacturer": _MANUFACTURER,
    }
    if kind in ("seg", "pm"):
        common |= {
            "manufacturer_model_name": report.method,
            "software_versions": report.version,
            "device_serial_number": report.digest or "uncalibrated",
        }
    return common


def _algorithm(report: Report) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.AlgorithmIdentificationSequence(
        name=f"uad-zoo {report.method}", family=codes.DCM.ArtificialIntelligence, version=report.version
    )


def _codes() -> tuple[Any, Any]:
    from highdicom.sr import CodedConcept

    return (
        CodedConcept("49755003", "SCT", "Morphologically abnormal structure"),
        CodedConcept("52988006", "SCT", "Lesion"),
    )


def _segmentation(source: Sequence[Any], report: Report, labels: Array | None) -> Any:
    import highdicom as hd

    assert labels is not None
    category, kind = _codes()
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Finding",
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=_algorithm(report),
        tracking_uid=hd.UID(),
        tracking_id="finding",
    )
    # Viewers misplaced masks whose empty frames were left out (OHIF issue 2833).
    return hd.seg.Segmentation(
        source,
        (labels > 0).astype(np.uint8),
        hd.seg.SegmentationTypeValues.BINARY,
        [segment],
        omit_empty_frames=False,
        content_label="FINDING",
        content_description="anomaly, research",
        **_identity("seg", report),
    )


def _parametric_map(source: Sequence[Any], report: Report, percentiles: Array | None) -> Any:
    import highdicom as hd
    from highdicom.sr import CodedConcept

    assert percentiles is not None
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="PERCENTILE",
        lut_explanation="percentile of healthy pixels",
        unit=CodedConcept("%", "UCUM", "percent"),
        value_range=(0.0, 100.0),
        slope=1,
        intercept=0,
        quantity_definition=CodedConcept("percentile", "99UADZOO", "Percentile of healthy pixels"),
    )
    return hd.pm.ParametricMap(
        source,
        percentiles.astype(np.float32),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=95.0, window_width=10.0)],
        content_label="PERCENTILE",
        **_identity("pm", report),
    )


def _secondary_capture(source: Sequence[Any], report: Report, picture: Array | None) -> Any:
    import highdicom as hd

    assert picture is not None
    made = hd.sc.SCImage.from_ref_dataset(
        source[0],
        picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=source[0].get("PatientOrientation") or ("L", "P"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **_identity("sc", report),
    )
    made.BurnedInAnnotation = "YES"
    return made


def _structured_report(source: Sequence[Any], report: Report, labels: Array | None) -> Any:
    import highdicom as hd
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    def own(value: str, meaning: str) -> Any:
        return CodedConcept(value, "99UADZOO", meaning)

    category, lesion = _codes()
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name="uad-zoo", model_name=report.method, serial_number=report.digest or "uncalibrated"
        ),
    )
    one = CodedConcept("1", "UCUM", "no units")
    measured = []
    if not np.isnan(report.p_value):
        measured = [
            hd.sr.Measurement(own("p-value", "Conformal p-value among healthy cases"), round(report.p_value, 6), one),
            hd.sr.Measurement(
                own("percentile", "Percentile among healthy cases"),
                round(report.percentile, 4),
                CodedConcept("%", "UCUM", "percent"),
            ),
        ]
    word = own(report.decision.replace(" ", "-"), report.decision)
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            hd.sr.TrackingIdentifier(uid=hd.UID(), identifier="case"),
            measurements=measured or None,
            qualitative_evaluations=[hd.sr.QualitativeEvaluation(own("decision", "Decision"), word)],
            source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(source[0])],
        )
    ]
    for finding, size in zip(report.components, report.sizes, strict=True):
        groups.append(
            hd.sr.MeasurementsAndQualitativeEvaluations(
                hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=f"finding {finding.number}"),
                finding_category=category,
                finding_type=lesion,
                measurements=[
                    hd.sr.Measurement(
                        own("p-value", "Conformal p-value among healthy cases"), round(finding.p_value, 6), one
                    ),
                    _size(size, report.unit, own),
                ],
                source_images=[
                    hd.sr.SourceImageForMeasurementGroup.from_source_image(_slice_of(source, finding, labels))
                ],
            )
        )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=list(source),
    )
    return hd.sr.ComprehensiveSR(
        evidence=list(source), content=content[0], is_complete=True, is_final=False, **_identity("sr", report)
    )


def _size(size: float, unit: str, own: Any) -> Any:
    import highdicom as hd
    from highdicom.sr import CodedConcept

    known = {
        "mm2": (CodedConcept("42798000", "SCT", "Area"), CodedConcept("mm2", "UCUM", "square millimeter")),
        "mm3": (CodedConcept("118565006", "SCT", "Volume"), CodedConcept("mm3", "UCUM", "cubic millimeter")),
    }
    pixels = (own("pixels", "Number of pixels"), CodedConcept("{pixels}", "UCUM", "pixels"))
    name, of = known.get(unit, pixels)
    return hd.sr.Measurement(name, round(float(size), 3), of)


def _slice_of(source: Sequence[Any], finding: Component, labels: Array | None) -> Any:
    if labels is None or len(source) == 1:
        return source[0]
    return source[int((labels == finding.number).sum((1, 2)).argmax())]
