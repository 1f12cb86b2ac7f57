"""The vectors of tasks whose examples noise hides (7.3)."""

from collections.abc import Callable, Iterator
from typing import Any

from breaking import Case, edited, put
from draft import Draft
from valid_cases import layer

PRIVACY: dict[str, Any] = {
    "must_understand": False,
    "mechanism": "gaussian",
    "neighbours": "replace-one",
    "epsilon": 8,
    "delta": 1e-6,
    "noise_multiplier": 0.6484375,
    "clip": {"in": 2.5, "out": 0.125},
}
WRONG: list[tuple[str, str, object]] = [
    ("null", "R7.1 privacy is an object or absent", None),
    ("of-nothing", "R7.1 epsilon is above 0", PRIVACY | {"epsilon": 0}),
    ("of-everything", "R7.1 delta is below 1", PRIVACY | {"delta": 1}),
    ("without-noise", "R7.1 there is noise", PRIVACY | {"noise_multiplier": 0}),
    ("without-clip", "R7.1 there is a clip norm", PRIVACY | {"clip": {}}),
    ("clip-negative", "R7.1 a clip norm is above 0", PRIVACY | {"clip": {"in": -1}}),
    ("other-mechanism", "R7.1 it is gaussian", PRIVACY | {"mechanism": "laplace"}),
    ("other-neighbours", "R7.1 it is replace-one", PRIVACY | {"neighbours": "group"}),
    ("unknown-member", "R12.5 it has seven members", PRIVACY | {"note": "x"}),
    (
        "must-be-understood",
        "R7.1 must_understand is false",
        PRIVACY | {"must_understand": True},
    ),
]


def hidden() -> Draft:
    """One linear layer of a task whose examples noise hides."""
    draft = layer()
    draft.manifest["sources"][0]["privacy"] = dict(PRIVACY)
    return draft


HIDDEN: dict[str, Callable[[], Draft]] = {"privacy": hidden}


def privacy_cases() -> Iterator[Case]:
    """Guarantees that are wrong."""
    for name, rule, value in WRONG:
        yield edited("schema", f"privacy-{name}", rule, put("sources/0/privacy", value))
