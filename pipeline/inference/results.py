"""Write the results of scans into one directory, and keep patients' names out of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..io.dicom.segmentation import require_highdicom, segmentation_path, write_segmentation
from ..io.discovery import Found
from ..io.mask import FORMATS, mask_path, probabilities_path
from ..io.scan import Scan
from ..io.segments import segments_of
from ..report.html_report import PICTURE, SLICES, html_report_wanted, require_html_report, save_slices
from ..report.pictures import picture, save_picture
from ..runtime.errors import CaseError, UsageError
from ..runtime.files import file_hash, whole_files, write_json
from .predictor import Predictor

#: Replacement for a hidden word.
HIDDEN = "***"
#: A word written as DICOM writes names: ``Doe^Jane``.
CARETS = re.compile(r"[^/\s'\"():,]*\^[^/\s'\"():,]*")
#: Characters that must not adjoin a word's first or last character, by the kind of that character. A word may end
#: between a letter and a digit (``P4711``). Chinese words have no boundaries.
BESIDE = {"letter": r"[^\W\d_\u2e80-\U0003ffff]", "digit": r"\d"}


def without_names(text: str, identity: Iterable[str]) -> str:
    """Replace the words of ``identity``, and text written as ``Doe^Jane``, by asterisks."""
    text = CARETS.sub(HIDDEN, text)
    words = sorted(identity, key=lambda word: (-len(word), word))
    return re.sub("|".join(map(_whole, words)), HIDDEN, text, flags=re.IGNORECASE) if words else text


def _whole(word: str) -> str:
    """Return a pattern that matches a word alone, not inside another: ``Miss`` is not in ``missing``."""
    first, last = _beside(word[0]), _beside(word[-1])
    return (f"(?<!{first})" if first else "") + re.escape(word) + (f"(?!{last})" if last else "")


def _beside(letter: str) -> str:
    if letter.isdigit():
        return BESIDE["digit"]
    return BESIDE["letter"] if letter.isalpha() and letter < "\u2e80" else ""


def named_as_wanted(case: Mapping[str, Any], anonymised: Callable[[str], str], keep_names: bool) -> bool:
    """Return whether the texts of a scan's record hide the names that ``anonymised`` hides, or none."""
    texts = [case["scan"], *case.get("warnings", [])]
    return not any(anonymised(text) != text or (keep_names and HIDDEN in text) for text in texts)


def anonymous(scan: Found, identity: Iterable[str]) -> Found:
    """Return the scan, renamed if its name contains the patient's.

    The new name is the same at every run and differs between scans. Only words of ``identity`` found beside the scan
    count, so the name does not depend on the other patients in a batch.
    """
    if without_names(scan.name, scan.patient.intersection(identity)) == scan.name:
        return scan
    digest = hashlib.sha256(f"{scan.path.absolute()}\n{scan.series}".encode("utf-8", "surrogateescape"))
    return replace(scan, name=f"scan-{digest.hexdigest()[:10]}")


#: End of the name of a scan's report.
REPORT = "_report.json"


def _listed(report: Path) -> dict[str, str]:
    """Return the files and hashes that a scan's report lists; none if it is not one."""
    try:
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
        return {str(name): str(digest) for name, digest in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


@dataclass(frozen=True)
class Results:
    """Select the files of each scan.

    Attributes:
        mask_format: format of the mask, see :func:`~kits_unet3d.pipeline.io.mask.write_mask`.
        split_kidneys: write the right and the left kidney as two classes in mask and DICOM segmentation.
        probabilities: also write class probabilities.
        dicom_seg: also write DICOM segmentations of DICOM scans.
        html_report: draw a picture and slices of each scan, and write the HTML report; if None, done if the extra
            ``figures`` is installed.

    Raises:
        UsageError: for an unknown format.
    """

    mask_format: str = "scan"
    split_kidneys: bool = False
    probabilities: bool = False
    dicom_seg: bool = False
    html_report: bool | None = None

    def __post_init__(self) -> None:
        if self.mask_format not in FORMATS:
            raise UsageError(f"mask_format must be {' or '.join(FORMATS)}, got {self.mask_format!r}")

    @property
    def pictures(self) -> bool:
        """Return whether to draw pictures and write the HTML report."""
        return html_report_wanted(self.html_report)

    def require_packages(self) -> None:
        """Raise a UsageError if a package that these files need is not installed."""
        if self.html_report:
            require_html_report()
        if self.dicom_seg:
            require_highdicom()

    def require_replaceable(self, scan: Scan, directory: Path, *, recorded: Collection[str], pictures: bool) -> None:
        """Check that no file of another origin has the name of a result of ``scan``.

        Args:
            scan: the scan.
            directory: directory of the results.
            recorded: files there that are known as results of this scan. After a kill, those that the report beside
                the mask lists with their hashes are known too.
            pictures: as for :meth:`write`.

        Raises:
            CaseError: naming the first one.
        """
        written = [mask_path(scan.grid, directory, self.mask_format), directory / f"{scan.name}{REPORT}"]
        written += [probabilities_path(scan.grid, directory)] if self.probabilities else []
        written += [segmentation_path(scan.grid, directory)] if self.dicom_seg else []
        written += [directory / f"{scan.name}{ending}" for ending in (PICTURE, SLICES)] if pictures else []
        names = {path.relative_to(directory).as_posix(): path for path in written if path.exists()}
        unknown = [name for name in names if name not in recorded]
        if unknown:
            listed = _listed(directory / f"{scan.name}{REPORT}")
            own = {name for name, digest in listed.items() if name in names and file_hash(names[name]) == digest}
            unknown = [name for name in unknown if name not in own and not (listed and name.endswith(REPORT))]
        if unknown:
            raise CaseError(
                f"{scan.path}: {unknown[0]} in {directory} exists already and is not a result of this program; use "
                "another directory, or --overwrite"
            )

    def write(
        self,
        predictor: Predictor,
        scan: Scan,
        directory: Path,
        *,
        pictures: bool,
        anonymised: Callable[[str], str],
    ) -> dict[str, Any]:
        """Predict a scan and write its files; return their hashes, its measures and its warnings.

        After an error, the files of an earlier run stay as they are.

        Args:
            predictor: with the model.
            scan: the scan.
            directory: directory of the files.
            pictures: draw pictures: the value of :attr:`pictures`, read once for all scans, since it may print a note.
            anonymised: removes patients' names from a text.
        """
        with whole_files(directory, scan.name) as part:
            file = probabilities_path(scan.grid, part) if self.probabilities else None
            prediction = predictor.predict(scan, probabilities=file)
            # The files hold the split classes; measures and pictures stay those of the whole class.
            shown = prediction.with_split_kidneys() if self.split_kidneys else prediction
            shown.save(part, self.mask_format)
            warnings = [anonymised(warning) for warning in scan.warnings]
            if predictor.model.warning:
                warnings.append(predictor.model.warning)
            if self.dicom_seg:
                try:
                    write_segmentation(shown.mask, scan.grid, part, shown.classes)
                except Exception as error:  # this file is optional: its failure must not lose the mask
                    warnings.append(anonymised(str(error)))
            if pictures:
                path, note = part / f"{scan.name}{PICTURE}", predictor.model.warning or ""
                figure = picture(scan, prediction.mask, segments=segments_of(prediction.classes), note=note)
                save_picture(figure, path)
                save_slices(scan, prediction.mask, part / f"{scan.name}{SLICES}")
            described: dict[str, Any] = {**prediction.measures, "warnings": warnings}
            if predictor.postprocessing:
                described["postprocessing"] = vars(predictor.postprocessing)
            labels = {name: value for value, name in enumerate(shown.classes)}
            about: dict[str, Any] = {
                "scan": anonymised(str(scan.path)),
                "shape": scan.grid.shape,
                "spacing_mm": scan.spacing_mm,
            }
            about |= {"model": predictor.model.description, "labels": labels}
            written = (path for path in part.rglob("*") if path.is_file())
            files = {path.relative_to(part).as_posix(): file_hash(path) for path in sorted(written)}
            report = part / f"{scan.name}{REPORT}"
            write_json(report, {**about, **described, "files": files})
            files[report.relative_to(part).as_posix()] = file_hash(report)
        mask = mask_path(scan.grid, directory, self.mask_format).relative_to(directory).as_posix()
        return {"files": {mask: files.pop(mask), **files}, **described}
