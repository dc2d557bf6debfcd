"""Are the prepared files what they must be?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kits_unet3d.transforms import Recipe

from ..runtime.files import file_hash
from .datasets import KITS19, known_cases
from .index import Index
from .preprocessing import result_files


@dataclass(frozen=True)
class Verdict:
    """Of one file; ``outcome`` is right, different, missing or unknown."""

    file: str
    outcome: str


def expected_hashes(folder: Path, against: str = "auto") -> dict[str, str]:
    """MD5 of each file that ``folder`` must hold: what KiTS19's are known to be, or what its own index recorded.

    ``against`` is ``"kits19"``, ``"index"`` or ``"auto"``: the index for other data sets than KiTS19, and for
    KiTS19 prepared with other numbers than the reference's. A folder without an index may have been prepared by
    the reference, and is held against KiTS19.
    """
    if against == "index" or (against == "auto" and Index.exists(folder)):
        index = Index.read(folder)
        if against == "index" or (index.name, index.recipe) != (KITS19, Recipe()):
            return {
                result_files(folder, case_id)[key].name: md5
                for case_id, record in index.cases.items()
                for key, md5 in record["md5"].items()
            }
    expected = {}
    for case_id, case in known_cases().items():
        files = result_files(folder, case_id)
        expected[files["image"].name] = case.image_md5
        expected[files["label"].name] = case.label_md5
    return expected


def verify(folder: str | Path, against: str = "auto") -> Iterator[Verdict]:
    """A verdict for each file that should be there and each array that is; never stops at the first fault."""
    folder = Path(folder)
    expected = expected_hashes(folder, against)
    for name, md5 in sorted(expected.items()):
        path = folder / name
        if not path.is_file():
            yield Verdict(name, "missing")
        else:
            yield Verdict(name, "right" if file_hash(path, "md5") == md5 else "different")
    for path in sorted(folder.glob("*.npy")):
        if path.name not in expected and not path.name.startswith("."):
            yield Verdict(path.name, "unknown")
