"""How much memory it takes to open a model for streaming, in a process of its own.

``python -m tests.estimate.loading_run SMALL LARGE`` opens a small model first, so that
what is imported counts for nothing, and prints what the large one took, in bytes.
"""

import sys

from kfac_artifacts.sources import load_streamed
from tests.estimate.streamed_run import peak

if __name__ == "__main__":
    small, large = sys.argv[1:]
    load_streamed(small)
    before = peak()
    load_streamed(large)
    sys.stdout.write(str(peak() - before))
