"""Section 7 of ``format.md``: what the members of a manifest say together."""

import hashlib
import math
from typing import Any

from reader_json import demand, parse
from reader_members import MANIFEST
from reader_values import check_structure

SINGLE = "factors.safetensors"
INDEX = SINGLE + ".index.json"


def read_manifest(data: bytes) -> dict[str, Any]:
    manifest = parse(data)
    demand(MANIFEST(manifest), "a field is wrong")
    base, sources = manifest["base_model"], manifest["sources"]
    demand(manifest["tasks"] == len(sources), "tasks")
    demand(manifest["size"] == sum(s["data"]["size"] for s in sources), "size")
    demand(all(s["data"]["examples"] <= s["data"]["size"] for s in sources), "examples")
    digests = [s["digest"] for s in sources if s["digest"] is not None]
    demand(len(digests) == len({*digests}), "a task is counted twice")
    check_base(base)
    demand(manifest["merge_errors"].keys() <= manifest["blocks"].keys(), "merge_errors")
    check_blocks(manifest)
    for info in manifest["factors"].values():
        check_structure(info)
    check_names(list(manifest["files"]))
    return manifest


def check_base(base: dict[str, Any]) -> None:
    files = [f["sha256"] for f in base.get("derived", {"files": []})["files"]]
    demand(len(files) == len({*files}), "a derived file is there twice")
    lines = sorted((n, p["sha256"]) for n, p in base["parameters"].items())
    text = "".join(f"{n} {h}\n" for n, h in lines)
    demand(hashlib.sha256(text.encode()).hexdigest() == base["sha256"], "base hash")


def check_blocks(manifest: dict[str, Any]) -> None:
    shapes = {n: p["shape"] for n, p in manifest["base_model"]["parameters"].items()}
    covered: dict[str, list[int | None]] = {}
    sizes: list[tuple[str, int]] = []
    for block in manifest["blocks"].values():
        keys = [block.get(k) for k in ("weight", "bias", "parameter")]
        demand(all(k is None or k in shapes for k in keys), "unknown parameter")
        for key in keys:
            if key is not None:
                covered.setdefault(key, []).append(block.get("part"))
        sizes += block_sizes(block, shapes)
        if block["kind"] == "diagonal":
            S = manifest["factors"].get(block["terms"][0]["S"], {})
            found = S.get("structure", {}).get("name", "diagonal")
            demand(found == "diagonal", "the structure of a diagonal block")
        if block["kind"] == "eigen":
            sizes.append(corrected_size(block["terms"][0], manifest["factors"]))
    check_positions(manifest)
    demand(covered.keys() == shapes.keys(), "a parameter is not covered")
    for key, parts in covered.items():
        once = None in parts and len(parts) == 1
        all_parts = None not in parts and len(parts) == shapes[key][0]
        by_part = all_parts and {*parts} == {*range(len(parts))}
        demand(once or by_part, "a parameter is not covered once")
    left_out = {*manifest["excluded"], *manifest["uncovered"]}
    demand(not left_out & covered.keys(), "covered and left out")
    demand(len({*manifest["excluded"]}) == len(manifest["excluded"]), "excluded twice")
    demand({n for n, _ in sizes} == manifest["factors"].keys(), "factors")
    demand(all(manifest["factors"][n]["dim"] == d for n, d in sizes), "dim")


def block_sizes(block: dict[str, Any], shapes: dict[str, Any]) -> list[tuple[str, int]]:
    if block["kind"] == "gramian":
        entries = math.prod(shapes[block["parameter"]])
        return [(term["G"], entries) for term in block["terms"]]
    skipped = 1 if "part" in block else 0
    shape = shapes[block["weight"]][skipped:]
    demand(len(shape) >= 2, "the weight has less than two axes")
    rows = block["layout"] == "rows"
    d_out = shape[0] if rows else shape[-1]
    d_in = math.prod(shape[1:] if rows else shape[:-1])
    if block["bias"] is not None:
        demand(len(shapes[block["bias"]]) == 1 + skipped, "bias")
        demand(shapes[block["bias"]][-1] == d_out, "bias")
        d_in += 1
    demand(block["bias"] is None or "constant" not in block, "constant beside a bias")
    dims = {"A": d_in + ("constant" in block), "B": d_out}
    if block["kind"] == "diagonal":
        dims = {"S": d_in * d_out}
    return [(t[r], dims[r]) for t in block["terms"] for r in t if r in dims]


def check_positions(manifest: dict[str, Any]) -> None:
    counts: dict[str, set[int | None]] = {}
    for block in manifest["blocks"].values():
        for term in block["terms"]:
            if "A" in term:
                counts.setdefault(term["A"], set()).add(block.get("positions"))
    demand(all(len(found) == 1 for found in counts.values()), "positions differ")
    if manifest.get("weighting") == "positions":
        demand(all(None not in found for found in counts.values()), "no positions")
    pulled = {source["cotangents"]["name"] for source in manifest["sources"]}
    if manifest["estimator"]["name"] == "inputs":
        demand(pulled == {"none"}, "cotangents of inputs")
    else:
        demand("none" not in pulled, "no cotangents")


def corrected_size(term: dict[str, str], factors: dict[str, Any]) -> tuple[str, int]:
    """Give the size of S, which follows from the ranks of A and B."""
    demand({*term.values()} <= factors.keys(), "a factor of an eigen block")
    found = {role: factors[each]["structure"] for role, each in term.items()}
    names = {role: structure["name"] for role, structure in found.items()}
    wanted = {"A": "low_rank", "B": "low_rank", "S": "diagonal"}
    demand(names == wanted, "the structures of an eigen block")
    ranks = [found[role]["configuration"]["rank"] for role in "AB"]
    return term["S"], ranks[0] * ranks[1]


def check_names(files: list[str]) -> None:
    count = len(files) - 1
    numbers = range(1, count + 1)
    shards = [f"factors-{i:05d}-of-{count:05d}.safetensors" for i in numbers]
    single = files == [SINGLE]
    demand(single or (count >= 2 and {*files} == {INDEX, *shards}), "file names")
