"""Merging artifacts of one base model into one of constant size (TAK, Eq. 8).

For dataset sizes n_t: ``A = Σ n_t A_t / Σ n_t``, ``B = Σ B_t``, Gramian blocks
``Σ n_t G_t / Σ n_t``. Sums and counts are kept, so merging is associative and a task
can be taken out again: total - own = the others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import (
    Artifact,
    Block,
    KroneckerBlock,
    LazyFactors,
    MergeError,
    Provenance,
    Source,
)
from kfac_artifacts.errors import MismatchError
from kfac_artifacts.factors import Dense, Diagonal, Factor


@dataclass(frozen=True, eq=False)
class Part:
    """An artifact that is added (sign 1) or taken out (sign -1)."""

    artifact: Artifact
    sign: int

    @property
    def size(self) -> int:
        """Signed number of examples: the weight of A and of Gramians."""
        return self.sign * self.artifact.provenance.size

    @property
    def excluded(self) -> tuple[str, ...]:
        """Parameters that were left out on request."""
        return self.artifact.provenance.excluded

    @property
    def tasks(self) -> int:
        """Signed number of tasks."""
        return self.sign * self.artifact.provenance.tasks


class MergedFactors(LazyFactors):
    """Factors that are merged when they are asked for: one in memory at a time."""

    def __init__(
        self,
        parts: Sequence[Part],
        names: Mapping[str, Sequence[str]],
        summed: frozenset[str],
    ) -> None:
        self._parts = parts
        self._names = names  # of a merged factor -> of that factor in every part
        self._summed = summed
        self._total = sum(part.size for part in parts)

    def __getitem__(self, name: str) -> Factor:
        """Merge one factor, in float64; it is returned in float32 or better."""
        total: Factor | None = None
        for part, own in zip(self._parts, self._names[name], strict=True):
            weight = part.sign if name in self._summed else part.size / self._total
            total = _add(total, part.artifact.factors[own], float(weight))
        if total is None:
            raise KeyError(name)
        first = self._parts[0].artifact.factors[self._names[name][0]]
        return total.to(dtype=_dtype(first))

    @override
    def structure(self, name: str) -> str:
        """The structure that the parts share, or else dense."""
        pairs = zip(self._parts, self._names[name], strict=True)
        found = {part.artifact.structure(own) for part, own in pairs}
        return found.pop() if len(found) == 1 else Dense.name

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def merge(
    artifacts: Sequence[Artifact],
    *,
    exclude: Sequence[Artifact] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Artifact:
    """Merge artifacts, and take some out again.

    The result's factors are computed when they are asked for, so saving it holds one
    at a time in memory.

    Args:
        artifacts: What to add; one is enough when there is something to exclude.
        exclude: What to take out; each must be a part of what is added.
        progress: Told after every block, while the error of the merge is measured.

    Returns:
        The merged artifact, with the exact error of every block in its provenance.

    Raises:
        MismatchError: If the artifacts do not belong together, a task would be counted
            twice, or one to exclude is not in them; all differences are listed.
    """
    if not artifacts:
        raise MismatchError("there is nothing to merge")
    parts = [Part(a, 1) for a in artifacts] + [Part(a, -1) for a in exclude]
    _check_same([part.artifact for part in parts])
    sources = _sources(artifacts, exclude)
    blocks, names = _shared([part.artifact for part in parts])
    summed = frozenset(
        b
        for block in blocks.values()
        if isinstance(block, KroneckerBlock)
        for _, b in block.terms
    )
    errors = {} if exclude else merge_errors(artifacts, progress)
    provenance = replace(
        artifacts[0].provenance,
        tasks=sum(part.tasks for part in parts),
        size=sum(part.size for part in parts),
        sources=sources,
        excluded=tuple(dict.fromkeys(n for p in parts for n in p.excluded)),
        uncovered=_union(artifacts),
        merge_errors=errors,
    )
    return Artifact(provenance, blocks, MergedFactors(parts, names, summed))


def _shared(
    artifacts: Sequence[Artifact],
) -> tuple[dict[str, Block], dict[str, tuple[str, ...]]]:
    """Name the merged factors; two blocks share one if they do in every artifact.

    Returns:
        The merged blocks, and for every factor its name in each artifact.
    """
    blocks: dict[str, Block] = {}
    merged: dict[tuple[str, ...], str] = {}
    for name, block in artifacts[0].blocks.items():
        theirs = [artifact.blocks[name].factors for artifact in artifacts]
        for number, key in enumerate(zip(*theirs, strict=True)):
            taken = key[0] in merged.values()
            merged.setdefault(key, f"{name}/{number}" if taken else key[0])
        own = [merged[key] for key in zip(*theirs, strict=True)]
        blocks[name] = block.with_factors(own)
    return blocks, {name: key for key, name in merged.items()}


def weights(provenance: Provenance) -> dict[str, float]:
    """The effective weight λ_t of every task: its share of all examples.

    Args:
        provenance: Of a merged artifact.

    Returns:
        Weights by ``<number> <data id>``, summing to one.
    """
    return {
        f"{i} {source.data.id}": source.data.size / provenance.size
        for i, source in enumerate(provenance.sources, 1)
    }


def merge_errors(
    artifacts: Sequence[Artifact], progress: Callable[[int], None] = lambda _: None
) -> dict[str, MergeError]:
    """Measure what merging loses, without forming a Kronecker product.

    The target is ``Σ_i λ_i B̄_i ⊗ A_i`` over the artifacts, with ``B̄_i = B_i / T_i``;
    the merge is ``(Σ B_i / Σ T_i) ⊗ Σ λ_i A_i``. Both norms follow from the inner
    products of the factors: ``⟨B ⊗ A, B' ⊗ A'⟩ = ⟨B, B'⟩ ⟨A, A'⟩``.

    Args:
        artifacts: The parts.
        progress: Told after every block.

    Returns:
        For every Kronecker block the exact relative error, and the bound of Eq. 18
        (its form for unequal weights) relative to the same norm.
    """
    tasks = torch.tensor([a.provenance.tasks for a in artifacts], dtype=torch.float64)
    sizes = torch.tensor([a.provenance.size for a in artifacts], dtype=torch.float64)
    lam, mu = sizes / sizes.sum(), tasks / tasks.sum()
    errors: dict[str, MergeError] = {}
    for name, block in artifacts[0].blocks.items():
        if isinstance(block, KroneckerBlock):
            a, b = zip(*(x.blocks[name].factors for x in artifacts), strict=True)
            gram_a = _gram(artifacts, a)
            gram_b = _gram(artifacts, b) / torch.outer(tasks, tasks)
            errors[name] = _error(gram_a, gram_b, lam, mu)
        progress(1)
    return errors


def _error(gram_a: Tensor, gram_b: Tensor, lam: Tensor, mu: Tensor) -> MergeError:
    # With B̄ = Σ μ_i B̄_i and Ā = Σ λ_i A_i the error is E = Σ λ_i (B̄_i - B̄) ⊗ A_i
    #   = Σ λ_i (B̄_i - B̄) ⊗ (A_i - Ā) + (Σ λ_i B̄_i - B̄) ⊗ Ā;
    # the second part vanishes for equal weights, and Eq. 16 bounds the first.
    target = lam @ (gram_a * gram_b) @ lam
    to_a = torch.eye(len(lam), dtype=lam.dtype) - lam[None, :]
    to_b = torch.eye(len(mu), dtype=mu.dtype) - mu[None, :]
    dev_a, dev_b = to_a @ gram_a @ to_a.mT, to_b @ gram_b @ to_b.mT
    shift = lam @ to_b
    rest = (shift @ gram_b @ shift) * (lam @ gram_a @ lam)
    exact = lam @ (dev_b * gram_a) @ lam
    bound = ((lam @ dev_b.diagonal()) * (lam @ dev_a.diagonal())).clamp(min=0).sqrt()
    bound = bound + rest.clamp(min=0).sqrt()
    norm = target.clamp(min=0).sqrt()
    if norm == 0:
        return MergeError(0.0, 0.0)
    relative = exact.clamp(min=0).sqrt() / norm
    return MergeError(float(relative), float(bound / norm))


def _gram(artifacts: Sequence[Artifact], names: Sequence[str]) -> Tensor:
    """Inner products of one factor of each artifact."""
    pairs = zip(artifacts, names, strict=True)
    vectors = [_vector(artifact.factors[name]) for artifact, name in pairs]
    return torch.tensor(
        [[float(torch.dot(v, w)) for w in vectors] for v in vectors],
        dtype=torch.float64,
    )


def _vector(factor: Factor) -> Tensor:
    values = factor.values if isinstance(factor, Diagonal) else factor.to_dense()
    return values.flatten().to(torch.float64)


def _add(total: Factor | None, factor: Factor, weight: float) -> Factor:
    """``total + weight * factor`` in float64, in one structure or else dense."""
    scaled = factor.to(dtype=torch.float64)
    fields = {name: weight * t for name, t in scaled.tensors().items()}
    term = type(factor)(**fields)
    if total is None:
        return term
    if type(total) is type(term):
        return type(term)(
            **{name: t + fields[name] for name, t in total.tensors().items()}
        )
    return Dense(total.to_dense() + term.to_dense())


def _dtype(factor: Factor) -> torch.dtype:
    return next(iter(factor.tensors().values())).dtype


def _union(artifacts: Sequence[Artifact]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for artifact in artifacts:
        reasons |= artifact.provenance.uncovered
    return reasons


def _check_same(artifacts: Sequence[Artifact]) -> None:
    """Refuse artifacts that do not belong together, with all differences at once."""
    first = artifacts[0]
    for name, block in first.blocks.items():
        if isinstance(block, KroneckerBlock) and len(block.terms) != 1:
            raise MismatchError(
                f"{name} is a sum of {len(block.terms)} Kronecker products; merging by "
                "Eq. 8 is for one"
            )
    differences: list[str] = []
    for number, other in enumerate(artifacts[1:], 2):
        differences += [
            f"artifact {number} has {what} {theirs}, artifact 1 has {ours}"
            for what, ours, theirs in _differences(first, other)
        ]
    if differences:
        raise MismatchError(
            "these artifacts cannot be merged:\n  " + "\n  ".join(differences)
        )


def _differences(one: Artifact, other: Artifact) -> Iterator[tuple[str, str, str]]:
    """What tells two artifacts apart, of that which must be the same."""
    p, q = one.provenance, other.provenance
    if p.estimator != q.estimator:
        yield "estimator", p.estimator, q.estimator
    if p.output_map != q.output_map:
        yield "output map", _text(p.output_map), _text(q.output_map)
    shared = p.base.parameters.keys() & q.base.parameters.keys()
    changed = sorted(n for n in shared if p.base.parameters[n] != q.base.parameters[n])
    if changed:
        what = f"{len(changed)} other base weights (first {changed[0]}), base model"
        yield what, p.base.id, q.base.id
    missing = sorted(p.base.parameters.keys() ^ q.base.parameters.keys())
    if missing:
        count = f"{len(missing)} parameters not in both (first {missing[0]}), covering"
        yield count, str(len(p.base.parameters)), str(len(q.base.parameters))
    elif _arrangement(one) != _arrangement(other):
        yield "blocks", "its own", "arranged otherwise"


def _arrangement(artifact: Artifact) -> dict[str, Block]:
    """The blocks, whatever their factors are called."""
    return {
        name: block.with_factors([""] * len(block.factors))
        for name, block in artifact.blocks.items()
    }


def _text(value: object) -> str:
    name = getattr(value, "name", "")
    configuration = getattr(value, "configuration", {})
    return f"{name} {dict(configuration)}" if configuration else str(name)


def _sources(
    artifacts: Sequence[Artifact], exclude: Sequence[Artifact]
) -> tuple[Source, ...]:
    """The tasks that are in the result; each named by the artifact it came from."""
    kept = [source for a in artifacts for source in _named_sources(a)]
    twice = {s.data.id for s in kept if s.digest and kept.count(s) > 1}
    if twice:
        raise MismatchError(
            f"a task would be counted twice: {', '.join(sorted(twice))}; give every "
            "artifact once, and no part of a merged one beside it"
        )
    for artifact in exclude:
        for source in _named_sources(artifact):
            if source not in kept:
                raise MismatchError(
                    f"{source.data.id} cannot be excluded: it is not among the merged "
                    f"tasks {', '.join(s.data.id for s in kept)}"
                )
            kept.remove(source)
    if not kept:
        raise MismatchError("nothing is left: every task was excluded")
    return tuple(kept)


def _named_sources(artifact: Artifact) -> list[Source]:
    sources = artifact.provenance.sources
    if len(sources) == 1 and sources[0].digest is None:
        return [replace(sources[0], digest=artifact.digest)]
    return list(sources)
