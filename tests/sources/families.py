"""Tiny random models of whole classes: with heads, decoders and experts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WIDTHS = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TOKENS = {"vocab_size": 28, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
TEXT = WIDTHS | TOKENS | {"max_position_embeddings": 16}
DECODER = TEXT | {"num_key_value_heads": 1, "head_dim": 4}
IMAGE = WIDTHS | {"image_size": 8, "patch_size": 4}
T5 = TOKENS | {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2}
CLIP: dict[str, Any] = {
    "text_config": TEXT | {"projection_dim": 6},
    "vision_config": IMAGE | {"projection_dim": 6},
    "projection_dim": 6,
}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 6}
DISTIL = {"dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2, "vocab_size": 28}
LONG_T5 = T5 | {"local_radius": 3}
SWITCH = T5 | {"num_experts": 3, "num_sparse_encoder_layers": 1}
T5_GEMMA = {"encoder": DECODER, "decoder": DECODER | {"is_decoder": True}}
BART = TOKENS | {
    "d_model": 8,
    "max_position_embeddings": 16,
    "decoder_start_token_id": 2,
    **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 12 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
}
CHINESE_CLIP = {"projection_dim": 6, "text_config": TEXT, "vision_config": IMAGE}
GPT2 = {"n_embd": 8, "n_inner": 12, "n_layer": 2, "n_head": 2, "vocab_size": 28}
MODERN = TEXT | {"cls_token_id": 2, "sep_token_id": 3}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "window_size": 2}

OPT = TOKENS | {
    **{"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 12},
    **{"num_hidden_layers": 2, "num_attention_heads": 2},
    "max_position_embeddings": 16,
}
RELATIVE: dict[str, Any] = {
    **{"relative_attention": True, "position_buckets": 4, "share_att_key": True},
    **{"pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm"},
    "position_biased_input": False,
}

CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "BertForSequenceClassification": ("BertConfig", TEXT),
    "BertForMaskedLM": ("BertConfig", TEXT),
    "RobertaForSequenceClassification": ("RobertaConfig", TEXT),
    "DebertaV2ForSequenceClassification": ("DebertaV2Config", TEXT | RELATIVE),
    "DebertaV2ForMaskedLM": ("DebertaV2Config", TEXT | RELATIVE),
    "ModernBertForMaskedLM": ("ModernBertConfig", TEXT),
    "ModernBertForSequenceClassification": ("ModernBertConfig", TEXT),
    "XLMRobertaForTokenClassification": ("XLMRobertaConfig", TEXT),
    "GteForSequenceClassification": ("GteConfig", TEXT),
    "DistilBertForSequenceClassification": ("DistilBertConfig", DISTIL),
    "LlamaForCausalLM": ("LlamaConfig", DECODER),
    "Qwen3ForCausalLM": ("Qwen3Config", DECODER | {"tie_word_embeddings": True}),
    "MistralForCausalLM": ("MistralConfig", DECODER),
    "OPTForCausalLM": ("OPTConfig", OPT),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", DECODER),
    "GPT2LMHeadModel": ("GPT2Config", GPT2),
    "T5ForConditionalGeneration": ("T5Config", T5),
    "LongT5ForConditionalGeneration": ("LongT5Config", LONG_T5),
    "SwitchTransformersForConditionalGeneration": ("SwitchTransformersConfig", SWITCH),
    "T5GemmaForConditionalGeneration": ("T5GemmaConfig", T5_GEMMA),
    "T5EncoderModel": ("T5Config", T5),
    "MixtralForCausalLM": ("MixtralConfig", DECODER | {"num_local_experts": 3}),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", DECODER | EXPERTS),
    "GptOssForCausalLM": ("GptOssConfig", DECODER | {"num_local_experts": 3}),
    "CLIPModel": ("CLIPConfig", CLIP),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", CLIP["vision_config"]),
    "SiglipModel": ("SiglipConfig", {"text_config": TEXT, "vision_config": IMAGE}),
    "ViTForImageClassification": ("ViTConfig", IMAGE),
    "SwinForImageClassification": (
        "SwinConfig",
        SWIN | {"depths": [1, 1], "num_heads": [2, 2]},
    ),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1]},
    ),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]},
    ),
}

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "BartModel": ("BartConfig", BART),
    "ChineseCLIPModel": ("ChineseCLIPConfig", CHINESE_CLIP),
    "DebertaV2ForSequenceClassification": ("DebertaV2Config", TEXT),
    "Dinov2ForImageClassification": ("Dinov2Config", IMAGE),
    "Dinov2WithRegistersForImageClassification": ("Dinov2WithRegistersConfig", IMAGE),
    "ElectraForSequenceClassification": ("ElectraConfig", TEXT | {"embedding_size": 8}),
    "GPT2ForSequenceClassification": ("GPT2Config", GPT2 | {"pad_token_id": 0}),
    "ModernBertForSequenceClassification": ("ModernBertConfig", MODERN),
    "Qwen3ForSequenceClassification": ("Qwen3Config", DECODER),
}
"""Classes that are not taken as they are."""


def build(name: str, **options: Any) -> nn.Module:
    """Build a model of a class; every parameter and buffer is drawn at random."""
    import transformers

    kind, settings = (CLASSES | OTHERS)[name]
    config = getattr(transformers, kind)(**settings | options)
    model = getattr(transformers, name)(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.5 + 0.1 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def save(path: Path, model: nn.Module, **options: Any) -> Path:
    """Write a model as ``save_pretrained`` does, without its bars."""
    from kfac_artifacts.sources.silence_libraries import quiet

    with quiet():
        model.save_pretrained(path, **options)
    return path


def reload(path: Path, model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Load a directory by a model's own class, with the report of loading."""
    from kfac_artifacts.sources.silence_libraries import quiet

    with quiet():
        load: Any = type(model).from_pretrained  # type: ignore[attr-defined]
        found: tuple[nn.Module, dict[str, Any]] = load(
            path, dtype="auto", output_loading_info=True, local_files_only=True
        )
        return found


def find_parameter(model: nn.Module) -> Callable[[str], Tensor]:
    """Give the parameters of a model by their names in its encoder."""
    whole = dict(model.named_parameters(remove_duplicate=False))
    base = getattr(model, str(model.base_model_prefix), None)
    inner = {} if base is None else dict(base.named_parameters(remove_duplicate=False))
    return lambda name: inner[name] if name in inner else whole[name]
