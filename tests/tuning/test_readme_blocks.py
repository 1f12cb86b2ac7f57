"""The README's blocks for trainers run as they stand there, with the real libraries."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import kfac_artifacts as kfac
from tests.language.saved import save_model, tokenizer_of
from tests.models import save_tiny_bert
from tests.tuning.test_trainers import BRIEF, NAME, arguments, texts

pytest.importorskip("peft")
pytestmark = pytest.mark.slow
README = Path(__file__).parents[2] / "README.md"
MODEL = "HuggingFaceTB/SmolLM2-135M"
WORDS = ["the cat runs", "a black dog sits", "it is good", "the bird sings"] * 2


def block(having: str) -> str:
    """The one block of Python that has some words."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    (found,) = [each for each in blocks if having in each]
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the model and the curvature that the README names."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / MODEL, NAME)
    keep_curvature(MODEL, "general")
    return tmp_path


def keep_curvature(model: str, name: str) -> None:
    Path("x.jsonl").write_text("".join(f"{json.dumps({'text': w})}\n" for w in WORDS))
    network = kfac.load_network(model)
    examples = kfac.load_examples("x.jsonl", network)
    kfac.save_artifact(kfac.compute(network, examples, allow_few=True), name)


def logged(trainer: Any) -> list[dict[str, Any]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def loaded() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL)


def test_the_block_of_trl_trains_and_logs_the_penalty(place: Path) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    args = SFTConfig(
        output_dir="out", max_steps=2, logging_steps=1, **BRIEF, eos_token="</s>"
    )
    names: dict[str, Any] = {
        "kfac": kfac,
        "SFTTrainer": SFTTrainer,
        "LoraConfig": LoraConfig,
        "args": args,
        "data": Dataset.from_dict({"text": WORDS}),
    }
    exec(block("SFTTrainer("), names)
    assert [entry["penalty"] >= 0 for entry in logged(names["trainer"])] == [True] * 2


def test_the_block_of_transformers_trains_and_logs_the_penalty(place: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer

    made: list[Any] = []

    class Noted(Trainer):
        """The block keeps none."""

        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            made.append(self)

    names: dict[str, Any] = {
        "kfac": kfac,
        "Trainer": Noted,
        "LoraConfig": LoraConfig,
        "get_peft_model": get_peft_model,
        "args": arguments(place / "out"),
        "data": texts(),
        "model": loaded(),
    }
    exec(block('callback = kfac.KfacCallback("general"'), names)
    assert [entry["penalty"] >= 0 for entry in logged(made[0])] == [True] * 2


def test_the_block_of_sentence_transformers_holds_an_encoder_back(place: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        MultipleNegativesRankingLoss,
    )
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder = save_tiny_bert(place / "bert")
    model = SentenceTransformer(
        modules=[Transformer(str(encoder)), Pooling(8)], device="cpu"
    )
    model.save_pretrained("encoder")
    keep_curvature("encoder", "others")
    pairs = {"anchor": ["the cat runs", "a dog"] * 4, "positive": ["it", "on"] * 4}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    names: dict[str, Any] = {
        "kfac": kfac,
        "SentenceTransformerTrainer": SentenceTransformerTrainer,
        "model": model,
        "args": SentenceTransformerTrainingArguments(
            output_dir="out", max_steps=2, logging_steps=1, **BRIEF
        ),
        "pairs": Dataset.from_dict(pairs),
        "loss": MultipleNegativesRankingLoss(model),
    }
    exec(block("SentenceTransformerTrainer("), names)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert any("query" in name for name in moved)
    assert not any("embeddings" in name for name in moved)
    with torch.no_grad():
        assert names["callback"].penalty() > 0


def test_the_block_for_any_loop_adds_the_gradient_of_the_penalty(place: Path) -> None:
    from peft import LoraConfig, get_peft_model

    ends = []
    for weight in ("0.0", "1.0"):
        torch.manual_seed(0)
        model = get_peft_model(loaded(), LoraConfig(target_modules="all-linear"))
        moving = [p for p in model.parameters() if p.requires_grad]
        ids = tokenizer_of(NAME)(WORDS, padding=True, return_tensors="pt")
        names: dict[str, Any] = {
            "kfac": kfac,
            "model": model,
            "loader": [{**ids, "labels": ids["input_ids"]}] * 3,
            "optimizer": torch.optim.AdamW(moving, lr=0.05),
        }
        code = block("kfac.ModelPenalty(model")
        assert "penalty.backward(100.0)" in code
        exec(code.replace("backward(100.0)", f"backward({weight})"), names)
        ends.append(float(names["penalty"]().detach()))
    assert 0 < ends[1] < ends[0]
