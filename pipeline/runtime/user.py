"""Name the user where the system does not."""

from __future__ import annotations

import getpass
import os


def name_user() -> None:
    """Set ``USER`` to the user's number if the system has no entry for it, as with ``docker run --user 1234``.

    MONAI asks for the user's name when it is imported, and fails without.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
