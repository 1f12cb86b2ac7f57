"""The one place that knows how curvlinops 3.x is built inside.

curvlinops (Dangel et al. 2025) keeps the base class of its operators and the factors of
its KFAC in private attributes, and its next version moves them; nothing else in this
package touches them. It is an extra, imported when it is used.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kfac_artifacts.errors import SettingsError

DISTRIBUTION = "curvlinops-for-pytorch"


def version() -> str:
    """Version of the installed curvlinops.

    Returns:
        As its distribution says it.

    Raises:
        SettingsError: If it is not installed.
    """
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise SettingsError(_missing(error)) from error


def linear_operator(
    matvec: Callable[[Tensor], Tensor],
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    """Make a ``PyTorchLinearOperator`` of a symmetric map on columns ``[D, K]``.

    Args:
        matvec: The map.
        shapes: Shapes of the tensors that make up a vector, in order.
        dtype: What it computes in.
        device: Where it computes.

    Returns:
        The operator.

    Raises:
        SettingsError: If curvlinops is not installed, or of another version.
    """
    base = _inside("curvlinops._torch_base", "PyTorchLinearOperator")
    # its classes are made when they are asked for: curvlinops is imported lazily
    methods = {
        "SELF_ADJOINT": True,
        "_matmat": lambda self, X: _on_lists(matvec, X),
        "_adjoint": lambda self: self,
        "dtype": property(lambda self: dtype),
        "device": property(lambda self: device),
    }
    kind: Any = type("ArtifactLinearOperator", (base,), methods)
    return kind(list(shapes), list(shapes))


def _on_lists(matvec: Callable[[Tensor], Tensor], X: Sequence[Tensor]) -> list[Tensor]:
    """Apply a map on columns to tensors with their columns last."""
    parts = [x.flatten(end_dim=-2) for x in X]
    products = matvec(torch.cat(parts)).split([len(part) for part in parts])
    return [y.reshape(x.shape) for x, y in zip(X, products, strict=True)]


@dataclass(frozen=True)
class Settings:
    """Settings of curvlinops' KFAC.

    Attributes:
        approximation: ``expand`` or ``reduce``.
        draws: Monte-Carlo draws per example; None is the exact expectation.
        seed: Seed of the draws.
    """

    approximation: str
    draws: int | None
    seed: int


def kfac_factors(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    batch: Mapping[str, Tensor],
    count: int,
    settings: Settings,
) -> dict[str, tuple[Float[Tensor, "i i"], Float[Tensor, "o o"]]]:
    """Let curvlinops compute the factors of one batch, in our normalisers.

    Its loss ``Σ (f - y)²`` has the Hessian 2 I and is summed over the examples, so its
    B is ours times ``2 count``. Its operator is made anew for every call, because one
    that computes twice adds up.

    Args:
        model: From a batch to ``[N, C]``.
        parameters: Those of Linear and Conv2d, no others.
        batch: The model's argument.
        count: Number N of examples.
        settings: Approximation, draws and seed.

    Returns:
        By name of the module within ``model``: A, the mean over examples and
        positions, and B, the mean over examples of the sum over positions.

    Raises:
        SettingsError: If curvlinops is not installed, or of another version.
    """
    kfac = _inside("curvlinops", "KFACLinearOperator")
    unused = torch.zeros(count, 1)  # targets: no label enters either kind of Fisher
    operator = kfac(
        model,
        nn.MSELoss(reduction="sum"),
        list(parameters),
        [(dict(batch), unused)],
        check_deterministic=False,
        seed=settings.seed,
        fisher_type="type-2" if settings.draws is None else "mc",
        mc_samples=settings.draws or 1,
        kfac_approx=settings.approximation,
        num_per_example_loss_terms=1,
        separate_weight_and_bias=False,
        num_data=count,
        batch_size_fn=lambda _: count,
    )
    with _hooks_restored(model):
        operator.compute_kronecker_factors()
    return {
        name: (
            operator._input_covariances[name],
            operator._gradient_covariances[name] / (2 * count),
        )
        for name in operator._mapping
    }


@dataclass(frozen=True, eq=False)
class OperatorFactors:
    """What an operator of curvlinops holds, in its own normalisers.

    Attributes:
        inputs: By module, the mean over examples and positions of ``a aᵀ``.
        outputs: By module, what its loss makes of ``g gᵀ``; empty if it goes forward
            only.
        loss: Name of the class of its loss.
        reduction: Of its loss: ``sum`` or ``mean``.
        examples: Number of examples.
        terms: Terms of the loss in each of them.
        fisher: Which Fisher matrix: ``type-2``, ``mc``, ``empirical`` or
            ``forward-only``.
        draws: Labels that were drawn per example, if so.
        approximation: ``expand`` or ``reduce``.
    """

    inputs: Mapping[str, Float[Tensor, "i i"]]
    outputs: Mapping[str, Float[Tensor, "o o"]]
    loss: str
    reduction: str
    examples: int
    terms: int
    fisher: str
    draws: int | None
    approximation: str


def operator_factors(operator: Any) -> OperatorFactors:
    """Take the factors out of a ``KFACLinearOperator``, which computes them if need be.

    Args:
        operator: The operator.

    Returns:
        Its factors, and what is known of how they were made.

    Raises:
        SettingsError: If curvlinops is not installed, or it is no such operator.
    """
    kind = _inside("curvlinops", "KFACLinearOperator")
    if not isinstance(operator, kind):
        raise SettingsError(f"a {type(operator).__name__} is no KFACLinearOperator")
    if not operator._input_covariances:  # computed twice they would be added up
        operator.compute_kronecker_factors()
    fisher = _word(operator._fisher_type)
    forward = fisher == "forward-only"
    return OperatorFactors(
        inputs={n: operator._input_covariances[n] for n in operator._mapping},
        outputs={}
        if forward
        else {n: operator._gradient_covariances[n] for n in operator._mapping},
        loss=type(operator._loss_func).__name__,
        reduction=operator._loss_func.reduction,
        examples=operator._N_data,
        terms=operator._num_per_example_loss_terms,
        fisher=fisher,
        draws=operator._mc_samples if fisher == "mc" else None,
        approximation=_word(operator._kfac_approx),
    )


def _word(choice: Any) -> str:
    """What is chosen by a text, or by its member of an enumeration."""
    return str(choice.value if isinstance(choice, Enum) else choice)


@contextmanager
def _hooks_restored(model: nn.Module) -> Iterator[None]:
    """Take out the hooks that curvlinops leaves behind when it fails."""
    kept = [
        (hooks, set(hooks))
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    ]
    try:
        yield
    finally:
        for hooks, before in kept:
            for key in set(hooks) - before:
                del hooks[key]


def _inside(module: str, name: str) -> Any:
    """Import something of curvlinops, or say what to install."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(_missing(error)) from error


def _missing(error: Exception) -> str:
    return (
        "this needs curvlinops 3.x, which is not installed or cannot be imported "
        f"({error}); run: pip install 'kfac-artifacts[curvlinops]'"
    )
