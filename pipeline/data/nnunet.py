"""Read and write data sets in nnU-Net's raw layout: imagesTr, labelsTr and a dataset.json with ``file_ending``."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..io import ReadOptions
from ..io.scan_files import NIFTI, ending_of
from ..io.segments import MOST_DIGITS, known_name
from ..runtime.errors import UsageError
from ..runtime.files import whole_file, write_json
from .cases import RawCase

#: Directories of images and label maps, for training and for evaluation.
TRAINING, EVALUATION = ("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")
#: What nnU-Net appends to the name of an image: the number of its channel.
CHANNEL = "_0000"
#: The classes that KiTS23's regions are made of, by region: nnU-Net names kidney and masses, masses, and tumor.
KITS23_REGIONS = {
    frozenset((1, 2, 3)): (1, "kidney"),
    frozenset((2,)): (2, "tumour"),
    frozenset((2, 3)): (3, "cyst"),
}


def is_nnunet(content: Any) -> bool:
    """Return whether the content of a ``dataset.json`` is nnU-Net's (version 2)."""
    return isinstance(content, Mapping) and "file_ending" in content and "labels" in content


def names_of_values(described: Path, labels: Mapping[str, Any]) -> dict[int, str]:
    """Return the name of each value in the ``labels`` of a ``dataset.json``; the background may be missing.

    They are in the form of the Decathlon (name by value) or of nnU-Net (value by name). nnU-Net's regions are lists of
    values. A region names the value that is left of it without the values that other labels name: of ``kidney`` [1, 2]
    and ``tumour`` 2 it is 1. KiTS23's regions are its kidney, tumour and cyst.

    Args:
        described: for the error message.
        labels: the entry.

    Raises:
        UsageError: if a region's values do not get different names so.
    """
    regions: list[tuple[str, frozenset[int]]] = []
    for name, given in labels.items():
        key, value = (given, name) if str(name).isdecimal() and isinstance(given, str) else (name, given)
        numbers = value if isinstance(value, list) else [value]
        if numbers and all(str(n).isdecimal() and len(str(n)) <= MOST_DIGITS for n in numbers):
            regions.append((known_name(key), frozenset(map(int, numbers))))
        elif isinstance(value, list):
            raise UsageError(f"{described}: the label {name} must have whole numbers, got {value}; correct it")
    names: dict[int, str] = {}
    for name, values in regions:
        if len(values) == 1 and names.setdefault(min(values), name) != name:
            number = min(values)
            raise UsageError(f"{described}: {number} is both {names[number]} and {name}; give each value one name")
    # Of two regions that name the same value, the smaller one comes later and counts.
    larger = sorted((region for region in regions if len(region[1]) > 1), key=lambda region: -len(region[1]))
    if {values for _, values in regions if values != {0}} == KITS23_REGIONS.keys() and names[2] == "tumour":
        return names | dict(KITS23_REGIONS.values())
    while rest := {min(values - names.keys()): name for name, values in larger if len(values - names.keys()) == 1}:
        names |= rest
    for name, values in larger:
        if left := sorted(values - names.keys()):
            raise UsageError(
                f"{described}: the region {name} is all that names its values {' and '.join(map(str, left))}; add a "
                f'label of its own for each but one, such as "tumour": {left[-1]}'
            )
    return names


def read_description(path: Path) -> dict[str, Any]:
    """Return the content of a ``dataset.json`` or of another JSON file; empty if it is absent or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def nnunet_labels(described: Path, content: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
    """Return the label map of each case by split and case.

    The cases are those under ``dataset``, or all label maps of ``labelsTr``; those of ``labelsTs`` are for evaluation.

    Args:
        described: the ``dataset.json``.
        content: its content.

    Raises:
        UsageError: if a case under ``dataset`` has no label, or the files' ending is of no known format.
    """
    root, ending, listed = described.parent, str(content["file_ending"]), content.get("dataset")
    if not ending_of(Path(f"a{ending}")):
        raise UsageError(f"{described}: file_ending {ending!r} is not supported; convert the images to .nii.gz")
    found: dict[str, dict[str, Path]] = {"training": {}, "evaluation": {}}
    for split, (_, labels) in zip(found, (TRAINING, EVALUATION), strict=True):
        paths = sorted((root / labels).glob(f"[!.]*{glob.escape(ending)}"))
        found[split] = {path.name[: -len(ending)]: path for path in paths}
    if isinstance(listed, Mapping):
        try:
            found["training"] = {str(case): root / files["label"] for case, files in listed.items()}
        except (KeyError, TypeError) as error:
            raise UsageError(f"{described}: each case of dataset must have images and a label ({error})") from error
    return found


def nnunet_files(described: Path, content: Mapping[str, Any]) -> dict[str, dict[str, tuple[Path, Path]]]:
    """Return image and label map of each case of :func:`nnunet_labels`, by split and case.

    Args:
        described: the ``dataset.json``.
        content: its content.

    Raises:
        UsageError: if the images have several channels or are no CT, or label maps are missing.
    """
    root, ending = described.parent, str(content["file_ending"])
    channels = content.get("channel_names", {"0": "CT"})
    if not isinstance(channels, Mapping) or len(channels) != 1:
        raise UsageError(f"{described}: its images must have one channel, got {channels}; name the CT alone")
    require_ct(described, "channel name", channels)
    listed = content.get("dataset")
    found: dict[str, dict[str, tuple[Path, Path]]] = {}
    for (split, labels), (images, _) in zip(
        nnunet_labels(described, content).items(), (TRAINING, EVALUATION), strict=True
    ):
        found[split] = {case: (root / images / f"{case}{CHANNEL}{ending}", label) for case, label in labels.items()}
    if isinstance(listed, Mapping):
        try:
            found["training"] = {
                case: (root / listed[case]["images"][0], label) for case, (_, label) in found["training"].items()
            }
        except (KeyError, TypeError, IndexError) as error:
            raise UsageError(f"{described}: each case of dataset must have images and a label ({error})") from error
    if not found["training"]:
        raise UsageError(f"{described}: no label maps *{ending} in {root / TRAINING[1]}; name nnU-Net's raw directory")
    return found


def require_ct(described: Path, key: str, modality: Any) -> None:
    """Check the modality that a ``dataset.json`` gives for each channel; without any, the images are taken for CT.

    Raises:
        UsageError: if one is not ``CT``, in upper or lower case.
    """
    names = list(modality.values()) if isinstance(modality, Mapping) else [] if modality is None else [modality]
    if other := [name for name in names if str(name).strip().upper() != "CT"]:
        raise UsageError(
            f"{described}: its {key} is {other[0]!r}, but only CT in HU can be used; use a CT data set, or write CT "
            "there if the images hold HU"
        )


def write_nnunet(
    cases: Sequence[RawCase], directory: str | Path, name: str, classes: Sequence[str], link: bool = False
) -> Path:
    """Write a data set in nnU-Net's raw layout; return its ``dataset.json``.

    Training cases go to ``imagesTr`` and ``labelsTr``, evaluation cases to ``imagesTs`` and ``labelsTs``.

    Args:
        cases: cases whose files are NIfTI, all with the same ending.
        directory: directory such as ``nnUNet_raw/Dataset001_Kidneys``, which must not contain another data set.
        name: name of the data set.
        classes: names of the label values, background first.
        link: link to the files instead of copying them.

    Raises:
        UsageError: if a file is missing or of another format, a case needs corrections of its header, or the directory
            has other cases or is the data set itself.
    """
    directory = Path(directory)
    endings = {ending_of(path) for case in cases for path in (case.image, case.label)}
    if len(endings) != 1 or not endings <= set(NIFTI):
        found = ", ".join(sorted(ending or "DICOM" for ending in endings))
        raise UsageError(f"nnU-Net gets NIfTI files with one ending, got {found}; convert all to .nii.gz")
    if corrected := [case for case in cases if case.options != ReadOptions()]:
        raise UsageError(
            f"{corrected[0].image}: the data list corrects its header, but its file would be copied as it is; save it "
            "corrected first"
        )
    ending = endings.pop()
    missing = [path for case in cases for path in (case.image, case.label) if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such file; complete the data set")
    places: dict[Path, Path] = {}
    for case in cases:
        images, labels = TRAINING if case.split == "training" else EVALUATION
        places[directory / images / f"{case.case_id}{CHANNEL}{ending}"] = case.image
        places[directory / labels / f"{case.case_id}{ending}"] = case.label
    others = [path for pair in (TRAINING, EVALUATION) for part in pair for path in (directory / part).glob("*")]
    if foreign := [path for path in others if path not in places and not path.name.startswith(".")]:
        raise UsageError(f"{foreign[0]}: belongs to another data set; choose an empty directory")
    for target, source in places.items():
        if target.is_file() and not target.is_symlink() and target.samefile(source):
            raise UsageError(f"{target}: is the data set itself, or linked to it; choose another directory")
    for target, source in places.items():
        with whole_file(target) as temporary:
            if link:
                temporary.unlink(missing_ok=True)
                os.symlink(source.resolve(), temporary)
            else:
                shutil.copyfile(source, temporary)
    about = {
        "name": name,
        "channel_names": {"0": "CT"},
        "labels": {label: value for value, label in enumerate(classes)},
        "numTraining": sum(case.split == "training" for case in cases),
        "file_ending": ending,
    }
    write_json(directory / "dataset.json", about)
    return directory / "dataset.json"
