"""Find the cases of a raw data set: in the layout of KiTS19, KiTS23 or nnU-Net, or a Decathlon data list."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from kits_unet3d.transforms import PreprocessingParameters

from ..io import ReadOptions
from ..io.labels import read_labels
from ..io.scan_files import scan_name
from ..runtime.errors import CaseError, UsageError
from .cases import RawCase
from .nnunet import (
    CHANNEL,
    EVALUATION,
    TRAINING,
    is_nnunet,
    names_of_values,
    nnunet_files,
    read_description,
    require_ct,
)

logger = logging.getLogger("kits_unet3d.data")

KITS19, KITS23 = "KiTS19", "KiTS23"
#: Classes of KiTS23's label maps by value.
KITS23_CLASSES = ("background", "kidney", "tumour", "cyst")
#: Numbers of KiTS23's cases; 0 to 299 are KiTS19's scans with new label maps.
KITS23_NUMBERS = (*range(300), *range(400, 589))
#: Number of label maps to search for cysts if nothing else distinguishes KiTS23 from KiTS19. Every second map has one.
SEARCHED = 8
#: Cases of each split of KiTS19; MLPerf's schedule and score depend on these numbers.
SIZES = {"training": 168, "evaluation": 42}


@dataclass(frozen=True)
class KnownCase:
    """Hold the split of one of the 210 labelled cases and the MD5 of its two preprocessed files."""

    split: str
    image_md5: str
    label_md5: str


@cache
def known_cases() -> dict[str, KnownCase]:
    """Return the 210 cases by identifier (``case_00000`` …): 168 for training, 42 for evaluation."""
    content = json.loads((Path(__file__).parent / "kits19_checksums.json").read_text(encoding="utf-8"))
    return {case_id: KnownCase(split, *sums) for split, cases in content.items() for case_id, sums in cases.items()}


@cache
def kits23_splits() -> dict[str, str]:
    """Return the split of KiTS23's 489 cases by identifier.

    The 210 cases that KiTS19 labels keep their split, so that a network never trains on a scan that it is evaluated on
    with the other data set. Of the others, every fifth is for evaluation.
    """
    known = {case_id: case.split for case_id, case in known_cases().items()}
    ids = {f"case_{number:05d}": number for number in KITS23_NUMBERS}
    others = {case_id: "training" if number % EVALUATION_SHARE else "evaluation" for case_id, number in ids.items()}
    return others | known


def is_kits23(directory: Path) -> bool:
    """Return whether ``case_XXXXX/segmentation.nii.gz`` in a directory are KiTS23's, and not KiTS19's.

    KiTS23 has case numbers of its own and ``instances`` beside its label maps, and its downloads are listed under its
    name. Without these, a cyst in one of a few label maps decides.
    """
    labels = sorted(directory.glob("case_*/segmentation.nii.gz"))
    if manifest := read_description(directory / MANIFEST):
        return manifest.get("name") == KITS23
    names = {path.parent.name for path in labels}
    if not names or not names <= kits23_splits().keys():
        return False
    if names - known_cases().keys() or any((path.parent / "instances").is_dir() for path in labels):
        return True
    return any(_has_cyst(path) for path in labels[:: -(-len(labels) // SEARCHED)])


def _has_cyst(path: Path) -> bool:
    try:
        return bool((read_labels(path).voxels == KITS23_CLASSES.index("cyst")).any())
    except CaseError:  # preprocessing reports it
        return False


def classes_in(source: str | Path) -> tuple[str, ...]:
    """Return the names of a data set's classes by value, background first: :func:`named_classes`, or else KiTS19's."""
    return named_classes(source) or PreprocessingParameters().classes


def named_classes(source: str | Path, may_ignore: bool = False) -> tuple[str, ...]:
    """Return the names of the classes by value as a data set gives them; empty if it gives none.

    They are the ``classes`` of its ``dataset.json``, or its ``labels`` (:func:`~.nnunet.names_of_values`), or KiTS23's.
    The source may also be the ``labelsTr`` or ``labelsTs`` of a data set. ``may_ignore`` leaves out nnU-Net's label
    ``ignore``, which predictions never contain.

    Raises:
        UsageError: if a value below the highest lacks a name, or a region names several.
    """
    source = Path(source)
    described = source if source.suffix == ".json" else source / DATASET_FILE
    if not described.is_file() and source.name in (TRAINING[1], EVALUATION[1]):
        described = source.absolute().parent / DATASET_FILE
    if not described.is_file():
        return KITS23_CLASSES if is_kits23(source) else ()
    content = read_description(described)
    if isinstance(named := content.get("classes"), list):
        return tuple(map(str, named))
    labels = content.get("labels")
    names = names_of_values(described, labels) if isinstance(labels, dict) else {}
    if may_ignore:
        names = {value: name for value, name in names.items() if name != "ignore"}
    if "ignore" in names.values():
        raise UsageError(f"{described}: the label ignore marks unknown voxels; remove it and its cases")
    if missing := sorted(set(range(max(names, default=-1) + 1)) - {0} - names.keys()):
        raise UsageError(f"{described}: labels has no name for {missing[0]}; name every value up to {max(names)}")
    return tuple(({0: "background"} | names)[number] for number in range(max(names) + 1)) if names else ()


DATASET_FILE = "dataset.json"
#: List of the files that ``kits-unet3d download`` fetched.
MANIFEST = "download.json"
#: Names that a data list may use for its evaluation cases.
EVALUATION_LISTS = ("evaluation", "validation")
#: If a data list lacks such cases, one case in this number is for evaluation.
EVALUATION_SHARE = 5
#: Entries of a case in a data list that allow a file which would otherwise be refused, as `prepare`'s options do.
OPTIONS = ("volume", "hu_offset", "spacing_mm", "trust", "series", "allow_gaps")


def find_cases(source: str | Path, options: ReadOptions | None = None) -> tuple[str, list[RawCase]]:
    """Return the name of a data set and its sorted cases.

    A list determines the cases, even if files are missing; otherwise all labelled cases count.

    Args:
        source: a directory, or a data list (``.json``). A ``dataset.json`` in the directory may be such a list,
            nnU-Net's (with ``file_ending``), or name and split of the files ``<case>/imaging.nii.gz`` and
            ``segmentation.nii.gz`` beside it (``{"name": …, "training": [ids], "evaluation": [ids]}``). Without it the
            directory must be KiTS19 or KiTS23, whose splits are known.
        options: allow files that would otherwise be refused. A data list may give them for each case too, beside its
            ``image`` and ``label`` (``"hu_offset": -1024``, ``"trust": "sform"``, …).

    Raises:
        UsageError: if the directory or its cases are missing, or a case lacks a split.
    """
    source, options = Path(source), options or ReadOptions()
    described = source if source.suffix == ".json" else source / DATASET_FILE
    directory = described.parent
    if not (directory.is_dir() and (described.is_file() or described is not source)):
        raise UsageError(f"{source}: no such directory; name the one with case_00000, case_00001, … or a dataset.json")
    content = _content(described) if described.is_file() else None
    if content is not None and is_nnunet(content):
        return _nnunet(described, content, options)
    if content is not None and all(isinstance(case, dict) for case in content["training"]):
        return _data_list(described, content, options)
    # Keep a label without its image: preprocessing then reports the missing image.
    found = {path.parent.name: path.parent for path in sorted(directory.glob("*/segmentation.nii.gz"))}
    if not any((path / "imaging.nii.gz").is_file() for path in found.values()):
        raise UsageError(
            f"{directory}: contains no case_XXXXX/imaging.nii.gz with segmentation.nii.gz beside it; "
            "for your own scans list images and labels in a dataset.json (docs/other_data.md), fetch KiTS19 or "
            "KiTS23 with `kits-unet3d download`, or make a data set with `kits-unet3d phantom`"
        )
    name, splits = _splits(described, content, directory)
    unknown = [case_id for case_id in found if case_id not in splits]
    if unknown:
        raise UsageError(
            f"{directory}: {', '.join(unknown[:3])} not in any split; list each as training or evaluation in "
            f"{described}"
        )
    if content is not None:
        # Preprocessing reports listed cases that are missing. Without a list the expected cases are unknown.
        found = {case_id: directory / case_id for case_id in sorted(splits)}
    return name, [
        RawCase(
            case_id, path / "imaging.nii.gz", path / "segmentation.nii.gz", splits[case_id], options, name == KITS19
        )
        for case_id, path in found.items()
    ]


def _content(described: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(described.read_text(encoding="utf-8-sig"))
        if is_nnunet(content):
            return content
        content["training"] = list(content["training"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{described}: must be JSON with the lists training and evaluation ({error})") from error
    return content


def _splits(described: Path, content: dict[str, Any] | None, directory: Path) -> tuple[str, dict[str, str]]:
    if content is None and is_kits23(directory):
        return KITS23, kits23_splits()
    if content is None:
        return KITS19, {case_id: case.split for case_id, case in known_cases().items()}
    try:
        splits = _in_one_split(described, content["training"], list(content["evaluation"]))
    except (KeyError, TypeError) as error:
        raise UsageError(f"{described}: must be JSON with the lists training and evaluation ({error})") from error
    if strange := [one for one in splits if not isinstance(one, str) or Path(one).name != one or not one]:
        raise UsageError(f"{described}: {strange[0]!r} is not the name of a case directory beside it; correct the list")
    return str(content.get("name", described.parent.name)), splits


def _in_one_split(described: Path, training: list[str], evaluation: list[str]) -> dict[str, str]:
    twice = sorted(set(training) & set(evaluation))
    if twice:
        raise UsageError(f"{described}: {', '.join(twice[:3])} in both splits; keep each case in one")
    return dict.fromkeys(training, "training") | dict.fromkeys(evaluation, "evaluation")


def _data_list(described: Path, content: dict[str, Any], options: ReadOptions) -> tuple[str, list[RawCase]]:
    """Return the name and cases of a data list; each case has the name of its image file."""
    require_ct(described, "modality", content.get("modality"))
    lists = {"training": "training"} | {name: "evaluation" for name in EVALUATION_LISTS if content.get(name)}
    files: dict[str, tuple[Path, Path, ReadOptions]] = {}
    ids: dict[str, list[str]] = {"training": [], "evaluation": []}
    for name, split in lists.items():
        try:
            entries = [
                (described.parent / entry["image"], described.parent / entry["label"], _options(entry, options))
                for entry in content[name]
            ]
        except UsageError as error:  # an option of a case
            raise UsageError(f"{described}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{described}: each of {name} must have one image and one label, as paths ({error})"
            ) from error
        for entry in entries:
            case_id = scan_name(entry[0])
            if files.setdefault(case_id, entry) != entry or case_id in ids[split]:
                raise UsageError(f"{described}: lists {case_id} twice; list each case once, with its own file name")
            ids[split].append(case_id)
    if not ids["training"]:
        raise UsageError(f"{described}: lists no case under training")
    splits = _with_evaluation(described, ids["training"], ids["evaluation"])
    name = str(content.get("name", described.parent.name))
    return name, [
        RawCase(case_id, image, label, splits[case_id], own) for case_id, (image, label, own) in sorted(files.items())
    ]


def _with_evaluation(described: Path, training: list[str], evaluation: list[str]) -> dict[str, str]:
    """Return the split of each case; without cases for evaluation, some of the training cases are.

    Cases with KiTS's names keep their split, so that no scan is for training here and for evaluation elsewhere. Of the
    others, one in five is for evaluation.
    """
    if not evaluation:
        if len(set(training)) < 2:
            raise UsageError(
                f"{described}: lists one case, but training and evaluation need one each; list another under validation"
            )
        splits = {case_id: _kits_split(case_id) for case_id in sorted(training)}
        evaluation = [case_id for case_id, split in splits.items() if split == "evaluation"]
        evaluation += [case_id for case_id, split in splits.items() if not split][::EVALUATION_SHARE]
        if not 0 < len(evaluation) < len(splits):
            split = "evaluation" if evaluation else "training"
            raise UsageError(f"{described}: KiTS has all these cases for {split}; list cases for both splits")
        training = [case_id for case_id in splits if case_id not in evaluation]
        logger.info("%s: lists no case for evaluation; %d of %d are used", described, len(evaluation), len(splits))
    return _in_one_split(described, training, evaluation)


def _kits_split(case_id: str) -> str:
    """Return the split of a case with the name of one of KiTS's, as other programs write it too; "" for others."""
    number = re.fullmatch(rf"(?:case|kits)[_-]?(\d{{5}})(?:{CHANNEL})?", case_id, re.IGNORECASE)
    return kits23_splits().get(f"case_{number[1]}", "") if number else ""


def _nnunet(described: Path, content: dict[str, Any], options: ReadOptions) -> tuple[str, list[RawCase]]:
    """Return the name and cases of a data set in nnU-Net's raw layout."""
    found = nnunet_files(described, content)
    splits = _with_evaluation(described, list(found["training"]), list(found["evaluation"]))
    files = found["training"] | found["evaluation"]
    name = str(content.get("name", described.parent.absolute().name))
    return name, [RawCase(case, *files[case], splits[case], options) for case in sorted(files)]


def _options(entry: dict[str, Any], options: ReadOptions) -> ReadOptions:
    """Return the options of a case: its own, and ``options`` for the others.

    Raises:
        UsageError: for an entry that looks like a misspelt option, or an option of a wrong type.
    """
    for name in entry:
        if name not in (*OPTIONS, "image", "label") and (near := get_close_matches(name, OPTIONS, n=1)):
            raise UsageError(f"{entry.get('image')}: the entry {name} is unknown; the nearest known one is {near[0]}")
    own = {name: entry[name] for name in OPTIONS if entry.get(name) is not None}
    if "spacing_mm" in own:
        own["spacing_mm"] = tuple(float(size) for size in own["spacing_mm"])
    return replace(options, **own)
