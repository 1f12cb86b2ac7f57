"""Load an artifact as a penalty, and print by how many bytes this process grows.

As the operating system sees it (Linux). In a process of its own, because memory that
was used once is rarely given back.
"""

import gc
import os
import sys
from pathlib import Path

import torch

import kfac_artifacts as kfac


def resident() -> int:
    """Resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure the artifact named on the command line."""
    torch.zeros(8, 8) @ torch.zeros(8, 8)  # whatever products need is there
    gc.collect()
    before = resident()
    penalty = kfac.KfacPenalty(kfac.load_artifact(Path(sys.argv[1]), verify=False))
    for factor in penalty.factors.values():
        for tensor in factor.tensors().values():
            tensor.sum()  # what is mapped from a file is resident once it is used
    gc.collect()
    print(resident() - before)


if __name__ == "__main__":
    main()
