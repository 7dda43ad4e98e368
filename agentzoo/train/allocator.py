"""Memory of a process that learns on a CPU: what one update frees is kept for the next.

An update at the paper's sizes takes and frees gigabytes in blocks of 60 MB. The GNU C library asks
the kernel for each of them and gives it back, and the kernel clears every page anew at its first
touch: measured on Dreamer's update, half a million page faults and a quarter of its time.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEEP_ALL = -1  # documented value for "never trim"
LARGEST = 2**30  # bytes; blocks up to this size come from the heap and stay there
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # PyTorch's: large tensors lie in pages of 2 MB


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, and PyTorch ask for huge pages.

    Whoever has set one of the environment variables that say otherwise is left alone. PyTorch reads
    its own once, at its first tensor.

    Returns:
        Whether the C library took the settings: true with glibc on Linux, false elsewhere.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEEP_ALL) and mallopt(M_MMAP_THRESHOLD, LARGEST))
