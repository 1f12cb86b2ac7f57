"""What every command shares: errors in one line, progress, warnings, JSON."""

import errno
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import click

from kfac_artifacts.errors import first_line, is_out_of_memory, listed
from kfac_cli.terminal import readable

EXIT_CODES = {  # by the name of the error, so that the library need not be imported
    "AddressError": 2,
    "FormatError": 3,
    "FactorError": 3,
    "AccessError": 4,
    "ConnectionFailed": 5,
}
SECONDS_BETWEEN_LINES = 30.0
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
OS_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed here",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EEXIST: "something else of that name is in the way",
    errno.ENOTDIR: "a part of the path is no directory",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOENT: "no such file or directory",
}


class KfacGroup(click.Group):
    """Turns every error raised on purpose into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which they are needed."""
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; whatever it writes is harmless and legible."""
        with readable():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        logger = logging.getLogger("kfac_artifacts")
        logger.addHandler(SPOKEN)
        SPOKEN.said = []
        try:
            return super().invoke(ctx)
        except click.ClickException:
            raise
        except KeyboardInterrupt:
            raise failure("interrupted", code=130) from None
        except Exception as error:
            raise _explain(error) from error
        finally:
            logger.removeHandler(SPOKEN)


class _Spoken(logging.Handler):
    """Says on stderr what the library warns of, and keeps it for ``--json``."""

    said: list[str]

    def emit(self, record: logging.LogRecord) -> None:
        """Say one warning."""
        self.said.append(record.getMessage())
        warn(self.said[-1:])


SPOKEN = _Spoken(logging.WARNING)


def _explain(error: Exception) -> Exception:
    if os.environ.get("KFAC_DEBUG"):
        return error
    names = [kind.__name__ for kind in type(error).__mro__]
    if "KfacError" in names:
        codes = [EXIT_CODES[name] for name in names if name in EXIT_CODES]
        return failure(str(error), code=codes[0] if codes else 1)
    if is_out_of_memory(error):
        return failure(f"out of memory: {first_line(error)}")
    # a reader that has seen enough, such as `head`, is no failure: click knows it
    closed = isinstance(error, BrokenPipeError)
    if isinstance(error, OSError) and error.errno is not None and not closed:
        what = OS_ERRORS.get(error.errno, error.strerror)
        where = str(error.filename or "writing failed")
        passing = where.startswith(tempfile.gettempdir()) and error.errno in FULL
        return failure(f"{where}: {what}{'; TMPDIR moves it' if passing else ''}")
    return error


def failure(message: str, *, code: int = 1) -> click.ClickException:
    """Build the error that prints one line and exits with ``code``."""
    error = _Failure(message)
    error.code = code
    return error


class _Failure(click.ClickException):
    """One line on stderr and an exit code of its own."""

    code = 1

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return self.code


class Advance(Protocol):
    """Called with the number of units just done, and what else there is to show."""

    def __call__(self, units: int, note: str = "", /) -> None:
        """Show it."""


@contextmanager
def progress(
    description: str, total: int, unit: str, *, shown: bool = True
) -> Iterator[Advance]:
    """Show on stderr how far something is, with rate and remaining time.

    On a terminal that is a bar; in a file or a pipe a line after half a minute, and
    then one every half minute.

    Args:
        description: What is going on.
        total: How many units there are.
        unit: What is counted.
        shown: Whether to show it at all; of several processes only one does.

    Yields:
        A function to call with the number of units just done.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with tqdm(
        total=total,
        desc=description,
        unit=f" {unit}",
        disable=not (shown and terminal),
        dynamic_ncols=True,
        file=sys.stderr,
    ) as bar:

        def advance(units: int, note: str = "", /) -> None:
            bar.set_postfix_str(note, refresh=False)
            bar.update(units)

        yield advance if terminal or not shown else _lines(description, total, unit)


def _lines(description: str, total: int, unit: str) -> Advance:
    """Write a line now and then, for whoever reads it in a log."""
    started = time.monotonic()
    done, last = 0, started

    def advance(units: int, note: str = "", /) -> None:
        nonlocal done, last
        done += units
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES or not done:
            return
        last = now
        left = (now - started) / done * max(total - done, 0)
        parts = (f"{done} of {total} {unit}", f"about {left:.0f} s left", note)
        click.echo(f"{description}: {', '.join(filter(None, parts))}", err=True)

    return advance


def warn(sentences: Iterable[str]) -> None:
    """Say on stderr what should be known, a line each."""
    for sentence in sentences:
        click.echo(f"Warning: {sentence}", err=True)


def print_json(value: Any) -> None:
    """Print a result for a program to read."""
    ascii_only = getattr(sys.stdout, "limited", False)  # no spelling out of data
    click.echo(json.dumps(value, indent=1, ensure_ascii=ascii_only))


def print_uncovered(uncovered: Mapping[str, str]) -> None:
    """List what is not covered, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in uncovered.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        click.echo(f"not covered: {listed(names, 4)} ({reason})")
