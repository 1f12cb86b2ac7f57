"""Curvature of an encoder in every class that has it, however it is wrapped."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kfac_artifacts as kfac
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.network import Network, TensorExamples
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.sources import output_map
from kfac_artifacts.tuning.models import ModelPenalty
from tests.brute_force import randomised
from tests.language.heads import batch_of
from tests.models import text_batch
from tests.sources.families import (
    DECODER,
    DISTIL,
    GPT2,
    OPT,
    RELATIVE,
    T5,
    TEXT,
    TOKENS,
)

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
HEADS = ("ForSequenceClassification", "ForTokenClassification")
MASKED = (*HEADS, "ForMaskedLM", "ForQuestionAnswering")
CAUSAL = (*HEADS, "ForCausalLM")
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "Bert": ("BertConfig", TEXT, (*MASKED, "ForMultipleChoice", "ForPreTraining")),
    "Roberta": ("RobertaConfig", TEXT, MASKED),
    "XLMRoberta": ("XLMRobertaConfig", TEXT, MASKED),
    "DistilBert": ("DistilBertConfig", DISTIL, MASKED),
    "DebertaV2": ("DebertaV2Config", TEXT | RELATIVE, MASKED),
    "Electra": ("ElectraConfig", TEXT | {"embedding_size": 8}, MASKED),
    "ModernBert": ("ModernBertConfig", TEXT, MASKED),
    "MPNet": ("MPNetConfig", TEXT, MASKED),
    "Llama": ("LlamaConfig", DECODER, CAUSAL),
    "Qwen3": ("Qwen3Config", DECODER, CAUSAL),
    "Mistral": ("MistralConfig", DECODER, CAUSAL),
    "OPT": ("OPTConfig", OPT, ("ForSequenceClassification", "ForCausalLM")),
    "GPT2": ("GPT2Config", GPT2 | TOKENS, (*HEADS, "LMHeadModel")),
    "T5": ("T5Config", T5, ("ForConditionalGeneration", *HEADS)),
}
CLASSES = [(kind, head) for kind, (*_, heads) in FAMILIES.items() for head in heads]


def build(kind: str, head: str) -> Any:
    """A model of a class; its encoder is that of every other class of the family."""
    import transformers

    name, settings, _ = FAMILIES[kind]
    config = getattr(transformers, name)(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}{head}")(config)
    if head not in ("Model", "EncoderModel"):
        inner = model.base_model if kind != "T5" else model
        state = bare(kind).state_dict()
        found = inner.load_state_dict(state, strict=False)
        if kind == "T5" and found.unexpected_keys:
            model.transformer.load_state_dict(state, strict=False)
    return model.double().eval()


@cache
def bare(kind: str) -> Any:
    head = "EncoderModel" if kind == "T5" else "Model"
    import transformers

    name, settings, _ = FAMILIES[kind]
    config = getattr(transformers, name)(**settings)
    return randomised(getattr(transformers, f"{kind}{head}")(config)).double().eval()


@cache
def curvature_of(kind: str) -> Artifact:
    network = Network(bare(kind), output_map(bare(kind)), "tiny")
    examples = TensorExamples(text_batch(), "three texts")
    return kfac.compute(network, examples, count=3, allow_few=True)


def covered_in(model: nn.Module, of: Artifact) -> dict[str, Tensor]:
    """What is covered of a model, by the names of the artifact; the rest is frozen."""
    found: dict[str, Tensor] = {}
    for path, parameter in model.named_parameters():
        name = f".{path}".replace("._orig_mod", "")
        own = [n for n in of.parameters if name.endswith(f".{n}") or n.endswith(name)]
        parameter.requires_grad_(bool(own))
        found |= dict.fromkeys(own, parameter)
    return found


def check(model: nn.Module, of: Artifact, *, whole: bool = True) -> None:
    covered = covered_in(model, of)
    assert covered.keys() == of.parameters.keys() if whole else covered
    penalty = ModelPenalty(model, of)
    generator = torch.Generator().manual_seed(1)
    tau = {
        n: 0.1 * torch.randn(p.shape, generator=generator).double()
        for n, p in covered.items()
    }
    with torch.no_grad():
        for name, parameter in covered.items():
            parameter.add_(tau[name])
    torch.testing.assert_close(penalty(), KfacPenalty(of)(tau), **CLOSE)


@pytest.mark.parametrize(("kind", "head"), CLASSES)
def test_curvature_of_the_encoder_holds_every_class_back(kind: str, head: str) -> None:
    check(build(kind, head), curvature_of(kind))


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("Bert", "ForMaskedLM"),
        ("ModernBert", "ForMaskedLM"),
        ("Llama", "ForCausalLM"),
        ("Qwen3", "ForCausalLM"),
        ("OPT", "ForCausalLM"),
        ("GPT2", "LMHeadModel"),
    ],
)
def test_curvature_of_a_class_with_a_head_holds_its_encoder_back(
    kind: str, head: str
) -> None:
    model = build(kind, head)
    batch = batch_of("BertForMaskedLM" if head == "ForMaskedLM" else "LlamaForCausalLM")
    network = Network(model, output_map(model, "lm-fisher"), "tiny")
    examples = TensorExamples(batch, "three texts")
    of = kfac.compute(network, examples, count=3, allow_few=True)
    check(copy.deepcopy(bare(kind)), of, whole=False)


def inside(model: Any) -> Any:
    """The encoder alone is compiled, as some programs do."""
    model.bert = torch.compile(model.bert)
    return model


WRAPS: dict[str, Any] = {
    "alone": lambda model: model,
    "compiled": torch.compile,
    "parallel": nn.DataParallel,  # whose names are those of DDP
    "both": lambda model: nn.DataParallel(torch.compile(model)),
    "the other way": lambda model: torch.compile(nn.DataParallel(model)),
}


@pytest.mark.parametrize("wrap", [*WRAPS.values(), inside], ids=[*WRAPS, "inside"])
def test_wrapped_models_are_held_back_as_they_are(wrap: Any) -> None:
    check(wrap(build("Bert", "ForSequenceClassification")), curvature_of("Bert"))


@pytest.mark.parametrize(
    ("kind", "head", "task"),
    [
        ("Bert", "ForSequenceClassification", "SEQ_CLS"),
        ("Roberta", "ForTokenClassification", "TOKEN_CLS"),
        ("DistilBert", "ForQuestionAnswering", "QUESTION_ANS"),
        ("DebertaV2", "ForSequenceClassification", "SEQ_CLS"),
        ("ModernBert", "ForSequenceClassification", "SEQ_CLS"),
        ("Llama", "ForCausalLM", "CAUSAL_LM"),
        ("T5", "ForConditionalGeneration", "SEQ_2_SEQ_LM"),
    ],
)
@pytest.mark.parametrize("wrap", ["alone", "both"])
def test_adapters_around_classes_with_a_head(
    kind: str, head: str, task: str, wrap: str
) -> None:
    peft = pytest.importorskip("peft")
    of = curvature_of(kind)
    weights = {
        n for n in of.parameters if n.endswith("weight") and "norm" not in n.lower()
    }
    adapted = [n.removesuffix(".weight") for n in weights if len(of.parameters[n]) == 2]
    config = peft.LoraConfig(
        r=2,
        task_type=task,
        target_modules=rf".*({'|'.join(adapted).replace('.', '[.]')})",
        init_lora_weights=False,
    )
    model = peft.get_peft_model(build(kind, head), config)
    heads = {
        n for n in ("classifier", "qa_outputs") if hasattr(model.base_model.model, n)
    }
    value = ModelPenalty(WRAPS[wrap](model), of, free=[f"{n}.*" for n in heads])()
    merged = model.merge_and_unload()
    start = dict(bare(kind).named_parameters())
    tau = {n: (p - start[n]).detach() for n, p in covered_in(merged, of).items()}
    assert sum(bool(change.any()) for change in tau.values()) == len(adapted)
    torch.testing.assert_close(value, KfacPenalty(of)(tau), **CLOSE)
