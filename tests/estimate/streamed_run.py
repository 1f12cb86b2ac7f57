"""A streamed run in a process of its own: killed at a stage, or asked for its memory.

``python -m tests.estimate.streamed_run MODEL CHECKPOINT ESTIMATOR [STAGE]`` kills
itself at the second batch of a stage. Without a stage it prints how much memory it took
beyond what it had before, in bytes.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kfac_artifacts.estimate import ComputeOptions, choose_estimator
from kfac_artifacts.network import TensorExamples
from kfac_artifacts.sources import load_streamed
from tests.computed import compute
from tests.models import VOCABULARY

BATCH = 4


def examples(count: int = 12) -> TensorExamples:
    """Texts of two lengths, padded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, len(VOCABULARY), (count, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[::2, 6:] = 0
    return TensorExamples({"input_ids": ids, "attention_mask": mask}, "texts")


def peak() -> int:
    """Most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@contextmanager
def killing(stage: str, total: int) -> Iterator[Any]:
    """Progress that kills this process at the second batch of a stage."""
    batches = []

    def advance(count: int) -> None:
        batches.append(count)
        if stage == sys.argv[4] and len(batches) == 3:  # the first one says where
            os.kill(os.getpid(), signal.SIGKILL)

    yield advance


def main() -> None:
    """Run as the arguments say."""
    model, checkpoint, name = sys.argv[1:4]
    network = load_streamed(model)
    before = peak()
    options: dict[str, Any] = {"progress": killing} if sys.argv[4:] else {}
    found = compute(
        network,
        examples(),
        estimator=choose_estimator(name),
        batch_size=BATCH,
        options=ComputeOptions(checkpoint),
        **options,
    )
    bytes_of_factors = sum(found.factors.nbytes(n) for n in found.factors)
    grown = peak() - before
    sys.stdout.write(json.dumps({"grown": grown, "factors": bytes_of_factors}))


if __name__ == "__main__":
    main()
