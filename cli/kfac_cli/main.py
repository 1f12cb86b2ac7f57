"""Entry point of the ``kfac`` command: it only gathers the subcommands."""

import click

from kfac_cli import (
    apply,
    compress,
    compute,
    evaluate,
    export,
    fidelity,
    import_,
    inspect,
    join,
    localise,
    merge,
    plan,
    predict,
    pull,
    push,
    registry,
    search,
    sign,
    suite,
    train,
    verify,
)
from kfac_cli.console import KfacGroup


@click.group(cls=KfacGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kfac-artifacts")
def main() -> None:
    """Publish, merge and use the curvature of a pretrained network.

    Data owners run `compute`; sharers run `merge`, `compress` and `push`; people
    without the data run `pull` and `train`, then `apply`, `evaluate` and
    `predict`.

    Where MODEL is asked for, module:function may be given as well, a function of yours
    whose code is then run (`kfac compute --help`).

    \b
    Exit codes:
        1  it failed, or the output is taken or cannot be written
        2  wrong usage
        3  not a valid artifact
        4  no access
        5  no connection

    What goes wrong is said in one line; with KFAC_DEBUG=1 in the environment the
    traceback of the error is shown instead.
    """


for module in (
    plan,
    compute,
    import_,
    export,
    join,
    merge,
    compress,
    inspect,
    verify,
    sign,
    push,
    pull,
    search,
    registry,
    train,
    apply,
    evaluate,
    localise,
    predict,
    fidelity,
    suite,
):
    main.add_command(module.command)
