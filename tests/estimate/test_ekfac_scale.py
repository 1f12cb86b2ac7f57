"""How much of EK-FAC's eigenvalues is noise, against definitions written out."""

from typing import Any

import pytest
import torch

from kfac_artifacts.artifact import Artifact, Cotangents, EigenBlock
from kfac_artifacts.estimate import Ekfac, Kfac
from kfac_artifacts.estimate.estimators.ekfac_scale import leading, of_all
from kfac_artifacts.fidelity import fidelity
from kfac_artifacts.network import Network, TensorExamples
from kfac_artifacts.seeding import seeded
from tests.computed import compute
from tests.estimate.test_nearest import gramian, tiny

EXACT = Cotangents("exact", None, 0)


def scales(network: Network, examples: Any, **options: Any) -> dict[str, float]:
    """By how much S of every block was multiplied: one number for all of it."""
    shrunk, plain = (
        compute(network, examples, estimator=Ekfac(shrinkage=on), **options)
        for on in (True, False)
    )
    found = {}
    for name, block in shrunk.blocks.items():
        if isinstance(block, EigenBlock):
            A, B, S = block.factors
            for factor in (A, B):
                assert torch.equal(
                    shrunk.factors[factor].to_dense(), plain.factors[factor].to_dense()
                )
            own, whole = (a.factors[S].diagonal() for a in (shrunk, plain))
            found[name] = float(own.norm() / whole.norm())
            torch.testing.assert_close(own, found[name] * whole)
    return found


def texts(count: int, seed: int = 0) -> TensorExamples:
    """Texts of the tiny model."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 6, (count, 5), generator=generator)
    tensors = {"ids": ids, "attention_mask": torch.ones_like(ids)}
    return TensorExamples(tensors, f"data{seed}")


def part(examples: TensorExamples, first: int) -> TensorExamples:
    """Every second example."""
    return TensorExamples(
        {n: t[first::2] for n, t in examples.tensors.items()}, f"half {first}"
    )


def by_hand(network: Network, halves: list[Any], block: Any) -> float:
    """The factor of a block, from the Gramians of two halves.

    With as many vectors as there are dimensions, those of a half are the eigenvectors
    of ``Σ M Ω Ωᵀ Mᵀ`` and ``Σ Mᵀ Ω Ωᵀ M``, with random columns Ω.
    """
    shared = size = 0.0
    gramians = [gramian(network, half, block)[0] for half in halves]
    d_out, d_in = network.shapes[block.weight]
    d_in += block.bias is not None
    generator = seeded(f"ekfac {block.weight.removesuffix('.weight')}")
    columns = [torch.randn(d, d, generator=generator).double() for d in (d_out, d_in)]
    output, inputs = (omega @ omega.mT for omega in columns)
    for own, other in ((0, 1), (1, 0)):
        G = gramians[own].view(d_out, d_in, d_out, d_in)
        of_outputs = torch.einsum("aibj,ij->ab", G, inputs)
        of_inputs = torch.einsum("aibj,ab->ij", G, output)
        vectors = (torch.linalg.eigh(C)[1] for C in (of_outputs, of_inputs))
        basis = torch.kron(*vectors)
        mine, theirs = (
            (basis.mT @ gramians[which] @ basis).diagonal() for which in (own, other)
        )
        shared += float(mine @ theirs)
        size += float(mine @ mine)
    c = min(shared / size, 1.0)
    return 2 * c / (1 + c)


@pytest.mark.parametrize("batch_size", [3, 32])
@pytest.mark.parametrize("memory", [10**9, 1])
def test_the_factor_is_what_two_halves_agree_on(batch_size: int, memory: int) -> None:
    network, examples = tiny()
    shrunk = compute(
        network,
        examples,
        cotangents=EXACT,
        batch_size=batch_size,
        estimator=Ekfac(memory=memory),
    )
    plain = compute(
        network, examples, cotangents=EXACT, estimator=Ekfac(shrinkage=False)
    )
    blocks = compute(network, examples, cotangents=EXACT, estimator=Kfac()).blocks
    halves, factors = [part(examples, first) for first in (0, 1)], []
    for name, block in shrunk.blocks.items():
        if isinstance(block, EigenBlock):
            S = block.factors[-1]
            expected = by_hand(network, halves, blocks[name])
            ours, whole = (a.factors[S].diagonal() for a in (shrunk, plain))
            factors.append(expected)
            torch.testing.assert_close(ours, expected * whole, rtol=1e-4, atol=1e-9)
    assert min(factors) < 0.9


def test_halves_that_are_the_same_shrink_nothing() -> None:
    network, examples = tiny()
    twice = {n: t.repeat_interleave(2, dim=0) for n, t in examples.tensors.items()}
    found = scales(network, TensorExamples(twice, "twice"), cotangents=EXACT)
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-5)


def test_one_example_has_no_halves() -> None:
    network, examples = tiny()
    one = TensorExamples({n: t[:1] for n, t in examples.tensors.items()}, "one")
    assert set(scales(network, one).values()) == {1.0}


def test_more_examples_are_shrunk_less() -> None:
    network, _ = tiny()
    few, many = (scales(network, texts(count)) for count in (6, 128))
    assert sum(few.values()) < sum(many.values())
    assert all(0 < scale <= 1 for scale in (*few.values(), *many.values()))


def test_it_comes_closer_on_examples_that_it_has_not_seen() -> None:
    """Without it EK-FAC of few examples is farther off than a curvature of zero."""
    (network, _), others = tiny(), texts(64, seed=1)

    def error(artifact: Artifact) -> float:
        found = fidelity(artifact, network, others, count=64, directions=1)
        assert found.total.error is not None
        return found.total.error

    few = texts(6)
    plain, shrunk = (
        error(compute(network, few, estimator=Ekfac(shrinkage=on)))
        for on in (False, True)
    )
    assert shrunk < plain


def test_leading_vectors_are_eigenvectors() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 12, generator=generator, dtype=torch.float64)
    x = x * 0.5 ** torch.arange(12)
    C, start = x.mT @ x, torch.randn(12, 12, generator=generator, dtype=torch.float64)
    found = leading(start, C @ start)
    torch.testing.assert_close(found @ found.mT, torch.eye(12, dtype=torch.float64))
    turned = found @ C @ found.mT
    values = torch.linalg.eigvalsh(C).flip(0)
    torch.testing.assert_close(turned.diagonal(), values, rtol=1e-4, atol=1e-9)
    few = leading(start[:, :6], C @ start[:, :6])
    kept = (few @ C @ few.mT).trace()
    assert few.shape == (6, 12)
    assert kept > 0.95 * C.trace()
    assert leading(start, torch.zeros(12, 12, dtype=torch.float64)).shape == (0, 12)


@pytest.mark.parametrize(("half", "whole"), [(0.0, 0.0), (0.5, 2 / 3), (1.2, 1.0)])
def test_all_examples_have_half_of_the_noise(half: float, whole: float) -> None:
    assert of_all(half) == pytest.approx(whole)
