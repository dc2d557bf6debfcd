"""Print lines to any output: closed, of another encoding, or a pipe whose reader has gone; keep them in a log file."""

from __future__ import annotations

import errno
import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from .errors import shown


class Output:
    """Write to a standard stream as long as that is possible; drop the rest.

    Characters that the stream cannot encode become ``\\u60a3`` and the like.

    Attributes:
        error: reason why output was lost; None if no output was lost, or if the reader of a pipe ended.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = False
        self.error: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it if the stream is lost."""
        if not self._lost:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream unless it is lost."""
        if not self._lost:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        self._lost = True
        if error.errno != errno.EPIPE:
            self.error = error
        # Python flushes the rest of its buffer at exit, which would fail again.
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def lasting_output() -> Iterator[Output]:
    """Replace the standard output and standard error by an :class:`Output` each, also where they are closed.

    A batch of hours must not end because the reader of its output did. The yielded one is the standard output.
    """
    # A file opened later must not get the number of a closed stream, to which libraries may print.
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
    closed = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  used until the program ends
    output, errors = (Output(stream if stream is not None else closed) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(output), redirect_stderr(errors):  # type: ignore[type-var]
        try:
            yield output
        finally:
            output.flush()
            errors.flush()
            closed.close()


def quieten_libraries() -> None:
    """Leave out messages of libraries about parts that are not used, and about errors that are reported at the end."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"monai\.(bundle|data\.image_reader)")
    for name in ("monai.data.image_reader", "monai.data.nvimgcodec_pydicom_plugin", "monai.utils.module"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("SupervisedTrainer", "SupervisedEvaluator"):
        logging.getLogger(f"ignite.engine.engine.{name}").addFilter(_is_not_about_an_error)


def _is_not_about_an_error(record: logging.LogRecord) -> bool:
    """Leave out what an engine logs while an error or a signal ends it: whoever started it reports that."""
    return sys.exc_info()[1] is None


def device_line(about: Mapping[str, Any]) -> str:
    """Return the result of :meth:`Accelerator.describe` as a line for a person."""
    return "device: {name} ({device}), {precision}, torch {torch}".format(**about)


class LogFile(logging.Handler):
    """Append a run's details to ``kits-unet3d.log`` while it is open, those of ``--debug`` included.

    Each record is appended at once and as a whole, also by several processes. What cannot be written is left out.
    Opening one closes an earlier one of this process.

    Args:
        directory: directory of the file.
        anonymised: removes patients' names from a text.
        everything: also take the records of libraries.
    """

    NAME = "kits-unet3d.log"
    _open: LogFile | None = None

    def __init__(self, directory: str | Path, anonymised: Callable[[str], str] = str, everything: bool = False) -> None:
        super().__init__()
        self.path, self.anonymised = Path(directory) / self.NAME, anonymised
        self.ours = logging.getLogger("kits_unet3d")
        self.loggers = (logging.getLogger() if everything else self.ours, shown)
        self._levels: dict[logging.Handler | logging.Logger, int] = {}
        self.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))

    def __enter__(self) -> LogFile:
        if LogFile._open is not None:
            LogFile._open.close()
        LogFile._open = self
        # Details go to the file, not to the screen.
        level, screen = self.ours.getEffectiveLevel(), logging.getLogger().handlers
        leveled: list[logging.Handler | logging.Logger] = [self.ours, *screen]
        self._levels = {one: one.level for one in leveled}
        for handler in screen:
            handler.setLevel(max(level, handler.level))
        self.ours.setLevel(logging.DEBUG)
        for logger in self.loggers:
            logger.addHandler(self)
        self.ours.debug("%s, Python %s, %s", _version(), platform.python_version(), platform.platform())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def emit(self, record: logging.LogRecord) -> None:
        text = self.anonymised(self.format(record)) + "\n"
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Neither a planted link nor a pipe: the file would not be this run's, or writing would wait for a reader.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(self.path, flags, 0o666), "ab", buffering=0) as stream:
                stream.write(text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Stop writing; further calls do nothing."""
        for logger in self.loggers:
            logger.removeHandler(self)
        for one, level in self._levels.items():
            one.setLevel(level)
        self._levels = {}
        LogFile._open = None
        super().close()


def _version() -> str:
    try:
        return f"kits-unet3d {version('kits-unet3d')}"
    except PackageNotFoundError:
        return "kits-unet3d"


def show(text: str, error: bool = False) -> None:
    """Print a line to the standard output or standard error, with ``\\u60a3`` for a character it cannot encode.

    Results are written before they are shown, and a name must not end the command.
    """
    shown.log(logging.ERROR if error else logging.INFO, "%s", text)
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # the program that started the command closed it
        return
    encoding = stream.encoding or "utf-8"
    # Flushed, so that lines keep their order where both streams go to one file.
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
