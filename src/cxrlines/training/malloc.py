"""What makes a processor fast at training: the allocator's settings, and one single-threaded process a core.

glibc hands large buffers back to the kernel after every use and faults them in again; at training's buffer sizes
that costs nearly a factor of two (docs/experiments.md). The settings below keep them.
"""

import ctypes
import platform

# malloc.h of glibc: the parameters of mallopt and values that never trim and never mmap.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER_TRIM, _TOP_PAD, _NO_MMAP = 2**31 - 1, 256 * 2**20, 0


def keep_buffers() -> bool:
    """Have glibc's allocator keep large buffers instead of returning them; False where there is no glibc.

    It cannot be undone: for commands and worker processes, never in a process that called the library.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in (
            (_M_MMAP_MAX, _NO_MMAP),
            (_M_TRIM_THRESHOLD, _NEVER_TRIM),
            (_M_TOP_PAD, _TOP_PAD),
        )
    )
