"""Language models of many families, each by its real class: what is covered of them."""

from typing import Any

import pytest
from torch import nn

from kfac_artifacts.network import Network, TensorExamples
from kfac_artifacts.sources import output_map
from tests.brute_force import randomised
from tests.computed import compute, plan
from tests.language.heads import DECODER, GPT2, T5, TEXT, TOKENS, batch_of
from tests.models import text_batch

ROPE = {"rope_theta": 1e4, "rope_type": "default"}
OPT = TOKENS | {
    "hidden_size": 8,
    "word_embed_proj_dim": 8,
    "ffn_dim": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2ForCausalLM": ("Qwen2Config", DECODER),
    "Qwen3ForCausalLM": ("Qwen3Config", DECODER | {"tie_word_embeddings": True}),
    "LlamaForCausalLM": ("LlamaConfig", DECODER | {"tie_word_embeddings": True}),
    "SmolLM3ForCausalLM": ("SmolLM3Config", DECODER),
    "MistralForCausalLM": ("MistralConfig", DECODER | {"sliding_window": 4}),
    "Gemma2ForCausalLM": ("Gemma2Config", DECODER),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", DECODER),
    "PhiForCausalLM": ("PhiConfig", TEXT),
    "Phi3ForCausalLM": ("Phi3Config", TEXT),
    "OlmoForCausalLM": ("OlmoConfig", TEXT),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", TEXT),
    "GPT2LMHeadModel": ("GPT2Config", GPT2 | TOKENS),
    "OPTForCausalLM": ("OPTConfig", OPT),
    "MixtralForCausalLM": (
        "MixtralConfig",
        DECODER | {"num_local_experts": 3, "num_experts_per_tok": 2},
    ),
    "Qwen3MoeForCausalLM": (
        "Qwen3MoeConfig",
        DECODER
        | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6},
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        TOKENS | T5 | {"decoder_start_token_id": 0},
    ),
    "BertForMaskedLM": ("BertConfig", TEXT),
    "RobertaForMaskedLM": ("RobertaConfig", TEXT),
    "DistilBertForMaskedLM": (
        "DistilBertConfig",
        {
            **{"dim": 8, "hidden_dim": 12, "n_layers": 1, "n_heads": 2},
            **{"vocab_size": TOKENS["vocab_size"], "pad_token_id": 0},
        },
    ),
    "ModernBertForMaskedLM": ("ModernBertConfig", TEXT),
    "DebertaV2ForMaskedLM": (
        "DebertaV2Config",
        TEXT
        | {
            "relative_attention": True,
            "position_buckets": 4,
            "pos_att_type": ["c2p", "p2c"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
        },
    ),
}


def built(name: str) -> Network:
    import transformers

    kind, settings = FAMILIES[name]
    config = getattr(transformers, kind)(**settings)
    module = randomised(getattr(transformers, name)(config)).float().eval()
    return Network(module, output_map(module, "lm-fisher"), name)


def linear_weights(network: Network) -> dict[str, str]:
    """The weight of every linear map, by the last word of its module's name."""
    names = {id(p): name for name, p in network.module.named_parameters()}
    return {
        names[id(module.weight)]: path.rpartition(".")[2]
        for path, module in network.module.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_every_linear_map_is_covered_or_left_out_by_name(name: str) -> None:
    network = built(name)
    batch = batch_of(name) if name.startswith("T5") else text_batch()
    artifact = compute(network, TensorExamples(batch, "x"))
    left_out = artifact.provenance.uncovered
    everything = set(network.parameters())
    assert set(artifact.parameters) | left_out.keys() == everything
    weights = linear_weights(network)
    missing = {weights[n] for n in weights.keys() & left_out.keys()}
    tied = {
        weights[n]
        for n in weights.keys() & left_out.keys()
        if "(tied or fused weights)" in left_out[n]
    }
    assert missing == tied
    assert len(tied) <= 1  # the head
    planned = plan(network, batch)
    assert artifact.blocks.keys() <= {block.name for block in planned.blocks}
    of_all = {name for block in planned.blocks for name in block.shapes}
    assert planned.covered == sum(network.parameters()[n].numel() for n in of_all)
