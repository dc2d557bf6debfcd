"""Names of patients kept out of names, logs and reports."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace

from .find import Found

#: What is shown instead.
HIDDEN = "***"
#: A word written as DICOM writes names: ``Doe^Jane``.
CARETS = re.compile(r"[^/\s'\"():,]*\^[^/\s'\"():,]*")


def without_names(text: str, identity: Iterable[str]) -> str:
    """``text`` with the words of ``identity``, and whatever is written as ``Doe^Jane``, replaced by asterisks."""
    text = CARETS.sub(HIDDEN, text)
    words = sorted(identity, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, words)), HIDDEN, text, flags=re.IGNORECASE) if words else text


def anonymous(scan: Found, identity: Iterable[str]) -> Found:
    """The scan under a name that does not tell the patient's: the same at every run, another for each scan."""
    if without_names(scan.name, identity) == scan.name:
        return scan
    digest = hashlib.sha256(f"{scan.path.absolute()}\n{scan.series}".encode("utf-8", "surrogateescape"))
    return replace(scan, name=f"scan-{digest.hexdigest()[:10]}")
