"""The reference of all commands, made of their helps.

``python -m kfac_cli.reference > cli/README.md`` writes it, and a test compares.
"""

import inspect
from collections.abc import Iterator

import click

from kfac_cli.main import main

VERBATIM = "\b\n"
HEAD = """\
# The `kfac` command

Made of the helps by `python -m kfac_cli.reference > cli/README.md`.
"""


def reference() -> str:
    """Write the reference in Markdown: every command, its options and its example."""
    top = click.Context(main, info_name="kfac", **main.context_settings)
    lines = [HEAD, *_described(main, top), ""]
    lines += [f"- [`kfac {name}`](#kfac-{name})" for name in main.commands]
    for name, command in main.commands.items():
        lines += ["", f"## `kfac {name}`", ""]
        context = click.Context(command, top, name)
        lines += _described(command, context)
        if isinstance(command, click.Group):
            for inner, each in command.commands.items():
                lines += ["", f"### `kfac {name} {inner}`", ""]
                lines += _described(each, click.Context(each, context, inner))
    return "\n".join(lines) + "\n"


def _described(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ["```sh", f"{context.command_path} {usage}", "```"]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield ""
        if paragraph.startswith(VERBATIM):
            title, *lines = paragraph.removeprefix(VERBATIM).splitlines()
            yield from [title, "", "```sh" if title == "Example:" else "```text"]
            yield from (line.removeprefix("    ") for line in lines)
            yield "```"
        else:
            yield paragraph
    yield ""
    for option in command.params:  # click keeps --help as it was first asked for
        record = option.get_help_record(context)
        if isinstance(option, click.Option) and record:
            yield f"- `{record[0]}`: {' '.join(record[1].split())}"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
