"""Recipes: what to keep of every factor, and how to store it, by name."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from kfac_artifacts.choices import STORAGES
from kfac_artifacts.compress.transforms import (
    Blocks,
    Form,
    Keep,
    Leading,
    OnlyDiagonal,
    Prune,
    share,
)
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.format.storage.base import packed

PRESETS = {
    "small": "low-rank-32+int8",
    "tiny": "low-rank-8+int8",
}
"""Our own; ``benchmarks/compression.py`` shows what they are worth."""
DEFAULT_RECIPE = "small"
HELP = (
    "block-K, block-K-correlated, low-rank-R, low-rank-P%, low-rank-trace-P%, svd-R, "
    "svd-P%, svd-trace-P%, prune-P%, diagonal, with +int8, +bfloat16 or +float16 after "
    "any; one of those storages or float32 alone; small, tiny"
)
_NUMBER = r"(\d+(?:\.\d+)?)"
_FORMS: dict[str, Callable[[str], Form]] = {
    r"block-(\d+)": lambda k: Blocks(_positive(k, "the number of blocks")),
    r"block-(\d+)-correlated": lambda k: Blocks(
        _positive(k, "the number of blocks"), correlated=True
    ),
    r"low-rank-(\d+)": lambda r: Leading(_rank(r), "rank", True),
    rf"low-rank-{_NUMBER}%": lambda p: Leading(share(p, "the rank"), "share", True),
    rf"low-rank-trace-{_NUMBER}%": lambda p: Leading(
        share(p, "the trace"), "trace", True
    ),
    r"svd-(\d+)": lambda r: Leading(_rank(r), "rank", False),
    rf"svd-{_NUMBER}%": lambda p: Leading(share(p, "the rank"), "share", False),
    rf"svd-trace-{_NUMBER}%": lambda p: Leading(share(p, "the trace"), "trace", False),
    rf"prune-{_NUMBER}%": lambda p: Prune(share(p, "what pruning keeps")),
    r"(diagonal)": lambda _: OnlyDiagonal(),
}


@dataclass(frozen=True)
class Recipe:
    """How a factor is compressed.

    Attributes:
        form: What is kept.
        dtype: One of ``storages()``; matrices keep one triangle.
    """

    form: Form
    dtype: str

    @classmethod
    def parse(cls, name: str) -> "Recipe":
        """Read a recipe such as ``block-8``, ``svd-25%`` or ``low-rank-32+int8``.

        Args:
            name: A structure, a storage, both with ``+`` between, or one of
                ``PRESETS``. Without a storage numbers stay float32.

        Returns:
            The recipe.

        Raises:
            SettingsError: If there is no such recipe.
        """
        form, plus, dtype = PRESETS.get(name, name).partition("+")
        if not plus and form in storages():
            return cls(Keep(), form)
        if plus and dtype not in storages():
            raise SettingsError(
                f"recipe {name!r}: there is no storage {dtype!r}; choose one of "
                f"{', '.join(storages())}"
            )
        return cls(_form(form, name), dtype or "float32")

    @property
    def name(self) -> str:
        """What ``parse`` reads."""
        if isinstance(self.form, Keep):
            return self.dtype
        return self.form.name + ("" if self.dtype == "float32" else f"+{self.dtype}")

    @property
    def storage(self) -> str:
        """Name of the storage: matrices keep one triangle."""
        return packed(self.dtype)


def storages() -> list[str]:
    """Name the storages that a recipe may ask for: all, but for how they pack."""
    return [name for name in STORAGES if not name.startswith("symmetric-")]


def _form(text: str, name: str) -> Form:
    for pattern, make in _FORMS.items():
        found = re.fullmatch(pattern, text)
        if found:
            return make(found[1])
    raise SettingsError(f"there is no recipe {name!r}; there are {HELP}")


def _positive(text: str, what: str) -> int:
    number = int(text)
    if number < 1:
        raise SettingsError(f"{what} must be at least 1, not {number}")
    return number


def _rank(text: str) -> float:
    return float(_positive(text, "the rank"))
