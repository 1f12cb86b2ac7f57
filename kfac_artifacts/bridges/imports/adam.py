"""The second moments of Adam as a diagonal: no data and no pass over them at all.

Adam keeps v, a running mean of the squared gradient of a mean loss over a batch of b
examples. Near a minimum, where gradients of examples have a mean near zero, its
expectation is that of squared gradients of single examples divided by b ("Fishers for
free?", arXiv 2507.18807), so with the correction for its start at zero

    S = b v / (1 - β₂ᵗ)

It is an approximation, of the weights that the last steps had; and of the labels of the
data, so of the empirical Fisher matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor
from typing_extensions import override

from kfac_artifacts.bridges.base import Import
from kfac_artifacts.bridges.files import load_torch, tensors_of
from kfac_artifacts.bridges.statistics import (
    Known,
    Statistic,
    Statistics,
    held,
    whole,
)
from kfac_artifacts.errors import FormatError, KfacError, MismatchError, SettingsError

V = "exp_avg_sq"
NAMED = "save them with names: torch.optim.AdamW(model.named_parameters())"


@final
@dataclass(frozen=True)
class Adam(Import):
    """The diagonal of every parameter; its path is the saved state of an optimiser.

    Attributes:
        batch_size: b, the examples of a step: over all processes, accumulated.
    """

    name = "adam"

    batch_size: int

    @override
    def read(self, path: Path, known: Known) -> Statistics:
        if self.batch_size < 1:
            raise SettingsError("batch_size must be at least 1")
        found = load_torch(path)
        try:
            states, groups = found["state"], found["param_groups"]
            names = _names(groups, states, known.shapes)
            betas = {i: float(g["betas"][1]) for g in groups for i in g["params"]}
        except KfacError:
            raise
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise FormatError(f"{path} is no state of Adam or AdamW") from error
        entries = tuple(
            self._entry(name, states[index], betas[index], f"{path}: {name}")
            for index, name in names.items()
            if index in states
        )
        return Statistics(entries, (path,))

    def _entry(
        self, name: str, state: Mapping[str, Any], beta: float, where: str
    ) -> Statistic:
        if V not in state or "step" not in state:
            raise FormatError(f"{where} has no {V}: it is of no Adam, or of 8 bits")
        v = tensors_of({V: state[V]}, where)[V]
        step = state["step"]
        steps = whole(step) if isinstance(step, Tensor) else int(step)
        correction = 1 - beta**steps
        if not v.is_floating_point() or not 0 < correction <= 1:
            raise FormatError(f"{where}: {V} of {steps} steps with a beta of {beta}")
        S = held(v).times(self.batch_size / correction)
        return Statistic(name, ((name,),), S=S)


def _names(
    groups: Sequence[Mapping[str, Any]],
    states: Mapping[int, Mapping[str, Any]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[int, str]:
    """What parameters are called, by their number.

    Without names their order is that of the model; of two groups, as the Trainer of
    transformers makes them, matrices are in the first and all else is in the second.

    Args:
        groups: The groups of the optimiser.
        states: Its state of every parameter, by number.
        shapes: Shapes of the model's parameters, in its order.

    Returns:
        Names by number.

    Raises:
        MismatchError: If they have no names, and are not those of the model.
    """
    indices = [index for group in groups for index in group["params"]]
    if all("param_names" in group for group in groups):
        names = [str(name) for group in groups for name in group["param_names"]]
        return dict(zip(indices, names, strict=True))
    order = list(shapes)
    if len(groups) == 2:
        order.sort(key=lambda name: len(shapes[name]) < 2)
    fits = (
        len(groups) <= 2
        and len(indices) == len(order)
        and all(
            tuple(states[index][V].shape) == shapes[name]
            for index, name in zip(indices, order, strict=True)
            if V in states.get(index, ())
        )
    )
    if not fits:
        raise MismatchError(
            f"the {len(indices)} parameters of the optimiser have no names, and are "
            f"not the {len(order)} of the model in its order; {NAMED}"
        )
    return dict(zip(indices, order, strict=True))
