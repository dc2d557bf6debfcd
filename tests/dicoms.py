"""DICOM series made for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_slice(
    path: Path, plane: np.ndarray, position: Sequence[float], change: Callable | None = None, **tags
) -> Path:
    """One CT slice; ``plane`` (rows, columns) in HU, position in DICOM's axes in mm, ``tags`` by keyword."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.Modality, ds.PatientName, ds.PatientID = "CT", "Doe^Jane", "P-4711"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SeriesNumber = "1.2.3", "1.2.3.1", 1
    ds.FrameOfReferenceUID = "1.2.3.7"
    ds.ImagePositionPatient = [float(p) for p in position]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [6.0, 4.0]
    ds.Rows, ds.Columns = plane.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelData = (plane + 1024).astype("<u2").tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    if change is not None:
        change(ds)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_series(
    directory: Path, voxels: np.ndarray, step: Sequence[float] = (0, 0, 5.0), leave_out: Sequence[int] = (), **tags
) -> Path:
    """A series of slices (slices, rows, columns), each ``step`` mm from the one before; files in no order of names."""
    for number, plane in enumerate(voxels):
        if number not in leave_out:
            name = f"{(number * 7) % 101:03d}-{len(list(directory.glob('*')))}.dcm"
            write_slice(directory / name, plane, np.array([-30.0, -50.0, 10.0]) + number * np.array(step), **tags)
    return directory
