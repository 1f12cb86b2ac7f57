"""Directional derivatives: forward mode where it can be trusted, else backwards twice.

Forward mode is proved, once for every network and choice of parameters, against the
backward pass through its own primal half.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kfac_artifacts.errors import CoverageError, ModelError, first_line
from kfac_artifacts.kernels import forward_mode_kernels
from kfac_artifacts.network import Batch, Network
from kfac_artifacts.seeding import seeded

Directions: TypeAlias = dict[str, Tensor]
Pull: TypeAlias = Callable[[Tensor], dict[str, Tensor]]
"""From cotangents to ``Σ_x J(x)ᵀ s_x``, by parameter name."""

_NO_RULE = re.compile(r"forward AD with (\S+) that does not support it")
_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-2}
_COARSE = 0.2
_TRIED: WeakKeyDictionary[Network, dict[tuple[str, ...], str | None]] = (
    WeakKeyDictionary()
)
_REMEDY = (
    'Load the model with attn_implementation="eager" if it is a kernel of attention; '
    "replace another kernel by plain operations of PyTorch; give an autograd function "
    "of your own a jvp and a backward that can be differentiated"
)


def evaluate(
    network: Network, tau: Mapping[str, Tensor], batch: Batch, *, graph: bool
) -> tuple[Tensor, Tensor, Pull | None]:
    """Evaluate f and ``J τ``, and keep the way back if one could be recorded.

    Args:
        network: The pretrained network.
        tau: Directions by parameter name; parameters without one stand still.
        batch: N examples.
        graph: Whether to record f for a backward pass.

    Returns:
        ``f(x, θ0)`` and ``J(x) τ``, both ``[N, C]`` and without gradients; and what
        pulls a cotangent back through f, once. None in its place if there is no graph.

    Raises:
        CoverageError: If an operation of the network has neither a forward-mode rule
            nor a backward one that can be differentiated.
    """
    directions = {
        n: t.detach().to(value)
        for (n, t), value in zip(
            tau.items(), values_of(network, tuple(tau)).values(), strict=True
        )
    }
    obstacle = _obstacle(network, directions, batch)
    if obstacle is not None:
        f, change = _by_two_backward_passes(network, directions, batch, obstacle)
        return f, change, None
    f, change, pull = _by_forward_mode(network, directions, batch, graph=graph)
    return f, change, pull if graph else None


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
        f, change, pull = _by_forward_mode(network, t, few, graph=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return _without_rule(error)
    u = drawn(f)
    pulled = pull(u)
    backwards = sum(float((pulled[name] * t[name]).sum()) for name in t)
    allowed = _tolerance(network, f) * float(u.norm() * change.norm())
    if abs(float((u * change).sum()) - backwards) <= allowed:
        return None
    return "an operation whose forward-mode rule contradicts its backward one"


def _by_forward_mode(
    network: Network, directions: Directions, batch: Batch, *, graph: bool
) -> tuple[Tensor, Tensor, Pull]:
    names = tuple(directions)
    values = values_of(network, tuple(network.parameters()))
    moved = {name: values.pop(name).requires_grad_(graph) for name in names}
    with (
        forward_mode_kernels(),
        torch.set_grad_enabled(graph),
        _forgetting_tangents(network.module),
    ):
        output, change, *_ = torch.func.jvp(
            lambda moved: network.functional_call({**values, **moved}, batch),
            (moved,),
            (directions,),
        )
    return output.detach(), change.detach(), lambda s: pulled(output, moved, s)


@contextmanager
def _forgetting_tangents(module: nn.Module) -> Iterator[None]:
    """Drop the graph of the tangents behind every layer; that of the primals stays.

    Autograd records both, since the rules of tangents read primals, and nobody ever
    goes back through tangents: twice the activations would be kept for nothing.
    """

    def forget(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        primal, tangent = forward_ad.unpack_dual(output)
        if tangent is None:
            return output
        return forward_ad.make_dual(primal, tangent.detach())

    layers = (m for m in module.modules() if [*m.parameters(recurse=False)])
    handles = [layer.register_forward_hook(forget) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def pulled(output: Tensor, moved: Mapping[str, Tensor], s: Tensor) -> dict[str, Tensor]:
    """Go back from a cotangent of an output to parameters; zero where none leads.

    Args:
        output: ``[N, C]``, with its graph.
        moved: The leaves, by parameter name.
        s: The cotangent, ``[N, C]``.

    Returns:
        ``Σ_x J(x)ᵀ s_x`` by parameter name, dense.
    """
    if not output.requires_grad:
        return {name: torch.zeros_like(value) for name, value in moved.items()}
    found = torch.autograd.grad(
        output, list(moved.values()), s.to(output), materialize_grads=True
    )
    dense = (p.to_dense() if p.is_sparse else p for p in found)  # of sparse tables
    return dict(zip(moved, dense, strict=True))


def _by_two_backward_passes(
    network: Network, directions: Directions, batch: Batch, obstacle: str
) -> tuple[Tensor, Tensor]:
    values = values_of(network, tuple(directions))
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
            once = not _is_linear(inner, u, change, products, _tolerance(network, u))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _twice(network, obstacle, first_line(error)) from error
    if once:
        reason = "an operation can be differentiated once only"
        raise _twice(network, obstacle, reason)
    return output.detach(), change


def _tolerance(network: Network, output: Tensor) -> float:
    """How far two derivatives of an output may be apart by rounding, relatively."""
    return _TOLERANCES.get(network.precision or output.dtype, _COARSE)


def _twice(network: Network, obstacle: str, reason: str) -> CoverageError:
    return CoverageError(
        f"cannot linearise {network.id}: {obstacle}; and it cannot be differentiated "
        f"twice instead ({reason}). {_REMEDY}"
    )


def _is_linear(
    inner: Tensor,
    u: Tensor,
    change: Tensor,
    products: Sequence[Tensor],
    tolerance: float,
) -> bool:
    """Whether a ``⟨Jᵀ u, τ⟩`` is the ``⟨u, change⟩`` that it is if linear in u."""
    # For autograd, what can be differentiated once only is constant in u: it would be
    # left out of the change without a word.
    with torch.no_grad():
        far = abs(float(inner) - float((u * change).sum()))
        allowed = tolerance * float(u.norm() * change.norm())
        rounding = torch.finfo(u.dtype).eps * sum(
            float(p.abs().sum()) for p in products
        )
    return far <= allowed + rounding


def values_of(network: Network, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Parameters of a network by name, detached from it."""
    parameters = network.parameters()
    return {name: parameters[name].detach() for name in names}


def _without_rule(error: RuntimeError) -> str:
    """Say which operation has no forward-mode rule, or what else went wrong."""
    if isinstance(error, ModelError) and isinstance(error.__cause__, RuntimeError):
        error = error.__cause__
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
