"""Names of patients kept out of names, logs and reports."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace

from .discovery import Found

#: What is shown instead.
HIDDEN = "***"
#: A word written as DICOM writes names: ``Doe^Jane``.
CARETS = re.compile(r"[^/\s'\"():,]*\^[^/\s'\"():,]*")
#: What must not stand beside a word's first or last letter, by the kind of that letter. Between a letter and a digit
#: a word ends (``P4711``), and Chinese ones have no ends.
BESIDE = {"letter": r"[^\W\d_\u2e80-\U0003ffff]", "digit": r"\d"}


def without_names(text: str, identity: Iterable[str]) -> str:
    """``text`` with the words of ``identity``, and whatever is written as ``Doe^Jane``, replaced by asterisks."""
    text = CARETS.sub(HIDDEN, text)
    words = sorted(identity, key=lambda word: (-len(word), word))
    return re.sub("|".join(map(_whole, words)), HIDDEN, text, flags=re.IGNORECASE) if words else text


def _whole(word: str) -> str:
    """The pattern of a word that stands for itself, and is no part of another: ``Miss`` is not in ``missing``."""
    first, last = _beside(word[0]), _beside(word[-1])
    return (f"(?<!{first})" if first else "") + re.escape(word) + (f"(?!{last})" if last else "")


def _beside(letter: str) -> str:
    if letter.isdigit():
        return BESIDE["digit"]
    return BESIDE["letter"] if letter.isalpha() and letter < "\u2e80" else ""


def anonymous(scan: Found, identity: Iterable[str]) -> Found:
    """The scan under a name that does not tell the patient's: the same at every run, another for each scan.

    Of ``identity`` only the words of what lies with the scan count, so that its name does not depend on who else is
    in a batch.
    """
    if without_names(scan.name, scan.patient.intersection(identity)) == scan.name:
        return scan
    digest = hashlib.sha256(f"{scan.path.absolute()}\n{scan.series}".encode("utf-8", "surrogateescape"))
    return replace(scan, name=f"scan-{digest.hexdigest()[:10]}")
