"""Post-process and write masks with MONAI transforms, for the bundle."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageWriter, MetaTensor
from monai.transforms import MapTransform, SaveImaged

from ..io import Grid, ReadOptions
from ..io.mask import write_mask
from ..io.scan import read_scan
from ..masks.postprocessing import PostProcessing


class PostProcessMaskd(MapTransform):
    """Post-process labels (1, X, Y, Z) on the stored grid of the scan, as :class:`RestoreToScand` leaves them.

    If a step is enabled, the scan is read again, because its HU show where the body is.

    Args:
        keys: of the labels.
        postprocessing: steps.
        options: for reading the scan.
        allow_missing_keys: skip keys that the dictionary lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        postprocessing: PostProcessing,
        options: ReadOptions | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.postprocessing, self.options = postprocessing, options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d) if self.postprocessing else ():
            labels = d[key]
            scan = read_scan(Grid.from_text(labels.meta["grid"]).path, self.options)
            mask = self.postprocessing(labels.as_tensor().cpu().numpy()[0], scan)
            d[key] = MetaTensor(torch.from_numpy(mask)[None], affine=labels.affine, meta=labels.meta)
        return d


class MaskWriter(ImageWriter):
    """Write a mask on exactly the grid of its scan, in that scan's format.

    MONAI names the file; this writer keeps its directory, and takes name and extension from the scan.
    """

    def __init__(self, output_dtype: Any = np.uint8, classes: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.classes = tuple(classes)
        self.grid: Grid | None = None

    def set_data_array(self, data_array: Any, **kwargs: Any) -> None:
        array = data_array.numpy() if isinstance(data_array, torch.Tensor) else np.asarray(data_array)
        self.data_obj = array[0] if array.ndim == 4 else array

    def set_metadata(self, meta_dict: Any = None, **kwargs: Any) -> None:
        self.grid = Grid.from_text((meta_dict or {})["grid"])

    def write(self, filename: Any, verbose: bool = True, **kwargs: Any) -> None:
        if self.grid is None:
            raise ValueError("set_metadata must come before write")
        write_mask(np.asarray(self.data_obj, dtype=np.uint8), self.grid, Path(filename).parent, self.classes)


def mask_saver(output_dir: str, keys: KeysCollection = "pred", classes: Sequence[str] = ()) -> SaveImaged:
    """Return a transform that saves masks as ``<name>_seg`` in ``output_dir``, on the scan's grid and in its format.

    ``classes`` are the names of their values, background first, for the files.
    """
    saver = SaveImaged(
        keys,
        output_dir=output_dir,
        output_postfix="seg",
        separate_folder=False,
        resample=False,
        writer=MaskWriter,
        print_log=False,
    )
    saver.set_options(init_kwargs={"classes": tuple(classes)})
    return saver
