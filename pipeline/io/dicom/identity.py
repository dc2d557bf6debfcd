"""Read single tags of a DICOM file, damaged or not, such as the words that name the patient."""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

CHARACTER_SET = (0x0008, 0x0005)
OTHER_IDS = (0x0010, 0x1002)
#: Accession number; name, identifier, birth date, other identifiers and names, birth name.
PERSONAL = {(0x0008, 0x0050)} | {(0x0010, e) for e in (0x0010, 0x0020, 0x0030, 0x1000, 0x1001, 0x1005)}
LAST_GROUP = 0x0010
#: Bytes of a deflated data set that are searched.
INFLATED = 1 << 20
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
#: Value representations whose length field has four bytes.
WIDE = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF
#: Maximum bytes of a name or an identifier; a longer one is a sign of damage.
LONGEST = 4096
#: Python codecs for the terms of (0008,0005), by number; the same for ISO 2022 and ISO_IR.
CODECS = {
    "13": "shift_jis", "58": "gb2312", "87": "iso2022_jp_2", "100": "latin_1", "101": "iso8859_2", "109": "iso8859_3",
    "110": "iso8859_4", "126": "iso8859_7", "127": "iso8859_6", "138": "iso8859_8", "144": "iso8859_5",
    "148": "iso8859_9", "149": "euc_kr", "159": "iso2022_jp_2", "166": "tis_620", "192": "utf_8", "203": "iso8859_15",
    "GB18030": "gb18030", "GBK": "gbk",
}  # fmt: skip
#: Escape sequences that switch character sets within a text; the Japanese codec handles its own.
ESCAPES = re.compile(rb"\x1b[$(),\-.]*[@-Z]")
WIDE_LETTERS = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def identity_of(path: Path, syntax: str) -> frozenset[str]:
    """Return words that name the patient: whole tags and their parts; empty if no tag can be read.

    Args:
        path: a DICOM file, damaged or not.
        syntax: its transfer syntax; empty if unknown.
    """
    sets, texts = "", []
    for tag, value, _ in read_elements(path, syntax, PERSONAL | {CHARACTER_SET}, LAST_GROUP):
        if tag == CHARACTER_SET:
            sets += " " + value.decode("ascii", "replace")
        else:
            texts.append(value)
    # Wrongly decoded text gives words that match nothing, so all codecs that may be right are used.
    codecs = {CODECS[n] for n in re.findall(r"GB18030|GBK|\d+", re.sub(r"2022|8859", "", sets)) if n in CODECS}
    return frozenset().union(
        *(words(_decoded(text, codec)) for text in texts for codec in {"utf_8", *(codecs or {"latin_1"})})
    )


def words(text: str) -> set[str]:
    """Return the text and its parts if long enough to name a person: 3 digits, 2 letters, 1 CJK character."""
    parts = {text, *re.split(r"[\^\s=,_\\-]+", text), *(re.sub(r"[\^\s]+", "", one) for one in text.split("="))}
    parts = {form for part in parts for form in (unicodedata.normalize(n, part.strip(" \0^")) for n in ("NFC", "NFD"))}
    return {part for part in parts if _tells(part)}


def _tells(word: str) -> bool:
    letters = sum(c.isalpha() for c in word)
    return letters > 1 or bool(WIDE_LETTERS.search(word)) or letters + sum(c.isdigit() for c in word) > 2


def _decoded(text: bytes, codec: str) -> str:
    try:
        return (text if codec == "iso2022_jp_2" else ESCAPES.sub(b"", text)).decode(codec)
    except UnicodeDecodeError:
        return ""


def _data_set(file: BinaryIO, syntax: str) -> BinaryIO:
    """Return the stream after the file meta information, decompressed if it is deflated."""
    file.seek(128)
    if file.read(4) != b"DICM":
        file.seek(0)
    while (head := file.read(8))[:2] == b"\x02\x00":
        wide = head[4:6] in WIDE
        file.seek(struct.unpack("<I", file.read(4))[0] if wide else struct.unpack("<H", head[6:])[0], 1)
    file.seek(-len(head), 1)
    return BytesIO(zlib.decompressobj(-15).decompress(file.read(), INFLATED)) if syntax == DEFLATED else file


def read_elements(
    path: Path, syntax: str, wanted: Collection[tuple[int, int]], last_group: int
) -> list[tuple[tuple[int, int], bytes, int]]:
    """Return tag, value and depth (in sequences) of the wanted elements, as far as the file can be read.

    Args:
        path: a DICOM file, damaged or not.
        syntax: its transfer syntax; empty if unknown.
        wanted: tags; of a sequence only its existence is returned, with an empty value.
        last_group: group after which nothing is read.
    """
    found = []
    try:
        with open(path, "rb") as file:
            for element in _elements(_data_set(file, syntax), ">" if syntax == BIG_ENDIAN else "<", wanted, last_group):
                found.append(element)
    except (OSError, struct.error, zlib.error):
        pass  # it ends early; the tags read so far are used
    return found


def _elements(
    stream: BinaryIO, order: str, wanted: Collection[tuple[int, int]], last_group: int
) -> Iterator[tuple[tuple[int, int], bytes, int]]:
    """Yield the wanted elements, in sequences of unknown length and of other identifiers too."""
    explicit: list[bool] = []  # of the data set and of each open sequence
    while True:
        group, element, kind, short = struct.unpack(f"{order}HH2sH", stream.read(8))
        length = struct.unpack(f"{order}I", kind + struct.pack(f"{order}H", short))[0]
        if group == 0xFFFE:  # an item, its end, or the end of a sequence: items are searched too
            if element == 0xE0DD and len(explicit) > 1:
                explicit.pop()
            continue
        if not explicit:
            explicit.append(kind.isalpha() and kind.isupper())
        depth = len(explicit) - 1
        if group > last_group and not depth:
            return
        if explicit[-1]:
            length = struct.unpack(f"{order}I", stream.read(4))[0] if kind in WIDE else short
        tag = (group, element)
        if tag in wanted:
            sequence = length == UNDEFINED or kind == b"SQ"
            value = b"" if sequence else stream.read(min(length, LONGEST))
            yield tag, value, depth
            length -= len(value) if length != UNDEFINED else 0
        if length == UNDEFINED:
            explicit.append(explicit[-1] and kind != b"UN")  # what is of unknown kind is implicit inside
        elif tag != OTHER_IDS:
            stream.seek(length, 1)
