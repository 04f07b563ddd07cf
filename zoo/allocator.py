"""An option for training on a CPU: let glibc keep freed memory instead of returning it after every operation."""

import ctypes
import sys

# <malloc.h> of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BYTES = 2 << 30
_MMAP_BYTES = 1 << 30


def tune_allocator() -> bool:
    """Serve large tensors from the heap and do not trim it, for the rest of the process.

    By default glibc maps and unmaps every block of 32 MiB and more, and the page faults can cost more than the
    arithmetic: training the feature autoencoder became about twice as fast on a virtual machine; bare metal gains less.
    The price: up to 2 GiB of freed memory is not given back. No effect on results or on GPUs. Never a side effect of an
    import: the command line calls it for ``--tune_allocator true``.

    Returns:
        True if both settings were accepted; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES - 1))
