"""Vectors of what readers could decide either way, on both sides of the border."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from breaking import Case, edited, put
from draft import Draft, artifact, gramian, sha256, spd
from stored import Codes, dense
from valid_cases import layer, merge, part

NAME = "head.weight"
OVERFLOWS = 2**1024 - 2**970
"""The smallest whole number that is rounded to infinity in binary64."""

FOREIGN = {
    "estimator": "estimator/name",
    "cotangents": "sources/0/cotangents/name",
    "kind": "blocks/norm/kind",
    "structure": "factors/in/structure/name",
    "storage": "factors/norm/storage/name",
}


def minus_zero() -> Draft:
    """A seed that is written -0, and scales of -0."""
    codes = Codes(
        np.array([127, -127, 3]), np.array([0.5, -0.0, -0.0]), np.array([2.0, 1.0, 1.0])
    )
    draft = artifact(
        {"norm.weight": [3]},
        {"norm": gramian("norm.weight", "norm")},
        {"norm": dense(codes, "int8")},
    )
    draft.spelling['"seed": 0'] = '"seed": -0'
    return draft


def left_out_twice() -> Draft:
    """A parameter that one task excluded, and another could not cover."""
    draft = layer()
    draft.manifest |= {"excluded": [NAME], "uncovered": {NAME: "f does not use it"}}
    return draft


def never_stored() -> Draft:
    """Two tasks of which nobody knows the artifacts."""
    draft = merge(part(1, 64), part(2, 64))
    for source in draft.manifest["sources"]:
        source["digest"] = None
    return draft


def large_numbers() -> Draft:
    """Numbers that are rounded to the largest of binary64, as a whole number too."""
    draft = layer()
    found = draft.manifest["output_map"]["configuration"]
    found |= {"whole": OVERFLOWS - 1, "real": 1.7976931348623157e308}
    draft.spelling["1.7976931348623157e+308"] = "1.7976931348623158e308"
    return draft


def names_of_javascript() -> Draft:
    """Names that are members of every object elsewhere."""
    return artifact(
        {"__proto__": [2], "constructor": [2]},
        {
            "__proto__": gramian("__proto__", "toString"),
            "length": gramian("constructor", "__proto__"),
        },
        {"toString": dense(spd(2, 1)), "__proto__": dense(spd(2, 2))},
        uncovered={"hasOwnProperty": "valueOf"},
    )


def derived(*files: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Say that files hold the weights in another form."""
    return {"must_understand": False, "files": [*files], **others}


def file(name: str, how: str | None = None) -> dict[str, Any]:
    """Describe such a file."""
    return {"name": name, "sha256": sha256(name.encode()), "how": how}


QUANTISED = file("tiny-Q4_K_M.gguf", "GGUF Q4_K_M")


def quantised() -> Draft:
    """Two files of the same weights, quantised."""
    draft = layer()
    files = [QUANTISED, file("tiny-int4.safetensors")]
    draft.manifest["base_model"]["derived"] = derived(*files)
    return draft


def counted_twice() -> Case:
    """Two tasks of one digest, otherwise unlike."""
    draft = merge(part(1, 64), part(2, 64))
    sources = draft.manifest["sources"]
    sources[1]["digest"] = sources[0]["digest"]
    rule = "R7.3.2 no two sources have one digest"
    return Case(
        "digest-twice", "manifest", rule, {"kfac.json": draft.text, **draft.files}
    )


DERIVED: list[tuple[str, str, str, object]] = [
    ("derived-null", "schema", "R7.1 derived is an object or absent", None),
    ("derived-without-files", "schema", "R7.1 there is a file", derived()),
    (
        "derived-must-be-understood",
        "schema",
        "R7.1 must_understand is false",
        derived(QUANTISED, must_understand=True),
    ),
    (
        "derived-unknown-member",
        "schema",
        "R12.5 a file has three members",
        derived(QUANTISED | {"size": 1}),
    ),
    (
        "derived-twice",
        "manifest",
        "R7.2.3 a file is there once",
        derived(QUANTISED, QUANTISED | {"name": "other"}),
    ),
]
BORDER: dict[str, Callable[[], Draft]] = {
    "minus-zero": minus_zero,
    "excluded-and-uncovered": left_out_twice,
    "tasks-without-digest": never_stored,
    "derived-files": quantised,
    "large-numbers": large_numbers,
    "names-of-javascript": names_of_javascript,
}


def border_cases() -> Iterator[Case]:
    """The invalid ones."""
    rule = "R7.1.4 excluded has a name once"
    yield edited("schema", "excluded-twice", rule, put("excluded", [NAME, NAME]))
    rule = "R6.8 the version is a whole number"
    yield edited("manifest", "version-fraction", rule, put("version", 1.0))
    yield counted_twice()
    for name, level, rule, value in DERIVED:
        yield edited(level, name, rule, put("base_model/derived", value))
    for name, number in (("overflow", OVERFLOWS), ("underflow", -OVERFLOWS)):
        edit = put("output_map/configuration/x", number)
        yield edited("json", f"whole-number-{name}", "R6.5 it is infinite", edit)
    rule = "R12.2 R12.1.4 what only a third party knows is not decoded"
    for what, path in FOREIGN.items():
        yield edited("schema", f"foreign-{what}", rule, put(path, "org.example/own"))
