"""The many options of ``kfac compute``, by what they are about."""

import click

from kfac_cli.options import keep_option, stacked, tables_option

estimator_options = stacked(
    click.option(
        "--estimator",
        "name",
        type=click.Choice(["kfac", "kfac-reduce", "nearest"]),
        default="kfac",
        show_default=True,
        help="KFAC-expand as in TAK, KFAC-reduce, or the nearest Kronecker products: "
        "more accurate, for a few more looks at the data.",
    ),
    click.option(
        "--terms",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Products per module, for nearest.",
    ),
    click.option(
        "--shrinkage/--no-shrinkage",
        default=True,
        show_default=True,
        help="Whether nearest guards against learning the noise of few examples.",
    ),
    keep_option(
        "Activations that nearest may keep; what does not fit is computed again."
    ),
    click.option(
        "--engine",
        type=click.Choice(["own", "curvlinops"]),
        default="own",
        show_default=True,
        help="curvlinops covers plain Linear and Conv2d modules only.",
    ),
    click.option(
        "--cotangents",
        type=click.Choice(["orthogonal", "mc", "exact"]),
        help="Random vectors, orthogonal from example to example, or independent ones, "
        "or all unit vectors (as many passes as f has outputs).  [default: orthogonal; "
        "with curvlinops mc]",
    ),
    click.option(
        "--draws",
        type=click.IntRange(min=1),
        help="Random vectors per example.  [default: 1]",
    ),
)

disclosure_options = stacked(
    tables_option,
    click.option(
        "--allow-few",
        is_flag=True,
        help="Take fewer than 64 different examples, although what is computed of so "
        "few shows each of them, word for word.",
    ),
)

job_options = stacked(
    click.option(
        "--resume",
        is_flag=True,
        help="Go on from the checkpoint of an interrupted run.",
    ),
    click.option(
        "--checkpoint-every",
        "every",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        metavar="BATCHES",
        help="How often to keep what is done, at most.",
    ),
    click.option(
        "--shard",
        is_flag=True,
        help="With several processes: split the model (FSDP), and keep each factor on "
        "one of them alone.",
    ),
)
