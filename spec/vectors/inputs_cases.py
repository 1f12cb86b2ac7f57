"""The vectors of blocks of inputs, of counts and of weighting by them."""

from collections.abc import Callable, Iterator
from typing import Any

from breaking import Case, edited, put
from draft import Draft, artifact, inputs, kronecker, named, source, spd
from stored import dense, diagonal


def none() -> dict[str, Any]:
    """No cotangents."""
    return {"name": "none", "draws": None, "seed": 0}


def of_inputs() -> Draft:
    """Two maps that share their inputs, and a table."""
    return artifact(
        {"q.weight": [2, 3], "k.weight": [4, 3], "table.weight": [5, 2]},
        {
            "q": inputs("q.weight", "in", positions=40),
            "k": inputs("k.weight", "in", positions=40),
            "table": inputs("table.weight", "rows", layout="columns", positions=40),
        },
        {
            "in": dense(spd(3, 1), "symmetric-float32"),
            "rows": diagonal([0.5, 0.25, 0.0, 0.125, 0.125]),
        },
        estimator=named("inputs"),
        sources=[source() | {"cotangents": none()}],
    )


def counted() -> Draft:
    """Experts of which one was never reached, of two tasks weighed by positions."""
    shapes = {"experts": [2, 2, 3], "bias": [2, 2]}
    blocks = {
        f"expert.{i}": kronecker(
            "experts", (f"in.{i}", f"out.{i}"), bias="bias", part=i
        )
        | {"positions": count}
        for i, count in enumerate((9007199254740991, 0))
    }
    factors = {
        "in.0": dense(spd(4, 1)),
        "in.1": dense(0 * spd(4, 1)),
        "out.0": dense(spd(2, 2)),
        "out.1": dense(0 * spd(2, 2)),
    }
    tasks = [source("example/one", 48), source("example/two", 64)]
    return artifact(shapes, blocks, factors, sources=tasks, weighting="positions")


def merged_inputs() -> Draft:
    """Of two tasks the scale is still 1; by size, as usual."""
    tasks = [
        source(f"example/{name}", 32) | {"cotangents": none()}
        for name in ("one", "two")
    ]
    return artifact(
        {"q.weight": [2, 3], "q.bias": [2]},
        {"q": inputs("q.weight", "in", bias="q.bias")},
        {"in": dense(spd(4, 3))},
        estimator=named("inputs"),
        sources=tasks,
        weighting="size",
    )


INPUTS: dict[str, Callable[[], Draft]] = {
    "inputs": of_inputs,
    "inputs-of-two-tasks": merged_inputs,
    "weighed-by-positions": counted,
}

COUNTS = [
    ("schema", "negative", "R7.1 positions are 0 at least", -1),
    ("schema", "fraction", "R7.1 positions are a whole number", 2.5),
    ("schema", "null", "R7.1 positions are a number or absent", None),
    ("manifest", "differ", "R7.5.8 blocks with one A have the same positions", 39),
]


def inputs_cases() -> Iterator[Case]:
    """What is wrong with them."""
    for level, name, rule, value in COUNTS:
        edit = put("blocks/q/positions", value)
        yield edited(level, f"positions-{name}", rule, edit, make=of_inputs)
    for name, rule, edit in (
        ("weighting-unknown", "R7.1 weighting is one of two", put("weighting", "n")),
        (
            "inputs-term-with-B",
            "R7.1 a term of a block of inputs has A alone",
            put("blocks/q/terms", [{"A": "in", "B": "in"}]),
        ),
        (
            "inputs-two-terms",
            "R7.1 there is one term",
            put("blocks/q/terms", [{"A": "in"}] * 2),
        ),
        (
            "none-with-draws",
            "R7.1 none has no draws",
            put("sources/0/cotangents/draws", 1),
        ),
    ):
        yield edited("schema", name, rule, edit, make=of_inputs)
    mc = {"name": "mc", "draws": 1, "seed": 0}
    for name, rule, edit, make in (
        (
            "inputs-dim-mismatch",
            "inputs.1 A has the size of the inputs",
            put("blocks/q/bias", None),
            merged_inputs_without_bias,
        ),
        (
            "inputs-with-cotangents",
            "inputs.3 nothing is pulled back",
            put("sources/0/cotangents", mc),
            of_inputs,
        ),
        (
            "cotangents-none",
            "inputs.3 other estimators pull something back",
            put("estimator/name", "kfac"),
            of_inputs,
        ),
        (
            "weighting-without-positions",
            "R7.5.9 there are positions to weigh by",
            put("weighting", "positions"),
            merged_inputs,
        ),
    ):
        yield edited("manifest", name, rule, edit, make=make)


def merged_inputs_without_bias() -> Draft:
    """An A that is one wider than its weight."""
    return artifact(
        {"q.weight": [2, 3]},
        {"q": inputs("q.weight", "in")},
        {"in": dense(spd(4, 3))},
        estimator=named("inputs"),
        sources=[source() | {"cotangents": none()}],
    )
