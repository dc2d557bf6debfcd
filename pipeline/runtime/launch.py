"""Start processes as torchrun does, and end with the exit code of the process that failed first.

torchrun takes the same arguments, but ends a failure with a traceback of its own and exit code 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the processes; return 0, or the first failed one's exit code (128 plus the number of a signal)."""
    try:
        run(parse_args(sys.argv[1:] if argv is None else list(argv)))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:  # the process has reported its error
            return failure.exitcode
        print(f"error: process {rank} was ended by {failure.signal_name()}; see above", file=sys.stderr)
        return 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main())
