"""The many options of ``kfac train``, by what they are about."""

from pathlib import Path

import click

from kfac_cli.options import DIRECTORY, stacked


def _weights(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    weights = {}
    for value in values:
        pattern, equals, number = value.rpartition("=")
        try:
            weights[pattern] = float(number)
        except ValueError:
            equals = ""
        if not equals or not pattern:
            raise click.BadParameter(f"{value!r} is not PATTERN=NUMBER")
    return weights


curvature_options = stacked(
    click.option(
        "--curvature",
        "curvatures",
        type=DIRECTORY,
        multiple=True,
        help="Artifact of the other tasks; repeated ones are merged.",
    ),
    click.option(
        "--exclude-own",
        type=DIRECTORY,
        multiple=True,
        help="Artifact of your own task, if it is part of the curvature.",
    ),
    click.option(
        "--lambda",
        "weight",
        type=click.FloatRange(min=0),
        default=100.0,
        show_default=True,
        help="Factor of the penalty; 0 trains without.",
    ),
    click.option(
        "--every",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Evaluate the penalty in every Nth step only, times N.",
    ),
    click.option(
        "--every-unscaled", "unscaled", is_flag=True, help="Leave out the times N."
    ),
    click.option(
        "--module-weight",
        "module_weights",
        multiple=True,
        callback=_weights,
        metavar="PATTERN=X",
        help="Multiply the penalty of the modules named so; the first pattern counts.",
    ),
    click.option(
        "--allow-indefinite",
        is_flag=True,
        help="Take curvature that clearly rewards drift along some directions.",
    ),
    click.option(
        "--modules",
        multiple=True,
        metavar="PATTERN",
        help="Train only parameters named so. [default: all that are covered]",
    ),
)

head_options = stacked(
    click.option(
        "--head",
        "head_kind",
        type=click.Choice(["texts", "prototypes"]),
        help="Classify by encoded class texts, or by class means of the training set. "
        "[default: texts, if the names of the classes are words]",
    ),
    click.option(
        "--class-texts",
        "texts_file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="A text per class: json (class to text, or a list) or one per line, in "
        "the order of the classes. [default: their names]",
    ),
    click.option(
        "--template",
        default="{}",
        help="Text around a class name, such as 'a photo of a {}'.",
    ),
    click.option(
        "--logit-scale",
        type=click.FloatRange(min=0, min_open=True),
        help="Factor from cosines to logits. [default: the model's own, or 20]",
    ),
)

optimiser_options = stacked(
    click.option("--steps", type=click.IntRange(min=1), help="[default: 300]"),
    click.option("--epochs", type=click.FloatRange(min=0, min_open=True)),
    click.option(
        "--batch-size", type=click.IntRange(min=1), default=32, show_default=True
    ),
    click.option(
        "--lr",
        "learning_rate",
        type=click.FloatRange(min=0, min_open=True),
        default=3e-4,
        show_default=True,
    ),
    click.option(
        "--weight-decay",
        type=click.FloatRange(min=0),
        help="[default: 0.1 for images, 0.01 for text]",
    ),
    click.option(
        "--warmup",
        type=click.IntRange(min=0),
        help="Steps. [default: a tenth of all, at most 500]",
    ),
    click.option(
        "--limit", type=click.IntRange(min=2), help="Train on so many examples."
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
)
