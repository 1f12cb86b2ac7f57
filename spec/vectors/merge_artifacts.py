"""The artifacts that the cases of section 11 put together."""

import json
from typing import Any

import numpy as np
from breaking import put
from draft import (
    Draft,
    artifact,
    diagonal_block,
    eigen,
    gramian,
    inputs,
    kronecker,
    named,
    source,
    spd,
)
from inputs_cases import none
from join_artifacts import modules
from stored import block_diagonal, dense, diagonal, low_rank
from valid_cases import layer, merge, part, several_terms

LAYER = {"layer.weight": [2, 3], "layer.bias": [2]}
Made = dict[str, Draft]


def turned(path: str, value: object, seed: int = 2) -> Draft:
    """Change one member of the manifest of a part."""
    draft = part(seed, 64)
    put(path, value)(draft.manifest)
    return draft


def two_maps(name: str, order: tuple[str, str], blocks: str = "ab") -> Draft:
    """Two weights of one shape, which blocks of the same names may swap."""
    found = {b: kronecker(w, ("A", "B")) for b, w in zip(blocks, order, strict=True)}
    factors = {"A": dense(spd(2, 1)), "B": dense(spd(2, 2))}
    task = [source(f"example/{name}")]
    return artifact({"one": [2, 2], "two": [2, 2]}, found, factors, sources=task)


def with_constant(name: str, *, constant: bool) -> Draft:
    """A weight whose A may have one more row and column."""
    block = kronecker("square", ("A", "B"))
    factors = {"A": dense(spd(2 + constant, 1)), "B": dense(spd(2, 2))}
    block |= {"constant": True} if constant else {}
    task = [source(f"example/{name}")]
    return artifact({"square": [2, 2]}, {"map": block}, factors, sources=task)


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


def counted(seed: int, size: int, positions: int | None) -> Draft:
    """A layer whose A is of so many positions, and an expert that none reached."""
    draft = part(seed, size, "counted")
    blocks = {
        "layer": draft.manifest["blocks"]["layer"],
        "expert": kronecker("expert", ("expert/A", "expert/B")),
    }
    for name, count in (("layer", positions), ("expert", 0)):
        blocks[name] |= {} if positions is None else {"positions": count}
    zeros = {f"expert/{role}": dense(np.zeros((2, 2))) for role in "AB"}
    factors = {"in": draft.factors["in"], "out": draft.factors["out"]} | zeros
    shapes = LAYER | {"expert": [2, 2]}
    return artifact(shapes, blocks, factors, sources=draft.manifest["sources"])


def counted_total(weighting: str, *seeds: int) -> Draft:
    """Two of these, merged by size (alike) or by positions (one to three)."""
    parts = [counted(seed, 64, 64 * (2 * i + 1)) for i, seed in enumerate(seeds)]
    A, B = ([one.factors[n].matrix for one in parts] for n in ("in", "out"))
    shares = [0.25, 0.75] if weighting == "positions" else [0.5, 0.5]
    mean = sum(share * a for share, a in zip(shares, A, strict=True))
    blocks = json.loads(json.dumps(parts[0].manifest["blocks"]))
    blocks["layer"]["positions"] = 256
    factors = parts[0].factors | {"in": dense(mean), "out": dense(sum(B))}
    sources = [p.manifest["sources"][0] | {"digest": p.digest} for p in parts]
    shapes = LAYER | {"expert": [2, 2]}
    told = {"sources": sources, "weighting": weighting}
    return artifact(shapes, blocks, factors, **told)


def of_inputs(seed: int, size: int) -> Draft:
    """What forward passes alone give."""
    task = source(f"example/inputs-{seed}", size) | {"cotangents": none()}
    return artifact(
        {"weight": [2, 3]},
        {"map": inputs("weight", "A")},
        {"A": dense(spd(3, seed))},
        estimator=named("inputs"),
        sources=[task],
    )


def of_a_diagonal(seed: int, size: int) -> Draft:
    """The diagonal of a Gramian."""
    return artifact(
        {"weight": [2, 3]},
        {"map": diagonal_block("weight", "S")},
        {"S": diagonal(np.diag(spd(6, seed)))},
        estimator=named("diagonal"),
        sources=[source(f"example/diagonal-{seed}", size)],
    )


def summed(name: str, kind: str) -> Draft:
    """A block of two terms, which others of a sum may have."""
    draft = several_terms()
    block = draft.manifest["blocks"][kind]
    used = {factor for term in block["terms"] for factor in term.values()}
    kept = {n: stored for n, stored in draft.factors.items() if n in used}
    parameter = block.get("weight", block.get("parameter"))
    shapes = {parameter: {"layer": [2, 3], "norm": [2]}[kind]}
    task = [source(f"example/summed-{name}")]
    return artifact(shapes, {kind: block}, kept, sources=task)


def summed_total(*parts: Draft) -> Draft:
    """Such blocks in a total, however it was made."""
    first = parts[0].manifest
    sources = [p.manifest["sources"][0] | {"digest": p.digest} for p in parts]
    told = {"base_model": first["base_model"], "sources": sources}
    return artifact({}, first["blocks"], parts[0].factors, **told)


def made() -> Made:
    """Every artifact that the cases name."""
    parts = {f"part-{i}": part(i, size) for i, size in ((1, 64), (2, 64), (3, 128))}
    one, two, three = parts.values()
    mean = {"pooling": "mean", "normalise": 1}
    sources = [source("example/a"), source("example/b")]
    turns = np.array([[0.6, 0.8], [-0.8, 0.6]], "f4")
    return (
        parts
        | {
            "total": merge(one, two, three),
            "total-of-one-size": merge(one, two),
            "part-3-reformatted": reformatted(three),
            "part-3-compressed": compressed_form(three),
            "another-task": part(4, 64),
            "output-map-one": turned("output_map/configuration", mean),
            "estimator-nearest": turned("estimator/name", "nearest"),
            "other-values": turned("base_model", _other_values(two)),
            "fewer-parameters": layer(),
            "maps": two_maps("maps", ("one", "two")),
            "maps-swapped": two_maps("swapped", ("two", "one")),
            "maps-renamed": two_maps("renamed", ("one", "two"), "ac"),
            "without-constant": with_constant("without", constant=False),
            "with-constant": with_constant("with", constant=True),
            "rows": square("rows", kronecker("square", ("a", "b"))),
            "columns": square(
                "columns", kronecker("square", ("a", "b"), layout="columns")
            ),
            "whole": square("whole", gramian("square", "g")),
            "slices": parts_of_two("slices", (0, 1)),
            "slices-swapped": parts_of_two("swapped", (1, 0)),
            "several-terms-1": summed("1", "layer"),
            "several-terms-2": summed("2", "layer"),
            "several-terms-total": summed_total(
                summed("1", "layer"), summed("2", "layer")
            ),
            "gramian-terms-1": summed("3", "norm"),
            "gramian-terms-2": summed("4", "norm"),
            "largest": _sized(1, 2**53 - 1),
            "alike-1": merge(part(1, 64), part(1, 64, "twin")),
            "compressed-1": compressed("one", 1),
            "compressed-2": compressed("two", 2),
            "compressed-3": compressed("three", 3),
            "compressed-permuted": compressed("permuted", 3, [2, 0, 1, 3]),
            "without-digests": _without_digests(sources),
            "eigen-1": eigen_part("one", np.eye(2), [4.0, 1.0, 3.0, 2.0, 0.5, 5.0]),
            "eigen-2": eigen_part("two", turns, [2.0, 1.0, 7.0, 1.0, 4.0, 0.25]),
            "counted-1": counted(1, 64, 64),
            "counted-2": counted(2, 64, 192),
            "counted-3": counted(3, 128, 512),
            "not-counted": counted(4, 64, None),
            "total-by-size": counted_total("size", 1, 2),
            "total-by-positions": counted_total("positions", 1, 2),
            "another-by-positions": counted_total("positions", 5, 6),
            "inputs-1": of_inputs(1, 64),
            "inputs-2": of_inputs(2, 192),
            "diagonal-1": of_a_diagonal(1, 64),
            "diagonal-2": of_a_diagonal(2, 192),
        }
        | modules()
    )


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
