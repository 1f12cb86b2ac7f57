"""Reading what an owner keeps in a directory, without leaving it by a link."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import MAX_JSON_BYTES

KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Without O_NONBLOCK opening a pipe waits for somebody to write into it.
FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class NotPlainError(FormatError):
    """A link or a special file where a plain one should be."""

    def __init__(self, path: Path, mode: int) -> None:
        kind = KINDS.get(stat.S_IFMT(mode), "no file")
        super().__init__(
            f"{path} is {kind}, which is not followed, lest something else be "
            "published; put a plain file in its place, or remove it"
        )


def check_plain(directory: Path, names: Iterable[str]) -> None:
    """Refuse links and special files: nothing outside the directory is published.

    Args:
        directory: Where the files are.
        names: Their names; those that do not exist are passed over.

    Raises:
        NotPlainError: If one of them is no plain file; it is named.
    """
    for name in names:
        try:
            mode = (directory / name).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISREG(mode):
            raise NotPlainError(directory / name, mode)


def read_plain(path: Path) -> bytes:
    """Read a small file without following a link.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        NotPlainError: If it is a link or a special file.
        FormatError: If it is larger than 64 MiB.
        OSError: If it cannot be read.
    """
    try:
        descriptor = os.open(path, FLAGS)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise NotPlainError(path, stat.S_IFLNK) from error
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise NotPlainError(path, about.st_mode)
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise FormatError(f"{path} has more than {MAX_JSON_BYTES} bytes")
    return content
