"""The reference reader of artifacts: ``python spec/reader.py DIRECTORY``.

Written from the pages of ``spec/`` alone, with numpy and the standard library. It has
no code in common with the package, so that what both accept is what the text says.
Sections are those of ``format.md``; structures and storages: ``reader_values.py``.
"""

import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reader_values import (
    DTYPES,
    SIZES,
    Refused,
    assemble,
    check_structure,
    decode,
    demand,
    tensors,
)

__all__ = ["Refused", "digest_of", "read", "read_manifest", "verify"]

Check = Callable[[Any], bool]
Fields = dict[str, dict[str, np.ndarray]]
LIMIT = 64 * 1024 * 1024
MOST_ROWS = 4096
"""Rows of a matrix of which eigenvalues are computed (R4.7.6)."""
SINGLE = "factors.safetensors"
INDEX = SINGLE + ".index.json"
EXACT = (
    {"name": "float32", "configuration": {}},
    {
        "name": "symmetric",
        "configuration": {"dtype": "float32"},
    },
)
"""Storages of which rounding moves no eigenvalue by more than 1e-5 of the largest."""


# Section 6: JSON


def parse(data: bytes) -> Any:
    demand(len(data) <= LIMIT, "too much JSON")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from error
    todo = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        demand(depth <= 32, "too deep")
        if isinstance(item, dict):
            todo += [(x, depth + 1) for pair in item.items() for x in pair]
        elif isinstance(item, list):
            todo += [(x, depth + 1) for x in item]
        elif isinstance(item, str):
            demand(not re.search("[\ud800-\udfff]", item), "half a surrogate pair")
        elif isinstance(item, float | int):
            demand(finite(item), "no number")
    return value


def finite(number: float) -> bool:
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False


def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
    demand(max(Counter(k for k, _ in found).values(), default=1) == 1, "duplicate key")
    return dict(found)


# Section 7: the manifest, as checks that say yes or no

HIDDEN = [(0, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F)]
HIDDEN += [(0xD800, 0xDFFF), (0xFEFF, 0xFEFF), (0xFFF0, 0xFFFF)]


def name(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value) <= 512
        and not any(low <= ord(c) <= high for c in value for low, high in HIDDEN)
    )


def sha(value: Any) -> bool:
    return (
        isinstance(value, str)
        and len(value) == 64
        and set(value) <= set("0123456789abcdef")
    )


def digest(value: Any) -> bool:
    return isinstance(value, str) and value[:7] == "sha256:" and sha(value[7:])


def whole(low: int = 1, high: int = 2**53 - 1) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def error(value: Any) -> bool:
    return type(value) in {int, float} and value >= 0


def share(value: Any) -> bool:
    return error(value) and value <= 1


def number(value: Any) -> bool:
    return type(value) in {int, float}


def only(*values: Any) -> Check:
    return lambda value: any(type(value) is type(v) and value == v for v in values)


def null_or(check: Check) -> Check:
    return lambda value: value is None or check(value)


def array(check: Check, least: int = 0, most: float = math.inf) -> Check:
    return lambda value: (
        isinstance(value, list)
        and least <= len(value) <= most
        and all(map(check, value))
    )


def mapping(check: Check, least: int = 0) -> Check:
    return lambda value: (
        isinstance(value, dict)
        and len(value) >= least
        and all(name(k) and check(v) for k, v in value.items())
    )


def record(
    fields: dict[str, Check],
    *,
    open_: bool = False,
    optional: dict[str, Check] | None = None,
) -> Check:
    def check(value: Any) -> bool:
        if isinstance(value, dict) and optional:
            given = value.keys() & optional.keys()
            if not all(optional[k](value[k]) for k in given):
                return False
            value = {k: v for k, v in value.items() if k not in given}
        if not isinstance(value, dict) or not fields.keys() <= value.keys():
            return False
        others = [v for k, v in value.items() if k not in fields]
        ignored = [
            v
            for v in others
            if isinstance(v, dict) and v.get("must_understand") is False
        ]
        known = all(fields[k](value[k]) for k in fields)
        return known and (not others or (open_ and len(ignored) == len(others)))

    return check


def either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def named(kind: Check, configuration: Check) -> Check:
    return record({"name": kind, "configuration": configuration})


NONE = record({})
FREE = named(name, lambda value: isinstance(value, dict))
PLAIN = named(only(*DTYPES, "int8"), NONE)
PACKED = named(only("symmetric"), record({"dtype": only(*DTYPES)}))
DIM = whole(1, 2**31 - 1)
YES_OR_NO = only(True, False)
PARAMETER = record({"shape": array(DIM, most=8), "sha256": sha})
ORIGIN = record({"name": name, "sha256": sha, "how": null_or(name)})
DERIVED = record({"must_understand": only(False), "files": array(ORIGIN, least=1)})
BASE = record(
    {
        "id": name,
        "revision": null_or(name),
        "sha256": sha,
        "parameters": mapping(PARAMETER),
    },
    open_=True,
    optional={"derived": DERIVED},
)
FILE = record({"size": whole(8), "sha256": sha})
SEED = whole(0)
SOURCE = record(
    {
        "data": record(
            {
                "id": name,
                "config": null_or(name),
                "split": null_or(name),
                "fingerprint": sha,
                "examples": whole(),
                "size": whole(),
                "preprocessing": FREE,
            },
            open_=True,
        ),
        "cotangents": either(
            record({"name": only("orthogonal", "mc"), "draws": whole(), "seed": SEED}),
            record({"name": only("exact", "none"), "draws": only(None), "seed": SEED}),
        ),
        "digest": null_or(digest),
    },
    open_=True,
)


def linear(kind: str, term: dict[str, Check], *optional: str, **count: int) -> Check:
    needed = {
        "kind": only(kind),
        "weight": name,
        "bias": null_or(name),
        "layout": only("rows", "columns"),
        "terms": array(record(term), least=1, **count),
    }
    known = {"positions": whole(0), "constant": lambda value: value is True}
    chosen = {key: known[key] for key in optional}
    return record(needed, optional={"part": whole(0), **chosen})


BLOCK = either(
    linear("kronecker", {"A": name, "B": name}, "positions", "constant"),
    linear("eigen", {"A": name, "B": name, "S": name}, "positions", most=1),
    linear("inputs", {"A": name}, "positions", "constant", most=1),
    linear("diagonal", {"S": name}, most=1),
    record(
        {
            "kind": only("gramian"),
            "parameter": name,
            "terms": array(record({"G": name}), least=1),
        }
    ),
)
LOSS = record(
    {"error": error, "min_eigenvalue": number, "lift": error},
    optional={"inverse_error": error, "null_overlap": share, "diagonal_error": error},
)
RUNS = array(array(DIM, least=2, most=2), least=1)
DENSE = named(only("dense"), NONE)
BLOCKS = named(only("block_diagonal"), record({"blocks": RUNS, "permuted": YES_OR_NO}))
OTHERS = either(
    named(only("diagonal"), NONE),
    named(only("low_rank"), record({"rank": DIM, "diagonal": YES_OR_NO})),
    named(only("pruned"), record({"kept": whole(0)})),
)


def factor(structure: Check, storage: Check) -> Check:
    needed = {"dim": DIM, "structure": structure, "storage": storage}
    return record(needed, optional={"loss": LOSS})


FACTOR = either(
    factor(either(DENSE, BLOCKS), either(PLAIN, PACKED)), factor(OTHERS, PLAIN)
)
MANIFEST = record(
    {
        "format": only("kfac-artifact"),
        "version": only(1),
        "base_model": BASE,
        "output_map": FREE,
        "estimator": named(
            only("kfac", "kfac-reduce", "nearest", "ekfac", "inputs", "diagonal"),
            lambda value: isinstance(value, dict),
        ),
        "tasks": whole(),
        "size": whole(),
        "sources": array(SOURCE, least=1),
        "excluded": array(name),
        "uncovered": mapping(name),
        "merge_errors": mapping(record({"relative": error, "bound": error})),
        "blocks": mapping(BLOCK, least=1),
        "factors": mapping(FACTOR),
        "files": mapping(FILE),
    },
    open_=True,
    optional={"weighting": only("size", "positions")},
)


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


# Sections 8 to 10: tensor files


def read(path: Path, *, hashes: bool = True) -> dict[str, np.ndarray]:
    """Read an artifact: every factor as a dense matrix of float32."""
    manifest, found = read_fields(path, hashes=hashes)
    return {n: sound(n, info, found[n]) for n, info in manifest["factors"].items()}


def sound(
    factor: str, info: dict[str, Any], values: dict[str, np.ndarray]
) -> np.ndarray:
    """Give the matrix of a factor, finite and symmetric."""
    finite = all(np.isfinite(v).all() for v in values.values())
    matrix = assemble(info, values)
    exact = np.nan_to_num(matrix.astype(float), nan=0.0, posinf=0.0, neginf=0.0)
    demand(finite and np.isfinite(matrix).all(), f"{factor} is not finite")
    difference = np.linalg.norm(exact - exact.T)
    demand(difference <= 1e-6 * np.linalg.norm(exact), f"{factor} is asymmetric")
    return matrix


def read_fields(path: Path, *, hashes: bool) -> tuple[dict[str, Any], Fields]:
    demand((path / "kfac.json").is_file(), "no manifest, or no regular file")
    demand((path / "kfac.json").stat().st_size <= LIMIT, "too much JSON")
    manifest = read_manifest((path / "kfac.json").read_bytes())
    contents = {}
    for file, info in manifest["files"].items():
        demand((path / file).is_file(), "a file is missing")
        demand((path / file).stat().st_size == info["size"], "size of a file")
        contents[file] = (path / file).read_bytes()
        digest = hashlib.sha256(contents[file]).hexdigest()
        demand(not hashes or digest == info["sha256"], "hash of a file")
    expected = {
        f"{factor}/{key}": entry
        for factor, info in manifest["factors"].items()
        for key, entry in tensors(info).items()
    }
    found: dict[str, bytes] = {}
    holder: dict[str, str] = {}
    for file in contents.keys() - {INDEX}:
        inside = read_tensors(contents[file], expected)
        demand(inside and not inside.keys() & found.keys(), "empty shard, or twice")
        found |= inside
        holder |= dict.fromkeys(inside, file)
    demand(found.keys() == expected.keys(), "a tensor is missing")
    if INDEX in contents:
        total = {"total_size": sum(map(len, found.values()))}
        index = parse(contents[INDEX])
        demand(index == {"metadata": total, "weight_map": holder}, "index")
        demand(type(index["metadata"]["total_size"]) is int, "index")
    return manifest, {
        factor: decode(info, {key: found[f"{factor}/{key}"] for key in tensors(info)})
        for factor, info in manifest["factors"].items()
    }


TENSOR = record(
    {
        "dtype": only(*SIZES),
        "shape": array(whole(0)),
        "data_offsets": array(whole(0, 2**63), least=2, most=2),
    }
)


def read_tensors(
    data: bytes, expected: dict[str, tuple[str, list[int]]]
) -> dict[str, bytes]:
    length = int.from_bytes(data[:8], "little")
    demand(2 <= length <= LIMIT and 8 + length <= len(data), "length of the header")
    text, body = data[8 : 8 + length], data[8 + length :]
    header = parse(text)
    demand(text[:1] == b"{" and isinstance(header, dict), "header")
    demand(text.rstrip(b" ")[-1:] == b"}", "header padded otherwise than with spaces")
    metadata = header.pop("__metadata__", {})
    demand(isinstance(metadata, dict) and len(metadata) <= 1, "metadata")
    demand(all(isinstance(v, str) for v in metadata.values()), "metadata")
    spans = []
    for key, info in header.items():
        demand(TENSOR(info) and key in expected, "a tensor that is not announced")
        dtype, shape = expected[key]
        demand((info["dtype"], info["shape"]) == (dtype, shape), "dtype or shape")
        begin, end = info["data_offsets"]
        demand(end - begin == math.prod(shape) * SIZES[dtype], "offsets")
        spans.append((begin, end))
    edges = [0, *(edge for span in sorted(spans) for edge in span), len(body)]
    demand(edges[::2] == edges[1::2], "hole, overlap or remainder")
    return {k: body[slice(*info["data_offsets"])] for k, info in header.items()}


def verify(path: Path) -> dict[str, np.ndarray]:
    """Read an artifact and refuse values that no factor may have."""
    manifest, found = read_fields(path, hashes=True)
    sums = [block["terms"] for block in manifest["blocks"].values()]
    summed = {f for terms in sums if len(terms) > 1 for t in terms for f in t.values()}
    factors = {}
    for factor, info in manifest["factors"].items():
        matrix = factors[factor] = sound(factor, info, found[factor])
        if factor not in summed and not too_large(info):
            low, high = extremes(info["structure"]["name"], found[factor], matrix)
            share = 1e-5 if info["storage"] in EXACT else 1e-2
            lowest = -share * max(abs(low), abs(high))
            demand(low >= lowest, f"{factor} is indefinite")
    return factors


def too_large(info: dict[str, Any]) -> bool:
    """Whether a factor is left out, so that a small file costs little (R4.7.6)."""
    cheap = info["structure"]["name"] in {"low_rank", "diagonal"}
    return info["dim"] > MOST_ROWS and not cheap


def extremes(
    structure: str, values: dict[str, np.ndarray], matrix: np.ndarray
) -> tuple[float, float]:
    """The smallest and the largest eigenvalue, or what is compared in their place."""
    if structure == "low_rank":
        return bounds(values)
    if structure == "diagonal":
        return float(values["values"].min()), float(values["values"].max())
    eigenvalues = np.linalg.eigvalsh(matrix.astype(float))
    return float(eigenvalues[0]), float(eigenvalues[-1])


def bounds(values: dict[str, np.ndarray]) -> tuple[float, float]:
    """What ``structures/low_rank.md`` compares in place of eigenvalues."""
    wide = {name: field.astype(float) for name, field in values.items()}
    parts = wide["values"] * (wide["vectors"] ** 2).sum(1)
    low, high = parts.clip(max=0).sum(), parts.clip(min=0).sum()
    rest = wide.get("diagonal", np.zeros(1))
    least = min(rest.min(), 0) if low < 0 else rest.min()
    return float(low + least), float(high + rest.max())


# Section 3: the digest


def digest_of(path: Path) -> str:
    """Name an artifact by the canonical form of its manifest."""
    text = canonical(parse((path / "kfac.json").read_bytes()))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def canonical(value: Any) -> str:
    """RFC 8785: no white space, keys in the order of UTF-16, numbers as ECMAScript."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{quoted(k)}:{canonical(value[k])}" for k in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if type(value) in {int, float}:
        return digits_of(float(value))
    return quoted(value)


def quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def digits_of(value: float) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = np.format_float_scientific(value, trim="-").split("e")
    power = int(exponent)
    if not -7 < power < 21:
        return f"{mantissa}e{power:+d}"
    return np.format_float_positional(value, trim="-")


def main(arguments: list[str]) -> int:
    """Verify an artifact, and say what its factors are."""
    if len(arguments) != 1:
        print(f"usage: python {sys.argv[0]} DIRECTORY", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    try:
        factors = verify(path)
        infos = read_manifest((path / "kfac.json").read_bytes())["factors"]
    except (Refused, OSError) as error:
        print(f"{path} is no artifact that can be used: {error}", file=sys.stderr)
        return 1
    print(digest_of(path))
    for factor, matrix in factors.items():
        norm = np.linalg.norm(matrix.astype(float))
        note = ", eigenvalues not computed" * too_large(infos[factor])
        print(f"{factor}: {len(matrix)} x {len(matrix)}, norm {norm:.6g}{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
