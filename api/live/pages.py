"""Memory of a buffer that is not used at present, given back to the system.

picows (2.3) doubles a connection's read buffer until a frame fits, and never makes it smaller: who once sent
16 MiB would hold on to them as long as the connection lasts. The buffer's address space stays as it is; only
its pages go, and are there again, full of zeros, when they are written to (madvise(2), MADV_DONTNEED).
"""

import ctypes
import mmap
import sys

_KEPT_BYTES = 64 * 1024
"""Of its beginning, where small messages are read to."""
_DONTNEED = 4
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def give_back(unused: memoryview) -> None:
    """Let the pages of a writable buffer go, besides its beginning. What was in it is lost."""
    size = len(unused)
    if _libc is None or size <= _KEPT_BYTES:
        return
    address = ctypes.addressof(ctypes.c_char.from_buffer(unused))
    begin = -(-(address + _KEPT_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end:
        _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DONTNEED)
