"""Makes ``files/bergson``: covariances of a tiny Llama, by bergson 2.5.1.

It needs the library, without what it does not use here (``pip install --no-deps
bergson==2.5.1 simple-parsing docstring-parser natsort petname ml_dtypes torchopt``):

    python -m tests.bridges.make_bergson
"""

import shutil
import tempfile
from pathlib import Path

from bergson.config.config import (  # type: ignore[import-not-found]
    HessianConfig,
    IndexConfig,
)
from bergson.hessians.hessian_approximations import (  # type: ignore[import-not-found]
    collect_hessians,
)
from datasets import Dataset

from tests.bridges.made import FILES, llama_tokens, tiny_causal_llama

SHARD, COUNT = "shard_0.safetensors", "total_processed.pt"


def main() -> None:
    """Collect covariances with the labels of the data, which are the next tokens."""
    rows = [{"input_ids": row} for row in llama_tokens().tolist()]
    with tempfile.TemporaryDirectory() as folder:
        index = IndexConfig(run_path=f"{folder}/run")
        index.partial_run_path.mkdir(parents=True)
        collect_hessians(
            tiny_causal_llama(),
            Dataset.from_list(rows),
            index,
            batches=[[0, 1], [2, 3]],
            hessian_cfg=HessianConfig(method="kfac", use_dataset_labels=True),
        )
        made: Path = index.partial_run_path
        for kind in ("activation_sharded", "gradient_sharded"):
            place = FILES / "bergson" / kind
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(made / kind / SHARD, place / SHARD)
        shutil.copy(made / COUNT, FILES / "bergson" / COUNT)


if __name__ == "__main__":
    main()
