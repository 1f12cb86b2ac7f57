"""Directories of sentence-transformers, as that library writes them, or once did."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from torch import nn

from kfac_artifacts.sources import encode_texts, load_network

TEXTS = [
    "the good bird sings and the cat sits on a black fish in it",
    "a DOG",
    "white",
    "red green blue brown black white it runs",
]
CLOSE = {"rtol": 0.0, "atol": 1e-6}


def write(directory: Path, modules: list[nn.Module], **options: Any) -> Path:
    torch.manual_seed(0)
    for module in modules[1:]:
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    excluded = options.pop("include_prompt", True) is False
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    if excluded:
        model.set_pooling_include_prompt(include_prompt=False)
    model.save_pretrained(str(directory))
    return directory


def require_equal(directory: Path, name: str | None = None, **options: Any) -> None:
    model = SentenceTransformer(str(directory), device="cpu")
    expected = torch.tensor(model.encode(TEXTS, **options))
    network = load_network(str(directory), device="cpu")
    torch.testing.assert_close(
        encode_texts(network, TEXTS, prompt=options.get("prompt")), expected, **CLOSE
    )
    if name is not None:
        assert network.output_map.info.name == name


def old_layout(bert: Path, directory: Path, folder: str = "0_Transformer") -> Path:
    """As sentence-transformers 0.3 to 5 wrote it, with the encoder in a folder."""
    shutil.copytree(bert, directory / folder)
    names = ("Transformer", "Pooling", "Dense", "Normalize")
    listing = [
        {
            "idx": i,
            "name": str(i),
            "path": folder if i == 0 else f"{i}_{name}",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(names)
    ]
    write_json(directory / "modules.json", listing)
    write_json(directory / "config.json", {"__version__": "0.3.8"}) if folder else None
    settings = {"max_seq_length": 7, "do_lower_case": True}
    write_json(directory / folder / "sentence_roberta_config.json", settings)
    ways = ("max", "mean")
    flags: dict[str, Any] = {f"pooling_mode_{m}_tokens": m == "mean" for m in ways}
    flags |= {"pooling_mode_cls_token": True, "word_embedding_dimension": 8}
    write_json(directory / "1_Pooling" / "config.json", flags)
    dense = {"in_features": 16, "out_features": 5, "bias": True}
    dense["activation_function"] = "torch.nn.modules.activation.Tanh"  # type: ignore[assignment]
    write_json(directory / "2_Dense" / "config.json", dense)
    torch.manual_seed(1)
    weights = {"linear.weight": torch.randn(5, 16), "linear.bias": torch.randn(5)}
    save_file(weights, directory / "2_Dense" / "model.safetensors")
    (directory / "3_Normalize").mkdir()
    return directory


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit(path: Path, **entries: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | entries))
