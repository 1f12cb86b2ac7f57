"""Inner products of the gradients of different examples, in bounded memory.

``⟨M, M'⟩ = Σ_pq (g_p · g'_q)(a_p · a'_q)``: where there are few positions this is
cheaper than forming the matrices, which are formed a few rows at a time otherwise.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from kfac_artifacts.capture.record import Record
from kfac_artifacts.symmetric import add_outer, mirror

CHUNK = 2**24
"""Numbers that are formed at once: 64 MiB of float32."""


def join(records: Sequence[Record]) -> Record:
    """Join the records of several batches, padding them to the same positions.

    Args:
        records: Records of one block, at least one.

    Returns:
        One record of all examples, in order.
    """
    g, inputs = [r.g for r in records], [r.inputs for r in records]
    positions = max(part.shape[2] for part in g)
    absent = 0 if inputs[0].is_floating_point() else -1
    return records[0].with_inputs(
        torch.cat([_padded(part, 2, positions, 0) for part in g]),
        torch.cat([_padded(part, 1, positions, absent) for part in inputs]),
    )


def _padded(part: Tensor, axis: int, length: int, value: int) -> Tensor:
    behind = [0, 0] * (part.dim() - 1 - axis)
    return pad(part, [*behind, 0, length - part.shape[axis]], value=value)


def gram(record: Record) -> Float[Tensor, "n k n k"]:
    """Form ``⟨M, M'⟩`` between all examples and cotangents.

    Args:
        record: A block on N examples with K cotangents each.

    Returns:
        The inner products, symmetric.
    """
    record = record.trimmed()
    n, k, positions, d_out = record.g.shape
    inputs = record.width if record.inputs.is_floating_point() else 1
    factored = positions**2 * (d_out + inputs)
    chosen = _explicit if d_out * record.width <= factored else _factored
    return chosen(record).view(n, k, n, k)


def _explicit(record: Record) -> Float[Tensor, "nk nk"]:
    n, k, _, d_out = record.g.shape
    total = record.g.new_zeros(n * k, n * k)
    step = max(1, CHUNK // (n * k * record.width))
    for start in range(0, d_out, step):
        part = replace(record, g=record.g[..., start : start + step])
        add_outer(total, part.matrices().reshape(n * k, -1).mT)
    return mirror(total)


def _factored(record: Record) -> Float[Tensor, "nk nk"]:
    n, k, positions, _ = record.g.shape
    total = record.g.new_empty(n, k, n, k)
    step = max(1, isqrt(CHUNK) // (k * positions))
    for i in range(0, n, step):
        left = _some(record, i, i + step)
        for j in range(i, n, step):
            right = _some(record, j, j + step)
            products = _products(left, right)
            total[i : i + step, :, j : j + step] = products
            total[j : j + step, :, i : i + step] = products.permute(2, 3, 0, 1)
    return total.view(n * k, n * k)


def _some(record: Record, start: int, stop: int) -> Record:
    return record.with_inputs(record.g[start:stop], record.inputs[start:stop])


def _products(left: Record, right: Record) -> Float[Tensor, "n k m k"]:
    outputs = torch.einsum("nkpo,mlqo->nkpmlq", left.g, right.g)
    inputs = left.input_products(right)
    return (outputs * inputs[:, None, :, :, None]).sum((2, 5))
