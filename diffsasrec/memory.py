"""What processes keep of the memory that they free, and what they do if memory runs out."""

import ctypes
from collections.abc import Callable

# messages of torch if it has no exception of its own for this: on a CPU, in cuBLAS, in a driver
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "_STATUS_ALLOC_FAILED")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Makes this process keep what it frees for its next tensors, if the C library is glibc.

    By default, large blocks go back to the system at once. When the next step takes them again, the
    system clears them page by page. On a CPU, this is a tenth of the time of making lists.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Returns to the system what this process has freed and still keeps."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once may avoid this error, on a GPU or a CPU."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def in_batches(number: int, work: Callable[[int, int], None], *, size: int) -> None:
    """Does `work(start, stop)` for 0..number, `size` at a time, or fewer if memory runs out.

    Raises:
        Exception: any that `work` raises; out of memory only if it ran out for a batch of one.
    """
    start = 0
    while start < number:
        stop = min(start + size, number)
        try:
            work(start, stop)
            start = stop
            continue
        except Exception as error:
            if stop - start == 1 or not is_out_of_memory(error):
                raise
        # only here: the exception held the tensors of the attempt
        size = (stop - start + 1) // 2
        give_back_gpu_memory()


def give_back_gpu_memory() -> None:
    """Frees what the GPU holds for later tensors of this process, so that any can use it."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
