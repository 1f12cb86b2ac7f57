"""What all examples share, and each has a copy of, seen by the model as one tensor.

It is a parameter, or what a layer makes of parameters, as of relative positions. What a
model does to it alone (slice, index, reshape, interpolate) is done to
every copy. Where it first meets a tensor of examples, the copies take their places: the
batch is the first axis there, with the rows of an example side by side, or else the
second. None of this is trusted: ``batch_axes`` and ``proof`` check it.
"""

from typing import Any

from torch import Tensor
from torch.func import vmap
from typing_extensions import override

from kfac_artifacts.errors import CoverageError
from kfac_artifacts.torch_private import pytree, wrapper

ELEMENTWISE = {
    *("add", "sub", "mul", "div", "true_divide", "rsub"),
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__"),
    *("__truediv__", "__rtruediv__", "add_", "sub_", "mul_", "div_"),
    *("__iadd__", "__isub__", "__imul__", "where", "type_as", "expand_as"),
    *("cat", "concat", "concatenate", "stack", "scaled_dot_product_attention"),
}
"""Functions in which copies may meet examples: row by row, never as a matrix."""

DESCRIBING = {"size", "dim", "numel", "stride", "is_floating_point", "__len__"}
TILING = {"repeat", "tile"}
EXPANDING = {"expand", "broadcast_to", *TILING}
CHANGED = "the model uses a parameter otherwise than in the first batch; exclude it"
EXPANSIONS = ("to the batch", "of each")
MEETINGS = ("first axis", "second axis", "all")
ADJOINTS = {"T", "mT", "H", "mH"}


class Decisions:
    """Where the copies of a parameter took their places, in the order of events.

    Decided by shapes in the first pass, proved there, and followed in later ones, in
    which a size may be that of the batch by chance.
    """

    def __init__(self) -> None:
        self.proved = False
        self._known: list[str] = []
        self._next = 0

    def begin(self) -> "Decisions":
        """Start a pass."""
        self._next = 0
        return self

    def decide(self, guess: str, *others: str) -> str:
        """Give what was decided here, or decide it.

        Args:
            guess: What the shapes suggest.
            others: What else there could have been.

        Returns:
            The decision.

        Raises:
            CoverageError: If this did not happen when the decisions were proved.
        """
        if self._next == len(self._known) and not self.proved:
            self._known.append(guess)
        known = self._known[self._next : self._next + 1]
        if not {*known} & {guess, *others}:
            raise CoverageError(CHANGED)
        self._next += 1
        return known[0]

    def end(self) -> None:
        """End a pass.

        Raises:
            CoverageError: If less happened than when the decisions were proved.
        """
        if self.proved and self._next != len(self._known):
            raise CoverageError(CHANGED)


class Copies(Tensor):
    """Looks like one tensor of the parameter's shape, and holds one per example."""

    copies: Tensor
    decisions: Decisions

    @staticmethod
    def __new__(cls, copies: Tensor, decisions: Decisions) -> "Copies":
        """Wrap ``[N, *shape]``."""
        self = wrapper(cls, copies.shape[1:], copies)
        self.copies, self.decisions = copies, decisions
        return self

    @classmethod
    @override
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        plain = name == "__get__" and func.__self__.__name__ not in ADJOINTS
        if plain or name in DESCRIBING:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        if name in EXPANDING:
            return _expand(func, *args, **kwargs)
        flat, spec = pytree.tree_flatten((args, kwargs))
        example = _example(flat) if name in ELEMENTWISE else None
        if example is None:
            return _of_each(func, flat, spec)
        flat = [_met(x, example) if isinstance(x, Copies) else x for x in flat]
        args, kwargs = pytree.tree_unflatten(flat, spec)
        return func(*args, **kwargs)

    @classmethod
    @override
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise TypeError(f"{func} is not defined for the copies of a parameter")


def _example(flat: list[Any]) -> Tensor | None:
    """The argument of most axes, if copies have no first axis of their own there."""
    plain = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, Copies)]
    largest = max(plain, key=Tensor.dim, default=None)
    if largest is None or largest.dim() == 0:
        return None
    ours = [x for x in flat if isinstance(x, Copies)]
    fit = all(x.dim() < largest.dim() or _has_room(x, largest) for x in ours)
    return largest if fit else None


def _has_room(x: Tensor, largest: Tensor) -> bool:
    return x.dim() == largest.dim() and x.shape[0] == 1


def _met(ours: Copies, example: Tensor) -> Tensor:
    """Give every example its copy, in a tensor that broadcasts with the examples'."""
    count = len(ours.copies)
    shape = [1] * (example.dim() - ours.dim()) + list(ours.shape)
    placed = ours.copies.reshape(count, *shape[1:])
    rows = example.shape[0]
    second = example.dim() > 1 and example.shape[1] == count and placed.shape[1] == 1
    guess = MEETINGS[0 if rows % count == 0 else 1 if second else 2]
    decision = ours.decisions.decide(guess, *MEETINGS)
    if decision == "all":
        return placed
    fits = second if decision == "second axis" else rows % count == 0
    if not fits:
        raise CoverageError(
            f"the batch of {count} is not where it was in {list(example.shape)}, where "
            "a parameter meets it"
        )
    if decision == "second axis":
        return placed.transpose(0, 1)
    return placed.repeat_interleave(rows // count, 0)


def _expand(func: Any, ours: Copies, *sizes: Any, **named: Any) -> Any:
    """Expand each copy, or place the copies where the model expands to the batch."""
    given = (*sizes, *named.values())
    wanted = list(given if isinstance(given[0], int) else given[0])
    count = len(ours.copies)
    tiled = func.__name__ in TILING  # rows of an example then lie side by side
    if len(wanted) > ours.dim() or ours.shape[0] == 1 or tiled:
        guess = EXPANSIONS[wanted[0] != count]
        if ours.decisions.decide(guess, *EXPANSIONS) == "to the batch":
            if wanted[0] != count:
                raise CoverageError(f"a parameter is not expanded to the batch {count}")
            each = vmap(lambda x: getattr(x, func.__name__)(1, *wanted[1:]))
            return each(ours.copies).flatten(0, 1)
    return _of_each(func, *pytree.tree_flatten(((ours, *wanted), {})))


def _of_each(func: Any, flat: list[Any], spec: pytree.TreeSpec) -> Any:
    """Apply a function to every copy; whatever else it is given is a constant."""
    ours = [i for i, x in enumerate(flat) if isinstance(x, Copies)]
    decisions = flat[ours[0]].decisions

    def each(*copies: Tensor) -> Any:
        filled = list(flat)
        for i, copy in zip(ours, copies, strict=True):
            filled[i] = copy
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return func(*args, **kwargs)

    found = vmap(each)(*(flat[i].copies for i in ours))
    return pytree.tree_map_only(Tensor, lambda x: Copies(x, decisions), found)
