"""What processes keep of the memory that they free, and when they give it back."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Makes this process keep what it frees for its next tensors, where the C library is glibc.

    By default large blocks go back to the system at once. A step that takes the same ones again has
    the system clear them page by page: a tenth of the time of lists on a CPU.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """What this process has freed and keeps goes back to the system now."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
