"""Options that several commands share, spelled once."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

DIRECTORY = click.Path(path_type=Path, file_okay=False)
STORAGE = click.Choice(
    [
        prefix + dtype
        for prefix in ("symmetric-", "")
        for dtype in ("float32", "bfloat16", "float16")
    ]
    + ["int8"]
)
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


class PathOrName(click.ParamType[str]):
    """A path, or a name such as a Hub id: a shell completes it as a path."""

    name = "text"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leave it to the shell, which knows the files."""
        return [CompletionItem(incomplete, type="file")]


NAMED = PathOrName()


def stacked(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Combine options into one decorator, shown in the order given."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


output_map_option = click.option(
    "--output-map",
    metavar="NAME",
    help="The function f of the model, by name. [default: by architecture]",
)

dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="What to compute in; sums are float32 in any case.",
)

model_options = stacked(
    output_map_option,
    click.option("--device", default="auto", show_default=True, help="Where to run."),
    dtype_option,
)

pattern_options = stacked(
    click.option(
        "--modules",
        "only",
        multiple=True,
        metavar="PATTERN",
        help="Parameters to cover, such as 'encoder.layer.5.*'; may be repeated.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Parameters to leave out; may be repeated.",
    ),
)

tables_option = click.option(
    "--include-tables",
    "tables",
    is_flag=True,
    help="Cover tables of tokens and positions as well. It publishes the exact number "
    "of times that each token and each place occurs in the data.",
)

table_options = stacked(
    click.option("--split", help="Split of the dataset. [default: train]"),
    click.option(
        "--text-column",
        "text_columns",
        multiple=True,
        metavar="NAME",
        help="Column with the text; twice for pairs. [default: text, sentence, ...]",
    ),
    click.option(
        "--no-header",
        is_flag=True,
        help="The first row of a csv or tsv is data; columns are called 1, 2, ...",
    ),
    click.option(
        "--delimiter",
        metavar="CHARACTER",
        help="What divides the cells of a csv or tsv, such as ';' or tab. "
        "[default: found out]",
    ),
    click.option(
        "--encoding",
        metavar="NAME",
        help="Encoding of a text file, such as cp1252. "
        "[default: by its byte order mark, or utf-8]",
    ),
)

length_option = click.option(
    "--max-length",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="Cut texts after so many tokens. [default: what the model takes]",
)

prompt_option = click.option(
    "--prompt",
    metavar="TEXT",
    help="Put before every text. [default: what the model declares]",
)

data_options = stacked(
    table_options,
    click.option(
        "--image-column",
        metavar="NAME",
        help="Column with the image. [default: found by type]",
    ),
    length_option,
    prompt_option,
)

write_options = stacked(
    click.option(
        "-o", "--output", type=DIRECTORY, required=True, help="Directory to write."
    ),
    click.option(
        "--force",
        is_flag=True,
        help="Replace what kfac wrote there; nothing else is ever replaced.",
    ),
)

shard_option = click.option(
    "--max-shard-size",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="GB",
    help="Write several files above this size.",
)

storage_options = stacked(
    click.option(
        "--storage",
        type=STORAGE,
        help="How numbers are stored; symmetric keeps one triangle, losing nothing. "
        "[default: as they are, or symmetric-float32]",
    ),
    shard_option,
)

recipe_option = click.option(
    "--recipe",
    metavar="NAME",
    help="Compress what is written, as `kfac compress` does.",
)

hub_options = stacked(
    click.option("--endpoint", help="URL of the Hub.  [default: HF_ENDPOINT]"),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=4,
        show_default=True,
        help="How often to repeat what failed for a passing reason.",
    ),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Examples per pass; it changes nothing but speed and memory.",
)


def keep_option(text: str) -> Callable[[F], F]:
    """How much of the activations may be kept, with a help of the command's own."""
    return click.option(
        "--keep",
        "memory",
        type=click.FloatRange(min=0, min_open=True),
        default=4.0,
        show_default=True,
        metavar="GB",
        help=text,
    )
