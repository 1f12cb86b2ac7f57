"""Makes ``files/quip``: Hessians of a tiny Llama, by the code of QuIP#.

It needs a checkout of Cornell-RelaxML/quip-sharp:

    python -m tests.bridges.make_quip ../quip-sharp
"""

import queue
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from tests.bridges.made import FILES, llama_tokens, tiny_llama
from tests.bridges.stand_ins import package, run_file, stand_in

HOOKED = {
    "qkv": "self_attn.q_proj",
    "o": "self_attn.o_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""Where ``forward_layer`` of ``hessian_offline_llama.py`` puts its hooks."""


def main(checkout: Path) -> None:
    """Hook, run and accumulate as that script does, on one process."""
    stand_in("glog", "lib.codebook", "transformers.modeling_attn_mask_utils")
    package("lib", checkout / "lib")
    stand_in("lib.utils.matmul_had")
    package("lib.utils", checkout / "lib" / "utils")
    utils = run_file("lib.utils.data_utils", checkout / "lib/utils/data_utils.py")
    sys.modules["lib"].utils = utils  # type: ignore[attr-defined]
    script = run_file("script", checkout / "quantize_llama/hessian_offline_llama.py")
    model = tiny_llama()
    done = {
        index: {
            kind: utils.register_H_hook(layer.get_submodule(name), "cpu")
            for kind, name in HOOKED.items()
        }
        for index, layer in enumerate(model.layers)
    }
    with torch.no_grad():
        for tokens in llama_tokens().split(2):
            model(input_ids=tokens)
    place = FILES / "quip"
    place.mkdir(parents=True, exist_ok=True)
    where = SimpleNamespace(save_path=str(place), scratch_path=None)
    for index, kinds in done.items():
        results: queue.Queue[object] = queue.Queue()
        results.put({kind: finish() for kind, finish in kinds.items()})
        script.accumulate(results, None, 1, where, index)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
