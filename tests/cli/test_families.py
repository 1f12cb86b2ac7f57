"""Every family as its users have it: curvature, training and merging by commands."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kfac_artifacts import load_artifact
from kfac_artifacts.task_vector import TaskVector
from tests.brute_force import randomised
from tests.commands import good, kfac
from tests.language.saved import CHAT
from tests.language.test_texts import TEXTS, rows
from tests.models import PAD, tiny_tokenizer
from tests.sources.families import (
    DECODER,
    GPT2,
    OPT,
    RELATIVE,
    T5,
    TEXT,
    TOKENS,
    find_parameter,
    save,
)

ROPE_3 = {
    **{"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 8,
}
TIED = {"tie_word_embeddings": True}
MIXED = {"num_local_experts": 3, "num_experts_per_tok": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
CAUSAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Qwen3": ("Qwen3ForCausalLM", "Qwen3Config", DECODER | TIED),
    "Llama 3.2": (
        "LlamaForCausalLM",
        "LlamaConfig",
        DECODER | TIED | {"rope_parameters": ROPE_3},
    ),
    "Gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", DECODER | TIED),
    "SmolLM2": ("LlamaForCausalLM", "LlamaConfig", DECODER | TIED),
    "Mistral": ("MistralForCausalLM", "MistralConfig", DECODER | {"sliding_window": 4}),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", GPT2 | TOKENS),
    "OPT": ("OPTForCausalLM", "OPTConfig", OPT | TIED),
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", DECODER | MIXED),
    "Qwen3 MoE": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", DECODER | EXPERTS),
}
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ModernBERT": ("ModernBertForMaskedLM", "ModernBertConfig", TEXT),
    "BGE": ("BertModel", "BertConfig", TEXT),
    "E5": ("XLMRobertaModel", "XLMRobertaConfig", TEXT),
    "GTE": ("GteModel", "GteConfig", TEXT),
    "EmbeddingGemma": (
        "Gemma3TextModel",
        "Gemma3TextConfig",
        DECODER | {"use_bidirectional_attention": True},
    ),
    "Qwen3-Embedding": ("Qwen3ForCausalLM", "Qwen3Config", DECODER | TIED),
    "DeBERTa-v3": ("DebertaV2Model", "DebertaV2Config", TEXT | RELATIVE),
    "T5": (
        "T5ForConditionalGeneration",
        "T5Config",
        T5 | {"decoder_start_token_id": PAD},
    ),
}
FEW = ("--allow-few", "--json")


def save_model(path: Path, of: tuple[str, str, dict[str, Any]]) -> Path:
    """Write a tiny model in bfloat16 and in shards, with all that is beside it."""
    import transformers

    name, kind, settings = of
    config = getattr(transformers, kind)(**settings)
    model = randomised(getattr(transformers, name)(config)).bfloat16()
    save(path, model, max_shard_size="1KB")
    assert (path / "model.safetensors.index.json").is_file()
    tokenizer = tiny_tokenizer("<s> $A </s>")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(path)
    assert (path / "chat_template.jinja").is_file()
    (path / "README.md").write_text("# A model\n")
    (path / "vocab.txt").write_text("words\n")
    (path / "tokenizer.model").write_bytes(b"\x00\x01pieces")
    (path / "onnx").mkdir()
    (path / "onnx" / "config.json").write_text("{}")
    return path


def stored(path: Path) -> dict[str, Tensor]:
    return {n: t for f in path.glob("*.safetensors") for n, t in load_file(f).items()}


def moved(source: Path, out: Path) -> set[str]:
    """The tensors that moved; all others, and their types, are bit for bit the same."""
    before, after = stored(source), stored(out)
    assert before.keys() == after.keys()
    assert all(before[n].dtype == after[n].dtype == torch.bfloat16 for n in before)
    for file in source.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors" and file.parent == source:
            assert (out / file.name).read_bytes() == file.read_bytes(), file
    return {n for n in before if not torch.equal(before[n], after[n])}


def loaded(path: Path, kind: str) -> Any:
    import transformers

    load = getattr(transformers, kind).from_pretrained
    model, report = load(
        path, dtype="auto", output_loading_info=True, local_files_only=True
    )
    assert not any(report[key] for key in report if key.endswith("_keys")), report
    return model


def planned(model: Path, *options: object) -> set[str]:
    found = json.loads(good("plan", model, *options, "--tokens", 8, "--json"))
    experts = "num_experts_per_tok" in json.loads((model / "config.json").read_text())
    assert (found["untraced"] is None) is not experts  # routes take numbers
    return {block["name"] for block in found["blocks"]}


@pytest.mark.parametrize("family", CAUSAL)
def test_a_language_model_learns_beside_what_it_could(
    family: str, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", CAUSAL[family])
    data = rows(tmp_path / "x.jsonl", *({"text": text} for text in TEXTS))
    good("compute", model, data, "-o", tmp_path / "general", *FEW)
    artifact = load_artifact(tmp_path / "general")
    assert artifact.provenance.output_map.name == "lm-fisher"
    assert artifact.blocks.keys() == planned(model)
    train = ("train", model, data, "--lora", "r=2", "--curvature", tmp_path / "general")
    steps = ("--steps", 3, "--lr", 0.5, "--lambda", 1, "-o", tmp_path / "adapter")
    good(*train, *steps)
    good("apply", model, tmp_path / "adapter", "-o", tmp_path / "out")
    names = moved(model, tmp_path / "out")
    assert names
    assert not any("norm" in name or "embed" in name for name in names)
    loaded(tmp_path / "out", "AutoModelForCausalLM")


@pytest.mark.parametrize("family", CAUSAL)
def test_texts_share_rows_in_families_that_tell_them_apart(
    family: str, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", CAUSAL[family])
    data = rows(tmp_path / "x.jsonl", *({"text": text} for text in TEXTS * 2))
    compute = ("compute", model, data, "-o", tmp_path / "out", "--pack", *FEW)
    words = (*compute, "--max-length", 14, "--dtype", "float32")
    if family == "OPT":  # whose mask knows nothing of positions
        done = kfac(*words)
        assert done.exit_code == 1
        assert "lets the texts of a row see one another" in done.stderr
        return
    good(*words)
    data_info = load_artifact(tmp_path / "out").provenance.sources[0].data
    assert data_info.size < len(TEXTS) * 2
    good("verify", tmp_path / "out", "--recompute", model, data, "--dtype", "float32")


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3 MoE"])
@pytest.mark.parametrize("targets", ["", ",targets=all-linear"])
def test_adapters_leave_experts_alone(
    family: str, targets: str, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", CAUSAL[family])
    data = rows(tmp_path / "x.jsonl", *({"text": text} for text in TEXTS))
    train = ("train", model, data, "--lora", f"r=2{targets}", "--steps", 1, "--json")
    found = json.loads(good(*train, "-o", tmp_path / "adapter"))
    assert found["adapted"] == found["linear_maps"] == 8
    good("apply", model, tmp_path / "adapter", "-o", tmp_path / "out")


def test_a_plan_of_relative_positions_is_what_is_computed(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", ENCODERS["DeBERTa-v3"])
    data = rows(tmp_path / "x.jsonl", *({"text": text} for text in TEXTS))
    tables = "--include-tables"
    good("compute", model, data, "-o", tmp_path / "all", tables, *FEW)
    artifact = load_artifact(tmp_path / "all")
    assert artifact.blocks.keys() == planned(model, tables)
    found = json.loads(good("plan", model, "--tokens", 5, "--json"))
    positions = {b["name"]: b["positions"] for b in found["blocks"]}
    attention = "encoder.layer.0.attention.self"
    assert positions[f"{attention}.value_proj"] == 5
    assert positions[f"{attention}.key_proj"] == 5 + 2 * RELATIVE["position_buckets"]


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_learns_beside_what_it_could(family: str, tmp_path: Path) -> None:
    name, _, _ = ENCODERS[family]
    model = save_model(tmp_path / "model", ENCODERS[family])
    labelled = [{"text": t, "label": w} for t, w in zip(TEXTS, "abab", strict=True)]
    data = rows(tmp_path / "x.jsonl", *labelled)
    f = ("--output-map", "last-token") if "CausalLM" in name else ()
    good("compute", model, data, "-o", tmp_path / "others", *f, *FEW)
    artifact = load_artifact(tmp_path / "others")
    assert artifact.blocks.keys() == planned(model, *f)
    train = ("train", model, data, "--head", "prototypes", *f, "--steps", 2)
    good(*train, "--curvature", tmp_path / "others", "-o", tmp_path / "tau")
    good("apply", model, tmp_path / "tau", "-o", tmp_path / "out")
    auto = {"ModernBERT": "AutoModelForMaskedLM", "T5": "AutoModelForSeq2SeqLM"}
    auto["Qwen3-Embedding"] = "AutoModelForCausalLM"
    kind = auto.get(family, "AutoModel")
    before, after = loaded(model, kind), loaded(tmp_path / "out", kind)
    find, found = find_parameter(before), find_parameter(after)
    tensors = TaskVector.load(tmp_path / "tau").tensors
    changed = {name for name, change in tensors.items() if change.any()}
    assert len(changed) > len(artifact.parameters) / 2
    for name, change in tensors.items():
        wanted = (find(name).float() + change).bfloat16()
        assert torch.equal(found(name), wanted), name
    assert len(moved(model, tmp_path / "out")) <= len(changed)


SENTENCE: dict[str, tuple[tuple[str, str, dict[str, Any]], str, tuple[int, ...]]] = {
    "BGE": (ENCODERS["BGE"], "cls", ()),
    "E5": (ENCODERS["E5"], "mean", ()),
    "GTE": (("ModernBertModel", "ModernBertConfig", TEXT), "cls", ()),
    "EmbeddingGemma": (ENCODERS["EmbeddingGemma"], "mean", (8, 12, 6)),
    "Qwen3-Embedding": (
        ("Qwen3Model", "Qwen3Config", DECODER | TIED),
        "lasttoken",
        (),
    ),
}


@pytest.mark.parametrize("family", SENTENCE)
def test_a_sentence_encoder_comes_back_by_its_own_library(
    family: str, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as st

    of, pooling, widths = SENTENCE[family]
    encoder = save_model(tmp_path / "encoder", of)
    (encoder / "chat_template.jinja").unlink()  # through which texts would go
    first = st.Transformer(str(encoder))
    dense = [
        st.Dense(m, n, bias=False, activation_function=torch.nn.Identity())
        for m, n in pairwise(widths)
    ]
    prompts = {"query": "it is ", "document": "a "}
    modules = [first, st.Pooling(8, pooling), *dense, st.Normalize()]
    whole = SentenceTransformer(
        modules=modules, device="cpu", prompts=prompts, default_prompt_name="document"
    )
    model, out = tmp_path / "model", tmp_path / "out"
    whole.save_pretrained(str(model))
    labelled = [{"text": t, "label": w} for t, w in zip(TEXTS, "abab", strict=True)]
    data = rows(tmp_path / "x.jsonl", *labelled)
    good("compute", model, data, "-o", tmp_path / "others", *FEW)
    train = ("train", model, data, "--head", "prototypes", "--steps", 2)
    soft = ("--logit-scale", 1)  # else there may be no loss from the beginning
    good(*train, *soft, "--curvature", tmp_path / "others", "-o", tmp_path / "tau")
    good("apply", model, tmp_path / "tau", "-o", out)
    before, after = (SentenceTransformer(str(p), device="cpu") for p in (model, out))
    assert after.prompts == before.prompts
    tensors = TaskVector.load(tmp_path / "tau").tensors
    for (name, old), new in zip(
        before.named_parameters(), after.parameters(), strict=True
    ):
        change = [t for n, t in tensors.items() if name.endswith(f".{n}")]
        wanted = (old.float() + change[0]).to(old) if change else old
        assert torch.equal(new, wanted), name
    found, other = (torch.tensor(m.encode(TEXTS)) for m in (before, after))
    assert not torch.equal(found, other)
    kept = {p.relative_to(model) for p in model.rglob("*") if p.is_file()}
    assert {p.relative_to(out) for p in out.rglob("*") if p.is_file()} >= kept
