"""Write masks of DICOM scans as DICOM segmentation objects."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ...runtime.errors import CaseError, UsageError
from ...runtime.files import whole_file
from .. import Grid
from ..segments import segments_of

NAME = "kits-unet3d"
#: Tags that DICOM requires but allows to be empty; a de-identified export may lack them.
MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)

#: Tags that refer a segmentation to its slices; an empty tag refers to nothing.
REFERRED_TO = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def require_highdicom() -> None:
    """Raise a UsageError if highdicom is not installed."""
    try:
        import highdicom  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; `pip install 'kits-unet3d[dicom]'`") from error


def segmentation_path(grid: Grid, directory: str | Path) -> Path:
    """Return the path of a scan's segmentation object."""
    return Path(directory) / f"{grid.name}_seg.dcm"


def write_segmentation(mask: np.ndarray, like: Grid, directory: str | Path, classes: Sequence[str]) -> Path | None:
    """Write a mask (X, Y, Z, uint8) as a DICOM segmentation that refers to the scan's own slices.

    It belongs to the patient and the study in the scan's tags. Empty segments lack frames.

    Returns:
        The file's path; None if the scan is not DICOM.

    Raises:
        CaseError: if the mask is empty, its slices differ from the series', or these lack tags that a
            segmentation must repeat.
    """
    if type(like.header) is not tuple:  # paths of slices; other formats have a named tuple or a header object
        return None
    if len(like.header) != mask.shape[2]:
        raise CaseError(
            f"{like.path}: no DICOM segmentation is written, since missing or uneven slices were resampled; "
            "export the missing ones"
        )
    if not mask.any():
        raise CaseError(f"{like.path}: no DICOM segmentation is written, since its mask is empty")
    import highdicom as hd  # an extra, needed for these files only
    import pydicom

    try:
        number = version(NAME)
    except PackageNotFoundError:
        number = "0"
    algorithm = hd.AlgorithmIdentificationSequence(
        name=NAME, version=number, family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=segment.value,
            segment_label=segment.name,
            segmented_property_category=hd.sr.CodedConcept(segment.category[0], "SCT", segment.category[1]),
            segmented_property_type=hd.sr.CodedConcept(*segment.kind),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=hd.color.CIELabColor.from_rgb(*segment.rgb),
        )
        for segment in segments_of(classes)
    ]
    for segment, described in zip(segments_of(classes), segments, strict=True):
        if segment.side is not None:
            kind = described.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept(*segment.side)]
    sources = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in like.header]
    for source in sources:
        lacking = [tag for tag in REFERRED_TO if not source.get(tag)]
        if lacking:
            raise CaseError(
                f"{like.path}: no DICOM segmentation is written, since its slices lack {', '.join(lacking)}; "
                "leave out --dicom-seg, or complete its tags"
            )
        for missing in (tag for tag in MAY_BE_EMPTY if tag not in source):
            setattr(source, missing, None)
        if source.get("SliceThickness") is None:
            source.SliceThickness = round(like.spacing_mm[2], 6)
    try:
        result = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=np.ascontiguousarray(mask.transpose(2, 1, 0)),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=1000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=NAME,
            manufacturer_model_name=NAME,
            software_versions=number,
            device_serial_number="0",
        )
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        raise CaseError(
            f"{like.path}: no DICOM segmentation is written "
            f"({type(error).__name__} {error}); leave out --dicom-seg, or complete its tags"
        ) from error
    if "ContentCreatorName" not in result:  # may be empty but not absent
        result.ContentCreatorName = None
    path = segmentation_path(like, directory)
    with whole_file(path) as temporary:
        result.save_as(temporary)
    return path
