"""Read NRRD and MetaImage files through SimpleITK, and check what SimpleITK does not check."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from ..runtime.errors import CaseError
from .grid import ItkGeometry
from .nifti import choose_volume
from .scan_files import check_packed, first_bytes, require_bytes, require_no_more
from .voxels import Admission, Collect, Hounsfield, ReadOptions, Stored, require_numbers, steps

#: Prefixes of the header entries that give the voxel size.
SPACING_KEYS = ("space directions", "spacings", "elementspacing", "elementsize")
#: Spellings of millimetres in a NRRD header; an empty unit counts as mm.
MILLIMETRES = {"mm", "millimeter", "millimeters", "millimetre", "millimetres", ""}
#: Allowed number of axes in a file of one or several volumes; ITK ends the whole process at others.
FEWEST_AXES, MOST_AXES = 2, 5
#: Encodings of a NRRD file that ITK reads.
ENCODINGS = {"raw", "gz", "gzip", "ascii", "text", "txt"}
#: Spaces of a NRRD file whose axes are those of the body, which ITK converts.
BODY_SPACES = {"ras", "las", "lps", "right-anterior-superior", "left-anterior-superior", "left-posterior-superior"}
#: Modalities of a MetaImage that are not CT.
OTHER_MODALITIES = {"met_mod_mr": "MR", "met_mod_nm": "nuclear medicine", "met_mod_us": "ultrasound"}


class _Text(NamedTuple):
    """Hold the header as text, and the file and offset of the first voxel."""

    entries: dict[str, str]
    data: Path
    start: int
    meta: bool = False

    @property
    def packed(self) -> bool:
        """Return whether the voxels are compressed by gzip or zlib."""
        encoding = self.entries.get("encoding", "raw").lower()
        return encoding in ("gz", "gzip") or self.states("compresseddata")

    def states(self, *keys: str) -> bool:
        """Return whether the first entry of a MetaImage with one of these keys is true (True, T or 1, as in MetaIO)."""
        return next((self.entries[key] for key in keys if key in self.entries), "")[:1].lower() in ("t", "1")


def read_itk(path: Path, options: ReadOptions, admit: Admission, collect: Collect = Hounsfield) -> Stored:
    """Read a NRRD or MetaImage image from one file or two.

    Raises:
        CaseError: naming the file and the reason.
    """
    first_bytes(path)
    text = _text(path)
    _require_plain_values(path, text)
    axes = text.entries.get("ndims", text.entries.get("dimension", ""))
    if axes not in map(str, range(FEWEST_AXES, MOST_AXES + 1)):
        raise CaseError(f"{path}: has {axes or 'an unknown number of'} axes, but a scan has 3; export it again")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    shape, volume = choose_volume(path, _without_ones([int(n) for n in reader.GetSize()]), options)
    if reader.GetNumberOfComponents() > 1:
        raise CaseError(
            f"{path}: each voxel has {reader.GetNumberOfComponents()} values (a colour, or several volumes); save one "
            "volume of CT to a file"
        )
    dtype = _dtype(path, reader)
    _check_data(path, text, int(np.prod([int(n) for n in reader.GetSize()], dtype=object)) * dtype.itemsize)
    wanted = int(np.prod([int(n) for n in reader.GetSize()], dtype=object)) * dtype.itemsize
    warnings: list[str] = _check_tail(path, text, wanted, shape[0] * shape[1] * dtype.itemsize)
    geometry = _geometry(path, text, reader, options, warnings)
    admit(shape, geometry.affine)
    image = None
    if text.meta and text.packed:  # ITK trusts CompressedDataSize, and fills the rest with zeros
        array = _decompressed(text, dtype)
    else:
        try:
            array = sitk.GetArrayViewFromImage(image := reader.Execute())
        except RuntimeError as error:
            raise _unreadable(path, error) from error
    volume_read = collect(path, shape, dtype, offset=options.hu_offset)
    slices = array.reshape(-1, shape[2], shape[1], shape[0])[volume]
    for first, stop in steps(shape, dtype.itemsize):
        volume_read.put(first, slices[first:stop].transpose(2, 1, 0))
    del array, slices, image
    voxels, more = volume_read.finished()
    return Stored(voxels, geometry.affine, geometry, (*warnings, *more))


def _require_plain_values(path: Path, text: _Text) -> None:
    """Raise a CaseError if the header defines the values in a way that ITK ignores."""
    entries, reason = text.entries, ""
    encoding = entries.get("encoding", "raw").lower()
    functions = {"elementtointensityfunctionslope": 1.0, "elementtointensityfunctionoffset": 0.0}
    if any(key in entries and entries[key] != "" and _number(entries[key]) != same for key, same in functions.items()):
        reason = "its ElementToIntensityFunction scales the values, which ITK ignores; save it in HU without one"
    elif entries.keys() & {"old min", "oldmin", "old max", "oldmax"}:
        reason = "its values were quantised (old min, old max), so they are not HU; save the original values"
    elif entries.get("modality", "").lower() in OTHER_MODALITIES:
        reason = f"its Modality is {OTHER_MODALITIES[entries['modality'].lower()]}; it is not CT"
    elif text.meta and text.data == path and _number(entries.get("headersize", "0")) > 0:
        reason = "its HeaderSize contradicts ElementDataFile = LOCAL; remove HeaderSize from the header"
    elif "binarydata" in entries and not text.states("binarydata"):
        reason = "its voxels are text (BinaryData = False); save it with binary voxels"
    elif encoding not in ENCODINGS:
        reason = f"its encoding {encoding} cannot be read here; save it as raw or gzip"
    if reason:
        raise CaseError(f"{path}: {reason}")


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")


def _unreadable(path: Path, error: Exception) -> CaseError:
    reason = str(error).strip().splitlines()[-1]
    return CaseError(f"{path}: cannot be read ({reason}); copy or export it again")


def _without_ones(shape: list[int]) -> list[int]:
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return shape


def _dtype(path: Path, reader: sitk.ImageFileReader) -> np.dtype:
    probe = sitk.Image([1, 1, 1], reader.GetPixelID())
    dtype = sitk.GetArrayViewFromImage(probe).dtype
    require_numbers(path, dtype)
    return dtype


def _geometry(
    path: Path, text: _Text, reader: sitk.ImageFileReader, options: ReadOptions, warnings: list[str]
) -> ItkGeometry:
    dimension = reader.GetDimension()
    spacing = tuple(reader.GetSpacing()[:3])
    sizes = [value for key, value in text.entries.items() if key.startswith(SPACING_KEYS)]
    # ITK makes 1 mm of a voxel size that is not a number.
    given = bool(sizes) and not any(word in value.lower() for value in sizes for word in ("nan", "inf", "none"))
    space = text.entries.get("space", "")
    if not text.meta and "space" not in text.entries:
        warnings.append("the header contains no space: left and right are unknown")
    elif space and space.lower().removesuffix("-time").removesuffix("t") not in BODY_SPACES:
        warnings.append(f"the header's space {space} does not name axes of the body: left and right are unknown")
    units = re.findall(r'"([^"]*)"', text.entries.get("space units", text.entries.get("units", "")))[:3]
    units += [text.entries["distanceunits"]] if text.entries.get("distanceunits") not in (None, "?") else []
    foreign = {unit for unit in units if unit.strip().lower() not in MILLIMETRES}
    instead = options.spacing_instead_of(spacing if given and not foreign else np.zeros(3), warnings)
    if instead is not None:
        spacing = instead
    elif not given:
        raise CaseError(f"{path}: contains no voxel size; give it with --spacing")
    elif foreign:
        raise CaseError(f"{path}: its voxel size {spacing} {', '.join(foreign)} is not in mm; give it with --spacing")
    if min(spacing) <= 0:
        raise CaseError(f"{path}: its voxel size {spacing} is not positive; correct the header")
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    return ItkGeometry(spacing, tuple(reader.GetOrigin()[:3]), tuple(float(d) for d in direction.ravel()))


def read_entries(path: Path) -> dict[str, str]:
    """Return the entries of a NRRD or MetaImage header by their names in lower case.

    Raises:
        CaseError: if the voxels are in several files.
    """
    return _text(path).entries


def _text(path: Path) -> _Text:
    """Parse the header's lines, which end before a blank one (NRRD) or with ElementDataFile (MetaImage)."""
    meta = path.name.lower().endswith((".mha", ".mhd"))
    entries: dict[str, str] = {}
    with open(path, "rb") as stream:
        for raw in iter(lambda: stream.readline(4096), b""):
            key, found, value = raw.decode("utf-8", "replace").strip().partition("=" if meta else ":")
            if found:
                entries[key.strip().lower()] = value.strip(" =")
            if (meta and key.strip().lower() == "elementdatafile") or (not meta and not raw.strip()):
                break
        start = stream.tell()
    name = entries.get("elementdatafile" if meta else "data file", entries.get("datafile", ""))
    if re.match(r"LIST(\s|$)", name, re.IGNORECASE) or re.search(r"%\d*d", name):
        raise CaseError(f"{path}: its voxels are in several files; convert it to one file")
    if name.upper() in ("", "LOCAL"):
        return _Text(entries, path, start, meta)
    return _Text(entries, path.parent / name, 0, meta)


def _decompressed(text: _Text, dtype: np.dtype) -> np.ndarray:
    """Decompress a MetaImage's voxels, which :func:`_check_data` has verified."""
    with open(text.data, "rb") as stream:
        stream.seek(text.start)
        voxels = zlib.decompressobj(wbits=47).decompress(stream.read())
    stored = dtype.newbyteorder(">" if text.states("binarydatabyteordermsb", "elementbyteordermsb") else "<")
    return np.frombuffer(voxels, stored, len(voxels) // dtype.itemsize).astype(dtype, copy=False)


def _check_data(path: Path, text: _Text, wanted: int) -> None:
    """Verify length and checksum before reading, since ITK fills missing data with zeros."""
    if not text.data.is_file():
        raise CaseError(f"{path}: its voxel file {text.data.name} is missing; copy both files")
    if not text.packed and text.entries.get("encoding", "raw").lower() != "raw":
        return  # text: its reader reports errors itself
    require_bytes(path, wanted, text.data.stat().st_size - text.start, text.packed)
    if text.packed:
        check_packed(text.data, text.start, wanted)


def _check_tail(path: Path, text: _Text, wanted: int, slice_bytes: int) -> list[str]:
    """Compare the bytes after a raw file's voxels with its header, unless the header skips some before them."""
    entries = text.entries
    raw = entries.get("encoding", "raw").lower() == "raw" and not text.packed
    skips = any(
        entries.get(key, "0") != "0" for key in ("headersize", "line skip", "lineskip", "byte skip", "byteskip")
    )
    if not raw or skips:
        return []
    return require_no_more(path, wanted, text.data.stat().st_size - text.start, slice_bytes)
