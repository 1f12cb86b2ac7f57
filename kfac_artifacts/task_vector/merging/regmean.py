"""RegMean: regression on the inputs that artifacts keep (Jin et al., ICLR 2023)."""

import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Artifact, Json, LinearBlock, require_shared_base
from kfac_artifacts.choices import NO_INPUTS, TASK_WEIGHTS
from kfac_artifacts.errors import FactorError, MismatchError, SettingsError
from kfac_artifacts.factors import Diagonal, without_constant
from kfac_artifacts.task_vector.merging.base import MergeMethod, Merging
from kfac_artifacts.task_vector.merging.regression import regress
from kfac_artifacts.task_vector.vector import TaskVector, joint_base

Blocks: TypeAlias = Mapping[Hashable, tuple[str, LinearBlock]]
"""Blocks with their names, by what they are the curvature of."""
Group: TypeAlias = tuple[str, ...]
"""Parameters that are merged together: a weight, or a weight and its bias."""


@final
@dataclass(frozen=True)
class RegMean(MergeMethod):
    """``W = (Σ_t w_t W_t A_t) (Σ_t w_t A_t)⁻¹``: each task's outputs on its own inputs.

    A_t is what the artifact of task t keeps: the mean of ``a aᵀ`` over examples and
    positions, of the inputs of a linear map, a bias being the weight of an input 1. In
    RegMean they are the inputs in the model that was *fine-tuned* on the task; those
    of an artifact are the inputs in the *pretrained* model. Of a stack of experts each
    is merged by itself.

    What has no A in any of the artifacts gets the mean of the changes (norms, what was
    excluded), and so does what no input reaches, such as tokens that do not occur.

    Attributes:
        curvature: The artifact of every task vector, in the same order.
        off_diagonal: Factor of the entries of A_t off the diagonal, from 0 to 1; the
            paper's is 0.9, and 0.1 for some models.
        weights: w_t: ``equal``, or the ``positions`` that A_t is the mean of, so that
            all inputs of all tasks count the same.
    """

    name = "regmean"

    curvature: tuple[Artifact, ...] = ()
    off_diagonal: float = 0.9
    weights: str = TASK_WEIGHTS[0]

    def __post_init__(self) -> None:
        if not 0 <= self.off_diagonal <= 1:
            raise SettingsError(
                f"off_diagonal must be from 0 to 1, found {self.off_diagonal}"
            )
        if self.weights not in TASK_WEIGHTS:
            raise SettingsError(
                f"there are no weights {self.weights!r}; choose from "
                f"{', '.join(TASK_WEIGHTS)}"
            )

    @override
    def __call__(
        self, vectors: Sequence[TaskVector], alphas: Sequence[float]
    ) -> Merging:
        return _RegMeanMerging(vectors, alphas, self)

    @override
    def describe(self) -> dict[str, Json]:
        settings: Json = {"off_diagonal": self.off_diagonal, "weights": self.weights}
        curvature: Json = [
            {
                "digest": artifact.digest,
                "data": [source.data.id for source in artifact.provenance.sources],
            }
            for artifact in self.curvature
        ]
        return {"method": self.name, "settings": settings, "curvature": curvature}


class _RegMeanMerging(Merging):
    def __init__(
        self, vectors: Sequence[TaskVector], alphas: Sequence[float], method: RegMean
    ) -> None:
        super().__init__(vectors, alphas)
        if len(method.curvature) != len(vectors):
            raise MismatchError(
                f"regmean needs the artifact of every task: there are {len(vectors)} "
                f"task vectors and {len(method.curvature)} artifacts"
            )
        self.method = method
        base = functools.reduce(joint_base, (vector.base for vector in vectors))
        for number, artifact in enumerate(method.curvature, 1):
            what = f"cannot merge by artifact {number}; it and the task vectors are of"
            require_shared_base(what, artifact.provenance.base, base)
            reason = NO_INPUTS.get(artifact.provenance.estimator.name)
            if reason is not None:
                raise MismatchError(f"artifact {number} has no inputs: {reason}")
        self._blocks = [_covering(a, set(self.names)) for a in method.curvature]
        self._require_all()
        self._keys = _groups(self._blocks[0])
        if not self._keys:
            raise MismatchError(
                "no parameter that the task vectors moved has an A in the artifacts; "
                "compute them with the estimator inputs or kfac, of the same modules"
            )
        self._solve = functools.lru_cache(1)(self._solved)  # a weight and its bias

    def _require_all(self) -> None:
        """Refuse artifacts of which one lacks a block that another has."""
        for number, own in enumerate(self._blocks, 1):
            for other, theirs in enumerate(self._blocks, 1):
                for key in theirs.keys() - own.keys():
                    name, block = theirs[key]
                    raise MismatchError(
                        f"artifact {number} has no A of {name} (of "
                        f"{', '.join(block.parameters)}, {block.layout}), which "
                        f"artifact {other} has; compute both of the same modules"
                    )
            for name, block in own.values():
                if self.method.weights == "positions" and block.positions is None:
                    raise MismatchError(
                        f"{name} of artifact {number} does not say of how many "
                        "positions its A is the mean; compute it again, or take equal "
                        "weights"
                    )

    @property
    @override
    def averaged(self) -> tuple[str, ...]:
        regressed = {name for group in self._keys for name in group}
        return tuple(name for name in self.names if name not in regressed)

    @override
    def change(self, name: str) -> Tensor:
        group = next((group for group in self._keys if name in group), None)
        if group is None:
            return self.mean(name)
        return self._solve(group)[name].to(self.dtype(name))

    @override
    def describe(self) -> dict[str, Json]:
        return {**self.method.describe(), "averaged": [*self.averaged]}

    def _solved(self, group: Group) -> dict[str, Tensor]:
        """Merge parameters together; what no block covers of a stack gets the mean."""
        shapes = self.method.curvature[0].parameters
        columns = {
            name: self.wide_terms(name)
            if name in self.names
            else [torch.zeros(shapes[name], dtype=torch.float64)] * len(self.vectors)
            for name in group
        }
        taus = [
            dict(zip(group, own, strict=True))
            for own in zip(*columns.values(), strict=True)
        ]
        found = {
            name: torch.stack(columns[name]).mean(0)
            for name in group
            if name in self.names
        }
        for key in self._keys[group]:
            name, block = self._blocks[0][key]
            moved = _moved(block, found)
            changes = [block.gather(tau)[:, moved] for tau in taus]
            try:
                W = regress(changes, self._inputs(key, moved), self.method.off_diagonal)
            except FactorError as error:
                raise FactorError(f"nothing fits the A of {name}: {error}") from error
            _write(block, W, found)
        return found

    def _inputs(self, key: Hashable, moved: slice) -> Iterator[Tensor]:
        """The weighted A of every task, or its diagonal if that is all of it."""
        for artifact, own in zip(self.method.curvature, self._blocks, strict=True):
            _, block = own[key]
            factor = artifact.factors[block.inputs[0]]
            factor = without_constant(factor) if block.constant else factor
            weight = 1 if self.method.weights == "equal" else block.positions or 0
            if isinstance(factor, Diagonal):
                yield weight * factor.diagonal().double()[moved]
            else:
                yield weight * factor.to_dense().double()[moved, moved]


def _covering(artifact: Artifact, moved: set[str]) -> Blocks:
    """The blocks that have an A, and a parameter that was moved."""
    return {
        block.covers: (name, block)
        for name, block in artifact.blocks.items()
        if isinstance(block, LinearBlock)
        and len(block.inputs) == 1
        and not moved.isdisjoint(block.parameters)
    }


def _groups(blocks: Blocks) -> dict[Group, list[Hashable]]:
    """What is merged together, by parameters; nothing that two modules share."""
    uses: dict[str, set[Hashable]] = {}
    for _, block in blocks.values():
        for name in block.parameters:
            uses.setdefault(name, set()).add((block.parameters, block.layout))
    found: dict[Group, list[Hashable]] = {}
    for key, (_, block) in blocks.items():
        if all(len(uses[name]) == 1 for name in block.parameters):
            found.setdefault(block.parameters, []).append(key)
    return found


def _moved(block: LinearBlock, moved: Mapping[str, Tensor]) -> slice:
    """Which columns of ``W`` may change: a weight that stands still stays as it is."""
    if block.bias is None or set(block.parameters) <= moved.keys():
        return slice(None)
    return slice(0, -1) if block.weight in moved else slice(-1, None)


def _write(block: LinearBlock, W: Tensor, into: Mapping[str, Tensor]) -> None:
    """Undo ``gather``, in place."""
    own = {n: t if block.part is None else t[block.part] for n, t in into.items()}
    if block.weight in own:
        weight = block.layout.as_matrix(own[block.weight])
        weight.copy_(W[:, : weight.shape[1]])
    if block.bias is not None and block.bias in own:
        own[block.bias].copy_(W[:, -1])
