"""The drift penalty of a task vector under an artifact (TAK, Eq. 6 and 7)."""

import copy
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kfac_artifacts.artifact import Artifact, Block
from kfac_artifacts.checked import checked_factors
from kfac_artifacts.choices import FACTOR_PLACES
from kfac_artifacts.errors import FactorError, MismatchError, SettingsError
from kfac_artifacts.factors import Factor
from kfac_artifacts.offload import CopiedAhead, stays_in_host

SCALES = ("mean", "sum")


class _QuadraticForm(torch.autograd.Function):
    """``⟨W, M⟩`` with ``M = Σ_r B_r W A_r``; one product serves value and gradient."""

    @staticmethod
    @override
    def forward(
        ctx: Any, W: Tensor, block: Block, factors: Mapping[str, Factor]
    ) -> Tensor:
        value, M = _form(W, block, factors)
        ctx.save_for_backward(M)
        ctx.dtype = W.dtype
        return value

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (M,) = ctx.saved_tensors
        return (M * (2 * grads[0])).to(ctx.dtype), None, None


def _form(
    W: Tensor, block: Block, factors: Mapping[str, Factor]
) -> tuple[Tensor, Tensor]:
    """``⟨W, M⟩`` and M, in the number type of the factors."""
    exact = W.detach().to(factors[block.factors[-1]].dtype)
    M = block.product(exact, factors).contiguous()  # as gradients are
    return torch.dot(exact.to(M.dtype).flatten(), M.flatten()), M


class KfacPenalty:
    """``Σ_l c_l ⟨W_l, B_l W_l A_l⟩`` as a function of a task vector.

    With the ``mean`` scale its value estimates ``Σ_t λ_t τᵀ G_t τ``, λ summing to one
    (TAK, Eq. 7), whatever the number T of merged tasks. With ``sum`` the Kronecker
    blocks keep the T that Eq. 8 gives them, as in the paper.

    >>> from torch import nn
    >>> import kfac_artifacts as kfac
    >>> f = kfac.OutputMap(kfac.NamedConfig("all"), lambda m, batch: m(**batch))
    >>> network = kfac.Network(nn.Linear(2, 1, bias=False), f, "two weights")
    >>> seen = kfac.TensorExamples({"input": torch.tensor([[1.0, 0.0]] * 8)}, "ones")
    >>> penalty = KfacPenalty(kfac.compute(network, seen, count=8, allow_few=True))
    >>> tau = torch.tensor([[0.5, 9.0]], requires_grad=True)
    >>> value = penalty({"weight": tau})  # |J τ|², a mean over the examples
    >>> value.item()
    0.25
    >>> torch.autograd.grad(value, tau)[0]  # the second input is never used
    tensor([[1., 0.]])

    Args:
        artifact: The curvature; all its factors are held in memory.
        weights: Multipliers c_l by pattern of block names (``*``, ``?``); the first
            that matches counts, and a block that none matches has 1.
        scale: ``mean`` or ``sum``.
        device: Where they are used; None is where they are.
        place: Where they are held, out of ``choices.FACTOR_PLACES``: on that
            ``device``; in the memory of the ``host``, pinned, and copied block by block
            ahead of their turn; or ``auto``, on the device if they fit into half of
            what is free there.
        allow_indefinite: Whether a factor may clearly reward drift.

    Raises:
        MismatchError: If a pattern matches no block, or the scale is unknown.
        SettingsError: If a multiplier is negative or not finite.
        FactorError: If a factor must not be computed with; it is named.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        weights: Mapping[str, float] | None = None,
        scale: str = "mean",
        device: torch.device | str | None = None,
        place: str = "device",
        allow_indefinite: bool = False,
    ) -> None:
        if scale not in SCALES:
            raise MismatchError(f"scale {scale!r} is unknown; choose from {SCALES}")
        if place not in FACTOR_PLACES:
            raise SettingsError(
                f"factors cannot be held in {place!r}; choose from "
                f"{', '.join(FACTOR_PLACES)}"
            )
        self.blocks = dict(artifact.blocks)
        tasks = artifact.provenance.tasks
        patterns = weights or {}
        for pattern, weight in patterns.items():
            if not 0 <= weight < math.inf:
                raise SettingsError(
                    f"the weight of {pattern!r} is {weight}; it must be a finite "
                    "number from 0"
                )
            if not any(fnmatchcase(name, pattern) for name in self.blocks):
                raise MismatchError(
                    f"no block is called {pattern!r}; there are, for example, "
                    f"{', '.join(list(self.blocks)[:3])}"
                )
        self.multipliers = {
            name: _first_match(name, patterns)
            * (block.scale(tasks) if scale == "mean" else 1.0)
            for name, block in self.blocks.items()
        }
        used = None if device is None else torch.device(device)
        offload = used is not None and stays_in_host(artifact, used, place)
        self.factors = checked_factors(
            artifact,
            device=None if offload else used,
            allow_indefinite=allow_indefinite,
        )
        self._copied = None
        if offload and used is not None:
            self._copied = CopiedAhead(self.factors, used)
            self.factors = self._copied.factors

    def __repr__(self) -> str:
        count = sum(factor.nbytes for factor in self.factors.values())
        return (
            f"KfacPenalty({len(self.blocks)} blocks, {len(self.factors)} factors, "
            f"{count:,} bytes)"
        )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the penalty sees."""
        names = (p for block in self.blocks.values() for p in block.parameters)
        return tuple(dict.fromkeys(names))

    def restrict(self, names: Collection[str]) -> "KfacPenalty":
        """The part of some blocks alone, with their factors and no others.

        Args:
            names: Names of blocks.

        Returns:
            A penalty of its own; they share the factors.
        """
        own = copy.copy(self)
        own.blocks = {n: block for n, block in self.blocks.items() if n in names}
        kept = {each for block in own.blocks.values() for each in block.factors}
        own.factors = {n: each for n, each in self.factors.items() if n in kept}
        return own

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "KfacPenalty":
        """Move the factors, which are held there from now on; returns itself."""
        self.factors = {n: f.to(device, dtype) for n, f in self.factors.items()}
        self._copied = None
        return self

    def __call__(self, tau: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Evaluate the penalty, with its gradient.

        Args:
            tau: Task vector by parameter name. A block whose parameters are missing
                counts as unchanged; parameters of no block are not penalised.

        Returns:
            One number; non-negative when the factors are positive semidefinite.

        Raises:
            MismatchError: If ``tau`` has no block, or a part of one.
            FactorError: If the value is not finite; the block is named.
        """
        forms: dict[str, Tensor] = {}
        for name, block, factors in self._in_turn(tau):
            form = _QuadraticForm.apply(  # type: ignore[no-untyped-call]
                block.gather(tau), block, factors
            )
            forms[name] = self.multipliers[name] * form
        return _total(forms)

    def backward(
        self, tau: Mapping[str, Tensor], weight: float = 1.0
    ) -> Float[Tensor, ""]:
        """Add the gradient of ``weight`` times the penalty to those of the parameters.

        As ``(weight * penalty(tau)).backward()`` does, in less time and memory: block
        by block, and a product is added to the gradient as it is, ``2 B W A`` being
        the derivative of ``⟨W, B W A⟩``. Best called behind the backward pass of the
        loss, which has let go of the activations.

        Args:
            tau: As of a call; what it is computed from gets gradients.
            weight: Factor λ of the penalty.

        Returns:
            The penalty, without the weight and without a graph.

        Raises:
            MismatchError: As of a call.
            FactorError: As of a call; gradients are of no use then.
        """
        forms: dict[str, Tensor] = {}
        with leaves(tau) as held:
            for name, block, factors in self._in_turn(held):
                W = block.gather(held)
                c = self.multipliers[name]
                form, M = _form(W, block, factors)
                forms[name] = c * form
                if W.requires_grad:
                    W.backward(M.mul_(2 * weight * c).to(W.dtype))
        return _total(forms)

    def _in_turn(
        self, tau: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Block, Mapping[str, Factor]]]:
        """The blocks that the task vector has, with factors where they are used."""
        seen = self._seen(tau)
        turns: Iterable[Mapping[str, Factor]] = itertools.repeat(self.factors)
        if self._copied is not None:
            turns = self._copied.in_turn([block.factors for block in seen.values()])
        for (name, block), factors in zip(seen.items(), turns, strict=False):
            yield name, block, factors

    def _seen(self, tau: Mapping[str, Tensor]) -> dict[str, Block]:
        """The blocks of which the task vector has all parameters; at least one."""
        seen = {}
        for name, block in self.blocks.items():
            missing = [p for p in block.parameters if p not in tau]
            if not missing:
                seen[name] = block
            elif len(missing) < len(block.parameters):
                raise MismatchError(
                    f"the task vector lacks {missing[0]}, but has the rest of {name}; "
                    "train both or neither"
                )
        if not seen:
            raise MismatchError(
                "the task vector has none of the parameters that the curvature covers; "
                f"those are, for example, {', '.join(self.parameters[:3])}"
            )
        return seen


@contextmanager
def leaves(tau: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Let gradients be gathered on a task vector before they go on to what made it.

    Args:
        tau: Task vector by parameter name, with or without a graph behind it.

    Yields:
        The same numbers as leaves; behind the block, what they have as gradients is
        pulled back through the graph, once.
    """
    held = {n: t if t.is_leaf else t.detach().requires_grad_() for n, t in tau.items()}
    yield held
    made = [
        n for n, leaf in held.items() if not tau[n].is_leaf and leaf.grad is not None
    ]
    if made:
        torch.autograd.backward([tau[n] for n in made], [held[n].grad for n in made])


def _total(forms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the blocks' penalties."""
    total = torch.stack(list(forms.values())).sum()
    if not bool(total.detach().isfinite()):
        raise FactorError(not_finite({n: float(f.detach()) for n, f in forms.items()}))
    return total


def not_finite(values: Mapping[str, float]) -> str:
    """Say which block makes a penalty that is not finite, by the blocks' penalties."""
    name = next(
        (n for n, v in values.items() if not math.isfinite(v)), next(iter(values))
    )
    return (
        f"training diverged: the penalty of {name} is {values[name]}, because the task "
        "vector is not finite or very large there; take a lower learning rate"
    )


def _first_match(name: str, patterns: Mapping[str, float]) -> float:
    matches = (c for pattern, c in patterns.items() if fnmatchcase(name, pattern))
    return next(matches, 1.0)
