"""Makes ``files/tak``: factors of a tiny CLIP, by the code of the authors of TAK.

It needs a checkout of aimagelab/mammoth (written with commit e75a491) and OpenAI's CLIP
(``pip install --no-deps openai-clip``), of which only ``clip/model.py`` is run; what
mammoth imports beside that, and does not use here, is replaced by empty modules:

    python -m tests.bridges.make_tak ../mammoth
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.bridges.made import FILES, tak_images, tiny_vision_tower
from tests.bridges.stand_ins import package, run_file, stand_in
from tests.models import IMAGE_SIZE, PATCH_SIZE

DRAWS = 0
"""``--fisher_num_samples_expectation``: the exact expectation."""
RENAMES = (
    ("vision_model.encoder.layers.", "transformer.resblocks."),
    ("vision_model.pre_layrnorm", "ln_pre"),
    ("vision_model.post_layernorm", "ln_post"),
    ("vision_model.embeddings.class_embedding", "class_embedding"),
    ("vision_model.embeddings.patch_embedding", "conv1"),
    ("vision_model.embeddings.position_embedding.weight", "positional_embedding"),
    (".self_attn.out_proj", ".attn.out_proj"),
    (".layer_norm", ".ln_"),
    (".mlp.fc1", ".mlp.c_fc"),
    (".mlp.fc2", ".mlp.c_proj"),
)


def openai_state(tower: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of transformers' tower, as OpenAI's model calls them."""
    state = dict(tower.state_dict())
    state = {
        name: values for name, values in state.items() if "position_ids" not in name
    }
    for kind in ("weight", "bias"):
        for layer in range(2):
            own = f"vision_model.encoder.layers.{layer}.self_attn."
            parts = [state.pop(f"{own}{part}_proj.{kind}") for part in "qkv"]
            fused = f"transformer.resblocks.{layer}.attn.in_proj_{kind}"
            state[fused] = torch.cat(parts)
    state["proj"] = state.pop("visual_projection.weight").mT
    found = {}
    for name, values in state.items():
        for old, new in RENAMES:
            name = name.replace(old, new)  # noqa: PLW2901
        found[name] = values
    return found


def load(mammoth: Path) -> tuple[Any, Any, Any, Any]:
    """Import what of mammoth is run, and OpenAI's model, beside empty modules."""
    clip: Any = find_spec("clip")
    (place,) = clip.submodule_search_locations
    model = run_file("clip.model", Path(place) / "model.py")
    stand_in(
        "clip", "open_clip", "utils", "utils.conf", "datasets", "datasets.seq_8vision",
        "datasets.utils", "datasets.utils.continual_dataset", "models.utils",
        "models.utils.continual_model", "models.tak_utils.templates",
    )  # fmt: skip
    package("backbone", mammoth)
    sys.modules["backbone"].MammothBackbone = nn.Module  # type: ignore[attr-defined]
    for name in ("models", "models.tak_utils"):
        package(name, mammoth / name.replace(".", "/"))
    folder = mammoth / "models" / "tak_utils"
    backbone, fisher, utils = (
        run_file(f"models.tak_utils.{name}", folder / f"{name}.py")
        for name in ("backbone", "fisher_kfac", "utils")
    )
    return (
        model.VisionTransformer,
        backbone.surgery,
        fisher.KFACComputer,
        utils.FisherLoader,
    )


def main(mammoth: Path) -> None:
    """Compute and store as mammoth does."""
    VisionTransformer, surgery, KFACComputer, FisherLoader = load(mammoth)
    tower, images = tiny_vision_tower(), tak_images()
    visual = VisionTransformer(IMAGE_SIZE, PATCH_SIZE, 8, 2, 2, 6).eval()
    visual.load_state_dict(openai_state(tower))
    expected = tower(pixel_values=images).image_embeds
    torch.testing.assert_close(visual(images), expected)
    surgery(SimpleNamespace(visual=visual))
    torch.testing.assert_close(visual(images), expected)
    trained = ("mlp", "attn", "proj", "ln", "class_embed")
    names = [n for n, _ in visual.named_parameters() if any(t in n for t in trained)]
    batches = [(images[:3],), (images[3:],)]
    computer = KFACComputer("cpu", False, 1.0, DRAWS, "fp32")
    net, data = (
        SimpleNamespace(visual_encoder=visual),
        SimpleNamespace(train_loader=batches),
    )
    FILES.mkdir(exist_ok=True)
    found = computer.compute(net, None, names, data)
    loader = FisherLoader(str(FILES / "tak"), "tiny", torch.device("cpu"))
    loader.store_kfac(0, *found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
