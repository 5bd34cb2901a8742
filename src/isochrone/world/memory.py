"""What the C library does with memory that was freed, and Python with what stays."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
M_MMAP_THRESHOLD: Final = -3
LARGEST_REUSED: Final = 64 << 20  # the largest request of a block client
KEPT_FREE: Final = 256 << 20


def keep_freed_memory() -> bool:
    """Reuse large buffers instead of giving them back to the kernel; whether that is possible.

    By default glibc maps every large buffer anew and unmaps it when it is freed; the page faults
    cost a large read more than the read. Elsewhere nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_REUSED) and mallopt(M_TRIM_THRESHOLD, KEPT_FREE))


def settle() -> None:
    """Call once all modules are loaded: what lives now is not looked through for garbage again.

    A full collection stops the loop; with a hundred thousand objects of modules for 50 ms.
    """
    gc.collect()
    gc.freeze()
