"""Whole directories of tiny models with a head, with tokenizers for each."""

from pathlib import Path
from typing import Any

import torch

from tests.language.heads import build
from tests.models import VOCABULARY, tiny_tokenizer
from tests.sources.families import save

TEMPLATES = {
    "LlamaForCausalLM": "<s> $A",
    "GPT2LMHeadModel": "$A",
    "BloomForCausalLM": "$A",
    "MptForCausalLM": "$A",
    "BertForMaskedLM": "<s> $A </s>",
    "BertForSequenceClassification": "<s> $A </s>",
    "T5ForConditionalGeneration": "$A </s>",
}
CHAT = (
    "{% for m in messages %}<s>{{ m.role }} {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant{% endif %}"
)
"""As usual templates are: a message between two special tokens."""


def save_model(path: Path, name: str, **options: Any) -> Path:
    """Write a tiny model of a class with its tokenizer, which knows a mask."""
    options = {"vocab_size": len(VOCABULARY) + 1} | options
    save(path, build(name, torch.float32, **options))
    tokenizer_of(name).save_pretrained(path)
    return path


def tokenizer_of(name: str) -> Any:
    """The tokenizer of a class, with a template for conversations."""
    tokenizer = tiny_tokenizer(TEMPLATES[name])
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.chat_template = CHAT
    tokenizer.model_max_length = 32
    return tokenizer
