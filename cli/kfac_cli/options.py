"""Options that several commands share, spelled once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DIRECTORY = click.Path(path_type=Path, file_okay=False)
STORAGE = click.Choice(
    [
        prefix + dtype
        for prefix in ("symmetric-", "")
        for dtype in ("float32", "bfloat16", "float16")
    ]
)


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

data_options = stacked(
    click.option("--split", help="Split of the dataset. [default: train]"),
    click.option(
        "--text-column",
        "text_columns",
        multiple=True,
        metavar="NAME",
        help="Column with the text; twice for pairs. [default: found by name]",
    ),
    click.option(
        "--image-column",
        metavar="NAME",
        help="Column with the image. [default: found by type]",
    ),
    click.option(
        "--max-length",
        type=click.IntRange(min=1),
        metavar="TOKENS",
        help="Cut texts after so many tokens. [default: what the model takes]",
    ),
)

write_options = stacked(
    click.option(
        "-o", "--output", type=DIRECTORY, required=True, help="Directory to write."
    ),
    click.option("--force", is_flag=True, help="Replace the directory if it exists."),
)

storage_options = stacked(
    click.option(
        "--storage",
        type=STORAGE,
        default="symmetric-float32",
        show_default=True,
        help="How matrices are stored; symmetric keeps one triangle, losing nothing.",
    ),
    click.option(
        "--max-shard-size",
        type=click.FloatRange(min=0, min_open=True),
        default=5.0,
        show_default=True,
        metavar="GB",
        help="Write several files above this size.",
    ),
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
