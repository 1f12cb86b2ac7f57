"""The linearised network ``f_lin(x, τ) = f(x, θ0) + J(x) τ`` (TAK, Eq. 1).

One forward-mode pass gives ``f_lin``. Its Jacobian with respect to τ is J itself, so
the gradient of a loss is ``Jᵀ ∇c``: one ordinary backward pass at θ0, through the graph
that the primal half of the forward-mode pass has recorded. Where an operation has no
forward-mode rule, ``J τ`` is the derivative of ``u ↦ ⟨Jᵀ u, τ⟩``, which is linear in u:
two backward passes in place of one forward.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kfac_artifacts.derivatives import evaluate, pulled, values_of
from kfac_artifacts.errors import CoverageError
from kfac_artifacts.kernels import forward_mode_kernels
from kfac_artifacts.network import Batch, Network


class Linearized(nn.Module):
    """A network in its tangent space; its parameters are τ, zero at first.

    The network itself is not a submodule: it is read, never changed.
    """

    def __init__(self, network: Network, parameters: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = _known(network, parameters)
        for name, value in values_of(network, self.names).items():
            # Full precision even for a network in half: small steps must not be lost.
            dtype = torch.promote_types(value.dtype, torch.float32)
            zero = torch.zeros(value.shape, dtype=dtype, device=value.device)
            self.register_parameter(_mangled(name), nn.Parameter(zero))

    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        """Evaluate ``f(x, θ0) + J(x) τ`` for a batch."""
        return linear_output(self.network, self.tau(), batch)

    def tau(self) -> dict[str, Tensor]:
        """The task vector by parameter name: live parameters, with gradients."""
        return {name: getattr(self, _mangled(name)) for name in self.names}


def linearize(network: Network, parameters: Sequence[str]) -> Linearized:
    """Linearise a network around its pretrained parameters.

    >>> from kfac_artifacts import NamedConfig, Network, OutputMap
    >>> f = OutputMap(NamedConfig("square"), lambda m, x: m(**x) ** 2)
    >>> network = Network(nn.Linear(1, 1, bias=False), f, "w x, squared")
    >>> _ = nn.init.constant_(network.module.weight, 3.0)
    >>> model = linearize(network, ["weight"])
    >>> _ = nn.init.constant_(model.tau()["weight"], 0.5)
    >>> model({"input": torch.ones(1, 1)}).item()  # 3² + 2 · 3 · 0.5, and not 3.5²
    12.0

    Args:
        network: The pretrained network; it is left as it is.
        parameters: Names of the parameters that may move.

    Returns:
        The linearised network, whose parameters are the task vector.

    Raises:
        CoverageError: If a name is no parameter of the network, or none is given.
    """
    return Linearized(network, parameters)


def linear_output(
    network: Network, tau: Mapping[str, Tensor], batch: Batch
) -> Float[Tensor, "n c"]:
    """Evaluate ``f(x, θ0) + J(x) τ``, with gradients for τ.

    Args:
        network: The pretrained network.
        tau: Directions by parameter name; parameters without one stand still.
        batch: N examples.

    Returns:
        The output of the linearised network, in float32 or better.

    Raises:
        CoverageError: As of ``jvp``.
    """
    output, change = jvp(network, tau, batch)
    dtype = torch.promote_types(output.dtype, torch.float32)
    return output.to(dtype) + change.to(dtype)


def jvp(
    network: Network, tau: Mapping[str, Tensor], batch: Batch
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Evaluate ``f(x, θ0)`` and ``J(x) τ``, the latter with gradients for τ.

    In one forward-mode pass; where that does not give J, in two backward passes. If a
    gradient may be asked for, activations are kept for it as in ordinary training;
    under ``torch.no_grad`` none are.

    Args:
        network: The pretrained network.
        tau: Directions by parameter name; parameters without one stand still.
        batch: N examples.

    Returns:
        The output at θ0, and its directional derivative along τ.

    Raises:
        CoverageError: If an operation of the network has neither a forward-mode rule
            nor a backward one that can be differentiated.
        RuntimeError: If the network itself fails.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in tau.values()):
        output, change = _Tangent.apply(network, batch, tuple(tau), *tau.values())  # type: ignore[no-untyped-call]
        return output, change
    output, change, _ = evaluate(network, tau, batch, graph=False)
    return output, change


def vjp(
    network: Network, names: Sequence[str], batch: Batch, s: Float[Tensor, "n c"]
) -> dict[str, Tensor]:
    """Evaluate ``Σ_x J(x)ᵀ s_x`` at θ0: one ordinary backward pass.

    Args:
        network: The pretrained network.
        names: Names of the parameters that J is with respect to.
        batch: N examples.
        s: A cotangent for each.

    Returns:
        The sum over the examples, by parameter name; zero where f does not depend.
    """
    # Everything else is detached, so that no activation is kept for its sake.
    values = values_of(network, tuple(network.parameters()))
    moved = {name: values[name].requires_grad_() for name in names}
    with torch.enable_grad():
        output = network.functional_call(values, batch)
    return pulled(output, moved, s)


class _Tangent(torch.autograd.Function):
    """``f`` and ``Jτ`` forwards, ``Jᵀ g`` backwards; f is constant."""

    @staticmethod
    def forward(
        ctx: Any, network: Network, batch: Batch, names: tuple[str, ...], *tau: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.network, ctx.batch, ctx.names = network, batch, names
        ctx.dtypes = [direction.dtype for direction in tau]
        directions = dict(zip(names, tau, strict=True))
        output, change, ctx.pull = evaluate(network, directions, batch, graph=True)
        ctx.mark_non_differentiable(output)
        return output, change

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        # a graph serves once; who goes back again pays for another forward pass
        pull, ctx.pull = ctx.pull, None
        if pull is None:
            with forward_mode_kernels():  # of the same function, to the last bit
                found = vjp(ctx.network, ctx.names, ctx.batch, grad)
        else:
            found = pull(grad)
        converted = (
            g.to(dtype) for g, dtype in zip(found.values(), ctx.dtypes, strict=True)
        )
        return None, None, None, *converted


def _known(network: Network, names: Sequence[str]) -> tuple[str, ...]:
    unknown = sorted(set(names) - set(network.parameters()))
    if unknown:
        raise CoverageError(
            f"cannot linearise {network.id} in {', '.join(unknown[:5])}: it has no "
            f"such parameters ({len(unknown)} in all); is it another model?"
        )
    if not names:
        raise CoverageError(
            f"cannot linearise {network.id} in no parameter; name at least one"
        )
    return tuple(dict.fromkeys(names))


def _mangled(name: str) -> str:
    """Write a name without dots, which PyTorch keeps for paths of modules."""
    return f"tau/{name.replace('.', '/')}"
