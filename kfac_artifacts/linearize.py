"""The linearised network ``f_lin(x, τ) = f(x, θ0) + J(x) τ`` (TAK, Eq. 1).

One forward-mode pass gives ``f_lin``. Its Jacobian with respect to τ is J itself, so
the gradient of a loss is ``Jᵀ ∇c``: one ordinary backward pass at θ0. Where an
operation has no forward-mode rule, ``J τ`` is the derivative of ``u ↦ ⟨Jᵀ u, τ⟩``,
which is linear in u: two backward passes in place of one forward.
"""

import re
from collections.abc import Mapping, Sequence
from traceback import walk_tb
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kfac_artifacts.errors import CoverageError, first_line
from kfac_artifacts.kernels import forward_mode_kernels
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.seeding import seeded

Directions: TypeAlias = dict[str, Tensor]

_NO_RULE = re.compile(r"forward AD with (\S+) that does not support it")
_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-2}
_TRIED: WeakKeyDictionary[Network, dict[tuple[str, ...], str | None]] = (
    WeakKeyDictionary()
)
_REMEDY = (
    'Load the model with attn_implementation="eager" if it is a kernel of attention; '
    "replace another kernel by plain operations of PyTorch; give an autograd function "
    "of your own a jvp and a backward that can be differentiated"
)


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
    return _Tangent.apply(network, batch, tuple(tau), *tau.values())  # type: ignore[no-untyped-call]


def jvp(
    network: Network, tau: Mapping[str, Tensor], batch: Batch
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Evaluate ``f(x, θ0)`` and ``J(x) τ``, without gradient.

    In one forward-mode pass; where that does not give J, in two backward passes.

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
    directions = {
        n: t.detach().to(value)
        for (n, t), value in zip(
            tau.items(), _values(network, tuple(tau)).values(), strict=True
        )
    }
    obstacle = _obstacle(network, directions, batch)
    if obstacle is not None:
        return _by_two_backward_passes(network, directions, batch, obstacle)
    return _by_forward_mode(network, directions, batch)


def _obstacle(network: Network, directions: Directions, batch: Batch) -> str | None:
    """Say why forward mode does not give J, if so; tried once, on two examples."""
    # An operation may lack a rule, or lie: custom ones of torch.library pass on no
    # tangent and say nothing. So <u, J t> is compared with <Jᵀ u, t>.
    tried = _TRIED.setdefault(network, {})
    names = tuple(directions)
    if names not in tried:
        tried[names] = _try_forward_mode(
            network, directions, {k: v[:2] for k, v in batch.items()}
        )
    return tried[names]


def _try_forward_mode(network: Network, like: Directions, few: Batch) -> str | None:
    generator = seeded(0)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    t = {name: drawn(value) for name, value in like.items()}
    try:
        f, change = _by_forward_mode(network, t, few)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return _without_rule(error)
    u = drawn(f)
    pulled = vjp(network, tuple(t), few, u)
    backwards = sum(float((pulled[name] * t[name]).sum()) for name in t)
    allowed = _TOLERANCES.get(f.dtype, 0.2) * float(u.norm() * change.norm())
    if abs(float((u * change).sum()) - backwards) <= allowed:
        return None
    return "an operation whose forward-mode rule contradicts its backward one"


def _by_forward_mode(
    network: Network, directions: Directions, batch: Batch
) -> tuple[Tensor, Tensor]:
    values = _values(network, tuple(directions))
    with forward_mode_kernels(), torch.no_grad():
        output, change, *_ = torch.func.jvp(
            lambda moved: network.functional_call(moved, batch),
            (values,),
            (directions,),
        )
    return output, change


def _by_two_backward_passes(
    network: Network, directions: Directions, batch: Batch, obstacle: str
) -> tuple[Tensor, Tensor]:
    values = _values(network, tuple(directions))
    moved = [value.requires_grad_() for value in values.values()]
    with forward_mode_kernels(), torch.enable_grad():
        output = network.functional_call(values, batch)
        u = torch.randn(output.shape, generator=seeded(0)).to(output).requires_grad_()
        try:
            pulled = torch.autograd.grad(
                output, moved, u, create_graph=True, materialize_grads=True
            )
            pairs = zip(pulled, directions.values(), strict=True)
            products = [p * t for p, t in pairs]
            inner = torch.stack([product.sum() for product in products]).sum()
            (change,) = torch.autograd.grad(inner, u, materialize_grads=True)
            once = not _is_linear(inner, u, change, products)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _twice(network, obstacle, first_line(error)) from error
    if once:
        reason = "an operation can be differentiated once only"
        raise _twice(network, obstacle, reason)
    return output.detach(), change


def _twice(network: Network, obstacle: str, reason: str) -> CoverageError:
    return CoverageError(
        f"cannot linearise {network.id}: {obstacle}; and it cannot be differentiated "
        f"twice instead ({reason}). {_REMEDY}"
    )


def _is_linear(
    inner: Tensor, u: Tensor, change: Tensor, products: Sequence[Tensor]
) -> bool:
    """Whether a ``⟨Jᵀ u, τ⟩`` is the ``⟨u, change⟩`` that it is if linear in u."""
    # For autograd, what can be differentiated once only is constant in u: it would be
    # left out of the change without a word.
    with torch.no_grad():
        far = abs(float(inner) - float((u * change).sum()))
        allowed = _TOLERANCES.get(u.dtype, 0.2) * float(u.norm() * change.norm())
        rounding = torch.finfo(u.dtype).eps * sum(
            float(p.abs().sum()) for p in products
        )
    return far <= allowed + rounding


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
    values = _values(network, tuple(network.parameters()))
    moved = [values[name].requires_grad_() for name in names]
    with torch.enable_grad():
        output = network.functional_call(values, batch)
    if not output.requires_grad:
        return {name: torch.zeros_like(values[name]) for name in names}
    pulled = torch.autograd.grad(output, moved, s.to(output), materialize_grads=True)
    dense = (p.to_dense() if p.is_sparse else p for p in pulled)  # of sparse tables
    return dict(zip(names, dense, strict=True))


class _Tangent(torch.autograd.Function):
    """``f + Jτ`` forwards, ``Jᵀ g`` backwards."""

    @staticmethod
    def forward(
        ctx: Any, network: Network, batch: Batch, names: tuple[str, ...], *tau: Tensor
    ) -> Tensor:
        ctx.network, ctx.batch, ctx.names = network, batch, names
        ctx.dtypes = [direction.dtype for direction in tau]
        output, change = jvp(network, dict(zip(names, tau, strict=True)), batch)
        dtype = torch.promote_types(output.dtype, torch.float32)
        return output.to(dtype) + change.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pulled = vjp(ctx.network, ctx.names, ctx.batch, grad).values()
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


def _without_rule(error: RuntimeError) -> str:
    """Say which operation has no forward-mode rule, or what else went wrong."""
    if found := _NO_RULE.search(str(error)):
        return f"{found.group(1)} has no forward-mode rule in PyTorch"
    if "autograd.Function" in str(error):
        return f"the autograd function {_function_of(error)} has no forward-mode rule"
    return f"forward mode fails ({first_line(error)})"


def _function_of(error: RuntimeError) -> str:
    frames = [frame.f_locals for frame, _ in walk_tb(error.__traceback__)]
    kinds = [local.get("cls", local.get("autograd_function")) for local in frames]
    names = [
        kind.__qualname__
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, torch.autograd.Function)
    ]
    return names[0] if names else "(its name is not known)"
