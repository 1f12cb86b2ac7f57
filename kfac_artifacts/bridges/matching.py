"""Which module of a model somebody else's name means; nothing is guessed in silence.

Names may lack what stands before the path of a model, or have more before it, such as
``model.`` or ``bert.``: one such prefix, the same for all names of a source, is taken
off or put before. Everything else is said by the user, as ``old=new``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from typing import TypeAlias

from kfac_artifacts.artifact import Layout
from kfac_artifacts.bridges.statistics import Statistic
from kfac_artifacts.capture import KroneckerLayer, take_inventory
from kfac_artifacts.errors import MismatchError, SettingsError, listed
from kfac_artifacts.network import Network

Edit: TypeAlias = tuple[str, str]
"""What is taken off the front of a name, and what is put there instead."""


@dataclass(frozen=True)
class Target:
    """A module of the model, or a lone parameter, that an entry may be of.

    Attributes:
        name: What its block is called.
        weight: Its weight, or the lone parameter.
        parameter: Which of its parameters was named.
        bias: Its bias, if it is a linear map that has one.
        layout: How the weight becomes W; None if it is no linear map.
        part: Which slice of a stack it is.
    """

    name: str
    weight: str
    parameter: str
    bias: str | None = None
    layout: Layout | None = None
    part: int | None = None


@dataclass(frozen=True)
class Naming:
    r"""How names of a source become names of the model.

    Attributes:
        renames: Pairs of a regular expression, which has to match a whole name, and
            what takes its place (``\1`` is its first group); the first that matches.
        left_out: Patterns (``*`` and ``?``) of names of the source that are not wanted.
    """

    renames: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for old, new in self.renames:
            try:
                re.compile(old)
            except re.error as error:
                raise SettingsError(
                    f"{old!r} in {old}={new} is no regular expression: {error}"
                ) from error

    def wants(self, name: str) -> bool:
        """Whether an entry is wanted."""
        return not any(fnmatchcase(name, pattern) for pattern in self.left_out)

    def apply(self, entry: Statistic) -> Statistic:
        """Rename an entry, where the user says so; that goes before all else."""
        for old, new in self.renames:
            found = re.fullmatch(old, entry.name)
            if found:
                try:
                    return replace(entry, targets=((found.expand(new),),))
                except (re.error, IndexError) as error:
                    raise SettingsError(
                        f"{new!r} cannot take the place of {old!r}: {error}"
                    ) from error
        return entry


def targets_of(network: Network) -> dict[str, Target]:
    """Everything in a model that an entry may be of, by all names that it goes by."""
    found: dict[str, Target] = {}
    for layer in take_inventory(network.module, tables=True).layers:
        weight, bias = layer.parameters["weight"], layer.parameters.get("bias")
        if isinstance(layer, KroneckerLayer):
            own = Target(layer.name, weight, weight, bias, layer.layout, layer.part)
            found[layer.name] = own
            if layer.part is None:
                found |= {n: replace(own, parameter=n) for n in (weight, bias) if n}
                continue
        for name in layer.parameters.values():
            found.setdefault(name, Target(name, name, name))
    return found


def match(
    entries: Sequence[Statistic], network: Network, naming: Naming, source: str
) -> Iterator[tuple[Statistic, list[Target]]]:
    """Find the modules of every entry.

    Args:
        entries: The entries.
        network: The model.
        naming: What the user says of names.
        source: What to call the source in messages.

    Yields:
        Every wanted entry, with its modules.

    Raises:
        MismatchError: If an entry matches nothing, or two match one module.
        SettingsError: If nothing is called as a pattern of the user says.
    """
    _check_used(entries, naming)
    wanted = [naming.apply(entry) for entry in entries if naming.wants(entry.name)]
    known = targets_of(network)
    edit = _common_edit(wanted, known)
    lost: list[str] = []
    taken: dict[tuple[str, int | None], str] = {}
    for entry in wanted:
        found = _find(entry, known, edit)
        if not found:
            lost.append(entry.name)
            continue
        for target in found:
            key = target.parameter, target.part
            before = taken.setdefault(key, entry.name)
            if before != entry.name:
                raise MismatchError(
                    f"{source}: {before} and {entry.name} are both of "
                    f"{target.parameter} in {network.id}"
                )
        if not lost:
            yield entry, found
    if lost:
        raise MismatchError(
            f"{source}: nothing in {network.id} goes with {listed(lost)}; it has, for "
            f"example, {listed(list(known), most=3)}; say what they are there "
            "(--rename OLD=NEW), or leave them out (--leave-out PATTERN)"
        )


def _check_used(entries: Sequence[Statistic], naming: Naming) -> None:
    names = [entry.name for entry in entries]
    for pattern in naming.left_out:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SettingsError(
                f"nothing is called {pattern!r}; there are {listed(names, most=3)}"
            )
    for old, new in naming.renames:
        if not any(re.fullmatch(old, name) for name in names):
            raise SettingsError(
                f"{old}={new} matches no name; there are {listed(names, most=3)}"
            )


def _find(
    entry: Statistic, known: Mapping[str, Target], edit: Edit
) -> list[Target] | None:
    """The modules of an entry, by the first of its names that are all there."""
    for names, each in product(entry.targets, (("", ""), edit)):
        edited = [_edited(name, each) for name in names]
        if all(name in known for name in edited):
            return [known[name] for name in edited]
    return None


def _edited(name: str, edit: Edit) -> str:
    off, on = edit
    return on + name.removeprefix(off)


def _common_edit(entries: Sequence[Statistic], known: Mapping[str, Target]) -> Edit:
    """The one change of prefixes that most entries need; none, if it does as well."""
    before: dict[str, set[str]] = {}
    for name in known:
        for at in _starts(name):
            before.setdefault(name[at:], set()).add(name[:at])
    votes: dict[Edit, int] = {("", ""): 0}
    for entry in entries:
        names = [name for alternative in entry.targets for name in alternative]
        for edit in {edit for name in names for edit in _edits(name, known, before)}:
            votes[edit] = votes.get(edit, 0) + 1
    return max(votes, key=lambda edit: (votes[edit], -len(edit[0] + edit[1])))


def _edits(
    name: str, known: Mapping[str, Target], before: Mapping[str, set[str]]
) -> Iterator[Edit]:
    for at in _starts(name):
        if name[at:] in known:
            yield name[:at], ""
    for prefix in before.get(name, ()):
        yield "", prefix


def _starts(name: str) -> Iterator[int]:
    """Where the parts of a dotted name begin."""
    yield 0
    yield from (found.end() for found in re.finditer(r"\.", name))
