"""What tensors on a CPU leave, kept for those that come."""

from __future__ import annotations

import ctypes
import platform

from ..device import Accelerator

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory(accelerator: Accelerator, keep: bool = True) -> None:
    """On a CPU, keeps freed memory for the next tensors, as cards do of themselves; or no longer does.

    glibc gives a tensor of more than 32 MB back at once, and the next one gets pages that are zeroed first, which
    takes a quarter of a training step. Kept memory does not fall between steps. Other C libraries stay as they are.
    """
    if accelerator.on_cpu and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0 if keep else 65536)
        mallopt(M_TRIM_THRESHOLD, -1 if keep else 128 * 1024)
