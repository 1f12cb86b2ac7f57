"""Cases of section 11: what merging, taking out and joining give, or refuse.

Everything is computed in float64 from whole matrices.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from breaking import put
from draft import Draft, artifact, eigen, gramian, kronecker, source, spd
from stored import block_diagonal, dense, diagonal, low_rank
from valid_cases import layer, merge, part, several_terms

LAYER = {"layer.weight": [2, 3], "layer.bias": [2]}
Made = dict[str, Draft]


def turned(path: str, value: object, seed: int = 2) -> Draft:
    """Change one member of the manifest of a part."""
    draft = part(seed, 64)
    put(path, value)(draft.manifest)
    return draft


def renamed_layer(**members: Any) -> Draft:
    """A layer without a bias in its block: that is a block of its own."""
    draft = part(2, 64)
    blocks = {
        "layer": kronecker("layer.weight", ("in", "out")),
        "bias": gramian("layer.bias", "bias"),
        "norm": gramian("norm.weight", "norm"),
    }
    factors = {"in": dense(spd(3, 2)), "bias": dense(spd(2, 5))}
    factors |= {n: draft.factors[n] for n in ("out", "norm")}
    shapes = {**LAYER, "norm.weight": [2]}
    return artifact(shapes, blocks, factors, sources=draft.manifest["sources"])


def square(name: str, block: dict[str, Any]) -> Draft:
    """A square weight, which every kind and layout fits."""
    factors = {"a": dense(spd(2, 1)), "b": dense(spd(2, 2)), "g": dense(spd(4, 3))}
    used = {factor for term in block["terms"] for factor in term.values()}
    kept = {name: stored for name, stored in factors.items() if name in used}
    task = [source(f"example/{name}")]
    return artifact({"square": [2, 2]}, {"square": block}, kept, sources=task)


def parts_of_two(name: str, order: tuple[int, int]) -> Draft:
    """Two slices of a stacked weight, which blocks of the same names may swap."""
    blocks = {
        f"e{i}": kronecker("stack", ("a", "b"), part=k) for i, k in enumerate(order)
    }
    factors = {"a": dense(spd(2, 1)), "b": dense(spd(2, 2))}
    task = [source(f"example/{name}")]
    return artifact({"stack": [2, 2, 2]}, blocks, factors, sources=task)


def compressed(name: str, seed: int, order: list[int] | None = None) -> Draft:
    """A part of which A is in blocks, B of low rank and G diagonal or dense."""
    runs = [np.stack([spd(2, seed), spd(2, seed + 1)])]
    G = [dense(spd(2, 1)), diagonal([1.0, 3.0])][seed % 2]
    return artifact(
        {"map": [3, 4], "norm": [2]},
        {"map": kronecker("map", ("a", "b")), "norm": gramian("norm", "g")},
        {
            "a": block_diagonal(runs, permutation=order),
            "b": low_rank(2 * np.eye(3)[:2], [float(seed), 1.0]),
            "g": G,
        },
        sources=[source(f"example/{name}", 64 * seed)],
    )


def compressed_form(original: Draft) -> Draft:
    """A part in half precision, which tells of what it was made."""
    stored = {n: dense(f.matrix, "float16") for n, f in original.factors.items()}
    task = original.manifest["sources"][0] | {"digest": original.digest}
    base = original.manifest["base_model"]
    blocks = original.manifest["blocks"]
    return artifact({}, blocks, stored, base_model=base, sources=[task])


def reformatted(draft: Draft) -> Draft:
    """The same manifest with its members in another order."""
    turned_round = dict(reversed(draft.manifest.items()))
    return Draft(turned_round, draft.factors, draft.shards, draft.files)


def eigen_part(name: str, vectors: np.ndarray, values: list[float]) -> Draft:
    """A weight in the eigenbases of its factors."""
    return artifact(
        {"weight": [2, 2]},
        {"weight": eigen("weight", "a", "b", "s")},
        {
            "a": low_rank(vectors, values[:2]),
            "b": low_rank(vectors[::-1], values[1:3]),
            "s": diagonal(values[-4:]),
        },
        estimator={"name": "ekfac", "configuration": {}},
        sources=[source(f"example/{name}")],
    )


def module(name: str, task: str = "texts", **members: Any) -> Draft:
    """What one estimation gives for one module."""
    factors = {f"{name}/A": dense(spd(2, 1)), f"{name}/B": dense(spd(2, 2))}
    block = {name: kronecker(f"{name}.weight", (f"{name}/A", f"{name}/B"))}
    shapes = {f"{name}.weight": [2, 2]}
    tasks = {"sources": [source(f"example/{task}")]}
    return artifact(shapes, block, factors, **(tasks | members))


def made() -> Made:
    """Every artifact that the cases name."""
    parts = {f"part-{i}": part(i, size) for i, size in ((1, 64), (2, 64), (3, 128))}
    one, two, three = parts.values()
    mean = {"pooling": "mean", "normalise": 1}
    cotangents = {"name": "exact", "draws": None, "seed": 0}
    sources = [source("example/a"), source("example/b")]
    turns = np.array([[0.6, 0.8], [-0.8, 0.6]], "f4")
    return parts | {
        "total": merge(one, two, three),
        "total-of-one-size": merge(one, two),
        "part-3-reformatted": reformatted(three),
        "part-3-compressed": compressed_form(three),
        "another-task": part(4, 64),
        "output-map-one": turned("output_map/configuration", mean),
        "estimator-nearest": turned("estimator/name", "nearest"),
        "other-values": turned("base_model", _other_values(two)),
        "fewer-parameters": layer(),
        "bias-apart": renamed_layer(),
        "rows": square("rows", kronecker("square", ("a", "b"))),
        "columns": square("columns", kronecker("square", ("a", "b"), layout="columns")),
        "whole": square("whole", gramian("square", "g")),
        "slices": parts_of_two("slices", (0, 1)),
        "slices-swapped": parts_of_two("swapped", (1, 0)),
        "several-terms": several_terms(),
        "largest": _sized(1, 2**53 - 1),
        "alike-1": merge(part(1, 64), part(1, 64, "twin")),
        "compressed-1": compressed("one", 1),
        "compressed-2": compressed("two", 2),
        "compressed-3": compressed("three", 3),
        "compressed-permuted": compressed("permuted", 3, [2, 0, 1, 3]),
        "without-digests": _without_digests(sources),
        "eigen-1": eigen_part("one", np.eye(2), [4.0, 1.0, 3.0, 2.0, 0.5, 5.0]),
        "eigen-2": eigen_part("two", turns, [2.0, 1.0, 7.0, 1.0, 4.0, 0.25]),
        "module-1": module("one", excluded=["head", "two.weight"]),
        "module-2": module("two", excluded=["head"]),
        "module-of-other-data": module("two", "other"),
        "module-of-other-cotangents": module(
            "two", sources=[source() | {"cotangents": cotangents}]
        ),
        "module-of-two-tasks": module("two", sources=sources),
    }


def _without_digests(sources: list[dict[str, Any]]) -> Draft:
    draft = part(5, 64)
    base = draft.manifest["base_model"]
    told = {"base_model": base, "sources": sources}
    return artifact({}, draft.manifest["blocks"], draft.factors, **told)


def _sized(seed: int, size: int) -> Draft:
    draft = part(seed, 64, "huge")
    draft.manifest["sources"][0]["data"]["size"] = draft.manifest["size"] = size
    return draft


def _other_values(draft: Draft) -> dict[str, Any]:
    base = json.loads(json.dumps(draft.manifest["base_model"]))
    shapes = {n: info["shape"] for n, info in base["parameters"].items()}
    names = [*reversed(shapes)]
    other = artifact({n: shapes[n] for n in names}, {}, {}).manifest["base_model"]
    return dict(other)


Case = tuple[str, Sequence[str], Sequence[str], str]
"""Operation, what is added, what is taken out, and the rules of a refusal."""
CASES: dict[str, Case] = {
    "three-parts": ("merge", ["part-1", "part-2", "part-3"], [], ""),
    "parts-of-other-order": ("merge", ["part-3", "part-1"], [], ""),
    "total-and-part": ("merge", ["total", "another-task"], [], ""),
    "twins": ("merge", ["alike-1", "part-2"], [], ""),
    "null-digests-alike": ("merge", ["without-digests", "without-digests"], [], ""),
    "mixed-storage": ("merge", ["part-1", "part-3-compressed"], [], ""),
    "compressed": ("merge", ["compressed-1", "compressed-3"], [], ""),
    "compressed-mixed": ("merge", ["compressed-1", "compressed-2"], [], ""),
    "compressed-permuted": ("merge", ["compressed-1", "compressed-permuted"], [], ""),
    "eigen": ("merge", ["eigen-1", "eigen-2"], [], ""),
    "out-one": ("exclude", ["total"], ["part-3"], ""),
    "out-two": ("exclude", ["total"], ["part-1", "part-3"], ""),
    "out-a-total": ("exclude", ["total"], ["total-of-one-size"], ""),
    "out-reformatted": ("exclude", ["total"], ["part-3-reformatted"], ""),
    "out-compressed": ("exclude", ["total"], ["part-3-compressed"], ""),
    "join": ("join", ["module-1", "module-2"], [], ""),
    "output-map": ("merge", ["part-1", "output-map-one"], [], "R11.1"),
    "estimator": ("merge", ["part-1", "estimator-nearest"], [], "R11.1"),
    "weights": ("merge", ["part-1", "other-values"], [], "R11.1"),
    "covering": ("merge", ["part-1", "fewer-parameters"], [], "R11.1"),
    "parameters-of-a-block": ("merge", ["part-1", "bias-apart"], [], "R11.1"),
    "layout": ("merge", ["rows", "columns"], [], "R11.1"),
    "kind": ("merge", ["rows", "whole"], [], "R11.1"),
    "part": ("merge", ["slices", "slices-swapped"], [], "R11.1"),
    "several-terms": ("merge", ["several-terms", "several-terms"], [], "R11.3"),
    "out-several-terms": (
        "exclude",
        ["several-terms"],
        ["several-terms"],
        "R11.3 R11.12",
    ),
    "too-large": ("merge", ["part-2", "largest"], [], "R11.4"),
    "twice": ("merge", ["part-1", "part-1"], [], "R11.10"),
    "part-of-a-total": ("merge", ["total", "part-2"], [], "R11.10"),
    "twice-reformatted": ("merge", ["part-3", "part-3-reformatted"], [], "R11.10"),
    "twice-compressed": ("merge", ["part-3", "part-3-compressed"], [], "R11.10"),
    "out-another": ("exclude", ["total"], ["another-task"], "R11.11"),
    "out-twice": ("exclude", ["total"], ["part-3", "part-3-compressed"], "R11.11"),
    "out-all": ("exclude", ["total-of-one-size"], ["part-1", "part-2"], "R11.12"),
    "out-of-eigen": ("exclude", ["eigen-1", "eigen-2"], ["eigen-2"], "eigen.8"),
    "join-other-data": ("join", ["module-1", "module-of-other-data"], [], "R11.16"),
    "join-other-cotangents": (
        "join",
        ["module-1", "module-of-other-cotangents"],
        [],
        "R11.16",
    ),
    "join-of-several-tasks": (
        "join",
        ["module-1", "module-of-two-tasks"],
        [],
        "R11.16",
    ),
    "join-the-same": ("join", ["module-1", "module-1"], [], "R11.17"),
}
