"""The diagonal alone."""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from kfac_artifacts.compress.forms.base import Factor, Form, Original


@final
@dataclass(frozen=True)
class OnlyDiagonal(Form):
    """The diagonal alone: coordinates are taken for independent."""

    names: ClassVar[str] = "diagonal"

    @classmethod
    @override
    def parse(cls, name: str) -> "OnlyDiagonal | None":
        return cls() if name == "diagonal" else None

    @property
    @override
    def name(self) -> str:
        return "diagonal"

    @override
    def apply(self, original: Original) -> Factor:
        from kfac_artifacts.factors import Diagonal

        return Diagonal(original.diagonal.clone())
