"""The penalty of changes of low rank: that of their products, without forming them."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Shapes
from kfac_artifacts.errors import FactorError
from kfac_artifacts.penalty import KfacPenalty, leaves, not_finite
from kfac_artifacts.torch_private import add_all
from kfac_artifacts.tuning.forms import LowRankChange
from kfac_artifacts.tuning.grouping import groups


@final
class _Known(torch.autograd.Function):
    """A number whose gradients are there already."""

    @staticmethod
    @override
    def forward(ctx: Any, value: Tensor, slopes: list[Tensor], *_: Tensor) -> Tensor:
        ctx.save_for_backward(*slopes)
        return value.clone()

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(slope * grads[0] for slope in ctx.saved_tensors)


@final
class LowRankPenalty:
    """``Σ_l c_l s_l² ⟨L R, B (L R) A⟩`` over blocks whose change has low rank.

    It is ``KfacPenalty`` of the formed changes, value and gradient, in any structure.

    Args:
        penalty: The penalty of these blocks, which is not needed any more afterwards.
        shapes: Shapes of the parameters.
        changes: Changes of the blocks, of the shapes and on the devices that they will
            always have.

    Raises:
        CoverageError: If a block is of a kind that a change of low rank has no form in.
        FactorError: If a change has not the shape of its block.
    """

    def __init__(
        self,
        penalty: KfacPenalty,
        shapes: Shapes,
        changes: Mapping[str, LowRankChange],
    ) -> None:
        self.dtype = next(iter(penalty.factors.values())).dtype
        self._groups = list(groups(penalty, shapes, changes))

    def __call__(self, changes: Mapping[str, LowRankChange]) -> Float[Tensor, ""]:
        """Evaluate it, with its gradient.

        Args:
            changes: Those of all its blocks.

        Returns:
            One number; non-negative when the factors are positive semidefinite.

        Raises:
            FactorError: If it is not finite; the block is named.
        """
        value, halves = self._evaluate(changes)
        moved = [x for name in halves for x in changes[name][:2]]
        slopes = [
            (2 * half).to(x.dtype) for half, x in zip(_flat(halves), moved, strict=True)
        ]
        return _Known.apply(value, slopes, *moved)  # type: ignore[no-untyped-call]

    def backward(
        self, changes: Mapping[str, LowRankChange], weight: float = 1.0
    ) -> Float[Tensor, ""]:
        """Add the gradient of ``weight`` times the penalty to those of the changes.

        Args:
            changes: As of a call; leaves, some of which may need no gradient.
            weight: Factor λ of the penalty.

        Returns:
            The penalty, without the weight and without a graph.

        Raises:
            FactorError: As of a call; nothing was added then.
        """
        value, halves = self._evaluate(changes)
        moved = [x for name in halves for x in changes[name][:2]]
        _add(
            [(x, half) for x, half in zip(moved, _flat(halves), strict=True)],
            2 * weight,
        )
        return value

    def _evaluate(
        self, changes: Mapping[str, LowRankChange]
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """The penalty, and half of its gradients by L and R of every block."""
        forms = [(group, group.form(changes, self.dtype)) for group in self._groups]
        device = forms[0][1].value.device
        value = torch.stack([form.value.sum().to(device) for _, form in forms]).sum()
        if not bool(value.isfinite()):
            pairs = ((g.names, f.value.tolist()) for g, f in forms)
            by_block = {
                n: v for names, vs in pairs for n, v in zip(names, vs, strict=True)
            }
            raise FactorError(not_finite(by_block))
        return value, {
            name: (left, right)
            for group, form in forms
            for name, left, right in zip(
                group.names, form.left, form.right, strict=True
            )
        }


def backward_through(
    penalty: LowRankPenalty,
    changes: Mapping[str, LowRankChange],
    weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Do ``LowRankPenalty.backward`` for changes that are made of what is trained.

    Args:
        penalty: The penalty.
        changes: Those of all its blocks, with or without graphs behind them.
        weight: Factor λ of the penalty.

    Returns:
        The penalty, without the weight and without a graph.

    Raises:
        FactorError: If it is not finite; the block is named.
    """
    left = {f"left {name}": change.left for name, change in changes.items()}
    right = {f"right {name}": change.right for name, change in changes.items()}
    with leaves(left | right) as held:
        own = {
            name: LowRankChange(
                held[f"left {name}"], held[f"right {name}"], change.scale
            )
            for name, change in changes.items()
        }
        return penalty.backward(own, weight)


def _flat(halves: Mapping[str, tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [half for own in halves.values() for half in own]


def _add(pairs: Sequence[tuple[Tensor, Tensor]], factor: float) -> None:
    """Add ``factor`` times numbers to gradients, all at once.

    Hundreds of small sums, one by one, would take longer than everything else.
    """
    kinds: dict[Hashable, list[tuple[Tensor, Tensor]]] = {}
    for x, half in pairs:
        if not x.requires_grad:
            continue
        if x.grad is None:
            x.grad = torch.zeros_like(x)
        kinds.setdefault((x.dtype, x.device), []).append((x.grad, half.to(x.dtype)))
    for same in kinds.values():
        grads, halves = zip(*same, strict=True)
        add_all(grads, halves, factor)
