"""How loading makes a parameter of stored tensors: written down, and done again.

``transformers`` stacks the experts of a mixture, cuts, transposes and copies, each
version by rules of its own. So nothing is assumed about the rules: a checkpoint of the
same names and shapes, without numbers, is loaded by the same class, and its tensors
write down what is done to them. The same steps with the stored numbers make a parameter
by itself, and take the memory of that parameter alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from typing_extensions import override

from kfac_artifacts.sources.checkpoint.probe import Shape, load_tensors
from kfac_artifacts.sources.meta_model import META

Read = Callable[[str], Tensor]
MOVES = {
    torch.ops.aten.alias.default,
    torch.ops.aten.clone.default,
    torch.ops.aten.detach.default,
    torch.ops.aten._to_copy.default,
}
"""Steps behind which every number is where it was."""


@dataclass(frozen=True, eq=False)
class Step:
    """What was done to tensors.

    Attributes:
        function: An operation of PyTorch.
        args: What it was given, with ``Recorded`` tensors.
        kwargs: The same by name.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Recorded(Tensor):
    """A tensor without numbers that knows what it was made of.

    Attributes:
        like: A tensor of its shape, on the meta device.
        source: Name of the stored tensor that it is, or the step that made it.
        place: Which of the tensors that the step gave it is.
    """

    like: Tensor
    source: str | Step
    place: int
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls: type["Recorded"], like: Tensor, source: str | Step, place: int = 0
    ) -> "Recorded":
        """Make one."""
        made: Recorded = torch.Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=META
        )
        made.like, made.source, made.place = like, source, place
        return made

    @classmethod
    @override
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func._schema.is_mutable:  # what was recorded would not be what it is
            raise NotImplementedError(
                f"loading changes a tensor in place ({func}); compute without --stream "
                "(load_network)"
            )
        step = Step(func, args, kwargs or {})
        given, named = tree_map(_like, (step.args, step.kwargs))
        places = count()

        def recorded(x: Any) -> Any:
            return cls(x, step, next(places)) if isinstance(x, Tensor) else x

        return tree_map(recorded, func(*given, **named))


def _like(x: Any) -> Any:
    return x.like if isinstance(x, Recorded) else x


def record_loading(
    shapes: Mapping[str, Shape], kind: type[Any], config: Any, **options: Any
) -> dict[str, Recorded]:
    """See how the parameters of a model are made of stored tensors.

    Args:
        shapes: Shape of every stored tensor.
        kind: A class of ``transformers``.
        config: Its configuration.
        options: Further arguments of the class.

    Returns:
        How each parameter is made that is made of stored tensors; none has numbers.

    Raises:
        SourceError: If the class cannot be built.
    """
    stored = {n: Recorded(torch.empty(s, device=META), n) for n, s in shapes.items()}
    options = {"device_map": {"": "meta"}} | options
    module = load_tensors(kind, config, stored, torch.float32, **options)
    found = ((name, p.data) for name, p in module.named_parameters())
    return {name: p for name, p in found if isinstance(p, Recorded)}


def stored_name(parameter: Recorded) -> str | None:
    """Name of the stored tensor that a parameter is, number for number; else None."""
    while isinstance(parameter.source, Step):
        if parameter.source.function not in MOVES:
            return None
        parameter = parameter.source.args[0]
    return parameter.source


def stored_names(parameter: Recorded) -> set[str]:
    """Names of all stored tensors that a parameter is made of."""
    names, seen = set[str](), set[int]()
    pending = [parameter]
    while pending:
        source = pending.pop().source
        if isinstance(source, str):
            names.add(source)
        elif id(source) not in seen:
            seen.add(id(source))
            pending += _tensors(source)
    return names


def replay(parameter: Recorded, read: Read) -> Tensor:
    """Make a parameter of stored numbers.

    Args:
        parameter: How it is made.
        read: Reads a stored tensor by its name.

    Returns:
        Its numbers.
    """
    done: dict[int, list[Any]] = {}

    def value(x: Any) -> Any:
        if not isinstance(x, Recorded):
            return x
        if isinstance(x.source, str):
            return read(x.source)
        if id(x.source) not in done:
            args, kwargs = tree_map(value, (x.source.args, dict(x.source.kwargs)))
            if kwargs.get("device") == META:
                del kwargs["device"]
            given = tree_leaves(x.source.function(*args, **kwargs))
            done[id(x.source)] = [each for each in given if isinstance(each, Tensor)]
        return done[id(x.source)][x.place]

    found: Tensor = value(parameter)
    return found


def _tensors(step: Step) -> Iterator[Recorded]:
    for x in tree_leaves((step.args, dict(step.kwargs))):
        if isinstance(x, Recorded):
            yield x
