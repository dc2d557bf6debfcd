"""Describe the classes of a mask: names, colours and codes; read and write them as tables in its file."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from .itk import read_entries
from .nifti import read_extensions
from .scan_files import ITK, ending_of

logger = logging.getLogger("kits_unet3d.io")

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
SPELLINGS = {"tumor": "tumour", "right_kidney": "kidney_right", "left_kidney": "kidney_left"}
#: Digits of the largest value of a label map, 65535.
MOST_DIGITS = 5
#: A value in a table; other programs write it as a float.
VALUE = re.compile(rf"\s*(\d{{1,{MOST_DIGITS}}})(?:\.0*)?\s*")
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


def known_name(name: str) -> str:
    """Return the name of a known class in its usual spelling, such as tumour for Tumor; other names as they are."""
    usual = re.sub(r"[\s_-]+", "_", name.strip().lower())
    usual = SPELLINGS.get(usual, usual)
    return usual if usual in TERMS else name


def with_unnamed(segments: Iterable[Segment], values: Iterable[int]) -> list[Segment]:
    """Return the segments, and one named ``label N`` for each value above 0 that none of them has; by value."""
    named = {segment.value: segment for segment in segments}
    others = {int(value): segment_of(int(value), f"label {value}") for value in values if value > 0}
    return [segment for _, segment in sorted((others | named).items())]


def read_segments(path: Path) -> list[Segment]:
    """Read the classes of a mask from the table in its file, by value; empty without a table.

    NIfTI files hold a table of labels in an extension (:func:`label_table`), NRRD and MetaImage files the entries of
    3D Slicer (:func:`slicer_entries`). A class without a usable value, name or colour is left out, or has the colour
    of its value. A table that cannot be read, or that gives a value two names, is left out with a warning.
    """
    found: dict[int, Segment] = {}
    try:
        for value, text, shares in _slicer_rows(read_entries(path)) if ending_of(path) in ITK else _nifti_rows(path):
            name, number = known_name(" ".join(text.split())), VALUE.fullmatch(value)
            if number and int(number[1]) > 0 and name and name.isprintable():
                segment = segment_of(int(number[1]), name, _colour(shares))
                if found.setdefault(segment.value, segment).name != name:
                    raise ValueError(f"{segment.value} is {found[segment.value].name} and {name}")
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        logger.warning("%s: its table of class names cannot be used (%s); its values count alone", path, error)
        return []
    return [segment for _, segment in sorted(found.items())]


def _nifti_rows(path: Path) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield value, name, and the shares of red, green and blue of each label in the tables of a NIfTI file."""
    for content in read_extensions(path):
        plain = content.replace(b"\0", b"")  # in UTF-16 too
        if b"<LabelTable" in plain:
            if b"<!DOCTYPE" in plain:  # its entities could expand without end
                raise ValueError("it defines a document type")
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
