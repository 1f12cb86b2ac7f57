"""What blocks mean, computed from whole matrices in float64."""

from typing import Any

import numpy as np
from draft import Draft
from stored import Stored


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
