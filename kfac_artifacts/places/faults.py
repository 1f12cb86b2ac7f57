"""What the system says when a place cannot be written, as one clear error."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from kfac_artifacts.errors import KfacError, PlaceError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
OS_ERROR = re.compile(r"\(os error (\d+)\)")


def refusal(path: Path, error: OSError | ValueError) -> PlaceError:
    """Say in one line why a place cannot be written.

    Args:
        path: The place, as the user wrote it.
        error: What the system said.

    Returns:
        The error to raise.
    """
    code = getattr(error, "errno", None)
    reason = os.strerror(code).lower() if code else str(error)
    where = getattr(error, "filename", None)
    at = f" at {os.fspath(where)}" if where and code == errno.ENOTDIR else ""
    return PlaceError(f"{path} cannot be written: {reason}{at}; choose another place")


@contextmanager
def tried(path: Path) -> Iterator[None]:
    """Turn what the system refuses into a ``PlaceError``.

    Args:
        path: The place, as the user wrote it.

    Yields:
        Nothing.

    Raises:
        KfacError: As it was raised.
        refusal: If the system refuses.
    """
    try:
        yield
    except KfacError:
        raise
    except (OSError, ValueError) as error:
        raise refusal(path, error) from error


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Name the place where a disk is full, and unwrap what ``safetensors`` says of it.

    Args:
        path: What is being written.

    Yields:
        Nothing.

    Raises:
        OSError: If the system refused to write.
        SafetensorError: If it says anything else.
    """
    try:
        yield
    except SafetensorError as error:
        found = OS_ERROR.search(str(error))
        if found is None:
            raise
        code = int(found[1])
        raise OSError(code, os.strerror(code), str(path)) from error
    except OSError as error:
        if error.errno in FULL:  # it may name no file, or the one that was copied
            error.filename, error.filename2 = str(path), None
        raise
