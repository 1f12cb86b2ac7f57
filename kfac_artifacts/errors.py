"""Errors that callers may catch.

KfacError
├── FactorError        a factor cannot be built or used as asked
├── FormatError        files do not follow the format, or were damaged
├── MismatchError      things that do not belong together were given together
├── CoverageError      a model has parameters that cannot be handled as asked
├── SourceError        a model or a dataset cannot be found or read
│   └── ModelError       a model cannot be run on what it is given
├── SettingsError      a number or a choice that cannot work
├── PlaceError         a place to write to is taken, is an input, or cannot be written
└── RegistryError      a Hub or a registry directory refused or failed
    ├── AddressError     an address of an artifact is not written as it must be
    ├── AccessError      no permission: log in, or ask for access
    └── ConnectionFailed the network or the server failed: try again
"""

from collections.abc import Callable, Sequence


class KfacError(Exception):
    """Base of every error raised on purpose by this package."""


class FactorError(KfacError, ValueError):
    """A factor cannot be built or used as asked."""


class FormatError(KfacError, ValueError):
    """Files do not follow the format, or were damaged."""


class MismatchError(KfacError, ValueError):
    """Things that do not belong together were given together."""


class CoverageError(KfacError, ValueError):
    """A model has parameters that cannot be handled as asked."""


class SourceError(KfacError, ValueError):
    """A model or a dataset cannot be found or read."""


class ModelError(SourceError, RuntimeError):
    """A model cannot be run on what it is given; the cause is what it raised."""


class SettingsError(KfacError, ValueError):
    """A number or a choice that cannot work."""


class PlaceError(KfacError, OSError):
    """A place to write to is taken, is an input, or cannot be written."""


class RegistryError(KfacError, RuntimeError):
    """A Hub or a registry directory refused or failed."""


class AddressError(RegistryError, ValueError):
    """An address of an artifact is not written as it must be."""


class AccessError(RegistryError):
    """No permission: log in, or ask for access."""


class ConnectionFailed(RegistryError):  # noqa: N818 - it says what happened
    """The network or the server failed; trying again may help."""


def printable(text: str) -> str:
    """Show a foreign string in one line of a message."""
    return text if text.isprintable() else repr(text)


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or PyTorch says that memory does not suffice."""
    names = [kind.__name__ for kind in type(error).__mro__]
    if "MemoryError" in names or "OutOfMemoryError" in names:
        return True
    # PyTorch has no type of its own for the processor's
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def listed(
    names: Sequence[str], most: int = 5, show: Callable[[str], str] = printable
) -> str:
    """List the first of some names in a message: ``a, b and 3 more``.

    Args:
        names: The names, any number of them.
        most: How many to show.
        show: How to write one of them.

    Returns:
        The list; ``none`` if there are no names.
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(map(show, names[:most])) or "none") + more
