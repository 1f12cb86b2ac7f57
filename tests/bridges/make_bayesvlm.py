"""Makes ``files/bayesvlm``: Hessians of a tiny projection, by the code of BayesVLM.

It needs a checkout of AaltoML/BayesVLM:

    python -m tests.bridges.make_bayesvlm ../BayesVLM
"""

import sys
from pathlib import Path
from unittest.mock import MagicMock

import torch

from tests.bridges.made import (
    FILES,
    LOGIT_SCALE,
    tak_images,
    tiny_vision_tower,
    vlm_texts,
)
from tests.bridges.stand_ins import package, run_file, stand_in


def main(checkout: Path) -> None:
    """Compute as ``scripts/hessian_estimation.py`` does, and save under its names."""
    package("bayesvlm", checkout / "bayesvlm")
    stand_in(
        "bayesvlm.vlm", "bayesvlm.data", "bayesvlm.data.factory", "bayesvlm.utils",
        "bayesvlm.precompute",
    )  # fmt: skip
    script = run_file("script", checkout / "scripts" / "hessian_estimation.py")
    tower, texts = tiny_vision_tower(), vlm_texts()
    with torch.no_grad():
        pooled = tower.vision_model(pixel_values=tak_images()).pooler_output
        embeddings = tower.visual_projection(pooled)
    vlm = MagicMock()
    vlm.eval.return_value = vlm
    vlm.logit_scale.data = torch.tensor(LOGIT_SCALE)
    place = FILES / "bayesvlm"
    place.mkdir(parents=True, exist_ok=True)
    for tower_name, source, acts, target in (
        ("img", embeddings, pooled, texts),
        ("txt", texts, texts, embeddings),  # as if the projection were the identity
    ):
        A, B = script.kfac_ggn(vlm, 5, 1, source, acts, target, "cpu", "info_nce")
        torch.save(A, place / f"A_{tower_name}_analytic.pt")
        torch.save(B, place / f"B_{tower_name}_analytic.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
