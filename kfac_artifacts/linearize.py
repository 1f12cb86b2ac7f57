"""The linearised network ``f_lin(x, τ) = f(x, θ0) + J(x) τ`` (TAK, Eq. 1).

One forward-mode pass gives ``f_lin``. Its Jacobian with respect to τ is J itself, so
the gradient of a loss is ``Jᵀ ∇c``: one ordinary backward pass at θ0.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from kfac_artifacts.errors import CoverageError
from kfac_artifacts.network import Batch, Network

_NO_RULE = re.compile(r"forward AD with (\S+) that does not support it")
_CUSTOM = re.compile(r"custom autograd\.Function|an autograd\.Function")


class Linearized(nn.Module):
    """A network in its tangent space; its parameters are τ, zero at first.

    The network itself is not a submodule: it is read, never changed.
    """

    def __init__(self, network: Network, parameters: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = _known(network, parameters)
        for name, value in _values(network, self.names).items():
            # Full precision even for a network in half: small steps must not be lost.
            dtype = torch.promote_types(value.dtype, torch.float32)
            zero = torch.zeros(value.shape, dtype=dtype, device=value.device)
            self.register_parameter(_mangled(name), nn.Parameter(zero))

    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        """Evaluate ``f(x, θ0) + J(x) τ`` for a batch."""
        tau = self.tau()
        return _Tangent.apply(self.network, batch, self.names, *tau.values())  # type: ignore[no-untyped-call]

    def tau(self) -> dict[str, Tensor]:
        """The task vector by parameter name: live parameters, with gradients."""
        return {name: getattr(self, _mangled(name)) for name in self.names}


def linearize(network: Network, parameters: Sequence[str]) -> Linearized:
    """Linearise a network around its pretrained parameters.

    Args:
        network: The pretrained network; it is left as it is.
        parameters: Names of the parameters that may move.

    Returns:
        The linearised network, whose parameters are the task vector.

    Raises:
        CoverageError: If a name is no parameter of the network, or none is given.
    """
    return Linearized(network, parameters)


def tangent(
    network: Network, tau: Mapping[str, Tensor], batch: Batch
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Evaluate ``f(x, θ0)`` and ``J(x) τ`` in one forward-mode pass, without gradient.

    Args:
        network: The pretrained network.
        tau: Directions by parameter name; parameters without one stand still.
        batch: N examples.

    Returns:
        The output at θ0, and its directional derivative along τ.

    Raises:
        CoverageError: If an operation of the network has no forward-mode rule.
        RuntimeError: If the network itself fails.
    """
    values = _values(network, tuple(tau))
    directions = {n: t.detach().to(values[n]) for n, t in tau.items()}
    try:
        with forward_mode_kernels(), torch.no_grad():
            output, change, *_ = torch.func.jvp(
                lambda moved: network.call_with(moved, batch), (values,), (directions,)
            )
    except RuntimeError as error:
        operation = _without_rule(error)
        if operation is None:
            raise
        raise CoverageError(
            f"cannot linearise {network.id}: {operation} has no forward-mode rule in "
            'PyTorch; load the model with attn_implementation="eager", or without '
            "custom kernels"
        ) from error
    return output, change


def pull_back(
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
    values = _values(network, tuple(network.parameters()))
    moved = [values[name].requires_grad_() for name in names]
    with torch.enable_grad():
        output = network.call_with(values, batch)
    pulled = torch.autograd.grad(output, moved, s.to(output), materialize_grads=True)
    return dict(zip(names, pulled, strict=True))


@contextmanager
def forward_mode_kernels() -> Iterator[None]:
    """Select attention kernels that have a forward-mode rule; fused ones have none."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Tangent(torch.autograd.Function):
    """``f + Jτ`` forwards, ``Jᵀ g`` backwards."""

    @staticmethod
    def forward(
        ctx: Any, network: Network, batch: Batch, names: tuple[str, ...], *tau: Tensor
    ) -> Tensor:
        ctx.network, ctx.batch, ctx.names = network, batch, names
        ctx.dtypes = [direction.dtype for direction in tau]
        output, change = tangent(network, dict(zip(names, tau, strict=True)), batch)
        dtype = torch.promote_types(output.dtype, torch.float32)
        return output.to(dtype) + change.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pulled = pull_back(ctx.network, ctx.names, ctx.batch, grad).values()
        converted = (g.to(dtype) for g, dtype in zip(pulled, ctx.dtypes, strict=True))
        return None, None, None, *converted


def _values(network: Network, names: tuple[str, ...]) -> dict[str, Tensor]:
    parameters = network.parameters()
    return {name: parameters[name].detach() for name in names}


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


def _without_rule(error: RuntimeError) -> str | None:
    """Name the operation that has no forward-mode rule, if that is the error."""
    if found := _NO_RULE.search(str(error)):
        return found.group(1)
    return "a custom autograd function" if _CUSTOM.search(str(error)) else None
