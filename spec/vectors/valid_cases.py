"""The valid vectors: one small artifact for each thing the format allows."""

from collections.abc import Callable
from typing import Any

import numpy as np
from draft import (
    SINGLE,
    Draft,
    artifact,
    base_model,
    gramian,
    kronecker,
    source,
    spd,
    split,
    with_header,
)
from stored import dense, diagonal

LAYER = {"layer.weight": [2, 3], "layer.bias": [2]}
EXTENSION = {"must_understand": False, "note": "readers may ignore this"}


def layer(storage: str = "float32") -> Draft:
    """One linear layer with a bias."""
    return artifact(
        LAYER,
        {"layer": kronecker("layer.weight", ("in", "out"), bias="layer.bias")},
        {
            "in": dense(spd(4, 1), storage),
            "out": dense(spd(2, 2), storage),
        },
    )


def nearest() -> Draft:
    """The estimator `nearest`, told how, of orthogonal cotangents."""
    draft = layer()
    how = {"terms": 1, "sweeps": 2, "shrinkage": True}
    draft.manifest["estimator"] = {"name": "nearest", "configuration": how}
    draft.manifest["sources"][0]["cotangents"]["name"] = "orthogonal"
    return draft


def labels() -> Draft:
    """Labels drawn from the distributions of a language model."""
    draft = layer()
    draft.manifest["output_map"] = {"name": "lm-fisher", "configuration": {}}
    draft.manifest["sources"][0]["cotangents"]["name"] = "labels"
    return draft


def table(dtype: str) -> Draft:
    """A table of 5 vectors of 2 entries: its A is diagonal."""
    return artifact(
        {"table.weight": [5, 2]},
        {"table": kronecker("table.weight", ("rows", "out"), layout="columns")},
        {
            "rows": diagonal([0.5, 0.25, 0.125, 0.125, 0.0], dtype),
            "out": dense(spd(2, 3), dtype),
        },
    )


def without_bias() -> Draft:
    """A weight alone, of a base model without a revision."""
    base = base_model({"layer.weight": [3, 2]}) | {"revision": None}
    return artifact(
        {},
        {"layer": kronecker("layer.weight", ("in", "out"))},
        {"in": dense(spd(2, 1)), "out": dense(spd(3, 2))},
        base_model=base,
    )


def columns_with_bias() -> Draft:
    """A weight that is stored transposed, with a bias."""
    return artifact(
        {"c_fc.weight": [3, 2], "c_fc.bias": [2]},
        {
            "c_fc": kronecker(
                "c_fc.weight", ("a", "b"), bias="c_fc.bias", layout="columns"
            )
        },
        {"a": dense(spd(4, 1)), "b": dense(spd(2, 2))},
    )


def convolution() -> Draft:
    """A convolution of 1 channel to 2, with patches of 2 x 2, and a bias."""
    return artifact(
        {"patch.weight": [2, 1, 2, 2], "patch.bias": [2]},
        {"patch": kronecker("patch.weight", ("a", "b"), bias="patch.bias")},
        {"a": dense(spd(5, 1), "symmetric-float32"), "b": dense(spd(2, 2))},
    )


def shared_input() -> Draft:
    """Three layers that read the same input: one A, referred to three times."""
    names = ["q", "k", "v"]
    factors = {"attention/input": dense(spd(3, 1), "symmetric-float32")}
    factors |= {f"{n}/output": dense(spd(2, i)) for i, n in enumerate(names)}
    return artifact(
        {f"{n}.weight": [2, 3] for n in names},
        {
            n: kronecker(f"{n}.weight", ("attention/input", f"{n}/output"))
            for n in names
        },
        factors,
    )


def gramians() -> Draft:
    """Gramian blocks: of a number, a vector, several axes, and a diagonal one."""
    shapes = {"scale": [], "norm.weight": [3], "token": [1, 2, 2], "gate": [4]}
    factors = {
        "scale/G": dense(spd(1, 1)),
        "norm/G": dense(spd(3, 2), "symmetric-float16"),
        "token/G": dense(spd(4, 3), "bfloat16"),
        "gate/G": diagonal([1.0, 2.0, 0.5, 0.0]),
    }
    names = zip(shapes, factors, strict=True)
    blocks = {f: gramian(p, f) for p, f in names}
    return artifact(shapes, blocks, factors)


def several_terms() -> Draft:
    """Blocks that are sums; one factor is in two terms."""
    return artifact(
        {"layer.weight": [2, 3], "norm.weight": [2]},
        {
            "layer": kronecker(
                "layer.weight", ("a1", "b1"), ("a2", "b2"), ("a1", "b2")
            ),
            "norm": gramian("norm.weight", "g1", "g2"),
        },
        {
            "a1": dense(spd(3, 1)),
            "b1": dense(spd(2, 2)),
            "a2": dense(spd(3, 3), "float16"),
            "b2": dense(spd(2, 4), "symmetric-float32"),
            "g1": dense(spd(2, 5)),
            "g2": diagonal([3.0, 4.0]),
        },
    )


def stacked() -> Draft:
    """Two experts in stacked parameters, with biases and without; one is unused."""
    zero = np.zeros((2, 2))
    up = {"bias": "experts.up_bias", "layout": "columns"}
    return artifact(
        {
            "experts.up": [2, 3, 2],
            "experts.up_bias": [2, 2],
            "experts.down": [2, 3, 2],
        },
        {
            "up.0": kronecker("experts.up", ("up.0/A", "up.0/B"), **up, part=0),
            "up.1": kronecker("experts.up", ("up.1/A", "up.1/B"), **up, part=1),
            "down.1": kronecker("experts.down", ("down.1/A", "down.1/B"), part=1),
            "down.0": kronecker("experts.down", ("down.0/A", "down.0/B"), part=0),
        },
        {
            "up.0/A": dense(spd(4, 1)),
            "up.0/B": dense(spd(2, 2)),
            "up.1/A": dense(spd(4, 3)),
            "up.1/B": dense(spd(2, 4), "symmetric-float32"),
            "down.0/A": dense(zero),
            "down.0/B": dense(np.zeros((3, 3))),
            "down.1/A": dense(spd(2, 5)),
            "down.1/B": dense(spd(3, 6)),
        },
    )


def part(seed: int, size: int, name: str = "task") -> Draft:
    """One of the artifacts that the merged vectors are merged from."""
    return artifact(
        {**LAYER, "norm.weight": [2]},
        {
            "layer": kronecker("layer.weight", ("in", "out"), bias="layer.bias"),
            "norm": gramian("norm.weight", "norm"),
        },
        {
            "in": dense(spd(4, seed)),
            "out": dense(spd(2, seed)),
            "norm": dense(spd(2, seed + 1)),
        },
        sources=[source(f"example/{name}-{seed}", size)],
    )


def merge(*parts: Draft) -> Draft:
    """Merge by section 11 of the specification."""
    tasks = [part.manifest["sources"][0] for part in parts]
    weights = np.array([task["data"]["size"] for task in tasks], dtype=float)
    weights /= weights.sum()
    A, B, G = (
        [part.factors[name].matrix for part in parts] for name in ("in", "out", "norm")
    )
    mean_a = sum(w * a for w, a in zip(weights, A, strict=True))
    sum_b = sum(B)
    truth = sum(np.kron(b, a) for a, b in zip(A, B, strict=True))
    norm = float(np.linalg.norm(truth))
    error = float(np.linalg.norm(truth - np.kron(sum_b, mean_a))) / norm
    errors = {}
    if len(set(weights)) == 1:  # Eq. 18 is for equal weights
        spread = [
            sum(np.linalg.norm(m - np.mean(M, 0)) ** 2 for m in M) for M in (A, B)
        ]
        bound = float(np.sqrt(spread[0] * spread[1])) / norm
        errors = {"layer": {"relative": error, "bound": bound}}
    first = parts[0].manifest
    return artifact(
        {},
        first["blocks"],
        {
            "in": dense(mean_a),
            "out": dense(sum_b),
            "norm": dense(sum(w * g for w, g in zip(weights, G, strict=True))),
        },
        base_model=first["base_model"],
        sources=[
            task | {"digest": part.digest}
            for part, task in zip(parts, tasks, strict=True)
        ],
        merge_errors=errors,
    )


def sharded() -> Draft:
    """Two tensor files and an index."""
    names = ["in", "out", "norm"]
    draft = part(1, 64)
    return artifact(
        {},
        draft.manifest["blocks"],
        draft.factors,
        shards=[names[:1], names[1:]],
        base_model=draft.manifest["base_model"],
    )


def extensions() -> Draft:
    """A field that may be ignored, wherever one is allowed."""
    draft = layer()
    manifest = draft.manifest
    places: list[dict[str, Any]] = [
        manifest,
        manifest["base_model"],
        manifest["sources"][0],
        manifest["sources"][0]["data"],
    ]
    for place in places:
        place["x-example"] = EXTENSION
    return draft


def unicode_names() -> Draft:
    """Names in other scripts, outside the basic plane, and with spaces and slashes."""
    return artifact(
        {"слой/вес 重み": [2, 2], "😀.bias": [2]},
        {"θ-block": kronecker("слой/вес 重み", ("A/é", "B/😀"), bias="😀.bias")},
        {"A/é": dense(spd(3, 1)), "B/😀": dense(spd(2, 2))},
        sources=[source("データ/テキスト")],
        uncovered={"позиция": "it is never used"},
    )


def left_out() -> Draft:
    """Parameters left out on request, and for a reason; exact cotangents."""
    task = source()
    task["cotangents"] = {"name": "exact", "draws": None, "seed": 7}
    draft = layer()
    draft.manifest |= {
        "sources": [task],
        "excluded": ["head.weight", "head.bias"],
        "uncovered": {"pooler.weight": "the output map does not reach it"},
    }
    return draft


def converted() -> Draft:
    """Numbers of another program, which does not tell what it pulled back."""
    draft = layer()
    told = {"name": "kfac", "configuration": {"converted_from": "another"}}
    draft.manifest["estimator"] = told
    unknown = {"name": "unknown", "draws": None, "seed": 0}
    draft.manifest["sources"][0]["cotangents"] = unknown
    return draft


def loose_header() -> Draft:
    """A header in another order than the data, with one key of metadata."""
    draft = layer()
    header, content = split(draft.files[SINGLE])
    turned = {"__metadata__": {"format": "pt"}}
    turned |= {name: header[name] for name in reversed(header)}
    draft.files[SINGLE] = with_header(turned, content)
    return draft.relist()


def extreme(dtype: str, values: list[float]) -> Draft:
    """Numbers at the edges of a type."""
    largest, smallest, third = values
    matrix = np.array([[largest, third], [third, smallest]])
    return artifact(
        {"norm.weight": [2]},
        {"norm": gramian("norm.weight", "norm")},
        {"norm": dense(matrix, f"symmetric-{dtype}")},
    )


def leaning(dtype: str, ratio: float) -> Draft:
    """An eigenvalue just not below what rounding explains."""
    return artifact(
        {"norm.weight": [2]},
        {"norm": gramian("norm.weight", "norm")},
        {"norm": dense(np.diag([1.0, ratio]).astype("f4"), dtype)},
    )


def names_at_the_limits() -> Draft:
    """Names of 512 code points, and two that UTF-16 sorts the other way round."""
    long, first, second = "\U0001f600" * 512, "\ufb01.weight", "\U0001f600.weight"
    return artifact(
        {second: [2], first: [2]},
        {long: gramian(second, "one"), "other": gramian(first, "two")},
        {"one": dense(spd(2, 1)), "two": dense(spd(2, 2))},
        sources=[source(long)],
    )


def deep() -> Draft:
    """A configuration whose innermost value is inside 32 arrays and objects."""
    value: object = 1
    for _ in range(29):
        value = [value]
    draft = layer()
    draft.manifest["output_map"]["configuration"]["deep"] = value
    return draft


TINY = float(np.float32(2.0**-149))
FLOAT32 = [float(np.finfo("f4").max), TINY, float(np.float32(0.1))]
FLOAT16 = [65504.0, 2.0**-24, float(np.float16(0.1))]
BFLOAT16 = [255 * 2.0**120, 2.0**-133, -0.10009765625]

CASES: dict[str, Callable[[], Draft]] = {
    "dense-float32": layer,
    "dense-float16": lambda: layer("float16"),
    "dense-bfloat16": lambda: layer("bfloat16"),
    "dense-symmetric-float32": lambda: layer("symmetric-float32"),
    "dense-symmetric-float16": lambda: layer("symmetric-float16"),
    "dense-symmetric-bfloat16": lambda: layer("symmetric-bfloat16"),
    "labels": labels,
    "nearest": nearest,
    "diagonal-float32": lambda: table("float32"),
    "diagonal-float16": lambda: table("float16"),
    "diagonal-bfloat16": lambda: table("bfloat16"),
    "without-bias": without_bias,
    "columns-with-bias": columns_with_bias,
    "convolution": convolution,
    "shared-input": shared_input,
    "gramians": gramians,
    "several-terms": several_terms,
    "stacked": stacked,
    "part-1": lambda: part(1, 64),
    "part-2": lambda: part(2, 64),
    "part-3": lambda: part(3, 192),
    "merged-1-2": lambda: merge(part(1, 64), part(2, 64)),
    "merged-1-3": lambda: merge(part(1, 64), part(3, 192)),
    "merged-equal": lambda: merge(*[part(1, 64, f"owner-{i}") for i in range(4)]),
    "sharded": sharded,
    "extensions": extensions,
    "unicode-names": unicode_names,
    "left-out": left_out,
    "converted": converted,
    "loose-header": loose_header,
    "names-at-the-limits": names_at_the_limits,
    "depth-32": deep,
    "leaning-float32": lambda: leaning("float32", -0.9e-5),
    "leaning-bfloat16": lambda: leaning("bfloat16", -0.009765625),
    "extreme-float32": lambda: extreme("float32", FLOAT32),
    "extreme-float16": lambda: extreme("float16", FLOAT16),
    "extreme-bfloat16": lambda: extreme("bfloat16", BFLOAT16),
}
