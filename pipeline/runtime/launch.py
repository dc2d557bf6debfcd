"""Start processes as torchrun does, and end with the exit code of the process that failed first.

torchrun takes the same arguments, but ends a failure with a traceback of its own and exit code 1.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from ..device import find
from .command_line import flags_of
from .errors import LAUNCHER, DeviceError, exit_code, report


def require_accelerators(arguments: Sequence[str], processes: str) -> None:
    """Check that this host has an accelerator for each process, before any of them starts.

    Args:
        arguments: command line of a process, which names the device by ``--device_name``.
        processes: number of processes, or a word that torchrun understands.

    Raises:
        DeviceError: if it has not.
    """
    device = flags_of(arguments).get("device_name")
    if device is not None and processes.isdigit():
        find(device, local_rank=int(processes) - 1)  # leaves the accelerators to the processes


@contextmanager
def _known_to_processes() -> Iterator[None]:
    """Open a file without a name, so that the processes agree on the one that reports an error.

    It exists as long as this process does, however that ends.
    """
    with tempfile.TemporaryFile() as stream:
        place = f"/proc/{os.getpid()}/fd/{stream.fileno()}"
        if os.path.exists(place):  # else each process reports
            os.environ[LAUNCHER] = place
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run the processes; return 0, or the first failed one's exit code (128 plus the number of a signal)."""
    arguments = parse_args(sys.argv[1:] if argv is None else list(argv))
    try:
        require_accelerators(arguments.training_script_args, arguments.nproc_per_node)
    except DeviceError as error:  # once, and not once for each process
        report(error)
        return exit_code(error)
    # The failed process reports its error, and this one the signal that ended it.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        with _known_to_processes():
            run(arguments)
    except SignalException:
        print("interrupted; finished work is kept", file=sys.stderr)
        return 130
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:  # the process has reported its error
            return failure.exitcode
        print(f"error: process {rank} was ended by {failure.signal_name()}; see above", file=sys.stderr)
        return 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main())
