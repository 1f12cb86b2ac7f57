"""Two directories change places: in one step where the system has it."""

import ctypes
import errno
import os
import sys
from pathlib import Path

HERE = -100  # AT_FDCWD
SWAP = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS
UNABLE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
STUCK = frozenset({errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES})
"""A directory cannot be moved: a mount point, the lower layer of an overlay, or in a
folder that is not ours. It can still be filled."""


def exchange(one: Path, other: Path) -> bool:
    """Let two directories of one file system change places, in one step.

    Args:
        one: A directory.
        other: Another one.

    Returns:
        Whether it was done; if not, the system or the file system cannot do it.

    Raises:
        OSError: If it can, but not here.
    """
    code = _call(os.fsencode(one), os.fsencode(other))
    if code and code not in UNABLE:
        raise OSError(code, os.strerror(code), str(other))
    return not code


def _call(one: bytes, other: bytes) -> int:
    """The system call; gives its error number, 0 if it was done."""
    if sys.platform == "win32":
        return errno.ENOSYS
    library = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(one, other, SWAP)
        else:
            failed = library.renameat2(HERE, one, HERE, other, SWAP)
    except AttributeError:  # an older C library
        return errno.ENOSYS
    return ctypes.get_errno() if failed else 0
