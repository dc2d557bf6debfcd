"""Read NIfTI files to the end of their stream and check them against their header."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from ..runtime.errors import CaseError
from ..runtime.files import DAMAGED, open_packed
from .grid import believable, require_regular
from .scan_files import GZIP, TAIL, endless, first_bytes, require_bytes, require_no_more
from .voxels import Admission, Collect, Hounsfield, ReadOptions, Stored, require_numbers, steps

#: Relative difference allowed between two descriptions of one geometry.
AGREEMENT = 0.01
#: Bytes after the header that are searched for extensions.
EXTENSIONS = 1 << 20


def read_nifti(path: Path, options: ReadOptions, admit: Admission, collect: Collect = Hounsfield) -> Stored:
    """Read a NIfTI-1 or NIfTI-2 file, compressed or not, regardless of its ending.

    Raises:
        CaseError: naming the file and the reason.
    """
    packed = first_bytes(path)[:2] == GZIP
    warnings = []
    if packed != path.name.lower().endswith(".gz"):
        warnings.append(f"the file is {'compressed' if packed else 'not compressed'}, contrary to its name")
    try:
        with open_packed(path) if packed else open(path, "rb") as stream:
            return _read(path, stream, packed, options, admit, warnings, collect)  # type: ignore[arg-type]
    except DAMAGED as error:
        raise CaseError(f"{path}: cannot be read ({error}), it is truncated or damaged; copy it again") from error


def _read(
    path: Path,
    stream: BinaryIO,
    packed: bool,
    options: ReadOptions,
    admit: Admission,
    warnings: list[str],
    collect: Collect,
) -> Stored:
    header = _header(path, stream)
    shape, skipped = _shape(path, header, options)
    try:
        dtype = header.get_data_dtype()
    except Exception as error:  # nibabel's HeaderDataError, or a KeyError from its table of types
        raise CaseError(f"{path}: cannot be read (unknown voxel type {header['datatype']})") from error
    affine = _affine(path, header, options, warnings)
    start, volume = int(header["vox_offset"]), int(np.prod(shape, dtype=object)) * dtype.itemsize
    total = int(np.prod([int(n) for n in header.get_data_shape()], dtype=object)) * dtype.itemsize
    size = path.stat().st_size
    require_bytes(path, total, size if packed else size - start, packed)
    slope, intercept = _scaling(header, warnings)
    require_numbers(path, dtype)
    admit(shape, affine)
    volume_read = collect(path, shape, dtype, slope, intercept, options.hu_offset)
    _skip(stream, start - stream.tell() + skipped * volume)
    for first, stop in steps(shape, dtype.itemsize):
        raw = np.empty(shape[:2] + (stop - first,), dtype, order="F")
        _fill(stream, memoryview(raw.reshape(-1, order="F").view(np.uint8)))  # type: ignore[arg-type]
        volume_read.put(first, raw)
    _skip(stream, total - (skipped + 1) * volume)
    # Read to the end, where gzip keeps its checksum. The limit stops a decompression bomb.
    tail = len(stream.read(TAIL)) if packed else size - start - total
    if packed and tail == TAIL:
        raise endless(path, total)
    warnings += require_no_more(path, total, total + tail, shape[0] * shape[1] * dtype.itemsize)
    voxels, more = volume_read.finished()
    return Stored(voxels, affine, header, (*warnings, *more))


def _header(path: Path, stream: BinaryIO) -> Any:
    block = stream.read(348)
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}  # type: ignore[arg-type]
    kind = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header
    if 540 in sizes:
        block += stream.read(540 - 348)
    if len(block) < (540 if 540 in sizes else 348):
        raise CaseError(f"{path}: its header ends after {len(block)} bytes; it is truncated, copy or export it again")
    magic = block[4:8] if kind is nib.Nifti2Header else block[344:348]
    if magic[:3] in (b"ni1", b"ni2"):
        raise CaseError(f"{path}: its voxels are in a second file; convert the pair to one .nii.gz")
    if not sizes & {348, 540} or magic[:3] not in (b"n+1", b"n+2"):
        raise CaseError(f"{path}: cannot be read (it is not NIfTI); copy or export it again")
    header = kind(binaryblock=block, check=False)
    if not np.isfinite(header["vox_offset"]) or not 0 <= header["vox_offset"] < 1 << 31:
        raise CaseError(f"{path}: cannot be read (its voxel offset is {header['vox_offset']}); export it again")
    header["vox_offset"] = max(int(header["vox_offset"]), stream.tell() + 4)
    return header


def read_extensions(path: Path) -> list[bytes]:
    """Return the content of each extension of a NIfTI file; those from the first that is damaged are left out.

    Raises:
        CaseError: if the header cannot be read.
    """
    try:
        with open_packed(path) if first_bytes(path)[:2] == GZIP else open(path, "rb") as stream:
            header = _header(path, stream)  # type: ignore[arg-type]
            block = stream.read(min(int(header["vox_offset"]) - stream.tell(), EXTENSIONS))
    except DAMAGED as error:
        raise CaseError(f"{path}: cannot be read ({error}), it is truncated or damaged; copy it again") from error
    order: Any = "little" if header.endianness == "<" else "big"
    found, start = [], 4  # after the flag, whose first byte is 0 without extensions
    while block[:1] > b"\0" and len(block) >= start + 8:
        size = int.from_bytes(block[start : start + 4], order, signed=True)
        if not 8 <= size <= len(block) - start:
            break
        found.append(bytes(block[start + 8 : start + size]))
        start += size
    return found


def _shape(path: Path, header: Any, options: ReadOptions) -> tuple[tuple[int, int, int], int]:
    """Return the shape of one volume, and the number of volumes before the chosen one."""
    dim = [int(n) for n in header["dim"]]
    shape = dim[1 : dim[0] + 1] if 1 <= dim[0] <= 7 else []
    if not shape or min(shape) < 1:
        raise CaseError(f"{path}: has the shape {shape}; correct the header")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return choose_volume(path, shape, options)


def choose_volume(path: Path, shape: list[int], options: ReadOptions) -> tuple[tuple[int, int, int], int]:
    """Return the three axes of ``shape``, and the index (from 0) of the chosen volume along the fourth, if any.

    Raises:
        CaseError: if it is not a volume, or if it has several volumes and no valid choice was made.
    """
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise CaseError(f"{path}: has shape {tuple(shape)}; a scan has three axes of several voxels each")
    x, y, z, *others = shape
    volumes = int(np.prod(others)) if others else 1
    if volumes > 1 and options.volume is None:
        raise CaseError(
            f"{path}: has shape {tuple(shape)}, {volumes} volumes, but a scan has three axes; "
            f"choose one with --volume 1 to {volumes}"
        )
    chosen = (options.volume or 1) if volumes > 1 else 1
    if chosen > volumes:
        raise CaseError(f"{path}: --volume {chosen} does not exist; choose one from 1 to {volumes}")
    return (x, y, z), chosen - 1


def _scaling(header: Any, warnings: list[str]) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        # By the standard, a slope of 0 means that the values are not scaled.
        warnings.append(f"scaling by {slope} and {intercept} is ignored, as the NIfTI standard requires")
        return 1.0, 0.0
    return slope, intercept


def _affine(path: Path, header: Any, options: ReadOptions, warnings: list[str]) -> np.ndarray:
    """Return the affine after checking both forms and the voxel size; correct the header if needed."""
    pixdim = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    unit = _unit(header, warnings)
    told = np.abs(pixdim)
    if header["sform_code"] > 0 and options.trust != "qform" and believable(told):
        told = np.linalg.norm(np.asarray(header.get_sform(), dtype=np.float64)[:3, :3], axis=0)
    spacing = options.spacing_instead_of(told if unit == "mm" else np.zeros(3), warnings)
    if spacing is not None:
        header["pixdim"][1:4] = spacing
        header["xyzt_units"] = int(header["xyzt_units"]) & ~7 | 2  # mm
    elif not np.isfinite(pixdim).all():
        raise CaseError(f"{path}: its voxel size is {pixdim}; give it with --spacing")
    elif (pixdim == 0).any():
        raise CaseError(f"{path}: its voxel size is {pixdim} mm; give it with --spacing")
    elif (pixdim < 0).any():
        warnings.append(f"the voxel size {pixdim} mm is negative; its absolute value is used")
        header["pixdim"][1:4] = np.abs(pixdim)
    forms = _forms(path, header, options, warnings)
    if len(forms) == 2 and options.trust is None and not _agree(forms["sform"], forms["qform"], header["dim"][1:4]):
        raise CaseError(f"{path}: its sform and qform place it differently; choose with --trust sform or qform")
    if not forms:
        warnings.append("neither sform nor qform is set: left and right are unknown")
        affine = np.asarray(header.get_base_affine(), dtype=np.float64)
    else:
        affine = forms.get(str(options.trust), next(iter(forms.values())))
    require_regular(path, affine)
    if spacing is not None:
        affine[:3, :3] *= np.array(spacing) / np.linalg.norm(affine[:3, :3], axis=0)
        for form, setter in (("sform", header.set_sform), ("qform", header.set_qform)):
            setter(affine, int(header[f"{form}_code"]))
    else:
        _compare_spacing(path, unit, pixdim, affine, warnings)
    return affine


def _unit(header: Any, warnings: list[str]) -> str:
    """Return the unit of length; mm if it is missing or unknown to the standard."""
    try:
        unit = str(header.get_xyzt_units()[0])
    except KeyError:
        warnings.append(f"its length unit (code {int(header['xyzt_units'])}) is unknown; mm is assumed")
        return "mm"
    return unit if unit in ("meter", "micron") else "mm"


def _forms(path: Path, header: Any, options: ReadOptions, warnings: list[str]) -> dict[str, np.ndarray]:
    """Return the valid ones of sform and qform; a sform makes an invalid qform dispensable, unless that is trusted."""
    forms = {}
    if header["sform_code"] > 0:
        forms["sform"] = np.asarray(header.get_sform(), dtype=np.float64)
    if header["qform_code"] > 0:
        needed = not forms or options.trust == "qform"
        if needed and header["pixdim"][0] == 0:
            warnings.append("its qfac (pixdim[0]) is 0 and counts as 1, as the NIfTI standard requires")
            header["pixdim"][0] = 1
        try:
            forms["qform"] = np.asarray(header.get_qform(), dtype=np.float64)
        except Exception as error:  # a quaternion longer than 1, or another qfac
            if needed:
                advice = "use --trust sform" if forms else "correct the header, or export it again"
                raise CaseError(f"{path}: its qform is invalid ({error}); {advice}") from error
            warnings.append(f"its qform is invalid ({error}); its sform is used")
    return forms


def _agree(sform: np.ndarray, qform: np.ndarray, shape: np.ndarray) -> bool:
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    rotated = np.linalg.norm(sform[:3, :3] - qform[:3, :3], axis=0)
    moved = np.linalg.norm(sform[:3, 3] - qform[:3, 3])
    return bool((rotated <= AGREEMENT * spacing).all() and moved <= AGREEMENT * np.linalg.norm(spacing * shape))


def _compare_spacing(path: Path, unit: str, pixdim: np.ndarray, affine: np.ndarray, warnings: list[str]) -> None:
    spacing, pixdim = np.linalg.norm(affine[:3, :3], axis=0), np.abs(pixdim)
    if unit != "mm":
        raise CaseError(f"{path}: its voxel size {spacing} {unit} is not in mm; give it with --spacing")
    if (np.abs(spacing - pixdim) > AGREEMENT * spacing).any():
        warnings.append(f"pixdim has {pixdim.round(3)} mm, but the affine has {spacing.round(3)}; the affine is used")


def _fill(stream: BinaryIO, target: memoryview) -> None:
    while target:
        count = stream.readinto(target)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("its voxels end early")
        target = target[count:]


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0:
        got = len(stream.read(min(count, 1 << 20)))
        if not got:
            raise EOFError("its voxels end early")
        count -= got
