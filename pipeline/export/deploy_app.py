"""Segment DICOM studies as DICOM segmentations, by the Deploy App SDK's own operators and a TorchScript file.

In an environment with ``monai-deploy-app-sdk``, run ``python -m kits_unet3d.pipeline.export.deploy_app -i path/to/dicom
-o path/to/output -m path/to/model.ts``. ``kits-unet3d export torchscript`` writes the file. It also holds the
configuration, the preprocessing parameters and the names of the classes.
"""

from __future__ import annotations

import json
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application
from monai.deploy.core.domain import Image
from monai.deploy.core.io_type import IOType
from monai.deploy.operators import (
    BundleConfigNames,
    DICOMDataLoaderOperator,
    DICOMSegmentationWriterOperator,
    DICOMSeriesSelectorOperator,
    DICOMSeriesToVolumeOperator,
    IOMapping,
    MonaiBundleInferenceOperator,
)
from monai.deploy.operators.dicom_seg_writer_operator import SegmentDescription
from pydicom.sr.coding import Code

from ..io.dicom.segmentation import NAME
from ..io.segments import segments_of
from ..runtime.errors import UsageError

#: Rules for the series of a study to segment: original axial CT.
SERIES = json.dumps(
    {"selections": [{"name": "CT", "conditions": {"Modality": "(?i)CT", "ImageType": ["ORIGINAL", "AXIAL"]}}]}
)


def class_names(model: Path) -> list[str]:
    """Read the names of the classes above the background from the metadata in the TorchScript file.

    Raises:
        UsageError: if it is another file, or was renamed, so that its metadata are not found.
    """
    try:
        with zipfile.ZipFile(model) as archive:
            metadata = json.loads(archive.read(f"{model.stem}/extra/metadata.json"))
        names = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        return [names[number] for number in sorted(names, key=int) if int(number) > 0]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UsageError(
            f"{model}: is not a TorchScript file of `kits-unet3d export torchscript`, or was renamed ({error})"
        ) from error


def segments(names: list[str]) -> list[SegmentDescription]:
    """Describe each class for the DICOM segmentation."""
    try:
        number = version(NAME)
    except PackageNotFoundError:
        number = "0"
    described = []
    for segment in segments_of(["background", *names]):
        described.append(
            SegmentDescription(
                segment_label=segment.name,
                segmented_property_category=Code(segment.category[0], "SCT", segment.category[1]),
                segmented_property_type=Code(*segment.kind),
                algorithm_name=NAME,
                algorithm_version=number,
            )
        )
    return described


class KidneyApplication(Application):
    """Connect loader, series selector, volume, model and writer."""

    def compose(self) -> None:
        context: AppContext = Application.init_app_context(self.argv)
        model = Path(context.model_path)
        model = model / "model.ts" if model.is_dir() else model
        first = CountCondition(self, 1)
        loader = DICOMDataLoaderOperator(self, first, input_directory=Path(context.input_path), name="loader")
        selector = DICOMSeriesSelectorOperator(self, rules=SERIES, name="selector")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        network = MonaiBundleInferenceOperator(
            self,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=context,
            bundle_config_names=BundleConfigNames(config_names=["inference"]),
            bundle_path=str(model),
            name="network",
        )
        writer = DICOMSegmentationWriterOperator(
            self,
            segment_descriptions=segments(class_names(model)),
            output_directory=Path(context.output_path),
            name="writer",
        )
        series = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, series)
        self.add_flow(volume, network, {("image", "image")})
        self.add_flow(selector, writer, series)
        self.add_flow(network, writer, {("pred", "seg_image")})


def main() -> Any:
    """Run the application on ``-i``, ``-o`` and ``-m``."""
    return KidneyApplication().run()


if __name__ == "__main__":
    main()
