"""Tiny models of whole classes with a head, and batches of unequal lengths for them."""

from typing import Any

import torch
from torch import Tensor, nn

from kfac_artifacts.network import Network
from kfac_artifacts.sources import output_map
from tests.brute_force import randomised
from tests.models import END, PAD, START, VOCABULARY, text_batch

WORDS = len(VOCABULARY)
TOKENS = {
    "vocab_size": WORDS,
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": END,
}
WIDTHS = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TEXT = WIDTHS | TOKENS | {"max_position_embeddings": 32}
DECODER = TEXT | {"num_key_value_heads": 1, "head_dim": 4}
GPT2 = {"n_embd": 8, "n_inner": 12, "n_layer": 1, "n_head": 2, "n_positions": 32}
BLOOM = {"hidden_size": 8, "n_layer": 1, "n_head": 2}
MPT = {"d_model": 8, "n_layers": 1, "n_heads": 2, "max_seq_len": 32}
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", DECODER),
    "GPT2LMHeadModel": ("GPT2Config", GPT2 | TOKENS),
    "BloomForCausalLM": ("BloomConfig", BLOOM | TOKENS),
    "MptForCausalLM": ("MptConfig", MPT | TOKENS),
    "BertForMaskedLM": ("BertConfig", TEXT),
    "T5ForConditionalGeneration": (
        "T5Config",
        TOKENS | T5 | {"decoder_start_token_id": PAD},
    ),
    "BertForSequenceClassification": ("BertConfig", TEXT | {"num_labels": 3}),
}


def build(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """Build a model of a class, every entry at random."""
    import transformers

    kind, settings = CLASSES[name]
    config = getattr(transformers, kind)(**settings | options)
    return randomised(getattr(transformers, name)(config)).to(dtype).eval()


def network_of(name: str, map_name: str | None = None, **options: Any) -> Network:
    """A tiny model with an output map of its head."""
    module: nn.Module = build(name, **options)
    return Network(module, output_map(module, map_name), "tiny")


def batch_of(name: str) -> dict[str, Tensor]:
    """Three texts of 5, 3 and 2 tokens, as the head of a class takes them."""
    batch = text_batch()
    if name == "BertForMaskedLM":
        chosen = torch.tensor([[0, 1, 0, 1, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
        batch["predicted"] = chosen
    if name == "T5ForConditionalGeneration":
        ids = torch.tensor([[0, 5, 3], [0, 9, 0], [0, 0, 0]])
        batch["decoder_input_ids"] = ids
        batch["decoder_attention_mask"] = torch.tensor(
            [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
        )
    return batch


def alone(batch: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """One example without its padding."""
    lengths = {
        len(mask[n]): int(mask[n].sum())
        for name, mask in batch.items()
        if name.endswith("attention_mask")
    }
    return {k: v[n : n + 1, : lengths[v.shape[1]]] for k, v in batch.items()}


def predicted_logits(name: str, module: Any, one: dict[str, Tensor]) -> Tensor:
    """Logits of what one example predicts, ``[T, K]``, by the definition."""
    inputs = {k: v for k, v in one.items() if k != "predicted"}
    logits: Tensor = module(**inputs).logits[0]
    if name == "BertForSequenceClassification":
        return logits[None]
    if name == "BertForMaskedLM":
        return logits[one["predicted"][0].bool()]
    return logits if name == "T5ForConditionalGeneration" else logits[:-1]
