"""Blocks of what was read of a module, once it is known which module that is."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import TypeAlias

from kfac_artifacts.artifact import (
    Block,
    DiagonalBlock,
    EigenBlock,
    GramianBlock,
    InputsBlock,
    KroneckerBlock,
    Layout,
)
from kfac_artifacts.bridges.matching import Target
from kfac_artifacts.bridges.reading import Origin
from kfac_artifacts.bridges.statistics import Eigen, Matrix, Numbers, Statistic, dim
from kfac_artifacts.errors import MismatchError

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Built: TypeAlias = tuple[Block, dict[str, Origin]]
"""A block, and where its factors come from."""


def build(
    entry: Statistic, targets: list[Target], shapes: Shapes, source: str
) -> dict[str, Built]:
    """Make the blocks of an entry.

    Args:
        entry: What was read of one module, or of several with one input.
        targets: The modules.
        shapes: Shapes of the model's parameters.
        source: What to call the source in messages.

    Returns:
        Blocks by name, with the origins of their factors.

    Raises:
        MismatchError: If a matrix is not of the module's size.
    """
    where = f"{source}: {entry.name}"
    if entry.A is None:
        (target,) = targets
        return {target.name: _gramian(entry, target, shapes, where)}
    return {
        target.name: _linear(
            replace(entry, B=_part(entry.B, index, len(targets), where)),
            target,
            f"{targets[0].name}.A",
            shapes,
            where,
        )
        for index, target in enumerate(targets)
    }


def _part(B: Matrix | None, index: int, count: int, where: str) -> Matrix | None:
    """The part of B that belongs to one of several modules with one input."""
    if B is None or count == 1:
        return B
    if isinstance(B, Eigen) or dim(B) % count:
        raise MismatchError(f"{where}: its B cannot be cut for {count} modules")
    return B.block(index, count)


def _gramian(entry: Statistic, target: Target, shapes: Shapes, where: str) -> Built:
    size = prod(shapes[target.parameter])
    if entry.G is None or dim(entry.G) != size or target.layout is not None:
        found = dim(entry.G) if entry.G is not None else "no Gramian"
        raise MismatchError(
            f"{where}: {target.name} needs {'A and B' if target.layout else size}, "
            f"found {found}"
        )
    name = f"{target.parameter}.G"
    return GramianBlock(target.parameter, ((name,),)), {name: entry.G}


def _linear(
    entry: Statistic, target: Target, a: str, shapes: Shapes, where: str
) -> Built:
    """The block of a linear map, with the factor A called ``a``."""
    if target.layout is None or target.parameter != target.weight or not entry.A:
        raise MismatchError(f"{where}: {target.parameter} is no weight of a linear map")
    extra = _extra_row(entry, target, entry.A, shapes, where)
    bias = target.bias if extra else None
    constant = bool(extra and not bias)
    own = target.weight, bias, target.layout
    part, positions = target.part, entry.positions
    if entry.B is None:
        inputs = InputsBlock(*own, ((a,),), part, positions, constant)
        return inputs, {a: entry.A}
    b, s = f"{target.name}.B", f"{target.name}.S"
    origins: dict[str, Origin] = {a: entry.A, b: entry.B}
    if entry.S is None:
        kronecker = KroneckerBlock(*own, ((a, b),), part, positions, constant)
        return kronecker, origins
    _check_eigen(entry.A, entry.B, entry.S, where)
    return EigenBlock(*own, ((a, b, s),), part, positions), origins | {s: (entry.S,)}


def _extra_row(
    entry: Statistic, target: Target, A: Matrix, shapes: Shapes, where: str
) -> bool:
    """Whether A has a row for a bias or a constant; refuses other sizes."""
    layout = target.layout or Layout.ROWS
    shape = shapes[target.weight]
    d_out, d_in = layout.dims(shape if target.part is None else shape[1:])
    takes_row = target.bias is not None or entry.constant
    extra = dim(A) - d_in
    if extra not in {0, int(takes_row)} or (entry.B and dim(entry.B) != d_out):
        rows = f"{d_in} or {d_in + 1}" if takes_row else f"{d_in}"
        outputs = "none" if entry.B is None else str(dim(entry.B))
        raise MismatchError(
            f"{where}: A has {dim(A)} rows and B {outputs}, but {target.name} "
            f"needs {rows} and {d_out}; are they of another model?"
        )
    return extra == 1


def _check_eigen(A: Matrix, B: Matrix, S: Numbers, where: str) -> None:
    """Refuse a table of eigenvalues that is not of the eigenvectors."""
    if not isinstance(A, Eigen) or not isinstance(B, Eigen):
        raise MismatchError(f"{where}: eigenvalues without eigenvectors")
    ranks = [(eigen.vectors.shape[1],) for eigen in (B, A)]
    if [eigen.values.shape for eigen in (B, A)] != ranks:
        raise MismatchError(f"{where}: not every eigenvector has an eigenvalue")
    if S.shape != ranks[0] + ranks[1]:
        raise MismatchError(
            f"{where}: its eigenvalues are {list(S.shape)}, not "
            f"{list(ranks[0] + ranks[1])}"
        )


def build_diagonals(
    found: Mapping[str, tuple[Numbers, Target]], shapes: Shapes, source: str
) -> dict[str, Built]:
    """Make blocks of diagonals of the Gramian, which are known by parameter.

    Args:
        found: Diagonal and target by parameter.
        shapes: Shapes of the model's parameters.
        source: What to call the source in messages.

    Returns:
        Blocks by name; a bias is in the block of its weight, if that is there.

    Raises:
        MismatchError: If a diagonal has not the shape of its parameter.
    """
    built: dict[str, Built] = {}
    for name, (values, target) in found.items():
        if values.shape != shapes[name]:
            raise MismatchError(
                f"{source}: {name} has shape {list(shapes[name])} in the model, and "
                f"{list(values.shape)} here; is it another model?"
            )
        linear = target.layout is not None and target.weight in found
        if linear and name == target.weight:
            built[target.name] = _diagonal(target, found, shapes)
        elif not linear:
            factor = f"{name}.G"
            flat = Numbers((values.size,), lambda v=values: v.get().flatten())  # type: ignore[misc]
            built[name] = GramianBlock(name, ((factor,),)), {factor: flat}
    return built


def _diagonal(
    target: Target, found: Mapping[str, tuple[Numbers, Target]], shapes: Shapes
) -> Built:
    layout = target.layout
    if layout is None:
        raise MismatchError(f"{target.name} is no linear map")
    values, dims = found[target.weight][0], layout.dims(shapes[target.weight])
    columns = [Numbers(dims, lambda: layout.as_matrix(values.get()))]
    bias = target.bias if target.bias in found else None
    if bias is not None:
        columns.append(found[bias][0])
    name = f"{target.name}.S"
    block = DiagonalBlock(target.weight, bias, layout, ((name,),))
    return block, {name: tuple(columns)}
