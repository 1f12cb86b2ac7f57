"""Options that belong together: a dataclass of them, and the decorator that fills it.

A field is an option::

    @dataclass(frozen=True)
    class ModelOptions:
        device: str = option("--device", default="auto", help="Where to run.")

    @click.command()
    @group(ModelOptions)
    def command(model: ModelOptions) -> None: ...
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any

import click

Command = Callable[..., None]
Option = Callable[[Command], Command]
DECORATOR = "decorator"


def shared(decorator: Option) -> Any:
    """Make a field of a decorator that other commands take alone."""
    return field(metadata={DECORATOR: decorator})


def option(*flags: str, **attributes: Any) -> Any:
    """Make a field of an option, given as to ``click.option``."""
    return shared(click.option(*flags, **attributes))


def group(kind: type) -> Option:
    """Give a command the options of a dataclass, as its one argument of that type."""

    def decorate(function: Command) -> Command:
        parameters = inspect.signature(function).parameters.values()
        (argument,) = [p.name for p in parameters if p.annotation is kind]
        options = {each.name: each.metadata[DECORATOR] for each in fields(kind)}

        @functools.wraps(function)
        def call(**values: Any) -> None:
            own = {name: values.pop(name) for name in options}
            function(**values, **{argument: kind(**own)})

        for name, decorator in reversed(options.items()):
            decorator(call)
            found = vars(call)["__click_params__"][-1].name
            if found != name:
                raise TypeError(f"{kind.__name__}.{name} is called {found} by click")
        return call

    return decorate


def given(name: str) -> bool:
    """Whether the running command was given an option, and not its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source == click.core.ParameterSource.COMMANDLINE
