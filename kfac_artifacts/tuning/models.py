"""The penalty of a model as it is being trained, by whatever program."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.errors import MismatchError, listed
from kfac_artifacts.format import load_artifact
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.tuning.forms import LowRankChange
from kfac_artifacts.tuning.low_rank import LowRankPenalty, backward_through
from kfac_artifacts.tuning.moving import find_moving
from kfac_artifacts.tuning.sharded import require_whole


class ModelPenalty:
    """``τᵀ G τ`` of a model as it is, τ being how far it is from the pretrained θ0.

    Low-rank adapters of ``peft`` are evaluated without forming their products, in
    whatever structure the curvature is; parameters that are trained themselves, and
    copies of modules (``modules_to_save``), by ``KfacPenalty``. The number is that of
    ``KfacPenalty`` on τ, and λ means what it means in ``kfac train``.

    It is made before the first step, when the model is at θ0 but for its adapters. In a
    loop of your own, behind the backward pass of the loss and before gradients are
    clipped, once in every step of the optimiser::

        penalty = ModelPenalty(model, "general")
        ...
        penalty.backward(lam)

    or ``loss + lam * penalty()`` in place of the loss. Of several processes every one
    adds the same, behind what averages the gradients.

    Args:
        model: A model, a ``PeftModel``, or what has one within it.
        curvature: The curvature, or the directory of an artifact.
        weights: Multipliers by pattern of block names, as of ``KfacPenalty``.
        free: Patterns of names of parameters, as the artifact would call them, that may
            move although the curvature says nothing of them; a warning lists them.
        other_weights: Whether the curvature may be of other weights than those that the
            model has now, as if these were rounded since.
        allow_indefinite: Whether a factor may clearly reward drift.

    Raises:
        MismatchError: If the curvature is of another model, the model is split among
            processes, or nothing that moves is covered.
        CoverageError: If something moves that the curvature does not cover, or in a
            way that no penalty is known of; it is named.
        FactorError: If a factor must not be computed with.
    """

    def __init__(
        self,
        model: nn.Module,
        curvature: Artifact | str | Path,
        *,
        weights: Mapping[str, float] | None = None,
        free: Sequence[str] = (),
        other_weights: bool = False,
        allow_indefinite: bool = False,
    ) -> None:
        require_whole(model)
        if not isinstance(curvature, Artifact):
            curvature = load_artifact(curvature)
        self._shapes = curvature.parameters
        self._model, self._free = model, free
        self._moving = find_moving(model, self._shapes).covered_by(self._shapes, free)
        self._active = self._moving.active
        if not other_weights:
            self._moving.check_base(curvature.provenance.base)
        blocks = {
            name: block
            for name, block in curvature.blocks.items()
            if not self._moving.names.isdisjoint(block.parameters)
        }
        if not blocks:
            raise MismatchError(
                "nothing that moves is covered by the curvature, which would hold "
                f"nothing back; it covers {listed([*self._shapes], 3)}"
            )
        penalty = KfacPenalty(
            dataclasses.replace(curvature, blocks=blocks),
            weights=weights,
            allow_indefinite=allow_indefinite,
        )
        self._adapted = {
            name: block
            for name, block in blocks.items()
            if block.parameters[0] in self._moving.adapted
        }
        self._whole = penalty.restrict(blocks.keys() - self._adapted.keys())
        self._low: LowRankPenalty | KfacPenalty = penalty.restrict(self._adapted)

    def __repr__(self) -> str:
        adapted = len(self._adapted)
        return (
            f"ModelPenalty({adapted} weights with adapters, "
            f"{len(self._whole.blocks)} blocks that move themselves)"
        )

    def __call__(self) -> Float[Tensor, ""]:
        """Evaluate the penalty of the model as it is, with its gradient.

        Returns:
            One number; non-negative when the factors are positive semidefinite.

        Raises:
            FactorError: If it is not finite; the block is named.
            MismatchError: If an adapter was merged into a weight.
        """
        self._follow()
        parts = []
        if self._adapted:
            changes = self._changes()
            parts.append(self._low_rank(changes)(changes))
        if self._whole.blocks:
            parts.append(self._whole(self._tau()))
        return torch.stack([part.to(parts[0]) for part in parts]).sum()

    def backward(self, weight: float = 1.0) -> Float[Tensor, ""]:
        """Add the gradient of ``weight`` times the penalty to those of the parameters.

        Args:
            weight: Factor λ of the penalty.

        Returns:
            The penalty, without the weight and without a graph.

        Raises:
            FactorError: As of a call.
            MismatchError: As of a call.
        """
        self._follow()
        parts = []
        if self._adapted:
            changes = self._changes()
            parts.append(backward_through(self._low_rank(changes), changes, weight))
        if self._whole.blocks:
            parts.append(self._whole.backward(self._tau(), weight))
        return torch.stack([part.to(parts[0]) for part in parts]).sum()

    def _low_rank(self, changes: Mapping[str, LowRankChange]) -> LowRankPenalty:
        """The penalty of the adapters, made where they are when it is first needed."""
        if isinstance(self._low, KfacPenalty):  # which holds every factor once more
            self._low = LowRankPenalty(self._low, self._shapes, changes)
        return self._low

    def _changes(self) -> dict[str, LowRankChange]:
        """What the adapters change, by block; nothing where none is active."""
        adapted, whole = self._moving.adapted, self._moving.whole
        found = {}
        for name, block in self._adapted.items():
            weight, *others = block.parameters
            moved = [whole[other].change for other in others if other in whole]
            found[name] = adapted[weight].change(moved[0] if moved else None)
        return found

    def _follow(self) -> None:
        """Look again at what moves where other adapters are active than before."""
        if self._moving.active == self._active:
            return
        now = find_moving(self._model, self._shapes)
        self._moving.require_all_of(now.covered_by(self._shapes, self._free))
        self._active = self._moving.active

    def _tau(self) -> dict[str, Tensor]:
        """How far the others have moved; what stands still beside them is zero."""
        whole = self._moving.whole
        names = [p for block in self._whole.blocks.values() for p in block.parameters]
        tau = {name: whole[name].change for name in names if name in whole}
        like = next(iter(tau.values()))
        if next(iter(self._whole.factors.values())).diagonal().device != like.device:
            self._whole.to(like.device)
        still = {n: like.new_zeros(self._shapes[n]) for n in names if n not in tau}
        return tau | still
