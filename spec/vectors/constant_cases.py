"""The vectors of inputs with a constant where there is no bias."""

from collections.abc import Callable, Iterator

from breaking import Case, edited, files_of, put
from draft import Draft, artifact, kronecker, spd
from stored import dense


def shared() -> Draft:
    """Two maps with one A, of which one has a bias and the other has not."""
    return artifact(
        {"q.weight": [2, 3], "q.bias": [2], "k.weight": [2, 3]},
        {
            "q": kronecker("q.weight", ("in", "q/out"), bias="q.bias"),
            "k": kronecker("k.weight", ("in", "k/out")) | {"constant": True},
        },
        {
            "in": dense(spd(4, 1)),
            "q/out": dense(spd(2, 2)),
            "k/out": dense(spd(2, 3)),
        },
    )


CONSTANT: dict[str, Callable[[], Draft]] = {"constant": shared}


def constant_cases() -> Iterator[Case]:
    """Constants that are wrong."""
    rule = "R7.1 constant is true"
    yield edited(
        "schema", "constant-false", rule, put("blocks/k/constant", False), make=shared
    )
    rule = "R7.5.10 constant is for blocks without a bias"
    twice = kronecker("q.weight", ("in", "out"), bias="q.bias") | {"constant": True}
    wide = artifact(
        {"q.weight": [2, 3], "q.bias": [2]},
        {"q": twice},
        {"in": dense(spd(5, 1)), "out": dense(spd(2, 2))},
    )
    yield Case("constant-beside-bias", "manifest", rule, files_of(wide))
    rule = "R7.5.10 A has a row and a column for the constant"
    narrow = artifact(
        {"k.weight": [2, 3]},
        {"k": kronecker("k.weight", ("in", "out")) | {"constant": True}},
        {"in": dense(spd(3, 1)), "out": dense(spd(2, 2))},
    )
    yield Case("constant-without-row", "manifest", rule, files_of(narrow))
