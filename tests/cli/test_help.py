"""Every command and option is explained, and the reference says what the helps say."""

from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from kfac_cli.groups import group, option
from kfac_cli.main import main
from kfac_cli.reference import reference

REFERENCE = Path(__file__).parents[2] / "cli/README.md"
OPTIONS = [
    pytest.param(each, id=f"{name} {each.opts[0]}")
    for name, command in main.commands.items()
    for each in command.params
    if isinstance(each, click.Option)
]


def test_the_reference_is_what_the_helps_make_of_it() -> None:
    assert REFERENCE.read_text() == reference(), (
        "run `python -m kfac_cli.reference > cli/README.md`"
    )


def test_the_reference_has_every_command_option_and_example() -> None:
    sections = reference().split("\n## ")[1:]
    assert len(sections) == len(main.commands)
    for (name, command), section in zip(main.commands.items(), sections, strict=True):
        assert section.startswith(f"`kfac {name}`\n\n```sh\nkfac {name} ")
        assert f"kfac {name} " in section.split("\nExample:\n\n```sh\n")[1]
        for each in command.params:
            if isinstance(each, click.Option):
                assert f"`{', '.join(each.opts)}" in section


@pytest.mark.parametrize("each", OPTIONS)
def test_every_option_has_a_help_of_whole_sentences(each: click.Option) -> None:
    words = (each.help or "").split("[default")[0].strip()
    assert words[:1].isupper()
    assert words.endswith(".")


@pytest.mark.parametrize("name", sorted(main.commands))
def test_no_two_values_of_a_command_have_one_name(name: str) -> None:
    names = [each.name for each in main.commands[name].params]
    assert len(names) == len(set(names))


def test_a_group_of_options_reaches_the_command_as_one_value() -> None:
    @dataclass(frozen=True)
    class Options:
        one: int = option("--one", type=int)
        more: tuple[str, ...] = option("--more", multiple=True)

    found = []

    @click.command()
    @click.option("--alone")
    @group(Options)
    def command(alone: str, options: Options) -> None:
        found.append((alone, options))

    words = ["--one", "1", "--more", "a", "--more", "b", "--alone", "c"]
    command.main(words, standalone_mode=False)
    assert found == [("c", Options(1, ("a", "b")))]


def test_a_field_that_is_no_name_of_its_option_is_refused() -> None:
    @dataclass(frozen=True)
    class Options:
        other: int = option("--one", type=int)

    with pytest.raises(TypeError, match="is called one by click"):

        @group(Options)
        def command(options: Options) -> None: ...
