"""Read the headers of DICOM files."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...runtime.errors import CaseError
from ..scan_files import first_bytes
from .identity import identity_of, read_elements

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
#: SOP classes of other objects in a directory of CT images, and their names in messages.
OTHER_OBJECTS = {
    "1.2.840.10008.1.3.10": "directory",
    "1.2.840.10008.5.1.4.1.1.4": "MR image",
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.128": "PET image",
    "1.2.840.10008.5.1.4.1.1.481.3": "radiotherapy structure set",
    ENHANCED_CT: "Enhanced CT (multi-frame)",
}
#: Transfer syntaxes that GDCM decodes: uncompressed, deflated, JPEG, JPEG-LS, JPEG 2000, RLE.
DECODED = {
    f"1.2.840.10008.1.2{rest}"
    for rest in ("", ".1", ".1.99", ".2", ".4.50", ".4.51", ".4.57", ".4.70", ".4.80", ".4.81", ".4.90", ".4.91", ".5")
}
#: Uncompressed transfer syntaxes: implicit, explicit, and explicit with the other order of bytes.
PLAIN = tuple(f"1.2.840.10008.1.2{rest}" for rest in ("", ".1", ".2"))
#: Tag of PixelData in the usual order of bytes.
PIXEL_DATA = b"\xe0\x7f\x10\x00"
#: First tags of files that lack the DICM prefix: of the file meta information, or of group 8.
FIRST_TAGS = {b"\x02\0\0\0", *(bytes((8, 0, element, 0)) for element in (0x00, 0x01, 0x05, 0x08, 0x12, 0x16, 0x18))}
#: Tags read apart from the decoder, which omits the sequence and reads nothing of a damaged file.
SERIES_UID, MODALITY_LUT = (0x0020, 0x000E), (0x0028, 0x3000)
#: Units of rescaled values that are HU or unspecified; images of two energies have others (MGML, Z_EFF, ...).
HU_UNITS = ("", "HU", "HU_MOD", "US")
#: Tags that distinguish the phases that some scanners put into one series.
PHASE_TAGS = ("0020|0012", "0020|0100", "0018|1210", "0018|0086", "0008|0032")


@dataclass(frozen=True)
class Slice:
    """Hold the header of one file of a CT series; lengths in mm, axes as in DICOM (left, posterior, superior).

    Attributes:
        orientation: direction of a row, then of a column, as 6 numbers; empty if not given.
        position: centre of the first voxel; empty if not given.
        spacing: distance between rows, then between columns; empty if not given.
        error: reason why the file cannot be read; empty if it can.
        padding: stored values, lowest and highest, of voxels outside the scanned area; empty if there are none.
        rescale: slope and intercept from stored values to HU; empty if not given.
        signed: whether stored values have a sign (PixelRepresentation).
        stray: whether the file is not DICOM, so that it is not a missing slice of a series.
        identity: words that name the patient.
    """

    path: Path
    sop_class: str = ""
    uid: str = ""
    series_uid: str = ""
    series_number: str = ""
    description: str = ""
    modality: str = ""
    image_type: str = ""
    frames: int = 1
    size: tuple[int, int] = (0, 0)
    orientation: tuple[float, ...] = ()
    position: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()
    phase: tuple[str, ...] = ()
    padding: tuple[float, ...] = ()
    rescale: tuple[float, ...] = ()
    signed: bool = False
    error: str = ""
    stray: bool = False
    patient_id: str = ""
    identity: frozenset[str] = frozenset()

    @property
    def kind(self) -> str:
        """Return the kind of an object that is not a CT slice; empty for a CT slice."""
        if self.sop_class in OTHER_OBJECTS:
            return OTHER_OBJECTS[self.sop_class]
        if self.modality not in ("", "CT"):
            return f"{self.modality} image"
        if "LOCALIZER" in self.image_type.upper():
            return "localizer"
        if self.frames > 1:
            return "multi-frame image"
        return "" if self.sop_class in ("", CT) else f"object of SOP class {self.sop_class}"

    @property
    def distance(self) -> float:
        """Return the position of the slice along its normal, in mm."""
        return float(np.dot(np.cross(self.orientation[:3], self.orientation[3:]), self.position))


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM by its first bytes or by its ending."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(132)
    except OSError:
        return False
    return _begins_as_dicom(head) or path.suffix.lower() == ".dcm"


def _begins_as_dicom(head: bytes) -> bool:
    """Return whether a file begins with the DICM prefix or, as old files do, with the first tag."""
    return head[128:132] == b"DICM" or head[:4] in FIRST_TAGS


def read_slice(path: Path) -> Slice:
    """Read the header of a file; return a damaged one with its ``error``."""
    try:
        head = first_bytes(path)
        if not _begins_as_dicom(head):
            raise CaseError(f"{path}: is not DICOM, despite its name; copy or export it again")
    except CaseError as error:
        return Slice(path, error=str(error).removeprefix(f"{path}: "), stray=True)
    meta = file_meta(path)
    sop_class, syntax = meta.get(2, ""), meta.get(16, "")
    # Needed for unusable files too: their path is reported and may contain the patient's name.
    identity = identity_of(path, syntax)
    if sop_class in OTHER_OBJECTS:
        return Slice(path, sop_class, identity=identity)
    top_level = {
        tag: value
        for tag, value, depth in read_elements(path, syntax, {SERIES_UID, MODALITY_LUT}, MODALITY_LUT[0])
        if not depth
    }
    series_uid = top_level.get(SERIES_UID, b"").decode("ascii", "replace").strip(" \0")

    def unusable(sop_class: str, reason: str) -> Slice:
        return Slice(path, sop_class, series_uid=series_uid, error=reason, identity=identity)

    if syntax not in {"", *DECODED}:
        # GDCM would read the compressed bytes as voxels.
        reason = unreadable(path, RuntimeError("unknown transfer syntax"))
        return unusable(sop_class, reason)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        return unusable(sop_class, unreadable(path, error))

    def text(tag: str) -> str:
        value = reader.GetMetaData(tag) if reader.HasMetaDataKey(tag) else ""
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip(" \0")

    def numbers(tag: str, count: int) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text(tag).split("\\"))
        except ValueError:
            return ()
        return values if len(values) == count and np.isfinite(values).all() else ()

    ct_slice = text("0008|0060") in ("", "CT") and "LOCALIZER" not in text("0008|0008").upper()
    if ct_slice and text("0028|0004") == "MONOCHROME1":  # GDCM inverts these, so they are not HU
        reason = (
            "its PhotometricInterpretation is MONOCHROME1, not MONOCHROME2; export it again from the scanner's archive"
        )
        return unusable(sop_class or text("0008|0016"), reason)
    if ct_slice and MODALITY_LUT in top_level:  # GDCM takes no notice of it
        reason = (
            "its values become HU by a Modality LUT Sequence, which is not supported; apply it, for example with "
            "pydicom's apply_modality_lut, and save RescaleSlope and RescaleIntercept instead"
        )
        return unusable(sop_class or text("0008|0016"), reason)
    unit = text("0028|1054").upper()
    if ct_slice and unit not in HU_UNITS:
        return unusable(sop_class or text("0008|0016"), f"its RescaleType is {unit[:16]}, not HU; name the CT in HU")
    stored, highest = numbers("0028|0101", 1), numbers("0028|0102", 1)
    if ct_slice and stored and highest and highest[0] != stored[0] - 1:
        reason = f"its HighBit {highest[0]:g} does not follow from BitsStored {stored[0]:g}; export it again"
        return unusable(sop_class or text("0008|0016"), reason)
    frames = text("0028|0008")
    size = reader.GetSize()
    return Slice(
        path,
        sop_class or text("0008|0016"),
        text("0008|0018"),
        text("0020|000e"),
        text("0020|0011"),
        text("0008|103e"),
        text("0008|0060"),
        text("0008|0008"),
        int(frames) if frames.isdigit() else 1,
        (int(size[0]), int(size[1])),
        numbers("0020|0037", 6),
        numbers("0020|0032", 3),
        numbers("0028|0030", 2),
        tuple(text(tag) for tag in PHASE_TAGS),
        _padding(numbers("0028|0120", 1) + numbers("0028|0121", 1), text("0028|0103") == "1"),
        numbers("0028|1053", 1) + numbers("0028|1052", 1),
        text("0028|0103") == "1",
        patient_id=text("0010|0020"),
        identity=identity,
    )


def _padding(limits: tuple[float, ...], signed: bool) -> tuple[float, ...]:
    """Return the lowest and highest stored value of padding, which a tag may hold as unsigned."""
    values = [value - 65536 if signed and value > 32767 else value for value in limits]
    return (min(values), max(values)) if values else ()


def require_pixels(one: Slice, bits: int) -> None:
    """Compare the length of uncompressed PixelData with Rows × Columns, since the decoder takes any.

    Raises:
        CaseError: naming the file, if they differ.
    """
    if file_meta(one.path).get(16, "1.2.840.10008.1.2") not in PLAIN[:2]:
        return
    wanted, lengths = one.size[0] * one.size[1] * bits // 8, []
    with open(one.path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(PIXEL_DATA)
        while at >= 0:
            explicit = content[at + 4 : at + 6] in (b"OW", b"OB")
            start = at + (12 if explicit else 8)
            length = int.from_bytes(content[start - 4 : start], "little")
            if length in (wanted, wanted + wanted % 2) and start + wanted <= len(content):
                return
            lengths.append(min(length, len(content) - start))
            at = content.find(PIXEL_DATA, at + 4)
    raise CaseError(
        f"{one.path}: its PixelData has {lengths[0] if lengths else 0} bytes, but its {one.size[1]} rows and "
        f"{one.size[0]} columns need {wanted}; export it again"
    )


def file_meta(path: Path) -> dict[int, str]:
    """Return the file meta information (group 0002) by element: 2 is the SOP class, 16 the transfer syntax."""
    with open(path, "rb") as stream:
        head = stream.read(4096)
    found, at = {}, 132
    while head[128:132] == b"DICM" and head[at : at + 2] == b"\x02\x00":
        element, kind = int.from_bytes(head[at + 2 : at + 4], "little"), head[at + 4 : at + 6]
        wide = kind in (b"OB", b"OW", b"UN", b"UT", b"SQ")
        start = at + (12 if wide else 8)
        length = int.from_bytes(head[start - (4 if wide else 2) : start], "little")
        found[element] = head[start : start + length].decode("ascii", "replace").strip(" \0")
        at = start + length
    return found


def unreadable(path: Path, error: Exception) -> str:
    """Return the reason why a file cannot be read, with its transfer syntax, the usual cause."""
    reason = str(error).strip().splitlines()[-1].replace(str(path), path.name)
    syntax = file_meta(path).get(16, "")
    if syntax and syntax not in PLAIN:
        return (
            f"its transfer syntax {syntax} cannot be decoded here, or its pixels are damaged; decompress it with "
            "`dcmdjpeg` or `gdcmconv --raw`, or with pydicom and pylibjpeg"
        )
    return f"cannot be read ({reason}); copy or export it again"
