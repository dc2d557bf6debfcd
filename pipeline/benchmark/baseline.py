"""Run the baseline: stock parts of MONAI, nibabel and scipy, one after the other.

All other settings are compared with it. Its code is simple, but not slowed down.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import decollate_batch, list_data_collate
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    Resized,
    SaveImaged,
    ScaleIntensityRanged,
    SpatialPadd,
)
from scipy import ndimage
from torch import nn
from torch.nn import functional

from kits_unet3d.transforms import PreprocessingParameters
from kits_unet3d.transforms.resample import resampled_shape


def predict(network: nn.Module, parameters: PreprocessingParameters, scan: Path, directory: Path) -> None:
    """Predict a mask from a file by MONAI's transforms, its sliding windows and the eager network in FP32."""
    low, high = parameters.hu_window
    lowest, highest = ((hu - parameters.hu_mean) / parameters.hu_std for hu in (low, high))
    read: Any = [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        Orientationd("image", axcodes="IPL", labels=None),
    ]
    image = Compose(read)({"image": str(scan)})["image"]
    # Use `resampled_shape`: Spacingd makes another grid and thereby another prediction.
    shape = resampled_shape(image.shape[1:], image.pixdim.tolist(), parameters.spacing_mm)
    before = Compose(
        [
            *read,
            Resized("image", shape, mode="trilinear", align_corners=True),
            ScaleIntensityRanged("image", low, high, lowest, highest, clip=True),
            SpatialPadd("image", parameters.roi_size, mode="edge"),
        ]
    )
    after = Compose(
        [
            Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted("pred", argmax=True),
            SaveImaged("pred", output_dir=directory, output_postfix="seg", separate_folder=False, print_log=False),
        ]
    )
    data = before({"image": str(scan)})
    inferer = SlidingWindowInferer(parameters.roi_size, sw_batch_size=1, overlap=parameters.overlap, mode="gaussian")
    with torch.inference_mode():
        batch = list_data_collate([data])
        batch["pred"] = inferer(batch["image"], network)
        after(decollate_batch(batch)[0])


def load_sample(case: Mapping[str, Any], roi: tuple[int, ...], foreground: float = 0.4) -> dict[str, np.ndarray]:
    """Load a training patch: read both volumes whole, find connected components, and crop around one of them."""
    image, label = np.load(case["image"]), np.load(case["label"])
    first = [random.randint(0, n - r) for n, r in zip(image.shape[1:], roi, strict=True)]
    if random.random() < foreground:
        components, _ = ndimage.label(label[0] == random.choice(np.unique(label)[1:]))
        box = random.choice(ndimage.find_objects(components))
        centre = [(s.start + s.stop) // 2 for s in box]
        first = [min(max(c - r // 2, 0), n - r) for c, r, n in zip(centre, roi, image.shape[1:], strict=True)]
    part = (slice(None), *(slice(a, a + r) for a, r in zip(first, roi, strict=True)))
    return {"image": image[part].copy(), "label": label[part].copy()}


def prepare(directory: Path, out: Path, parameters: PreprocessingParameters) -> None:
    """Preprocess raw cases one after the other, with whole volumes in nibabel's float64."""
    out.mkdir(parents=True, exist_ok=True)
    for case in sorted(directory.glob("*/imaging.nii.gz")):
        image, label = nib.load(case), nib.load(case.with_name("segmentation.nii.gz"))
        spacing = [float(s) for s in image.header.get_zooms()[:3]]  # type: ignore[attr-defined]
        values = torch.from_numpy(image.get_fdata().astype(np.float32))[None, None]  # type: ignore[attr-defined]
        classes = torch.from_numpy(label.get_fdata().astype(np.uint8))[None, None]  # type: ignore[attr-defined]
        shape = resampled_shape(values.shape[2:], spacing, parameters.spacing_mm)
        values = functional.interpolate(values, shape, mode="trilinear", align_corners=True)
        classes = functional.interpolate(classes, shape, mode="nearest")
        values = (values.clamp(*parameters.hu_window) - parameters.hu_mean) / parameters.hu_std
        missing = [max(r - n, 0) for n, r in zip(shape, parameters.roi_size, strict=True)]
        pads = [(0, 0), *((m // 2, m - m // 2) for m in missing)]
        np.save(out / f"{case.parent.name}_x.npy", np.pad(values[0].numpy(), pads, mode="edge"))
        np.save(out / f"{case.parent.name}_y.npy", np.pad(classes[0].numpy(), pads, mode="edge"))


def train_step(network: nn.Module, loss: nn.Module, batch: Mapping[str, torch.Tensor]) -> Callable[[], None]:
    """Return a function that runs one eager training step in FP32."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(network(batch["image"]), batch["label"]).backward()
        optimizer.step()

    return step
