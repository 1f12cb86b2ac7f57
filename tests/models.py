"""Tiny random models of five kinds, in memory or as whole model directories.

Each has one to three thousand parameters. Every entry is drawn at random, biases and
norms too, so that no gradient vanishes by construction; dropout keeps its usual rate,
so that a model left in training mode is noticed. Hugging Face classes are imported
when a model is built, because importing them takes seconds.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

SavedModel: TypeAlias = Callable[[str], Path]
"""Gives the directory of a tiny model, by its name."""
# fmt: off
WORDS = [
    "a", "an", "and", "bird", "black", "blue", "brown", "cat", "dog", "fish", "good",
    "green", "in", "is", "it", "of", "on", "red", "runs", "sings", "sits", "swims",
    "the", "white",
]
# fmt: on
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *WORDS])}
PAD, UNKNOWN, START, END = range(4)
IMAGE_SIZE = 8
PATCH_SIZE = 4

_WIDTHS = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_TOKENS = {
    "vocab_size": len(VOCABULARY),
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": END,
}


def tiny_bert(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a BERT without a pooler: text to hidden states of width 8."""
    from transformers import BertConfig, BertModel

    config = BertConfig(**_WIDTHS, **_TOKENS, max_position_embeddings=16)
    return _randomised(BertModel(config, add_pooling_layer=False), seed, dtype)


def tiny_t5(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build the encoder of a T5: RMSNorm, no biases, relative positions."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        **_TOKENS,
        d_model=8,
        d_kv=4,
        d_ff=12,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=4,
        relative_attention_max_distance=8,
    )
    return _randomised(T5EncoderModel(config), seed, dtype)


def tiny_gpt2(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a GPT-2: causal, with ``Conv1D`` in place of Linear; it pads nothing."""
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        bos_token_id=END,
        eos_token_id=END,
        n_embd=8,
        n_inner=12,
        n_layer=2,
        n_head=2,
        n_positions=16,
    )
    return _randomised(GPT2Model(config), seed, dtype)


def tiny_vit(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a ViT without a pooler: images of 8 x 8 in four patches."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(**_WIDTHS, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    return _randomised(ViTModel(config, add_pooling_layer=False), seed, dtype)


def tiny_clip(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a CLIP with both towers, projected to 6 dimensions."""
    from transformers import CLIPConfig, CLIPModel

    both = _WIDTHS | {"projection_dim": 6}
    vision = both | {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    text = both | _TOKENS | {"max_position_embeddings": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
    return _randomised(CLIPModel(config), seed, dtype)


_POSITIONS = {"max_position_embeddings": 16}
_DECODER = _WIDTHS | _TOKENS | _POSITIONS | {"num_key_value_heads": 1, "head_dim": 4}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}


def _roberta() -> nn.Module:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(**_WIDTHS, **_TOKENS, **_POSITIONS, type_vocab_size=2)
    return RobertaModel(config, add_pooling_layer=False)


def _distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    widths = {"dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2}
    tokens = {"vocab_size": len(VOCABULARY), "pad_token_id": PAD}
    return DistilBertModel(DistilBertConfig(**widths, **tokens, **_POSITIONS))


def _mpnet() -> nn.Module:
    from transformers import MPNetConfig, MPNetModel

    config = MPNetConfig(**_WIDTHS, **_TOKENS, **_POSITIONS)
    return MPNetModel(config, add_pooling_layer=False)


def _deberta() -> nn.Module:
    from transformers import DebertaConfig, DebertaModel

    config = DebertaConfig(**_WIDTHS, **_TOKENS, **_POSITIONS, **_RELATIVE)
    return DebertaModel(config)


def _deberta_v2(buckets: int = 4, *, shared: bool = True) -> nn.Module:
    """Version 3 of DeBERTa has the architecture of version 2, as set here."""
    from transformers import DebertaV2Config, DebertaV2Model

    own = {
        "position_buckets": buckets,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": shared,
        "position_biased_input": False,
    }
    config = DebertaV2Config(**_WIDTHS, **_TOKENS, **_POSITIONS, **_RELATIVE, **own)
    return DebertaV2Model(config)


def _t5_both(layers: int = 1) -> nn.Module:
    from transformers import T5Config, T5Model

    return T5Model(
        T5Config(
            **_TOKENS,
            d_model=8,
            d_kv=4,
            d_ff=12,
            num_layers=layers,
            num_heads=2,
            relative_attention_num_buckets=4,
            relative_attention_max_distance=8,
        )
    )


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(LlamaConfig(**_DECODER))


def _qwen2() -> nn.Module:
    from transformers import Qwen2Config, Qwen2Model

    return Qwen2Model(Qwen2Config(**_DECODER))


def _qwen3() -> nn.Module:
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(Qwen3Config(**_DECODER))


def _mamba() -> nn.Module:
    from transformers import MambaConfig, MambaModel

    config = MambaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        state_size=3,
        num_hidden_layers=2,
        conv_kernel=3,
        time_step_rank=2,
        pad_token_id=PAD,
    )
    return MambaModel(config)


def _mixtral(**options: Any) -> nn.Module:
    from transformers import MixtralConfig, MixtralModel

    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return MixtralModel(MixtralConfig(**(_DECODER | experts | options)))


def _qwen3_moe() -> nn.Module:
    from transformers import Qwen3MoeConfig, Qwen3MoeModel

    experts = {"moe_intermediate_size": 5, "num_experts": 6, "num_experts_per_tok": 2}
    return Qwen3MoeModel(Qwen3MoeConfig(**_DECODER, **experts))


def _gpt_oss() -> nn.Module:
    from transformers import GptOssConfig, GptOssModel

    config = GptOssConfig(**_DECODER, num_local_experts=6, num_experts_per_tok=2)
    return GptOssModel(config)


_ARCHITECTURES = {
    "roberta": _roberta,
    "distilbert": _distilbert,
    "mpnet": _mpnet,
    "deberta": _deberta,
    "deberta-v2": _deberta_v2,
    "deberta-v2-unshared": partial(_deberta_v2, shared=False),
    "t5-both": _t5_both,
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "mamba": _mamba,
    "mixtral": _mixtral,
    "qwen3-moe": _qwen3_moe,
    "gpt-oss": _gpt_oss,
}
ARCHITECTURES = tuple(_ARCHITECTURES)
EXPERTS = ("mixtral", "qwen3-moe", "gpt-oss")


def tiny(
    architecture: str, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any
) -> nn.Module:
    """Build any other text model, with hidden states of width 8."""
    return _randomised(_ARCHITECTURES[architecture](**options), seed, dtype)


TEXT_MODELS = {"bert": tiny_bert, "t5": tiny_t5, "gpt2": tiny_gpt2}
IMAGE_MODELS = {"clip": tiny_clip, "vit": tiny_vit}
MODELS = TEXT_MODELS | IMAGE_MODELS


def text_batch() -> dict[str, Tensor]:
    """Three texts of 5, 3 and 2 tokens, padded on the right."""
    ids = torch.tensor([[2, 4, 7, 9, 3], [2, 12, 3, 0, 0], [2, 3, 0, 0, 0]])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def image_batch(
    count: int = 3, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random images, always the same."""
    shape = (count, 3, IMAGE_SIZE, IMAGE_SIZE)
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(shape, generator=generator).to(dtype)}


def save_tiny_bert(path: Path, seed: int = 0) -> Path:
    """Write a BERT with a tokenizer that adds ``<s>`` and ``</s>``."""
    return _save(path, tiny_bert(seed), tiny_tokenizer("<s> $A </s>"))


def save_tiny_t5(path: Path, seed: int = 0) -> Path:
    """Write a T5 encoder with a tokenizer that ends texts with ``</s>``."""
    return _save(path, tiny_t5(seed), tiny_tokenizer("$A </s>"))


def save_tiny_gpt2(path: Path, seed: int = 0) -> Path:
    """Write a GPT-2 with a tokenizer that adds nothing and has no padding token."""
    return _save(path, tiny_gpt2(seed), tiny_tokenizer("$A", pad_token=None))


def save_tiny_vit(path: Path, seed: int = 0) -> Path:
    """Write a ViT with its image processor."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return _save(path, tiny_vit(seed), ViTImageProcessorPil(size=size))


def save_tiny_clip(path: Path, seed: int = 0) -> Path:
    """Write a CLIP with its tokenizer and its image processor."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    )
    return _save(path, tiny_clip(seed), tiny_tokenizer("<s> $A </s>"), processor)


SAVED_MODELS = {
    "bert": save_tiny_bert,
    "t5": save_tiny_t5,
    "gpt2": save_tiny_gpt2,
    "vit": save_tiny_vit,
    "clip": save_tiny_clip,
}


def tiny_tokenizer(template: str, pad_token: str | None = "<pad>") -> Any:
    """Build a tokenizer of whole words with one of the usual ways to frame a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template,
        pair=f"{template} $B:1 </s>:1",
        special_tokens=[("<s>", START), ("</s>", END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad_token,
        model_max_length=16,
    )


def _randomised(module: nn.Module, seed: int, dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if is_norm else 0.3 * noise)
    return module.to(dtype).eval()


def _save(path: Path, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(path)
    return path
