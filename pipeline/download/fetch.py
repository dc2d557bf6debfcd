"""Download one file over HTTP: resume it, retry it, and keep it only if it is whole."""

from __future__ import annotations

import gzip
import http.client
import math
import os
import re
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..runtime.errors import CaseError, UsageError
from ..runtime.files import writing_into

#: HTTP statuses of errors that may pass; every other 4xx is final.
PASSING = {408, 416, 425, 429}
#: First bytes of files that are not gzip, and the kinds of these files.
KNOWN_BEGINNINGS = {b"version https://git-lfs": "a Git LFS pointer", b"<": "an HTML page"}
LONGEST_WAIT_S = 120.0
#: Beginnings of the addresses that are fetched.
WEB = ("https://", "http://")


@dataclass(frozen=True)
class Patience:
    """Hold the timeout and the retries of a download.

    Attributes:
        timeout_s: longest time without a byte from the server, in seconds.
        retries: further tries after the first.
        wait_s: seconds before the first retry; doubled before each next one, up to two minutes.
    """

    timeout_s: float = 60.0
    retries: int = 6
    wait_s: float = 2.0

    def __post_init__(self) -> None:
        if not (0 < self.timeout_s < math.inf and self.retries >= 0 and self.wait_s >= 0):  # NaN neither
            raise UsageError(f"timeout must be positive, retries and waits not negative, got {self}")

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after the ``attempt``-th failure, counted from 0."""
        return min(self.wait_s * 2.0**attempt, LONGEST_WAIT_S)


class _TryAgainError(Exception):
    """Report that this try failed; ``after_s`` is the wait in seconds that the server asks for."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http(s) addresses only, and none from https to http."""

    def redirect_request(  # type: ignore[no-untyped-def]
        self, request, stream, code, message, headers, address
    ) -> urllib.request.Request | None:
        schemes = ("https://",) if request.full_url.startswith("https://") else WEB
        if not address.lower().startswith(schemes):
            raise CaseError(f"{request.full_url}: redirects to {address}, which is not followed; name a mirror")
        return super().redirect_request(request, stream, code, message, headers, address)


_OPENER = urllib.request.build_opener(_WebOnly)


def _opened(path: Path, mode: str) -> IO[Any]:
    """Open a file for writing (``"w"``) or appending (``"a"``); a link at its place is replaced, not followed."""
    if path.is_symlink():
        path.unlink()
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, flags | (os.O_APPEND if mode == "a" else os.O_TRUNC), 0o666)
    return os.fdopen(number, f"{mode}b")


def fetch(
    url: str,
    path: Path,
    patience: Patience,
    stop: threading.Event,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Download ``url`` to ``path``, which appears only when the file is whole.

    ``check`` raises a CaseError for a file that is not; by default it must be gzip with the right CRC. If one request
    brought all announced bytes, the server has no other file, and the error is final. A file that was resumed, or whose
    length was not announced, is fetched again from its start.

    A failed try keeps the received bytes beside it as ``.part-<name>``. The next try or call resumes them, if the
    server reports that the file is unchanged.

    Raises:
        CaseError: if the server lacks the file or has another one, no try received a whole one, or it cannot be
            written.
        KeyboardInterrupt: if ``stop`` was set.
    """
    try:
        host = urllib.parse.urlsplit(url).hostname
    except ValueError:  # an unfinished IPv6 address
        host = None
    if not url.startswith(WEB) or not host or not url.isprintable() or " " in url:
        raise UsageError(f"{url!r}: is not an http(s) address; give one such as https://host/file")
    with writing_into(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    reason = ""
    for attempt in range(patience.retries + 1):
        try:
            complete = _receive(url, part, patience.timeout_s, stop)
            _keep(url, part, path, check or require_whole_gzip, final=complete)
            return
        except _TryAgainError as error:
            reason = str(error)
            if attempt < patience.retries and stop.wait(max(patience.wait(attempt), error.after_s)):
                raise KeyboardInterrupt from None
    raise CaseError(
        f"{url}: not downloaded in {patience.retries + 1} tries (last error: {reason}); "
        "run the same command again later, or name a mirror"
    )


def _keep(url: str, part: Path, path: Path, check: Callable[[Path], None], *, final: bool) -> None:
    """Move a received file to its place if it passes ``check``; a failed check is ``final``, or worth another try."""
    try:
        check(part)
    except CaseError as error:  # received as announced, yet not whole: there is nothing to resume
        part.unlink()
        if final:
            raise CaseError(f"{url}: sent another file ({error}); name a mirror, or try again later") from error
        raise _TryAgainError(str(error)) from error
    finally:
        _validator(part).unlink(missing_ok=True)
    os.replace(part, path)


def require_whole_gzip(path: Path) -> None:
    """Read a gzip file to its end.

    Raises:
        CaseError: if it is not gzip, is cut short or has a wrong CRC.
    """
    with open(path, "rb") as stream:
        head = stream.read(32)
    if head[:2] != b"\x1f\x8b":
        what = next(
            (what for start, what in KNOWN_BEGINNINGS.items() if head.lstrip().startswith(start)), "not gzip data"
        )
        raise CaseError(f"{path}: is {what}, not the requested file")
    try:
        with gzip.open(path) as content:
            while content.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise CaseError(f"{path}: is truncated or damaged ({error})") from error


def _validator(part: Path) -> Path:
    """Return the path of the record that identifies the file version of ``part``."""
    return part.with_name(f"{part.name}.etag")


def _receive(url: str, part: Path, timeout_s: float, stop: threading.Event) -> bool:
    """Send one request; append to ``part`` if the server can resume it, else start it anew.

    Returns whether this request alone brought all bytes of an announced length.
    """
    validator = _validator(part)
    whole = [file.is_file() and not file.is_symlink() for file in (validator, part)]
    known = validator.read_text(encoding="utf-8") if all(whole) else ""
    start = part.stat().st_size if known else 0
    headers = {"User-Agent": "kits-unet3d", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known}
    try:
        with _OPENER.open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as response:
            continued = response.status == 206
            length = _length(response.headers, start if continued else None)
            if not continued:
                start = 0
                with _opened(validator, "w") as record:
                    record.write(_version(response.headers).encode())
            with _opened(part, "a" if continued else "w") as stream:
                while block := response.read1(1 << 18):  # returns received bytes without waiting for more
                    stream.write(block)
                    if stop.is_set():
                        raise KeyboardInterrupt
        received = part.stat().st_size
        if length is not None and received != length:
            raise _TryAgainError(f"the connection ended after {received} of {length} bytes")
        return length is not None and not continued
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the server sends no further bytes, yet the file was not whole
            part.unlink(missing_ok=True)
        if 400 <= error.code < 500 and error.code not in PASSING:
            raise CaseError(f"{url}: HTTP {error.code} {error.reason}; check the address and the case") from error
        raise _TryAgainError(f"HTTP {error.code} {error.reason}", _asked_wait(error)) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _TryAgainError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    except OSError as error:
        raise CaseError(f"{part}: cannot be written ({error.strerror}); finished files are kept") from error


def _length(headers: http.client.HTTPMessage, start: int | None) -> int | None:
    """Return the announced size of the whole file; None if it is not announced."""
    if start is None:
        announced = headers.get("Content-Length", "")
        return int(announced) if announced.isdigit() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if found is None or int(found.group(1)) != start:
        raise _TryAgainError("the server resumed at another position than requested")
    return int(found.group(2)) if found.group(2) != "*" else None


def _version(headers: http.client.HTTPMessage) -> str:
    """Return the tag of this version of the file; a weak tag does not identify a version."""
    tag = headers.get("ETag", "")
    return "" if tag.startswith("W/") else tag or headers.get("Last-Modified", "")


def _asked_wait(error: urllib.error.HTTPError) -> float:
    asked = error.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_WAIT_S) if asked.isdigit() else 0.0
