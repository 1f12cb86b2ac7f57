"""One forward pass and its backward passes, in which every site is listened to.

Parameters are frozen, so a backward pass reaches activations only. The first tensors
that sites put out are the leaves of the graph: nothing before them is differentiated.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kfac_artifacts.errors import CoverageError
from kfac_artifacts.estimate.experts import listening, running_experts_one_by_one
from kfac_artifacts.estimate.routing import Tokens
from kfac_artifacts.estimate.sites import LooseSite, Site, TableSite
from kfac_artifacts.estimate.stages import Stages
from kfac_artifacts.network import Batch, Network


@dataclass
class Visit:
    """One use of a site in a forward pass.

    Attributes:
        site: The site.
        call: How many uses of the site came before in this pass.
        x: The module's input as it was given.
        a: The input in canonical shape, ``[N, P, d_in]``, or row numbers ``[N, P]``.
        mask: Which positions are real, ``[N, P]``, or None when all are.
    """

    site: Site
    call: int
    x: Tensor
    a: Tensor
    mask: Tensor | None


@runtime_checkable
class Listener(Protocol):
    """Told of every input and every cotangent."""

    keeps_inputs: bool

    def on_input(self, visit: Visit) -> None:
        """An input has come; ``visit.x`` and ``visit.a`` are dropped afterwards."""

    def on_cotangent(self, visit: Visit, g: Tensor) -> None:
        """A cotangent has come, ``[N, P, d_out]``."""


class Pass:
    """A forward pass over one batch, and any number of backward passes after it.

    Attributes:
        f: The output map's value, ``[N, C]``.
        calls: How often each site was used.
        failures: Sites whose input breaks the contract of ``sites``, and how.
    """

    def __init__(
        self,
        network: Network,
        sites: Sequence[Site],
        batch: Batch,
        listener: Listener,
    ) -> None:
        self.calls: Counter[Site] = Counter()
        self.failures: dict[Site, str] = {}
        self._leaves: list[Tensor] = []
        self._listener = listener
        self._stages = Stages(network.mask(batch))
        self._count = len(next(iter(batch.values())))
        parameters = network.parameters()
        copies = {
            site.name: self._copies(site, parameters[site.name])
            for site in sites
            if isinstance(site, LooseSite)
        }
        hooks = [
            module.register_forward_hook(self._hook(site), with_kwargs=True)
            for site in sites
            for module in site.modules
            if not (isinstance(site, LooseSite) or site.functional)
        ]
        heard = listening(sites, parameters, self._tokens, self._hear, self.failures)
        followed = self._stages.following(network.module)
        try:
            with torch.enable_grad(), heard, followed:
                self.f = network.call_with(copies, batch)
        finally:
            for hook in hooks:
                hook.remove()

    def backward(self, s: Tensor, *, last: bool = True) -> None:
        """Pull one cotangent per example back through the network.

        Args:
            s: ``[N, C]``.
            last: Whether the graph may be freed.

        Raises:
            CoverageError: If no site was reached.
        """
        if not self._leaves or not self.f.requires_grad:
            raise CoverageError("f does not depend on any parameter that was asked for")
        torch.autograd.grad(
            self.f, self._leaves, s, retain_graph=not last, allow_unused=True
        )

    def _copies(self, site: LooseSite, parameter: Tensor) -> Tensor:
        copies = site.copies(parameter, self._count)
        self._leaves.append(copies)
        rows = site.row_numbers(self._count, parameter.device)
        self._listen(site, copies, Visit(site, self._call(site), copies, rows, None))
        shape = (self._count, *site.shape[1:]) if len(site.shape) == 3 else copies.shape
        return copies.reshape(shape).clone()

    def _hook(self, site: Site) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], z: Any
        ) -> Any:
            x = args[0] if args else next(iter(kwargs.values()))
            call = self._call(site)
            if isinstance(site, TableSite) and x.dim() == 2 and x.shape[0] == 1:
                x = x.expand(self._count, -1)
                z = z.expand(self._count, -1, -1)
            failure = self._check(site, x)
            if failure is not None:
                self.failures[site] = failure
                return None
            mask = self._stages.mask_of(x) if self._has_positions(site, x) else None
            a = site.inputs(module, x.detach())
            return self._enter(z, Visit(site, call, x, a, mask))

        return hook

    def _tokens(self, x: Tensor) -> Tokens:
        return Tokens(self._count, self._stages.mask_of(x))

    def _hear(self, site: Site, a: Tensor, mask: Tensor, z: Tensor) -> Tensor:
        """A use of a site inside of its module; everything is canonical."""
        return self._enter(z, Visit(site, self._call(site), a, a.detach(), mask))

    def _enter(self, z: Tensor, visit: Visit) -> Tensor:
        if not z.requires_grad:
            self._leaves.append(z.detach().requires_grad_())
            z = self._leaves[-1].clone()  # a leaf may not be changed in place
        self._listen(visit.site, z, visit)
        return z

    def _listen(self, site: Site, z: Tensor, visit: Visit) -> None:
        self._listener.on_input(visit)
        if not (site.keeps_inputs or self._listener.keeps_inputs):
            visit.x = visit.a = visit.a.new_empty(0)
        z.register_hook(
            lambda g: self._listener.on_cotangent(visit, site.cotangents(g))
        )

    def _call(self, site: Site) -> int:
        self.calls[site] += 1
        return self.calls[site] - 1

    def _check(self, site: Site, x: Tensor) -> str | None:
        if x.dim() < 2 or x.shape[0] != self._count:
            return f"the first axis of its input {list(x.shape)} is not the batch"
        mask = self._stages.mask_of(x) if self._has_positions(site, x) else None
        if mask is not None and mask.shape != x.shape[:2]:
            return (
                f"the positions of its input {list(x.shape)} are not those of the "
                f"attention mask {list(mask.shape)}"
            )
        return None

    @staticmethod
    def _has_positions(site: Site, x: Tensor) -> bool:
        return isinstance(site, TableSite) or x.dim() > 2


@contextmanager
def requiring_gradients(network: Network, wanted: bool) -> Iterator[None]:
    """Freeze or unfreeze every parameter for a while, then restore each.

    Experts are meanwhile applied one by one, so that they can be listened to.

    Args:
        network: Its module is left as it was found.
        wanted: Whether parameters shall require gradients.

    Yields:
        Nothing.
    """
    before = {p: p.requires_grad for p in network.module.parameters()}
    for p in before:
        p.requires_grad_(wanted and p.is_floating_point())
    try:
        with running_experts_one_by_one(network.module):
            yield
    finally:
        for p, flag in before.items():
            p.requires_grad_(flag)
