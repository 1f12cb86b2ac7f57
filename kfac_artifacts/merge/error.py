"""What merging loses: the exact error, and the bound of TAK, Eq. 18."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kfac_artifacts.artifact import Artifact, MergeError
from kfac_artifacts.choices import WEIGHTINGS
from kfac_artifacts.progress import Advance, unseen


def merge_errors(
    artifacts: Sequence[Artifact],
    progress: Advance = unseen,
    *,
    weighting: str = WEIGHTINGS[0],
) -> dict[str, MergeError]:
    """Measure what merging loses, without forming a Kronecker product.

    The target is ``Σ_i λ_i B̄_i ⊗ A_i`` over the artifacts, with ``B̄_i = B_i / T_i``;
    the merge is ``(Σ B_i / Σ T_i) ⊗ Σ λ_i A_i``. Both norms follow from the inner
    products of the factors: ``⟨B ⊗ A, B' ⊗ A'⟩ = ⟨B, B'⟩ ⟨A, A'⟩``.

    Of tasks that differ both in inputs and in outputs the sum is no product:

    >>> import kfac_artifacts as kfac
    >>> masked = lambda m, batch: m(**batch) * batch["input"]
    >>> f = kfac.OutputMap(kfac.NamedConfig("masked"), masked)
    >>> network = kfac.Network(torch.nn.Linear(2, 2, bias=False), f, "four weights")
    >>> def task(x):
    ...     data = kfac.TensorExamples({"input": torch.tensor([x] * 8)}, str(x))
    ...     return kfac.compute(network, data, allow_few=True)
    >>> one, other = task([1.0, 0.0]), task([0.0, 1.0])
    >>> lost = merge_errors([one, other])["weight"]
    >>> round(lost.relative**2, 6), round(lost.bound**2, 6)  # it is reached
    (0.5, 0.5)
    >>> merge_errors([one, one])
    {'weight': MergeError(relative=0.0, bound=0.0)}

    Args:
        artifacts: The parts.
        progress: Called with 1 after every block.
        weighting: What A is weighed by in the merge; the target is as it was.

    Returns:
        For every Kronecker block the exact relative error, and the bound of Eq. 18
        (its form for unequal weights) relative to the same norm; where the target is
        zero but the merge is not, both are relative to the norm of the merge.
    """
    tasks = torch.tensor([a.provenance.tasks for a in artifacts], dtype=torch.float64)
    sizes = torch.tensor([a.provenance.size for a in artifacts], dtype=torch.float64)
    lam, mu = sizes / sizes.sum(), tasks / tasks.sum()
    errors: dict[str, MergeError] = {}
    for name, block in artifacts[0].blocks.items():
        if block.summed and not block.is_refitted:
            a, b = zip(*(x.blocks[name].factors for x in artifacts), strict=True)
            gram_a = _gram(artifacts, a)
            gram_b = _gram(artifacts, b) / torch.outer(tasks, tasks)
            rho = lam
            if weighting != WEIGHTINGS[0]:
                rho = _shares([x.blocks[name].positions or 0 for x in artifacts])
            errors[name] = _error(gram_a, gram_b, (lam, mu, rho))
        progress(1)
    return errors


def _shares(counts: Sequence[int]) -> Tensor:
    found = torch.tensor(counts, dtype=torch.float64)
    return found / found.sum().clamp(min=1)


def _error(
    gram_a: Tensor, gram_b: Tensor, weights: tuple[Tensor, Tensor, Tensor]
) -> MergeError:
    # With B̄ = Σ μ_i B̄_i and Ā = Σ λ_i A_i, and Σ ρ_i A_i merged, the error is
    #   E = Σ λ_i (B̄_i - B̄) ⊗ (A_i - Ā) + (Σ λ_i B̄_i - B̄) ⊗ Ā + B̄ ⊗ Σ (λ_i - ρ_i) A_i;
    # the second part vanishes for equal weights, the third if A is weighed by λ, and
    # Eq. 16 bounds the first.
    lam, mu, rho = weights
    target = lam @ (gram_a * gram_b) @ lam
    to_a = torch.eye(len(lam), dtype=lam.dtype) - lam[None, :]
    to_b = torch.eye(len(mu), dtype=mu.dtype) - mu[None, :]
    dev_a, dev_b = to_a @ gram_a @ to_a.mT, to_b @ gram_b @ to_b.mT
    shift = lam @ to_b
    rest = (shift @ gram_b @ shift) * (lam @ gram_a @ lam)
    other = lam - rho
    merged = (mu @ gram_b @ mu) * (rho @ gram_a @ rho)
    exact = target - 2 * (lam * (gram_b @ mu)) @ (gram_a @ rho) + merged
    if bool((other == 0).all()):
        exact = lam @ (dev_b * gram_a) @ lam  # which rounds less
    moved = (mu @ gram_b @ mu) * (other @ gram_a @ other)
    bound = ((lam @ dev_b.diagonal()) * (lam @ dev_a.diagonal())).clamp(min=0).sqrt()
    bound = bound + rest.clamp(min=0).sqrt() + moved.clamp(min=0).sqrt()
    norm = target.clamp(min=0).sqrt()
    if norm == 0:  # then all that the merge has is wrong
        norm = exact.clamp(min=0).sqrt()
    if norm == 0:
        return MergeError(0.0, 0.0)
    relative = exact.clamp(min=0).sqrt() / norm
    return MergeError(float(relative), float(bound / norm))


def _gram(artifacts: Sequence[Artifact], names: Sequence[str]) -> Tensor:
    """Inner products of one factor of each artifact."""
    pairs = zip(artifacts, names, strict=True)
    factors = [artifact.factors[name] for artifact, name in pairs]
    gram = torch.zeros(len(factors), len(factors), dtype=torch.float64)
    for i, one in enumerate(factors):
        for j, other in enumerate(factors[: i + 1]):
            gram[i, j] = gram[j, i] = one.inner(other)
    return gram
