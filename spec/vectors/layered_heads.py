"""Heads of layers (``spec/task_vector.md``, section 5), and ways to break one."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from breaking import Edit, drop, put

ACTIVATE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": lambda x: x * np.array([1 + math.erf(v / 2**0.5) for v in x]) / 2,
    "gelu-tanh": lambda x: (
        x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    ),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
"""What `spec/task_vector.md`, section 5, says of every activation."""
LAYERED_TENSORS = (
    ("without-bias", "T4.2 a linear layer has a bias", "0/bias", None),
    ("without-norm", "T4.2 a norm has a weight", "2/weight", None),
    ("narrow", "T4.2 as wide as the one before", "3/weight", np.ones((2, 3))),
    ("norm-wide", "T4.2 a norm has one axis", "2/weight", np.ones((4, 4))),
)
"""What is wrong with a head of one activation: its rule, a tensor, and another."""


def layers_between(*activations: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A head and its tensors: a linear layer, these activations, a norm, a layer."""
    between = [{"kind": kind} for kind in activations]
    norm = 1 + len(between)
    layers = [
        {"kind": "linear", "outputs": 4},
        *between,
        {"kind": "layer-norm", "epsilon": 1e-5},
        {"kind": "linear", "outputs": 2},
    ]
    head = {"classes": ["cat", "dog"], "dim": 3, "kind": "layers", "layers": layers}
    first = [[0.5, -0.25, 0], [0.25, 0.5, 1], [-0.5, 0.25, 0], [0, 0.125, 2]]
    last = [[1, -2, 0.5, 1], [0, 3, -1, 0.25]]
    return head, {
        "head/0/weight": np.array(first, "f4"),
        "head/0/bias": np.array([0.25, 0, -0.5, 1], "f4"),
        f"head/{norm}/weight": np.array([1, 0.5, -2, 1.5], "f4"),
        f"head/{norm}/bias": np.array([0, 0.25, 1, -1], "f4"),
        f"head/{norm + 1}/weight": np.array(last, "f4"),
        f"head/{norm + 1}/bias": np.array([0.25, -4], "f4"),
    }


def layered_logits(
    layers: Sequence[Mapping[str, Any]],
    tensors: Mapping[str, np.ndarray],
    output: np.ndarray,
) -> np.ndarray:
    """Logits of one output."""
    for i, layer in enumerate(layers):
        if len(layer) == 1:
            output = ACTIVATE[layer["kind"]](output)
            continue
        pair = (tensors[f"head/{i}/{name}"] for name in ("weight", "bias"))
        weight, bias = (values.astype(float) for values in pair)
        if "outputs" in layer:
            output = weight @ output + bias
        else:
            spread = np.sqrt(output.var() + layer["epsilon"])
            output = weight * (output - output.mean()) / spread + bias
    return output


def layered_edits() -> Iterator[tuple[str, str, Edit]]:
    """Name, rule and edit of manifests, one activation being between."""
    yield "missing", "T5.2 layers are there", drop("head/layers")
    yield "of-linear", "T5.2 of layers alone", put("head/kind", "linear")
    yield "none", "T5.3 there is a last one", put("head/layers", [])
    yield "kind", "T3.1 kind is known", put("head/layers/1/kind", "elu")
    yield "member", "T3.3 no other", put("head/layers/1/outputs", 4)
    yield "epsilon", "T3.1 above 0", put("head/layers/2/epsilon", 0)
    yield "outputs", "T3.1 a whole number", put("head/layers/0/outputs", 0)
