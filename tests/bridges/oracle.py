"""What this package computes of the same model and data, and comparing with it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.estimate import Ekfac, Inputs, Kfac
from tests.bridges.made import Readout, readout_inputs

EXACT = kfac.Cotangents("exact", None, 0)
OWN = kfac.NamedConfig("org.example/readout")


def readout() -> kfac.Network:
    """The tiny model of ``made.Readout``."""
    f = kfac.OutputMap(OWN, lambda m, b: m(b["x"]))
    return kfac.Network(Readout(), f, "tiny/readout")


def readout_computed(estimator: Any = None, **options: Any) -> Artifact:
    """Its factors of all seven examples, exact."""
    examples = kfac.TensorExamples({"x": readout_inputs()}, "readout")
    return kfac.compute(
        readout(),
        examples,
        cotangents=EXACT,
        allow_few=True,
        estimator=estimator or Kfac(),
        **options,
    )


def inputs_computed(*, means: bool = False) -> Artifact:
    """A alone."""
    return readout_computed(Inputs(), means=means)


def ekfac_computed() -> Artifact:
    """Eigenvectors and their eigenvalues, not shrunk."""
    return readout_computed(Ekfac(shrinkage=False))


def require_same(
    found: Artifact, expected: Artifact, names: Sequence[str] | None = None
) -> None:
    """Blocks say the same, and have the same dense factors."""
    for name in expected.blocks if names is None else names:
        ours, theirs = expected.blocks[name], found.blocks[name]
        assert replace(theirs, terms=ours.terms) == ours
        for one, other in zip(ours.factors, theirs.factors, strict=True):
            torch.testing.assert_close(
                found.factors[other].to_dense(),
                expected.factors[one].to_dense(),
                rtol=1e-4,
                atol=1e-6,
            )


def require_same_products(found: Artifact, expected: Artifact) -> None:
    """Blocks multiply alike, whatever their factors are."""
    generator = torch.Generator().manual_seed(3)
    for name, ours in expected.blocks.items():
        theirs = found.blocks[name]
        W = torch.randn(ours.matrix_shape(expected.parameters), generator=generator)
        products = [
            block.product(W, {n: artifact.factors[n] for n in block.factors})
            for block, artifact in ((theirs, found), (ours, expected))
        ]
        torch.testing.assert_close(*products, rtol=1e-3, atol=1e-5)
