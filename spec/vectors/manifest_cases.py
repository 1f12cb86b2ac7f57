"""The invalid vectors whose manifest is wrong in a way no JSON Schema can say."""

import json
import math
from collections.abc import Iterator
from typing import Any

from breaking import (
    STACK,
    Case,
    Edit,
    drop,
    edited,
    files_of,
    put,
    rewritten,
    stacked,
    whole,
)
from draft import INDEX, Draft, artifact, dump, gramian, kronecker, spd
from stored import dense

ZEROS = "0" * 64
JSON = [
    ("not-json", "R6.1 it is not JSON", lambda text: text[:-2]),
    ("trailing-data", "R6.1 something follows the object", lambda text: text + "{}"),
    ("byte-order-mark", "R6.2 it begins with U+FEFF", lambda text: "\ufeff" + text),
    (
        "not-utf-8",
        "R6.2 it is not UTF-8",
        lambda t: t.encode().replace(b"tiny", b"t\xffny"),
    ),
    (
        "duplicate-key",
        "R6.4 a key occurs twice in one object",
        lambda text: text.replace('"version":1,', '"version":1,"version":1,'),
    ),
    (
        "duplicate-key-escaped",
        "R6.4 a key occurs twice, once written with an escape",
        lambda text: text.replace('"version":1,', '"version":1,"versio\\u006e":1,'),
    ),
    (
        "not-a-number",
        "R6.5 NaN is no JSON",
        lambda text: text.replace('"max_length":128', '"max_length":NaN'),
    ),
    (
        "infinite-number",
        "R6.5 a number is beyond float64",
        lambda text: text.replace('"max_length":128', '"max_length":1e999'),
    ),
    (
        "huge-whole-number",
        "R6.5 a number is beyond float64",
        lambda t: t.replace('"max_length":128', '"max_length":1' + "0" * 400),
    ),
    (
        "lone-surrogate",
        "R6.6 a string has half of a surrogate pair",
        lambda text: text.replace('"pooling":"mean"', '"pooling":"\\ud800"'),
    ),
    (
        "nested-too-deep",
        "R6.7 a value is inside more than 32 arrays and objects",
        lambda t: t.replace('"max_length":128', f'"a":{"[" * 40}1{"]" * 40}'),
    ),
    (
        "depth-bomb",
        "R6.7 a value is inside more than 32 arrays and objects",
        lambda t: t.replace('"max_length":128', f'"a":{"[" * 3000}{"]" * 3000}'),
    ),
]

MANIFEST: list[tuple[str, str, Edit]] = [
    ("fraction-for-whole", "R6.8 a whole number has no fraction", put("tasks", 1.0)),
    ("sources-not-tasks", "R7.1.1 tasks is the number of sources", put("tasks", 2)),
    ("size-not-sum", "R7.1.2 size is the sum over the sources", put("size", 65)),
    (
        "examples-above-size",
        "R7.3.1 examples is size at most",
        put("sources/0/data/examples", 65),
    ),
    (
        "base-hash-mismatch",
        "R7.2.1 the hash of the base model",
        put("base_model/sha256", ZEROS),
    ),
    (
        "parameter-hash-mismatch",
        "R7.2.1 the hash of the base model",
        put("base_model/parameters/norm.weight/sha256", ZEROS),
    ),
    (
        "parameter-unknown",
        "R7.5.1 a block covers parameters of the base model",
        put("blocks/norm/parameter", "other.weight"),
    ),
    (
        "parameter-in-two-blocks",
        "R7.5.5 a parameter is in one block",
        put("blocks/again", gramian("norm.weight", "norm")),
    ),
    (
        "bias-is-weight",
        "R7.5.5 a parameter is once in a block",
        put("blocks/layer/bias", "layer.weight"),
    ),
    (
        "covered-and-excluded",
        "R7.1.3 a parameter is covered or left out",
        put("excluded", ["norm.weight"]),
    ),
    (
        "covered-and-uncovered",
        "R7.1.3 a parameter is covered or left out",
        put("uncovered", {"norm.weight": "a reason"}),
    ),
    (
        "error-of-no-block",
        "R7.4.1 an error is of a block",
        put(
            "merge_errors/other",
            {
                "relative": 0,
                "bound": 0,
            },
        ),
    ),
    (
        "dim-mismatch",
        "R7.5.4 a factor has the size of its block",
        put("factors/in/dim", 3),
    ),
    (
        "swapped-factors",
        "R7.5.4 A is of the inputs, B of the outputs",
        put("blocks/layer/terms", [{"A": "out", "B": "in"}]),
    ),
    (
        "gramian-dim-mismatch",
        "R7.5.4 a factor has the size of its block",
        put("blocks/norm/terms", [{"G": "in"}]),
    ),
    ("missing-factor", "R7.5.6 a factor of a block exists", drop("factors/norm")),
]


STACKED: list[tuple[str, str, Edit]] = [
    (
        "part-beyond",
        "R7.5.5 a part is below the first axis",
        put("blocks/part.1/part", 2),
    ),
    ("part-twice", "R7.5.5 a part is in one block", put("blocks/part.1/part", 0)),
    ("part-missing", "R7.5.5 every part is in a block", drop("blocks/part.1")),
    (
        "part-of-two-axes",
        "R7.5.2 the part of a weight has two axes",
        lambda m: [
            m["blocks"][f"part.{i}"].update(weight="stacked.bias", bias=STACK)
            for i in range(2)
        ],
    ),
    (
        "part-of-a-bias-that-is-not-stacked",
        "R7.5.3 the part of a bias has one axis",
        lambda m: [
            *(m["blocks"][f"part.{i}"].update(bias="norm.weight") for i in range(2)),
            m["blocks"].update(norm=gramian("stacked.bias", "in")),
            m["factors"].pop("norm"),
        ],
    ),
    (
        "part-with-the-size-of-the-whole",
        "R7.5.4 a factor has the size of the part",
        put("blocks/part.0/terms", [{"A": "in", "B": "in"}]),
    ),
]


def unused() -> Case:
    """A factor that no block refers to; its tensor is there."""
    draft = whole()
    draft.factors["spare"] = draft.factors["norm"]
    draft.manifest["factors"]["spare"] = draft.factors["spare"].to_json()
    sealed = Draft(draft.manifest, draft.factors, [list(draft.factors)]).seal()
    return Case(
        "unused-factor", "manifest", "R7.5.6 every factor is used", files_of(sealed)
    )


def shards_called(name: str, rule: str, pattern: str) -> Case:
    """Shards that are there, with other numbers in their names."""
    draft = whole(shards=[["in", "out"], ["norm"]])
    names = {f"factors-0000{i}-of-00002.safetensors": pattern.format(i) for i in (1, 2)}
    for before, after in names.items():
        draft.files[after] = draft.files.pop(before)
    index = json.loads(draft.files[INDEX])
    index["weight_map"] = {k: names[v] for k, v in index["weight_map"].items()}
    draft.files[INDEX] = dump(index)
    return Case(name, "manifest", rule, files_of(draft.relist()))


def beside_parts() -> Case:
    """A stacked weight whose parts have blocks, and the whole of it as well."""
    draft = artifact(
        {STACK: [2, 2, 3]},
        {
            "part.0": kronecker(STACK, ("in", "out"), part=0),
            "part.1": kronecker(STACK, ("in", "out"), part=1),
            "whole": kronecker(STACK, ("wide", "out")),
        },
        {
            "in": dense(spd(3, 1)),
            "out": dense(spd(2, 2)),
            "wide": dense(spd(6, 3)),
        },
    )
    rule = "R7.5.5 a parameter is in one block whole, or in parts"
    return Case("part-beside-whole", "manifest", rule, files_of(draft))


def small(name: str, rule: str, shapes: dict[str, list[int]], bias: bool) -> Case:
    """A weight of two inputs and two outputs, in shapes that break a rule."""
    d_in = math.prod(shapes["w"][1:]) + bias
    block = kronecker("w", ("in", "out"), bias="b" if bias else None)
    factors = {"in": dense(spd(d_in, 1)), "out": dense(spd(2, 2))}
    draft = artifact(shapes, {"w": block}, factors)
    return Case(name, "manifest", rule, files_of(draft))


def nested(depth: int) -> Edit:
    """Put arrays into arrays: the innermost value is inside ``depth`` of all kinds."""

    def edit(manifest: dict[str, Any]) -> None:
        value: object = 1
        for _ in range(depth - 3):  # the manifest, output_map and its configuration
            value = [value]
        manifest["output_map"]["configuration"]["deep"] = value

    return edit


def manifest_cases() -> Iterator[Case]:
    """All artifacts whose manifest is no JSON, or does not fit together."""
    for name, rule, rewrite in JSON:
        yield rewritten(name, rule, rewrite)
    for name, rule, edit in MANIFEST:
        yield edited("manifest", name, rule, edit)
    for name, rule, edit in STACKED:
        yield edited("manifest", name, rule, edit, make=stacked)
    yield edited(
        "json", "depth-33", "R6.7 a value is inside 32 others at most", nested(33)
    )
    yield unused()
    two = {"w": [2, 2]}
    rule = "R7.5.5 every parameter is in a block"
    yield small("parameter-uncovered", rule, two | {"spare": [3]}, bias=False)
    rule = "R7.5.2 the weight of a Kronecker block has two axes"
    yield small("weight-of-one-axis", rule, {"w": [2]}, bias=False)
    rule = "R7.5.3 the bias has the shape [d_out]"
    yield small("bias-of-another-size", rule, two | {"b": [3]}, bias=True)
    yield small("bias-of-two-axes", rule, two | {"b": [1, 2]}, bias=True)
    yield beside_parts()
    rule = "R7.7.1 the shards are numbered from 1 to their count"
    yield shards_called(
        "shards-do-not-count", rule, "factors-0000{}-of-00003.safetensors"
    )
    rule = "R7.7.1 numbers of shards are padded to five digits and no more"
    yield shards_called(
        "shard-of-six-digits", rule, "factors-00000{}-of-000002.safetensors"
    )
