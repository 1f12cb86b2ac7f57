"""Makes ``files/bergson``: covariances of a tiny Llama, by bergson 2.5.1.

It needs the library, without what it does not use here (``pip install --no-deps
bergson==2.5.1 simple-parsing docstring-parser natsort petname ml_dtypes torchopt``):

    python -m tests.bridges.make_bergson
"""

import shutil
import tempfile

from bergson.config.config import (  # type: ignore[import-not-found]
    HessianConfig,
    IndexConfig,
)
from bergson.hessians.hessian_approximations import (  # type: ignore[import-not-found]
    fit_factored_hessians,
)
from datasets import Dataset

from tests.bridges.made import FILES, llama_tokens, tiny_causal_llama

SHARD, COUNT = "shard_0.safetensors", "total_processed.pt"
KINDS = {
    "kfac": ("activation_sharded", "gradient_sharded"),
    "ekfac": (
        "eigen_activation_sharded",
        "eigen_gradient_sharded",
        "factor_eig_a",
        "factor_eig_g",
        "eigenvalue_correction_sharded",
    ),
}


def main() -> None:
    """Collect covariances with the labels of the data, which are the next tokens."""
    rows = [{"input_ids": row} for row in llama_tokens().tolist()]
    with tempfile.TemporaryDirectory() as folder:
        index = IndexConfig(run_path=f"{folder}/run")
        index.partial_run_path.mkdir(parents=True)
        made = index.partial_run_path
        fit_factored_hessians(
            tiny_causal_llama(),
            Dataset.from_list(rows),
            index,
            HessianConfig(method="kfac", use_dataset_labels=True, ev_correction=True),
            target_modules=None,
            attention_cfgs={},
            batches=[[0, 1], [2, 3]],
            path=str(made),
            do_eigendecomposition=True,
        )
        for run, kinds in KINDS.items():
            for kind in kinds:
                place = FILES / "bergson" / run / kind
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(made / kind / SHARD, place / SHARD)
            shutil.copy(made / COUNT, FILES / "bergson" / run / COUNT)


if __name__ == "__main__":
    main()
