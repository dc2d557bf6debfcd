"""Write masks and probabilities on the grid of a scan, and write and read names and colours of their classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch

from ..io import Grid
from ..runtime.files import whole_file
from .itk import LPS_TO_RAS, ItkGeometry, read_entries
from .nifti import read_extensions
from .scan_files import ITK, MASK_ENDINGS, ending_of

#: Colours of the classes by value, from 1: those of Okabe and Ito, which colour-blind people can tell apart.
COLOURS = ("#56b4e9", "#d55e00", "#f0e442", "#009e73", "#cc79a7", "#e69f00", "#0072b2")
ANATOMY, ABNORMAL = ("123037004", "Anatomical Structure"), ("49755003", "Morphologically Abnormal Structure")
KIDNEY = ("64033007", "SCT", "Kidney")
RIGHT, LEFT = ("24028007", "SCT", "Right"), ("7771000", "SCT", "Left")
#: Category, type and modifier of each known class; types and modifiers as code, scheme and meaning.
TERMS = {
    "kidney": (ANATOMY, KIDNEY, None),
    "kidney_right": (ANATOMY, KIDNEY, RIGHT),
    "kidney_left": (ANATOMY, KIDNEY, LEFT),
    "tumour": (ABNORMAL, ("126880001", "SCT", "Neoplasm of kidney"), None),
    "cyst": (ABNORMAL, ("722223000", "SCT", "Cyst of kidney"), None),
}
#: Classes that are a kidney together.
SIDES = ("kidney_right", "kidney_left")
#: Scheme of the codes of other classes, which are their names.
OWN_SCHEME = "99KITS-UNET3D"
#: Other spellings of a known class.
SPELLINGS = {"tumor": "tumour"}
#: The name of a segment in a header of 3D Slicer.
SLICER_NAME = re.compile(r"segment(\d+)_name")


class Segment(NamedTuple):
    """Describe one class of a mask.

    Attributes:
        value: its value in the mask.
        name: such as ``kidney``.
        colour: ``#rrggbb``.
        category: SNOMED CT code and meaning.
        kind: code, scheme and meaning.
        side: code, scheme and meaning of a side, or None.
    """

    value: int
    name: str
    colour: str
    category: tuple[str, str]
    kind: tuple[str, str, str]
    side: tuple[str, str, str] | None

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Return the colour as three numbers from 0 to 255."""
        red, green, blue = bytes.fromhex(self.colour[1:])
        return red, green, blue


def segments_of(classes: Sequence[str]) -> list[Segment]:
    """Describe the classes above the background; ``classes[0]`` is the background."""
    return [segment_of(value, name) for value, name in enumerate(classes[1:], start=1)]


def segment_of(value: int, name: str, colour: str = "") -> Segment:
    """Describe a class by its value and name; without a ``colour``, it has that of its value."""
    other = (("85756007", "Tissue"), (name[:16], OWN_SCHEME, name[:64]), None)  # a class of another data set
    return Segment(value, name, colour or colour_of(value), *TERMS.get(name, other))


def with_unnamed(segments: Iterable[Segment], values: Iterable[int]) -> list[Segment]:
    """Return the segments, and one named ``label N`` for each value above 0 that none of them has; by value."""
    named = {segment.value: segment for segment in segments}
    others = {int(value): segment_of(int(value), f"label {value}") for value in values if value > 0}
    return [segment for _, segment in sorted((others | named).items())]


def read_segments(path: Path) -> list[Segment]:
    """Read the classes of a mask from the table in its file, by value; empty without a table.

    NIfTI files hold a table of labels in an extension (:func:`label_table`), NRRD and MetaImage files the entries of
    3D Slicer (:func:`slicer_entries`). A class without a usable value, name or colour is left out, or has the colour
    of its value.
    """
    rows = _slicer_rows(read_entries(path)) if ending_of(path) in ITK else _nifti_rows(path)
    found: dict[int, Segment] = {}
    for value, text, shares in rows:
        name = " ".join(text.split())
        if value.isdecimal() and int(value) > 0 and name and name.isprintable():
            found.setdefault(int(value), segment_of(int(value), SPELLINGS.get(name, name), _colour(shares)))
    return [segment for _, segment in sorted(found.items())]


def _nifti_rows(path: Path) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield value, name, and the shares of red, green and blue of each label in the tables of a NIfTI file."""
    for content in read_extensions(path):
        if b"<LabelTable" in content and b"<!DOCTYPE" not in content:  # no entities to expand
            with suppress(ElementTree.ParseError):
                for label in ElementTree.fromstring(content.rstrip(b"\0 ")).iter("Label"):
                    shares = [label.get(part, "") for part in ("Red", "Green", "Blue")]
                    yield label.get("Key", ""), label.text or "", shares


def _slicer_rows(entries: dict[str, str]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield the same of each segment in the entries of a header."""
    for key, name in entries.items():
        if found := SLICER_NAME.fullmatch(key):
            value, shares = (entries.get(f"segment{found[1]}_{of}", "") for of in ("labelvalue", "color"))
            yield value, name, shares.split()


def _colour(shares: Sequence[str]) -> str:
    """Return a colour as ``#rrggbb`` from its shares of red, green and blue; empty if they are not from 0 to 1."""
    try:
        red, green, blue = (round(255 * float(share)) for share in shares)
        return f"#{bytes((red, green, blue)).hex()}"
    except (ValueError, OverflowError):
        return ""


def colour_of(value: int) -> str:
    """Return the colour of a value above 0 as ``#rrggbb``."""
    return COLOURS[(value - 1) % len(COLOURS)]


def label_table(segments: Sequence[Segment]) -> bytes:
    """Return a table of labels as XML for the extension of a NIfTI file, in the form that TotalSegmentator writes."""
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for segment in segments:
        label = ElementTree.SubElement(table, "Label", Key=str(segment.value), Alpha="1")
        for name, part in zip(("Red", "Green", "Blue"), segment.rgb, strict=True):
            label.set(name, f"{part / 255:.6f}")
        label.text = segment.name
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)


def slicer_entries(segments: Sequence[Segment], shape: Sequence[int]) -> dict[str, str]:
    """Return the header entries that describe the segments of a NRRD file to 3D Slicer.

    Args:
        segments: classes of the mask.
        shape: (X, Y, Z) of the mask.
    """
    entries = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    extent = " ".join(f"0 {n - 1}" for n in shape)
    for number, segment in enumerate(segments):
        category = (segment.category[0], "SCT", segment.category[1])
        # 3D Slicer names the scheme before the code.
        terms = "~".join(
            f"{scheme}^{code}^{meaning}"
            for code, scheme, meaning in (category, segment.kind, segment.side or ("", "", ""))
        )
        entries |= {
            f"Segment{number}_ID": segment.name,
            f"Segment{number}_Name": segment.name,
            f"Segment{number}_NameAutoGenerated": "0",
            f"Segment{number}_Color": " ".join(f"{part / 255:.6f}" for part in segment.rgb),
            f"Segment{number}_ColorAutoGenerated": "0",
            f"Segment{number}_LabelValue": str(segment.value),
            f"Segment{number}_Layer": "0",
            f"Segment{number}_Extent": extent,
            f"Segment{number}_Tags": (
                "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list"
                f"~{terms}~Anatomic codes - DICOM master list~^^~^^|"
            ),
        }
    return entries


#: Text fields of a NIfTI header that may name the patient.
PRIVATE_FIELDS = ("descrip", "db_name", "aux_file", "intent_name", "data_type")


#: Formats of masks: the scan's own, or the one that 3D Slicer loads as a segmentation.
FORMATS = ("scan", "seg-nrrd")


def mask_path(grid: Grid, directory: str | Path, mask_format: str = "scan") -> Path:
    """Return the path of a scan's mask: ``<name>_seg`` in the scan's own format, or ``<name>.seg.nrrd``.

    A DICOM directory's mask becomes ``.nii.gz``; a header with its data in a second file (``.mhd``, ``.nhdr``)
    becomes the one-file form of its format.
    """
    if mask_format == "seg-nrrd":
        return Path(directory) / f"{grid.name}.seg.nrrd"
    ending = ending_of(grid.path) if isinstance(grid.header, ItkGeometry | nib.Nifti1Header) else ""
    ending = MASK_ENDINGS.get(ending, ending)
    return Path(directory) / f"{grid.name}_seg{ending}"


def write_mask(
    mask: np.ndarray,
    like: Grid,
    directory: str | Path,
    classes: Sequence[str] = (),
    mask_format: str = "scan",
) -> Path:
    """Write ``mask`` (X, Y, Z, uint8) on exactly the grid ``like``; return the path.

    Args:
        mask: class of each voxel.
        like: grid of the scan.
        directory: directory of the file.
        classes: names of the classes, background first. NIfTI and NRRD files hold names and colours with them.
        mask_format: one of ``FORMATS``.
    """
    if mask.shape != like.shape:
        raise ValueError(f"mask must have the scan's shape {like.shape}, got {mask.shape}")
    path, segments = mask_path(like, directory, mask_format), segments_of(classes)
    with whole_file(path) as temporary:
        if ending_of(path) in ITK:
            geometry = like.header if isinstance(like.header, ItkGeometry) else _itk_geometry(like)
            image = sitk.GetImageFromArray(np.ascontiguousarray(mask.transpose(2, 1, 0)))
            image.SetSpacing(geometry.spacing)
            image.SetOrigin(geometry.origin)
            image.SetDirection(geometry.direction)
            for key, value in slicer_entries(segments, mask.shape).items() if segments else ():
                image.SetMetaData(key, value)
            sitk.WriteImage(image, str(temporary), useCompression=True)
        else:
            nib.save(_nifti(mask, like, segments), temporary)
    return path


def _itk_geometry(like: Grid) -> ItkGeometry:
    affine = LPS_TO_RAS @ like.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = affine[:3, :3] / spacing
    return ItkGeometry(
        tuple(map(float, spacing)), tuple(map(float, affine[:3, 3])), tuple(map(float, direction.ravel()))
    )


def _nifti(mask: np.ndarray, like: Grid, segments: Sequence[Segment]) -> nib.Nifti1Image:
    if isinstance(like.header, nib.Nifti1Header):
        header = like.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header["cal_min"], header["cal_max"], header["vox_offset"] = 0, 0, 0  # nibabel sets the offset
        for field in PRIVATE_FIELDS:
            if field in header:
                header[field] = b""
        # With an affine of None, nibabel keeps the header's own sform and qform.
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        image = kind(mask, None, header)
    else:
        image = nib.Nifti1Image(mask, like.affine)
    if segments:
        # Code 0, as in the files of TotalSegmentator, whose readers look for the table there.
        image.header.extensions.append(nib.nifti1.Nifti1Extension(0, label_table(segments)))
    return image


def probabilities_path(grid: Grid, directory: str | Path) -> Path:
    """Return the path of a scan's probabilities."""
    return Path(directory) / f"{grid.name}_probabilities.npy"


@contextmanager
def probabilities_file(path: Path, grid: Grid, classes: int) -> Iterator[Callable[[torch.Tensor], None]]:
    """Open a NumPy file of float16 (X, Y, Z, classes) on the scan's grid; NIfTI lacks float16.

    The yielded function takes logits (classes, n, Y, Z), slab after slab along X, so the whole array is never
    in memory. ``numpy.load(path, mmap_mode="r")`` reads the file with as little memory.
    """
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        header = {"descr": "<f2", "fortran_order": False, "shape": (*grid.shape, classes)}
        np.lib.format.write_array_header_1_0(stream, header)

        def put(logits: torch.Tensor) -> None:
            shares = torch.softmax(logits.float(), dim=0).to(torch.float16).permute(1, 2, 3, 0)
            stream.write(np.ascontiguousarray(shares.numpy()).data)

        yield put
        stream.flush()
