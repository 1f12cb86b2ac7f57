"""Kinds of values that options and arguments take."""

import re
from pathlib import Path
from typing import Any, Literal

import click
from click.shell_completion import CompletionItem

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Size(click.ParamType[int]):
    """A number of bytes such as ``20MB``, ``1.5 GB`` or ``800000B``."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Read it; without a unit nobody knows whether 20 are bytes or megabytes."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(value))
        if not found or found[2].upper() not in UNITS:
            known = ", ".join(UNITS)
            self.fail(
                f"{value!r} is no size; write for example 20MB (units are {known})",
                param,
                ctx,
            )
        return int(float(found[1]) * UNITS[found[2].upper()])


class Share(click.ParamType[float]):
    """A share of one such as ``1%`` or ``0.01``."""

    name = "SHARE"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Read it."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(%?)\s*", str(value))
        if not found:
            self.fail(f"{value!r} is no share; write for example 1%", param, ctx)
        return float(found[1]) / (100 if found[2] else 1)


class Weight(click.ParamType[float | Literal["auto"]]):
    """The factor of a penalty, from 0; or ``auto``."""

    name = "NUMBER|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | Literal["auto"]:
        """Read it."""
        if value == "auto":
            return "auto"
        return click.FloatRange(min=0).convert(value, param, ctx)


class PathOrName(click.ParamType[str]):
    """A path, or a name such as a Hub id: a shell completes it as a path."""

    name = "text"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leave it to the shell, which knows the files."""
        return [CompletionItem(incomplete, type="file")]


NAMED = PathOrName()
DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
PLACE = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
NATURAL = click.IntRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)
