"""Several processes that compute together, for tests: cases, and how to start them.

``python -m tests.estimate.processes OUTPUT CASE...`` is what each process runs.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import torch
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from kfac_artifacts.artifact import Artifact, Cotangents, NamedConfig
from kfac_artifacts.estimate import (
    ComputeOptions,
    DiagonalGramian,
    Ekfac,
    Estimator,
    Inputs,
    Kfac,
    KfacReduce,
    Nearest,
    OwnedFactors,
    save_together,
)
from kfac_artifacts.estimate.options import ALONE
from kfac_artifacts.estimate.sums import Sums
from kfac_artifacts.network import Network, OutputMap, TensorExamples
from kfac_artifacts.workers import Workers
from tests import models
from tests.computed import compute
from tests.running import Process, finish

__all__ = ["finish"]
KFAC = ["-c", "from kfac_cli.main import main; main()"]
"""The command, to be started by the interpreter."""


class Texts(TensorExamples):
    """Texts of several lengths, padded to the longest of a batch."""

    def batch(self, indices: Any) -> Any:
        found = super().batch(indices)
        longest = int(found["attention_mask"].sum(1).max())
        return {name: values[:, :longest] for name, values in found.items()}


def texts(count: int) -> Texts:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 20, (count, 6), generator=generator)
    lengths = torch.randint(1, 7, (count, 1), generator=generator)
    mask = (torch.arange(6) < lengths).long()
    return Texts({"input_ids": ids * mask, "attention_mask": mask}, "texts")


def images(count: int) -> TensorExamples:
    return TensorExamples(models.image_batch(count, torch.float64), "images")


def network_of(module: nn.Module) -> Network:
    return Network(module, OutputMap(NamedConfig("pooled"), _pooled), "tiny")


def _pooled(module: nn.Module, batch: Any) -> Any:
    hidden = module(**batch).last_hidden_state
    mask = batch.get("attention_mask")
    mask = hidden.new_ones(hidden.shape[:2]) if mask is None else mask.to(hidden)
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@dataclass(frozen=True)
class Case:
    module: Callable[..., nn.Module]
    examples: TensorExamples
    estimator: Estimator
    draws: int = 1
    options: ComputeOptions = ALONE

    def run(self, **given: Any) -> tuple[Network, Artifact]:
        network = network_of(self.module(dtype=torch.float64))
        return network, compute(
            network,
            self.examples,
            cotangents=Cotangents("orthogonal", self.draws, 0),
            estimator=self.estimator,
            batch_size=2,
            **{"options": self.options, **given},
        )


def _experts(dtype: torch.dtype) -> nn.Module:
    return models.tiny("mixtral", dtype=dtype)


NEAREST = Nearest()
PLAIN = {
    "kfac": Case(models.tiny_bert, texts(7), Kfac()),
    "reduce": Case(models.tiny_bert, texts(7), KfacReduce(), draws=2),
    "nearest": Case(models.tiny_bert, texts(9), NEAREST),
    "ekfac": Case(models.tiny_bert, texts(9), Ekfac()),
    "ekfac-groups": Case(models.tiny_bert, texts(9), Ekfac(memory=30000)),
    "diagonal": Case(models.tiny_bert, texts(7), DiagonalGramian(), draws=2),
    "inputs": Case(models.tiny_bert, texts(7), Inputs()),
    "experts-diagonal": Case(_experts, texts(7), DiagonalGramian()),
    "experts-inputs": Case(_experts, texts(7), Inputs()),
    "groups": Case(models.tiny_bert, texts(9), replace(NEAREST, memory=30000)),
    "streamed": Case(
        models.tiny_bert, texts(7), Nearest(terms=2, shrinkage=False, memory=1)
    ),
    "images": Case(models.tiny_vit, images(5), Kfac(), draws=2),
    "experts": Case(_experts, texts(7), Kfac()),
    "experts-reduce": Case(_experts, texts(7), KfacReduce()),
    "experts-nearest": Case(_experts, texts(9), NEAREST),
}
SHARDED = {
    f"sharded-{name}": replace(case, options=ComputeOptions(shard=True))
    for name, case in PLAIN.items()
}
CASES = PLAIN | SHARDED


def start(arguments: Sequence[str], size: int = 2) -> list[Process]:
    """Start processes as a launcher would; ``arguments`` follow the interpreter.

    They meet at a store of ours, which has chosen its port itself.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(size),
    }
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [Process(arguments, {**shared, **rank}, needs=store) for rank in ranks]


def _main(output: Path, names: Sequence[str]) -> None:
    for name in names:
        case = CASES[name]
        seen: dict[str, Any] = {}
        living: WeakSet[Sums] = WeakSet()

        def watch(
            stage: Any, total: Any, seen: Any = seen, living: Any = living
        ) -> Any:
            def advance(count: int) -> None:
                names = sorted(name for sums in living for name in sums.tensors)
                seen.setdefault("sums", names)

            return nullcontext(advance)

        with _remembering(living):
            network, artifact = case.run(progress=watch)
        save_together(artifact, output / name)
        workers = Workers.gather(network.device)
        owned = isinstance(artifact.factors, OwnedFactors)
        own = artifact.factors.own if owned else artifact.factors  # type: ignore[attr-defined]
        seen |= {"own": sorted(own), "restored": _untouched(network, case)}
        (output / f"{name}-{workers.rank}.json").write_text(json.dumps(seen))


@contextmanager
def _remembering(living: WeakSet[Sums]) -> Iterator[None]:
    """Keep track of all sums that are made; those still there are in memory."""
    prepare = Sums.__init__

    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        prepare(self, *args, **kwargs)
        living.add(self)

    with patch.object(Sums, "__init__", remember):
        yield


def _untouched(network: Network, case: Case) -> bool:
    fresh = case.module(dtype=torch.float64)
    same = fresh.state_dict()
    found = network.module.state_dict()
    alike = all(torch.equal(found[name], same[name]) for name in same)
    kinds = zip(network.module.modules(), fresh.modules(), strict=True)
    return alike and all(
        type(a) is type(b) and not a._forward_hooks and not a._forward_pre_hooks
        for a, b in kinds
    )


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
