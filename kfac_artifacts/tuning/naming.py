"""What a parameter of a wrapped model is called in an artifact.

``peft`` calls a weight ``base_model.model.model.layers.0.mlp.up.base_layer.weight``,
``sentence_transformers`` ``0.model.layers.0.…``, and an artifact ``layers.0.…`` or
``model.layers.0.…``, whether it was computed without the head of the model or with it
(spec/parameters.md, section 2).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from kfac_artifacts.errors import MismatchError, listed

_WRAPPERS = frozenset(
    {"base_layer", "original_module", "_orig_mod", "_checkpoint_wrapped_module"}
)
_BEFORE_ALL = ("module.", "base_model.model.")
"""What DDP and ``peft`` put before all names."""
COPIES = "modules_to_save"
"""Where ``peft`` keeps modules that are trained whole, by the name of the adapter."""


def unwrapped(path: str) -> str:
    """Take what ``peft``, ``torch.compile`` and others put between names out of a path.

    Args:
        path: Path of a module or a parameter.

    Returns:
        The path that it would have without them, but for what stands before all.
    """
    parts = iter(path.split("."))
    kept = []
    for part in parts:
        if part == COPIES:
            next(parts, None)  # the adapter
        elif part not in _WRAPPERS:
            kept.append(part)
    return ".".join(kept)


@dataclass(frozen=True)
class Naming:
    """From the names of a model to those of an artifact.

    Attributes:
        before: What the model puts before the names.
        instead: What the artifact puts there.
    """

    before: str
    instead: str

    def __call__(self, name: str) -> str | None:
        """The name in the artifact, covered or not; None for what is outside of it."""
        if not name.startswith(self.before):
            return None
        return self.instead + name.removeprefix(self.before)

    def outside(self, name: str) -> str:
        """What a parameter that is not within is called in the model without wrappers.

        Args:
            name: Its name, unwrapped but for what stands before all.

        Returns:
            The name without what the names within have before them, too.
        """
        before, found = self.before, True
        while found:
            found = False
            for wrapper in _BEFORE_ALL:
                if before.startswith(wrapper) and name.startswith(wrapper):
                    before, name = (x.removeprefix(wrapper) for x in (before, name))
                    found = True
        return name


def find_naming(names: Iterable[str], covered: Collection[str]) -> Naming:
    """Find where the parameters of an artifact are in a model.

    Args:
        names: Names of the model's parameters, unwrapped.
        covered: Names of those of the artifact.

    Returns:
        The one way to call them that fits.

    Raises:
        MismatchError: If none fits, or several do.
    """
    names = list(names)
    for instead in ("", _first(covered)):
        shorter = {c.removeprefix(instead) for c in covered if c.startswith(instead)}
        counts = Counter(before for n in names for before in _before(n, shorter))
        most = max(counts.values(), default=0)
        found = [before for before, count in counts.items() if count == most]
        if len(found) > 1:
            raise MismatchError(
                "the parameters of the curvature are in the model more than once, "
                f"below {listed([b or 'its top' for b in found])}; give the one module "
                "that it is of"
            )
        if found:
            return Naming(found[0], instead)
    raise MismatchError(
        "the model has no parameter of the curvature, which covers, for example, "
        f"{listed(list(covered), 3)}; the model has {listed(names, 3)}"
    )


def _first(covered: Collection[str]) -> str:
    """The first part of most of the names, as ``model.`` is, which a head is beside."""
    firsts = Counter(name.partition(".")[0] for name in covered)
    return f"{firsts.most_common(1)[0][0]}."


def _before(name: str, covered: Collection[str]) -> Iterator[str]:
    """What stands in a name before one that is covered."""
    parts = name.split(".")
    for start in range(len(parts)):
        if ".".join(parts[start:]) in covered:
            yield "".join(f"{part}." for part in parts[:start])
