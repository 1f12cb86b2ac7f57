"""This package: ``kfac_artifacts.estimate.compute``, what ``kfac compute`` calls."""

from collections.abc import Collection

from torch import Tensor
from typing_extensions import override

from estimation.models import SEED
from estimation.tool import Tool
from kfac_artifacts.artifact import Artifact, Cotangents, NamedConfig
from kfac_artifacts.estimate import Ekfac, Estimator, Kfac, Nearest, compute
from kfac_artifacts.network import Network, OutputMap, TensorExamples

EMBEDDING = OutputMap(
    NamedConfig("embedding"), lambda module, batch: module(batch["x"])
)


class Everything(Tool):
    """Every parameter of the model, as a user would have it."""

    only: tuple[str, ...] = ()
    estimator: Estimator = Kfac()

    @override
    def estimate(self, count: int) -> Artifact:
        network = Network(self.workload.f, EMBEDDING, "random weights")  # hashes anew
        return compute(
            network,
            TensorExamples({"x": self.workload.x[:count]}, "random examples"),
            count=count,
            cotangents=Cotangents("mc", 1, SEED),
            estimator=self.estimator,
            only=self.only,
            tables=True,  # the numbers are random
            allow_few=True,
            batch_size=self.workload.case.batch_size,
        )

    @override
    def factors(self, count: int) -> dict[str, Tensor]:
        return factors_of(self.estimate(count), self.workload.linears)


def factors_of(artifact: Artifact, linears: Collection[str]) -> dict[str, Tensor]:
    """A and B of some linear maps, as ``Tool.factors`` gives them."""
    found = {}
    for block in artifact.blocks.values():
        module = block.parameters[0].removesuffix(".weight")
        if block.is_product and module in linears:
            ((a, b),) = block.terms
            found[f"{module}.A"] = artifact.factors[a].to_dense()
            found[f"{module}.B"] = artifact.factors[b].to_dense()
    return found


class LinearsOnly(Everything):
    """The Linear layers alone, which is what the others cover."""

    @property
    @override
    def only(self) -> tuple[str, ...]:  # type: ignore[override]
        f = self.workload.f
        return tuple(
            f"{name}.{parameter}"
            for name in self.workload.linears
            for parameter, _ in f.get_submodule(name).named_parameters()
        )


class WithEkfac(LinearsOnly):
    """The same with corrected eigenvalues; no other tool is compared with it."""

    estimator = Ekfac()


class WithNearest(LinearsOnly):
    """The same with the nearest products."""

    estimator = Nearest()
