"""A scan as a DICOM series with all the tags that programs ask for: dicom_series.py SCAN DIRECTORY"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from dicoms import write_series

scan, directory = sys.argv[1:]
image = nib.load(scan)
turn = nib.orientations.ornt_transform(
    nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(("S", "P", "L"))
)
voxels = nib.orientations.apply_orientation(np.asarray(image.dataobj), turn).astype(np.int16)
across, down, along = (
    float(size) for size in np.linalg.norm(image.affine[:3, :3], axis=1)
)  # left, posterior, superior
write_series(
    Path(directory),
    voxels,
    step=(0, 0, along),
    PixelSpacing=[down, across],
    SliceThickness=along,
    StudyID="7",
    StudyDate="20200101",
    StudyTime="120000",
    SeriesDate="20200101",
    SeriesTime="120000",
    AccessionNumber="1",
    PatientSex="F",
    PatientBirthDate="19500101",
    PatientAge="070Y",
    ReferringPhysicianName="",
    StudyDescription="abdomen",
    SeriesDescription="phantom",
    BodyPartExamined="ABDOMEN",
    Manufacturer="phantom",
)
