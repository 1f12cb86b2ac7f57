"""What of a model moves: by adapters, as copies of modules, or by itself."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.artifact import BaseModel, require_base
from kfac_artifacts.errors import CoverageError, MismatchError, listed
from kfac_artifacts.network import parameter_info
from kfac_artifacts.tuning.adapters import Adapted, adapted_layers
from kfac_artifacts.tuning.naming import COPIES, Naming, find_naming, unwrapped

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Moved:
    """A parameter that is trained itself.

    Attributes:
        parameter: The parameter.
        origin: What it is at θ0.
    """

    parameter: Tensor
    origin: Tensor

    @property
    def change(self) -> Tensor:
        """By how much it has moved, in float32 or wider, with gradients."""
        wide = self.parameter.float() if self.parameter.itemsize < 4 else self.parameter
        return wide - self.origin.to(wide)


@dataclass(frozen=True, eq=False)
class Moving:
    """What of a model moves, by the names that an artifact has for it.

    Attributes:
        adapted: Weights with low-rank adapters.
        whole: Parameters that are trained themselves.
        switched: What of ``peft`` has active adapters: layers, and copied modules.
    """

    adapted: Mapping[str, Adapted]
    whole: Mapping[str, Moved]
    switched: Sequence[Any]

    @property
    def names(self) -> set[str]:
        """All of them."""
        return {*self.adapted, *self.whole}

    @property
    def active(self) -> tuple[tuple[str, ...], ...]:
        """Names of the active adapters, of everything that has some."""
        return tuple(tuple(each.active_adapters) for each in self.switched)

    def require_all_of(self, now: "Moving") -> None:
        """Refuse to go on where adapters were switched and something else moves now.

        Args:
            now: What moves now.

        Raises:
            MismatchError: If some of it is none of this; it is named.
        """
        foreign = now.adapted.keys() - self.adapted.keys()
        for name, moved in now.whole.items():
            known = self.whole.get(name)
            if known is None or known.parameter is not moved.parameter:
                foreign.add(name)
        if foreign:
            raise MismatchError(
                "other adapters are active than when the penalty was made, and "
                f"{listed(sorted(foreign))} would move without it; make it anew "
                "behind set_adapter (ModelPenalty(...))"
            )

    def covered_by(self, covered: Collection[str], free: Sequence[str]) -> "Moving":
        """Leave out what moves freely, by leave; a warning lists it.

        Args:
            covered: Names of the parameters that the curvature covers.
            free: Patterns of names that it need not cover.

        Returns:
            What moves and is covered.

        Raises:
            CoverageError: If something is neither; it is named.
        """
        rest = [name for name in sorted(self.names) if name not in covered]
        loose = [n for n in rest if any(fnmatchcase(n, pattern) for pattern in free)]
        held = [name for name in rest if name not in loose]
        if held:
            raise CoverageError(
                f"the curvature covers {len(self.names) - len(rest)} of the "
                f"{len(self.names)} parameters that move, and not {listed(held)}, "
                "which would be free to disturb what it is to preserve: do not train "
                "them (target_modules, --lora targets=, modules_to_save), or say that "
                "they may move (free=[...], patterns of these names)"
            )
        if loose:
            logger.warning(
                "the curvature does not cover, and nothing holds back, %d of the %d "
                "parameters that move: %s",
                len(loose),
                len(self.names),
                listed(loose),
            )
        return Moving(
            {n: a for n, a in self.adapted.items() if n in covered},
            {n: m for n, m in self.whole.items() if n in covered},
            self.switched,
        )

    def check_base(self, base: BaseModel) -> None:
        """Refuse curvature of other weights than those that the model begins at.

        Args:
            base: What the curvature is of.

        Raises:
            MismatchError: If they differ in what moves.
        """
        origins = {n: a.weight for n, a in self.adapted.items() if not a.quantised}
        origins |= {n: m.origin for n, m in self.whole.items()}
        hidden = self.names - origins.keys()
        if hidden:
            logger.warning(
                "%d weights are quantised, such as %s, so that nobody can see whether "
                "they are those of %s, which the curvature is of",
                len(hidden),
                min(hidden),
                base.id,
            )
        infos = {name: parameter_info(value) for name, value in origins.items()}
        dtypes = {str(value.dtype).removeprefix("torch.") for value in origins.values()}
        found = BaseModel(f"the model ({', '.join(sorted(dtypes))})", None, infos)
        try:
            require_base("the curvature", base.restrict(origins.keys()), found)
        except MismatchError as error:
            if dtypes == {"float32"}:
                raise
            raise MismatchError(
                f"{error}; if it is the same model, rounded since, load it in float32 "
                "or say so (other_weights=True)"
            ) from None


def find_moving(model: nn.Module, covered: Mapping[str, tuple[int, ...]]) -> Moving:
    """Find what of a model moves.

    Args:
        model: A model at θ0 but for its adapters, or what has one within it.
        covered: The parameters of an artifact.

    Returns:
        What moves, by the names of the artifact; what is outside of it by its path.

    Raises:
        MismatchError: If the artifact is of another model.
        CoverageError: If something moves in a way that no penalty is known of.
    """
    layers = list(adapted_layers(model))
    own = {id(p) for each in layers for p in _of_adapters(each)}
    parameters = {n: p for n, p in model.named_parameters() if id(p) not in own}
    naming = find_naming([unwrapped(n) for n in parameters], covered)
    adapted = {_called(naming, f"{each.path}.weight"): each for each in layers}
    whole: dict[str, Moved] = {}
    for path, parameter in parameters.items():
        original = parameters.get(_original(path))
        if not (parameter.requires_grad or _has_moved(model, path, original)):
            continue
        name = _called(naming, path)
        if name in adapted or name in whole:
            raise CoverageError(
                f"{path} is trained itself, and there is an adapter or another copy of "
                "it beside, so that nobody can say how far it has moved; train one"
            )
        origin = parameter.detach().clone() if original is None else original.detach()
        whole[name] = Moved(parameter, origin)
    copied = {_before_copies(path) for path in parameters if _original(path)}
    holders = [model.get_submodule(path) for path in sorted(copied)]
    return Moving(adapted, whole, [*(each.layer for each in layers), *holders])


def _has_moved(model: nn.Module, path: str, original: Tensor | None) -> bool:
    """Whether a frozen parameter is an active copy of another, and differs from it."""
    if original is None:
        return False
    holder: Any = model.get_submodule(_before_copies(path))
    frozen = model.get_parameter(path)
    copy = path.partition(f".{COPIES}.")[2].partition(".")[0]
    return copy in holder.active_adapters and not torch.equal(frozen, original)


def _called(naming: Naming, path: str) -> str:
    plain = unwrapped(path)
    return naming(plain) or naming.outside(plain)


def _of_adapters(each: Adapted) -> Iterator[Tensor]:
    for name, parameter in each.layer.named_parameters():
        if not name.startswith("base_layer."):
            yield parameter


def _before_copies(path: str) -> str:
    """Path of the module that has copies, of which the parameter is one's."""
    return path.partition(f".{COPIES}.")[0]


def _original(path: str) -> str:
    """Where the original is of a parameter that ``peft`` has copied; empty of none."""
    before, found, rest = path.partition(f".{COPIES}.")
    return f"{before}.original_module.{rest.partition('.')[2]}" if found else ""
