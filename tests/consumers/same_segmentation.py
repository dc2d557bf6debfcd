"""Whether two directories hold DICOM segmentations of the same voxels: same_segmentation.py DIRECTORY DIRECTORY"""

import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom


def by_label(directory: str) -> dict[str, dict[str, np.ndarray]]:
    """Frames by the slice they refer to, by segment; an empty frame is as good as none."""
    (path,) = sorted(Path(directory).glob("*.dcm"))
    file = hd.seg.Segmentation.from_dataset(pydicom.dcmread(path))
    labels = {item.SegmentNumber: item.SegmentLabel for item in file.SegmentSequence}
    found: dict[str, dict[str, np.ndarray]] = {}
    for frame, pixels in zip(file.PerFrameFunctionalGroupsSequence, np.atleast_3d(file.pixel_array), strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        if pixels.any():
            found.setdefault(labels[number], {})[source] = pixels
    return found


first, second = (by_label(directory) for directory in sys.argv[1:])
assert first and first.keys() == second.keys(), (first.keys(), second.keys())
for label, frames in first.items():
    assert frames.keys() == second[label].keys(), label
    assert all(np.array_equal(pixels, second[label][source]) for source, pixels in frames.items()), label
print("the same voxels:", ", ".join(f"{label} in {len(frames)} slices" for label, frames in first.items()))
