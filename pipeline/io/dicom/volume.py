"""Read one DICOM series as a volume; only their positions decide where the slices lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from ...runtime.errors import CaseError
from ..grid import LPS_TO_RAS
from ..voxels import AIR, DENSEST, Admission, Hounsfield, ReadOptions, Stored
from .headers import Slice, require_pixels, unreadable
from .series import SAME_MM, DicomDirectory, Series

#: Relative difference between steps above which the slices count as uneven.
UNEVEN = 0.05
#: Distance from the line through the first and last slice above which a slice is out of place, in mm.
OUT_OF_LINE_MM = 0.5
#: Value of padding, below every HU; it counts as air.
OUTSIDE = -32000
#: Directions that differ by less than this count as the same.
SAME_DIRECTION = 1e-3
#: Deviation from perpendicular directions of length 1 that rounded headers have.
NOT_ORTHONORMAL = 1e-2
#: Angle in degrees between the slices' normal and the line through the slices above which it is a gantry tilt.
TILT_DEGREES = 0.5


def read_dicom(directory: DicomDirectory, options: ReadOptions, admit: Admission) -> Stored:
    """Read the chosen series of a directory.

    Raises:
        CaseError: naming the directory and the reason.
    """
    warnings = [f"left out: {count} {kind}" for kind, count in directory.left_out]
    if directory.damaged:
        names = ", ".join(one.path.name for one in directory.damaged[:3])
        raise CaseError(
            f"{directory.path}: {len(directory.damaged)} damaged files ({names}): {directory.damaged[0].error}"
        )
    series = directory.choose(options.series)
    slices = _in_order(directory, series, warnings)
    affine, places = _geometry(directory, slices, options, warnings)
    shape = (*slices[0].size, int(np.floor(places[-1] + 1.001)))
    admit(shape, affine)
    voxels, more = _voxels(directory, slices, shape, places, options)
    # The planes of a resampled volume are not those of the files.
    even = bool(np.array_equal(places, np.arange(len(slices))))
    paths = tuple(one.path for one in slices) if even else ()
    return Stored(voxels, affine, paths, (*warnings, *more))


def _in_order(directory: DicomDirectory, series: Series, warnings: list[str]) -> list[Slice]:
    where = f"{directory.path}: series {series.label}"
    for one in series.slices:
        missing = {"ImagePositionPatient": one.position, "ImageOrientationPatient": one.orientation}
        missing["PixelSpacing"] = one.spacing
        absent = [name for name, value in missing.items() if not value]
        if absent:
            raise CaseError(f"{where}: {one.path.name} has no {', '.join(absent)}, so its position is unknown")
    if len(series.slices) < 2:
        raise CaseError(f"{where} has one slice; a scan has three axes of several voxels each, name its directory")
    scaled = any(one.rescale for one in series.slices)
    for one in series.slices:
        if scaled and len(one.rescale) < 2:
            raise CaseError(
                f"{where}: {one.path.name} lacks RescaleSlope or RescaleIntercept, which others have, or one of the "
                "two; export it again"
            )
        if one.rescale[:1] == (0.0,):
            raise CaseError(f"{where}: {one.path.name} has RescaleSlope 0, so its voxels are lost; export it again")
        axes = np.reshape(one.orientation, (2, 3))
        if np.abs(axes @ axes.T - np.eye(2)).max() > NOT_ORTHONORMAL:
            raise CaseError(
                f"{where}: ImageOrientationPatient of {one.path.name} is not two perpendicular directions of length 1; "
                "export it again"
            )
    if repeated := [uid for uid, count in Counter(one.uid for one in series.slices if one.uid).items() if count > 1]:
        names = ", ".join(one.path.name for one in series.slices if one.uid == repeated[0])
        raise CaseError(f"{where}: {names} have one SOPInstanceUID but different positions; export them again")
    for tag, name in (("RescaleSlope and RescaleIntercept", "rescale"), ("PixelRepresentation", "signed")):
        kinds = Counter(getattr(one, name) for one in series.slices)
        if len(kinds) > 1:
            told = ", ".join(f"{value} in {count}" for value, count in kinds.most_common(3))
            warnings.append(f"{tag} differs between slices ({told}); check whether they are one scan")
    for name in ("orientation", "spacing", "size"):
        values = np.array([getattr(one, name) for one in series.slices], dtype=np.float64)
        if np.abs(values - values[0]).max() > SAME_DIRECTION:
            kinds = Counter(tuple(v) for v in values.round(3).tolist())
            raise CaseError(f"{where}: its slices differ in {name} ({dict(kinds.most_common(3))}); separate them")
    return _without_repeats(where, series.slices, warnings)


def _geometry(
    directory: DicomDirectory, slices: Sequence[Slice], options: ReadOptions, warnings: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the affine to RAS, and each slice's place along Z in voxels, whole if the slices are even."""
    first = slices[0]
    positions = np.array([one.position for one in slices])
    along = np.array([one.distance for one in slices]) - first.distance
    steps = np.diff(along)
    step = float(np.median(steps))
    uneven = bool((np.abs(steps - step) > UNEVEN * step).any())
    if uneven and not options.allow_gaps:
        worst = int(np.argmax(np.abs(steps - step)))
        raise CaseError(
            f"{directory.path}: slices are missing or uneven: {steps[worst]:.2f} mm between "
            f"{slices[worst].path.name} and the next, {step:.2f} mm elsewhere{''.join(f'; {w}' for w in warnings)}; "
            "find the missing ones, or interpolate with --allow-gaps"
        )
    if not uneven:
        step = float(along[-1] / (len(slices) - 1))
    way = positions[-1] - positions[0]
    line = positions[0] + np.outer(along / along[-1], way)
    if np.linalg.norm(positions - line, axis=1).max() > max(OUT_OF_LINE_MM, UNEVEN * step):
        raise CaseError(f"{directory.path}: its slices are not on one line, so they are not one volume; separate them")
    third = way / along[-1] * step
    tilt = np.degrees(np.arccos(np.clip(along[-1] / np.linalg.norm(way), -1, 1)))
    if tilt > TILT_DEGREES:
        warnings.append(f"gantry tilt of {tilt:.1f} degrees, corrected")
    affine = np.eye(4)
    if min(first.spacing) < 0:
        warnings.append(f"PixelSpacing {first.spacing} is negative; its absolute value is used")
    rows, columns = np.abs(first.spacing)
    affine[:3, 0] = np.multiply(first.orientation[:3], columns)
    affine[:3, 1] = np.multiply(first.orientation[3:], rows)
    affine[:3, 2], affine[:3, 3] = third, positions[0]
    told = np.linalg.norm(affine[:3, :3], axis=0)
    spacing = options.spacing_instead_of(told, warnings)
    if spacing is not None:
        affine[:3, :3] *= np.array(spacing) / told
    if uneven:
        warnings.append(f"uneven slices were resampled to an even grid of {step:.2f} mm")
    return LPS_TO_RAS @ affine, along / step if uneven else np.arange(len(slices), dtype=np.float64)


def _voxels(
    directory: DicomDirectory,
    slices: Sequence[Slice],
    shape: tuple[int, int, int],
    places: np.ndarray,
    options: ReadOptions,
) -> tuple[np.ndarray, list[str]]:
    """Read the slices in order; interpolate the missing ones between two that are further apart."""
    before, has_padding = _plane(slices[0])
    padded, done = int(has_padding), 1
    hounsfield = Hounsfield(directory.path, shape, before.dtype, offset=options.hu_offset)
    # Clip before interpolating, which would smear padding into the body.
    limits = AIR - (options.hu_offset or 0.0), DENSEST - (options.hu_offset or 0.0)
    hounsfield.put(0, before)
    for number, one in enumerate(slices[1:], start=1):
        now, has_padding = _plane(one)
        padded += has_padding
        while done < shape[2] and done <= places[number] + 1e-3:
            share = (done - places[number - 1]) / (places[number] - places[number - 1])
            if share > 1 - 1e-3:
                hounsfield.put(done, now)
            else:
                hounsfield.put(done, np.clip(before, *limits) * (1 - share) + np.clip(now, *limits) * share)
            done += 1
        before = now
    voxels, warnings = hounsfield.finished()
    return voxels, [*([f"PixelPaddingValue of {padded} slices was read as air"] if padded else []), *warnings]


def _plane(one: Slice) -> tuple[np.ndarray, bool]:
    """Read the voxels (columns, rows, 1) of a file, in HU, and whether it has padding, which is below every HU."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(one.path))
    try:
        reader.ReadImageInformation()
        bits = reader.GetMetaData("0028|0100").strip() if reader.HasMetaDataKey("0028|0100") else ""
        require_pixels(one, int(bits) if bits.isdigit() else 16)
        image = reader.Execute()
    except RuntimeError as error:
        raise CaseError(f"{one.path}: {unreadable(one.path, error)}") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise CaseError(f"{one.path}: each voxel is a colour; it is not CT")
    plane = sitk.GetArrayFromImage(image).reshape(one.size[1], one.size[0], 1).transpose(1, 0, 2)
    has_padding = False
    if one.padding:
        slope, intercept = one.rescale if len(one.rescale) == 2 else (1.0, 0.0)
        lowest, highest = sorted(value * slope + intercept for value in one.padding)
        if plane.dtype.kind == "u" or plane.dtype.itemsize < 2:
            plane = plane.astype(np.int32)
        padding = (plane >= lowest) & (plane <= highest)
        plane[padding] = OUTSIDE
        has_padding = bool(padding.any())
    return plane, has_padding


def _without_repeats(where: str, slices: Sequence[Slice], warnings: list[str]) -> list[Slice]:
    """Return the slices in order, without those that repeat another's position and voxels.

    Raises:
        CaseError: if two slices at one position differ.
    """
    kept: list[Slice] = []
    for one in sorted(slices, key=lambda one: one.distance):
        if not kept or one.distance - kept[-1].distance >= SAME_MM:
            kept.append(one)
        elif not np.array_equal(_plane(one)[0], _plane(kept[-1])[0]):
            raise CaseError(
                f"{where}: several slices have the same position and no tag distinguishes them; separate them"
            )
    if len(kept) < len(slices):
        warnings.append(f"{len(slices) - len(kept)} slices repeat others and were left out")
    return kept
