"""Recipes: what to keep of every factor, and how to store it, by name."""

from dataclasses import dataclass

from kfac_artifacts.choices import FORMS, STORAGES
from kfac_artifacts.compress.forms.base import Form, Keep
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.format import packed

PRESETS = {
    "small": "low-rank-32+int8",
    "tiny": "low-rank-8+int8",
}
"""Our own; ``benchmarks/compression.py`` shows what they are worth."""
DEFAULT_RECIPE = "small"
HELP = (
    ", ".join(form.names for form in FORMS.values())
    + ", with +int8, +bfloat16 or +float16 after any; one of those storages or float32 "
    f"alone; {', '.join(PRESETS)}"
)


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
    for kind in FORMS.values():
        found: Form | None = kind.parse(text)
        if found is not None:
            return found
    raise SettingsError(f"there is no recipe {name!r}; there are {HELP}")
