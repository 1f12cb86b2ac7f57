"""Make the vectors again: ``python spec/vectors/make.py [DIRECTORY]``.

It imports no reader or writer of the format, so that the vectors test both.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from border_cases import BORDER, border_cases
from breaking import Case
from compressed_breaks import compressed_manifest_cases
from compressed_cases import COMPRESSED
from compressed_files import compressed_file_cases
from constant_cases import CONSTANT, constant_cases
from diagonal_cases import DIAGONAL, diagonal_cases
from draft import Draft, compact, dump
from eigen_cases import EIGEN, eigen_cases
from file_cases import file_cases
from inputs_cases import INPUTS, inputs_cases
from manifest_cases import manifest_cases
from schema_cases import schema_cases
from stored import Stored
from task_vectors import VALID, applications, sums, task_vector_cases
from valid_cases import CASES
from value_cases import value_cases


def main(root: Path) -> None:
    """Write every vector below ``root``, and the index of them."""
    for kind in ("valid", "invalid"):
        shutil.rmtree(root / kind, ignore_errors=True)
    valid = CASES | COMPRESSED | BORDER | EIGEN | INPUTS | DIAGONAL | CONSTANT
    for name, make in valid.items():
        draft = make()
        text = (compact if name in COMPRESSED else dump)(expected(draft))
        files = {"kfac.json": draft.text, "expected.json": text}
        write(root / "valid" / name, files | draft.files)
    invalid = {}
    for case in invalid_cases():
        write(root / "invalid" / case.name, case.files)
        invalid[case.name] = case.to_json()
    (root / "index.json").write_bytes(dump({"valid": [*valid], "invalid": invalid}))
    write_task_vectors(root / "task_vectors")


def write_task_vectors(root: Path) -> None:
    """Write the vectors of task vectors, and the index of them."""
    shutil.rmtree(root, ignore_errors=True)
    for name, make in VALID.items():
        found = make()
        files = found.files | {"expected.json": compact(found.expected())}
        write(root / "valid" / name, files)
    invalid = {}
    for case in task_vector_cases():
        write(root / "invalid" / case.name, case.files)
        invalid[case.name] = case.to_json()
    index = {"valid": [*VALID], "invalid": invalid}
    index |= {"sums": sums(), "applications": applications()}
    (root / "index.json").write_bytes(dump(index))


def invalid_cases() -> Iterator[Case]:
    """All invalid vectors."""
    yield from manifest_cases()
    yield from schema_cases()
    yield from file_cases()
    yield from value_cases()
    yield from compressed_manifest_cases()
    yield from compressed_file_cases()
    yield from border_cases()
    yield from eigen_cases()
    yield from inputs_cases()
    yield from diagonal_cases()
    yield from constant_cases()


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write one vector."""
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)


def expected(draft: Draft) -> dict[str, Any]:
    """Say what the artifact means: dense factors, and the drift of one task vector."""
    parameters = draft.manifest["base_model"]["parameters"]
    tau = {
        name: task_vector(info["shape"], i)
        for i, (name, info) in enumerate(parameters.items())
    }
    values = {n: form(b, tau, draft) for n, b in draft.manifest["blocks"].items()}
    tasks = draft.manifest["tasks"]
    kinds = {n: block["kind"] for n, block in draft.manifest["blocks"].items()}
    scaled = [
        value / tasks if kinds[name] in {"kronecker", "eigen"} else value
        for name, value in values.items()
    ]
    return {
        "factors": {n: f.matrix.tolist() for n, f in draft.factors.items()},
        "tau": {n: value.tolist() for n, value in tau.items()},
        "blocks": values,
        "drift": sum(scaled),
        "digest": draft.digest,
    }


def task_vector(shape: list[int], seed: int) -> np.ndarray:
    """Make values that differ along every axis."""
    count = int(np.prod(shape))
    values = (np.arange(1, count + 1) * 7 + 3 * seed) % 11 - 5.0
    return (values / 4).reshape(shape)


def form(block: dict[str, Any], tau: dict[str, np.ndarray], draft: Draft) -> float:
    """Evaluate the quadratic form of a block with the whole matrix, in float64."""
    matrices = {name: f.matrix.astype(float) for name, f in draft.factors.items()}
    if block["kind"] == "gramian":
        G = sum(matrices[term["G"]] for term in block["terms"])
        return quadratic(tau[block["parameter"]], G)
    W = arranged(block, tau)
    if block["kind"] == "diagonal":
        return quadratic(W, matrices[block["terms"][0]["S"]])
    if "constant" in block:  # the last coordinate of A is no input of W
        for term in block["terms"]:
            matrices[term["A"]] = matrices[term["A"]][:-1, :-1]
    if block["kind"] == "inputs":
        return quadratic(W, np.kron(np.eye(len(W)), matrices[block["terms"][0]["A"]]))
    G = sum(np.kron(matrices[t["B"]], matrices[t["A"]]) for t in block["terms"])
    if block["kind"] == "eigen":
        G = G + correction(*(draft.factors[block["terms"][0][role]] for role in "ABS"))
    return quadratic(W, G)


def arranged(block: dict[str, Any], tau: dict[str, np.ndarray]) -> np.ndarray:
    """Arrange a weight and its bias as W."""
    bias = None if block["bias"] is None else tau[block["bias"]]
    weight = tau[block["weight"]]
    if "part" in block:
        weight = weight[block["part"]]
        bias = None if bias is None else bias[block["part"]]
    if block["layout"] == "rows":
        W = weight.reshape(len(weight), -1)
    else:
        W = weight.reshape(-1, weight.shape[-1]).T
    return W if bias is None else np.column_stack([W, bias])


def correction(A: Stored, B: Stored, S: Stored) -> np.ndarray:
    """Put S in the place of the products of the values of A and B."""
    u, v = A.fields["vectors"], B.fields["vectors"]
    basis = np.kron(v, u).astype(float)
    products = np.outer(B.fields["values"], A.fields["values"]).reshape(-1)
    change = np.diag(S.matrix).astype(float) - products
    return basis.T @ (change[:, None] * basis)


def quadratic(W: np.ndarray, G: np.ndarray) -> float:
    """Evaluate ``vec(W)ᵀ G vec(W)``; vec flattens rows."""
    vector = W.reshape(-1)
    return float(vector @ G @ vector)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
