"""What the cases of section 11 give, in float64, from whole matrices."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from draft import Draft
from meaning import arranged, correction, quadratic, task_vector

Parts = Sequence[tuple[Draft, int]]
"""What is added (1) and what is taken out (-1)."""


def merged(
    added: Sequence[Draft], taken: Sequence[Draft], weighting: str
) -> dict[str, Any]:
    """Merge, and take tasks out: sections 11 and 7.4."""
    parts = [(draft, 1) for draft in added] + [(draft, -1) for draft in taken]
    gone = [task["digest"] for draft in taken for task in known(draft)]
    sources = [task for draft in added for task in known(draft)]
    kept = [task for task in sources if task["digest"] not in gone]
    blocks = {n: summed(n, parts, weighting) for n in added[0].manifest["blocks"]}
    errors = {}
    if not taken:
        found = {name: lost(name, parts, block) for name, block in blocks.items()}
        errors = {name: error for name, error in found.items() if error is not None}
    return {
        "tasks": counted("tasks", parts),
        "size": counted("size", parts),
        "sources": kept,
        "blocks": {n: roles(block) for n, block in blocks.items()},
        "positions": {n: c for n in blocks if (c := positions(n, parts)) is not None},
        "merge_errors": errors,
        "drift": drift(added[0].manifest, blocks, counted("tasks", parts)),
    }


def joined(parts: Sequence[Draft]) -> dict[str, Any]:
    """Put modules of one estimation together."""
    blocks = {
        n: summed(n, [(p, 1)], "size") for p in parts for n in p.manifest["blocks"]
    }
    manifests = [part.manifest for part in parts]
    parameters = {n: i for m in manifests for n, i in parameters_of(m).items()}
    kinds = {n: b for m in manifests for n, b in m["blocks"].items()}
    together = {"base_model": {"parameters": parameters}, "blocks": kinds}
    out = [set(m["excluded"]) for m in manifests]
    reasons = {n: why for m in manifests for n, why in m["uncovered"].items()}
    return {
        "tasks": 1,
        "size": manifests[0]["size"],
        "sources": [manifests[0]["sources"][0] | {"digest": None}],
        "blocks": {n: roles(block) for n, block in blocks.items()},
        "merge_errors": {},
        "excluded": sorted(set.intersection(*out)),
        "uncovered": {n: why for n, why in reasons.items() if n not in parameters},
        "drift": drift(together, blocks, 1),
    }


def compressed(draft: Draft) -> dict[str, Any]:
    """What is said of the tasks of a compressed artifact (R11.15)."""
    manifest = draft.manifest
    sources = known(draft)
    return {"tasks": manifest["tasks"], "size": manifest["size"], "sources": sources}


def counted(what: str, parts: Parts) -> int:
    """Add numbers of tasks or examples up."""
    return sum(sign * draft.manifest[what] for draft, sign in parts)


def known(draft: Draft) -> list[dict[str, Any]]:
    """The tasks of an artifact, a single one known by the artifact (R11.5)."""
    sources = draft.manifest["sources"]
    if len(sources) == 1 and sources[0]["digest"] is None:
        return [sources[0] | {"digest": draft.digest}]
    return list(sources)


def positions(name: str, parts: Parts) -> int | None:
    """Count the positions of a block (R11.23)."""
    counts = [draft.manifest["blocks"][name].get("positions") for draft, _ in parts]
    if None in counts:
        return None
    return sum(sign * c for c, (_, sign) in zip(counts, parts, strict=True))


def shares(name: str, parts: Parts, weighting: str) -> list[float]:
    """What A of each part is weighed by (R11.2, R11.21)."""
    if weighting == "size":
        counts = [draft.manifest["size"] for draft, _ in parts]
    else:
        counts = [draft.manifest["blocks"][name]["positions"] for draft, _ in parts]
    signed = [sign * c for c, (_, sign) in zip(counts, parts, strict=True)]
    return [each / (sum(signed) or 1) for each in signed]


def matrices(name: str, draft: Draft) -> dict[str, np.ndarray]:
    """The matrix of each role in a block; ``K`` is the whole of a Kronecker block."""
    block = draft.manifest["blocks"][name]
    if block["kind"] == "gramian":
        return {"G": sum(exact(draft, term["G"]) for term in block["terms"])}
    (term,) = block["terms"]
    found = {role: exact(draft, term[role]) for role in "ABS" if role in term}
    if "B" not in term:
        return found
    whole = np.kron(found["B"], found["A"])
    if block["kind"] == "eigen":
        whole = whole + correction(*(draft.factors[term[role]] for role in "ABS"))
    return {"A": found["A"], "B": found["B"], "K": whole}


def exact(draft: Draft, factor: str) -> np.ndarray:
    """The matrix of a factor, in float64."""
    return draft.factors[factor].matrix.astype(float)


def summed(name: str, parts: Parts, weighting: str) -> dict[str, np.ndarray]:
    """Merge one block (R11.2, R11.21, eigen.6)."""
    tasks = counted("tasks", parts)
    found = [matrices(name, draft) for draft, _ in parts]
    by_size = shares(name, parts, "size")
    for role in "GS":
        if role in found[0]:
            pairs = zip(found, by_size, strict=True)
            return {role: sum(share * one[role] for one, share in pairs)}
    weights = shares(name, parts, weighting)
    A = sum(w * one["A"] for one, w in zip(found, weights, strict=True))
    if "B" not in found[0]:
        return {"A": A}
    B = sum(sign * one["B"] for one, (_, sign) in zip(found, parts, strict=True))
    if parts[0][0].manifest["blocks"][name]["kind"] == "kronecker":
        return {"A": A, "B": B, "K": np.kron(B, A)}
    basis = np.kron(np.linalg.eigh(B)[1], np.linalg.eigh(A)[1])
    total = target(name, parts) * tasks
    fitted = np.diag(np.diag(basis.T @ total @ basis))
    return {"A": A, "B": B, "K": basis @ fitted @ basis.T}


def target(name: str, parts: Parts) -> np.ndarray:
    """The weighted mean S of the blocks that are merged (7.4)."""
    size = counted("size", parts)
    return sum(
        sign * draft.manifest["size"] / size * one / draft.manifest["tasks"]
        for draft, sign in parts
        for one in [matrices(name, draft)["K"]]
    )


def lost(
    name: str, parts: Parts, block: dict[str, np.ndarray]
) -> dict[str, float] | None:
    """What merging loses of a block, and the bound of it (7.4)."""
    if "K" not in block:
        return None
    S, tasks = target(name, parts), counted("tasks", parts)
    norm = float(np.linalg.norm(S))
    if norm == 0:
        return {"relative": 0.0, "bound": 0.0}
    relative = float(np.linalg.norm(block["K"] / tasks - S)) / norm
    if parts[0][0].manifest["blocks"][name]["kind"] == "eigen":
        return {"relative": relative}
    lam = [draft.manifest["size"] / counted("size", parts) for draft, _ in parts]
    T = [draft.manifest["tasks"] for draft, _ in parts]
    A = [matrices(name, draft)["A"] for draft, _ in parts]
    B = [matrices(name, d)["B"] / t for (d, _), t in zip(parts, T, strict=True)]
    mean = block["B"] / tasks
    by_size = sum(w * a for w, a in zip(lam, A, strict=True))
    spread = [
        sum(w * np.linalg.norm(m - middle) ** 2 for w, m in zip(lam, M, strict=True))
        for M, middle in ((B, mean), (A, by_size))
    ]
    shift = sum(w * b for w, b in zip(lam, B, strict=True)) - mean
    rest = np.linalg.norm(shift) * np.linalg.norm(by_size)
    rest += np.linalg.norm(mean) * np.linalg.norm(by_size - block["A"])
    bound = float(np.sqrt(spread[0] * spread[1]) + rest) / norm
    return {"relative": relative, "bound": bound}


def roles(block: dict[str, np.ndarray]) -> dict[str, Any]:
    """The matrices of a block that a merger writes down."""
    return {role: block[role].tolist() for role in "ABGS" if role in block}


def parameters_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The covered parameters."""
    return dict(manifest["base_model"]["parameters"])


def drift(
    manifest: dict[str, Any], blocks: dict[str, dict[str, np.ndarray]], tasks: int
) -> float:
    """The weighted drift of the change that ``expected.json`` has elsewhere."""
    shapes = {n: info["shape"] for n, info in parameters_of(manifest).items()}
    tau = {n: task_vector(s, i) for i, (n, s) in enumerate(shapes.items())}
    total = 0.0
    for name, matrix in blocks.items():
        block = manifest["blocks"][name]
        if block["kind"] == "gramian":
            total += quadratic(tau[block["parameter"]], matrix["G"])
            continue
        W = arranged(block, tau)
        if "K" in matrix:
            total += quadratic(W, matrix["K"]) / tasks
        elif "S" in matrix:
            total += quadratic(W, matrix["S"])
        else:
            total += quadratic(W, np.kron(np.eye(len(W)), matrix["A"]))
    return total
