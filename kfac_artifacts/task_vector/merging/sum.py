"""Task arithmetic: ``Σ_t α_t τ_t`` (Ilharco et al. 2023)."""

import functools
import operator

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Json
from kfac_artifacts.task_vector.merging.base import Merging


class Sum(Merging):
    """The sum of the task vectors, each times its factor."""

    @override
    def change(self, name: str) -> Tensor:
        return functools.reduce(operator.add, self.terms(name))

    @override
    def describe(self) -> dict[str, Json]:
        return {}  # what is done unless something else is said
