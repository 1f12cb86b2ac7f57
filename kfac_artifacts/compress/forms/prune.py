"""The largest entries."""

import re
from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from kfac_artifacts.compress.forms.base import (
    NUMBER,
    Factor,
    Form,
    Original,
    percent,
    share,
)


@final
@dataclass(frozen=True)
class Prune(Form):
    """A share of the largest entries, and the diagonal."""

    names: ClassVar[str] = "prune-P%"

    share: float

    @classmethod
    @override
    def parse(cls, name: str) -> "Prune | None":
        found = re.fullmatch(rf"prune-{NUMBER}%", name)
        return cls(share(found[1], "what pruning keeps")) if found else None

    @property
    @override
    def name(self) -> str:
        return f"prune-{percent(self.share)}%"

    @override
    def apply(self, original: Original) -> Factor:
        from kfac_artifacts.factors import Pruned

        matrix = original.matrix
        entries = len(matrix) * (len(matrix) - 1) // 2
        return Pruned.of_dense(matrix, round(self.share * entries))
