"""Compare preprocessed files with their known hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kits_unet3d.transforms import PreprocessingParameters

from ..runtime.errors import UsageError
from ..runtime.files import file_hash
from .datasets import KITS19, known_cases
from .index import Index
from .preprocessing import result_files


@dataclass(frozen=True)
class Verdict:
    """Hold the result for one file; ``outcome`` is right, different, missing or unknown."""

    file: str
    outcome: str


def expected_hashes(directory: Path, against: str = "auto") -> dict[str, str]:
    """Return the expected MD5 of each file in ``directory``, as known for KiTS19 or as recorded in its index.

    ``against`` is ``"kits19"``, ``"index"`` or ``"auto"``. ``"auto"`` takes the index for other data sets, and for
    KiTS19 with preprocessing parameters other than the reference's. Without an index it takes KiTS19, since
    the data may come from the reference.
    """
    if against == "index" or (against == "auto" and Index.exists(directory)):
        index = Index.read(directory)
        if against == "index" or (index.name, index.parameters) != (KITS19, PreprocessingParameters()):
            return {
                result_files(directory, case_id)[key].name: md5
                for case_id, record in index.cases.items()
                for key, md5 in _hashes(directory, case_id, record).items()
            }
    expected = {}
    for case_id, case in known_cases().items():
        files = result_files(directory, case_id)
        expected[files["image"].name] = case.image_md5
        expected[files["label"].name] = case.label_md5
    return expected


def _hashes(directory: Path, case_id: str, record: Mapping[str, Any]) -> dict[str, str]:
    md5 = record.get("md5")
    if not isinstance(md5, dict) or not md5.keys() <= result_files(directory, case_id).keys():
        raise UsageError(f"{directory}: the index has no MD5 of {case_id}; preprocess the case again")
    return md5


def verify(directory: str | Path, against: str = "auto") -> Iterator[Verdict]:
    """Yield a verdict for each expected file and each unexpected array; continue after a fault.

    An array whose shape is not that of its index is different, whatever its hash.
    """
    directory = Path(directory)
    expected = expected_hashes(directory, against)
    misfits = set(Index.read(directory).misfits()) if against != "kits19" and Index.exists(directory) else set()
    for name, md5 in sorted(expected.items()):
        path = directory / name
        if not path.is_file():
            yield Verdict(name, "missing")
        else:
            right = file_hash(path, "md5") == md5 and path not in misfits
            yield Verdict(name, "right" if right else "different")
    for path in sorted(directory.glob("*.npy")):
        if path.name not in expected and not path.name.startswith("."):
            yield Verdict(path.name, "unknown")
