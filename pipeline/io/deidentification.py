"""Keep patients' names out of file names, logs and reports."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace

from .discovery import Found

#: Replacement for a hidden word.
HIDDEN = "***"
#: A word written as DICOM writes names: ``Doe^Jane``.
CARETS = re.compile(r"[^/\s'\"():,]*\^[^/\s'\"():,]*")
#: Characters that must not stand beside a word's first or last letter, by the kind of that letter. A word may end
#: between a letter and a digit (``P4711``). Chinese words lack boundaries.
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


def anonymous(scan: Found, identity: Iterable[str]) -> Found:
    """Return the scan, renamed if its name contains the patient's.

    The new name is the same at every run and differs between scans. Only words of ``identity`` found beside the scan
    count, so the name does not depend on the other patients in a batch.
    """
    if without_names(scan.name, scan.patient.intersection(identity)) == scan.name:
        return scan
    digest = hashlib.sha256(f"{scan.path.absolute()}\n{scan.series}".encode("utf-8", "surrogateescape"))
    return replace(scan, name=f"scan-{digest.hexdigest()[:10]}")
