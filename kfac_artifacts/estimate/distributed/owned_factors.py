"""Factors that one process each owns, and how all of them write one artifact."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from typing_extensions import override

from kfac_artifacts.artifact import Artifact, Factors, NamedConfig
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import FactorError, KfacError
from kfac_artifacts.factors import FACTORS, Factor
from kfac_artifacts.workers import Workers, sending

END, FAILED = -1, -2
"""Sent in place of the number of a factor."""


class OwnedFactors(Factors):
    """Factors of which each lives on one process; the others know of it.

    A process gives what is its own. While ``served`` by all, the main process gives the
    others too, and keeps none of them.

    Args:
        own: The factors that live here.
        workers: All processes, which make this together.
    """

    def __init__(self, own: Mapping[str, Factor], workers: Workers) -> None:
        self._own, self._workers = dict(own), workers
        told = workers.all_of({name: _described(own[name]) for name in own})
        self._homes = {name: r for r, names in enumerate(told) for name in names}
        self._infos = {n: info for names in told for n, info in names.items()}
        self._names = sorted(self._homes)
        self._serving = False

    @property
    def own(self) -> Mapping[str, Factor]:
        """The factors that live here."""
        return self._own

    @override
    def __getitem__(self, name: str) -> Factor:
        if name in self._own or name not in self._homes:
            return self._own[name]
        if not self._serving:
            raise FactorError(
                f"{name} lives on process {self._homes[name]}, not here; save the "
                "artifact with save_together, and open it"
            )
        self._ask(self._names.index(name))
        return self._receive(name)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    @override
    def __len__(self) -> int:
        return len(self._names)

    @override
    def structure(self, name: str) -> NamedConfig:
        return self._infos[name][0]

    @contextmanager
    def served(self) -> Iterator[bool]:
        """Let the main process have every factor inside; all call this together.

        Yields:
            Whether this is the main process; others have given all that was asked for
            when they get here.

        Raises:
            KfacError: On other processes, if the main one has failed.
        """
        if not self._workers.main:
            self._serve()
            yield False
            return
        self._serving = True
        try:
            yield True
        except BaseException:
            self._ask(FAILED)
            raise
        else:
            self._ask(END)
        finally:
            self._serving = False

    def _ask(self, number: int) -> int:
        wanted = torch.tensor([number], device=self._workers.device)
        with sending():
            dist.broadcast(wanted, 0)
        return int(wanted)

    def _serve(self) -> None:
        while (number := self._ask(END)) != END:
            if number == FAILED:
                raise KfacError("process 0 could not go on; look what it says")
            factor = self._own.get(self._names[number])
            for tensor in factor.tensors().values() if factor is not None else ():
                with sending():
                    dist.send(tensor.to(self._workers.device).contiguous(), 0)

    def _receive(self, name: str) -> Factor:
        structure, fields = self._infos[name]
        found = {}
        for key, (shape, dtype) in fields.items():
            tensor = torch.empty(shape, dtype=dtype, device=self._workers.device)
            with sending():
                dist.recv(tensor, self._homes[name])
            found[key] = tensor.cpu()
        return FACTORS[structure.name].from_fields(found, structure.configuration)


def _described(
    factor: Factor,
) -> tuple[NamedConfig, dict[str, tuple[Any, torch.dtype]]]:
    fields = factor.tensors().items()
    structure = NamedConfig(factor.name, factor.configuration)
    return structure, {key: (tensor.shape, tensor.dtype) for key, tensor in fields}


def save_together(
    artifact: Artifact,
    path: str | Path,
    save: Callable[..., None] = save_artifact,
    **options: Any,
) -> None:
    """Write an artifact that several processes have computed, once, from all of them.

    Every process calls this, and returns when the artifact is there. In one process
    alone it is ``save_artifact``.

    Args:
        artifact: What ``compute`` gave to this process.
        path: The directory; the main process writes it.
        save: How, given the artifact and the path.
        options: Those of ``save``.

    Raises:
        PlaceError: If the place is taken or cannot be written.
        FormatError: If a value does not fit the storage.
        KfacError: On the other processes, if the main one has failed.
    """
    workers = Workers.gather(torch.device("cpu"))
    if isinstance(artifact.factors, OwnedFactors):
        with artifact.factors.served() as main:
            if main:
                save(artifact, path, **options)
        return
    with workers.together():
        if workers.main:
            save(artifact, path, **options)
