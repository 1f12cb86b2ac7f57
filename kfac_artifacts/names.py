"""What can be a name in a manifest: of data, of a class, of a tensor."""

import re

NOT_IN_NAMES = (  # controls, what is invisible, what changes the writing direction
    r"\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufff0-\uffff"
)
MOST_CHARACTERS = 512
NAME = re.compile(f"[^{NOT_IN_NAMES}]{{1,{MOST_CHARACTERS}}}")
WHAT_NAMES_ARE = f"a name of 1 to {MOST_CHARACTERS} printable characters"

_LABEL = "[a-z0-9]+(?:-+[a-z0-9]+)*"
FOREIGN = re.compile(rf"{_LABEL}(?:\.{_LABEL})+/[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
"""A third party's name: a domain the other way round, a slash, a name of theirs."""


def is_foreign(value: object) -> bool:
    """Whether a value is a well-formed name of a third party: ``org.example/name``."""
    return is_name(value) and FOREIGN.fullmatch(str(value)) is not None


def hint(name: object) -> str:
    """What to do about a name that is not known: of a third party something."""
    shown = "; `kfac inspect` shows what else the artifact holds"
    return shown if is_foreign(name) else ""


def is_name(value: object) -> bool:
    """Whether a value is a string that can be a name."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def as_name(text: str) -> str:
    """Make a name of a text: an underscore for what none may have."""
    return re.sub(f"[{NOT_IN_NAMES}]", "_", text)[:MOST_CHARACTERS] or "_"
