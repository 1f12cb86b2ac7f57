"""The penalty in real trainers: steps of SGD against gradients of a formed τ."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kfac_artifacts import compute, load_examples
from kfac_artifacts.artifact import Artifact
from kfac_artifacts.errors import CoverageError, SettingsError
from kfac_artifacts.penalty import KfacPenalty
from kfac_artifacts.sources import load_network
from kfac_artifacts.tuning import KfacCallback
from kfac_artifacts.tuning.callback import _unscale
from tests.language.saved import save_model, tokenizer_of
from tests.models import save_tiny_bert
from tests.tuning.adapted import adapted, curvature_of, trained

pytest.importorskip("peft")
NAME = "LlamaForCausalLM"
LAM, RATE = 7.0, 0.01
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}
BRIEF: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}
"""What all trainers are told here."""


def texts(count: int = 8) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, 28, (count, 6), generator=generator).tolist()
    return [{"input_ids": row, "labels": row} for row in ids]


def arguments(path: Path, **changed: Any) -> Any:
    from transformers import TrainingArguments

    usual: dict[str, Any] = {
        "output_dir": str(path),
        "max_steps": 2,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "logging_steps": 1,
        **BRIEF,
        "train_sampling_strategy": "sequential",
    }
    return TrainingArguments(**usual | changed)


def formed(model: Any, of: Artifact) -> Tensor:
    """The penalty of the changes that ``peft`` itself forms."""
    found = {
        f"{path.removeprefix('base_model.model.')}.weight": layer.get_delta_weight(
            "default"
        )
        for path, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    return KfacPenalty(of)(found)


def by_hand(model: Any, of: Artifact, *, lam: float, most: float, steps: int) -> None:
    """SGD on the loss of a batch and the penalty, the gradient of both clipped."""
    model.train()
    for step in range(steps):
        rows = texts()[4 * step : 4 * step + 4] if steps > 1 else texts()[:4]
        ids = torch.tensor([row["input_ids"] for row in rows])
        loss = model(input_ids=ids, labels=ids).loss + lam * formed(model, of)
        model.zero_grad()
        loss.backward()
        if most:
            torch.nn.utils.clip_grad_norm_(model.parameters(), most)
        with torch.no_grad():
            for parameter in trained(model).values():
                parameter.sub_(RATE * parameter.grad)


@pytest.mark.parametrize("most", [0.0, 0.5])
@pytest.mark.parametrize("parts", [1, 2])
def test_steps_are_those_of_loss_and_penalty_whatever_is_accumulated(
    tmp_path: Path, most: float, parts: int
) -> None:
    from transformers import Trainer

    of = curvature_of(NAME)
    model = adapted(NAME, dtype=torch.float32, lora_dropout=0.0)
    other = copy.deepcopy(model)
    by_hand(other, of, lam=LAM, most=most, steps=2)
    args = arguments(
        tmp_path,
        max_grad_norm=most,
        per_device_train_batch_size=4 // parts,
        gradient_accumulation_steps=parts,
    )
    callback = KfacCallback(of, LAM)
    start = float(formed(model, of).detach())
    trainer = Trainer(model, args, train_dataset=texts(), callbacks=[callback])
    trainer.train()
    for (name, one), two in zip(
        trained(model).items(), trained(other).values(), strict=True
    ):
        torch.testing.assert_close(one, two, msg=name, **CLOSE)
    logged = [
        entry["penalty"] for entry in trainer.state.log_history if "loss" in entry
    ]
    assert len(logged) == 2
    assert logged[0] == pytest.approx(start, rel=1e-4)
    assert args.max_grad_norm == most


def test_a_training_that_was_broken_off_does_not_lose_the_clipping(
    tmp_path: Path,
) -> None:
    from transformers import Trainer, TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    of, args = curvature_of(NAME), arguments(tmp_path, max_grad_norm=0.5)
    for more in ([Stop()], []):
        model = adapted(NAME, dtype=torch.float32)
        other = copy.deepcopy(model)
        callbacks = [KfacCallback(of, LAM), *more]
        trainer = Trainer(model, args, train_dataset=texts(), callbacks=callbacks)
        if more:
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        else:
            trainer.train()
    by_hand(other, of, lam=LAM, most=0.5, steps=2)
    for one, two in zip(trained(model).values(), trained(other).values(), strict=True):
        torch.testing.assert_close(one, two, **CLOSE)
    assert args.max_grad_norm == 0.5


def test_without_weight_it_is_only_measured(tmp_path: Path) -> None:
    from transformers import Trainer

    of, model = curvature_of(NAME), adapted(NAME, dtype=torch.float32)
    other = copy.deepcopy(model)
    by_hand(other, of, lam=0.0, most=1.0, steps=2)
    trainer = Trainer(
        model,
        arguments(tmp_path),
        train_dataset=texts(),
        callbacks=[KfacCallback(of, 0.0)],
    )
    trainer.train()
    for one, two in zip(trained(model).values(), trained(other).values(), strict=True):
        torch.testing.assert_close(one, two, **CLOSE)
    assert trainer.state.log_history[0]["penalty"] > 0


@pytest.mark.parametrize("later", [False, True])
def test_whoever_reports_gets_the_penalty_with_the_loss(
    tmp_path: Path, later: bool
) -> None:
    from transformers import Trainer, TrainerCallback

    class Report(TrainerCallback):
        """As that of ``report_to`` it stands before the callbacks of the user."""

        def __init__(self) -> None:
            self.got: list[dict[str, Any]] = []
            self.begun = 0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begun += 1

        def on_log(self, *_: Any, **given: Any) -> None:
            self.got.append(dict(given["logs"]))

    class After(Report):
        """It stands behind ours."""

    before, after = Report(), After()
    ours = KfacCallback(curvature_of(NAME), LAM)
    model = adapted(NAME, dtype=torch.float32)
    given: list[Any] = [before] if later else [before, ours, after]
    trainer = Trainer(
        model, arguments(tmp_path), train_dataset=texts(), callbacks=given
    )
    for callback in (ours, after) if later else ():
        trainer.add_callback(callback)
    trainer.train()
    for each in (before, after):
        losses = [logs for logs in each.got if "loss" in logs]
        assert len(losses) == 2
        assert all(logs["penalty"] > 0 for logs in losses)
        assert each.begun == 1


def test_the_trainer_refuses_what_the_curvature_does_not_cover(tmp_path: Path) -> None:
    from transformers import Trainer

    of, model = curvature_of(NAME), adapted(NAME, target_modules=["lm_head", "q_proj"])
    with pytest.raises(CoverageError, match="lm_head"):
        Trainer(model, arguments(tmp_path), callbacks=[KfacCallback(of, 1.0)])
    with pytest.raises(SettingsError, match="at least 0, found -1"):
        KfacCallback(of, -1.0)


def test_gradients_are_unscaled_once() -> None:
    """As accelerate wraps an optimizer under float16, on a device that has it."""
    from accelerate.optimizer import AcceleratedOptimizer

    weight = torch.ones(1, requires_grad=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = AcceleratedOptimizer(torch.optim.SGD([weight], 1.0), scaler=scaler)
    for times in (1, 2):
        scaler.scale(3 * weight.sum()).backward()
        for _ in range(times):
            _unscale(optimizer)
        assert weight.grad is not None
        assert weight.grad.item() == 3
        scaler.step(optimizer.optimizer)
        scaler.update()
        weight.grad = None


def test_fine_tuning_by_trl_is_held_back(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    source = save_model(tmp_path / "model", NAME)
    words = ["the cat runs", "a black dog sits", "it is good", "the bird sings"] * 4
    network = load_network(source)
    (tmp_path / "x.jsonl").write_text("".join(f'{{"text": "{w}"}}\n' for w in words))
    of = compute(
        network,
        load_examples(str(tmp_path / "x.jsonl"), network),
        count=16,
        allow_few=True,
    )
    ends = {}
    for lam in (0.0, 100.0):
        args = SFTConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=6,
            learning_rate=0.05,
            logging_steps=2,
            **BRIEF,
            bf16=False,
            eos_token="</s>",
        )
        trainer = SFTTrainer(
            str(source),
            args=args,
            train_dataset=Dataset.from_dict({"text": words}),
            processing_class=tokenizer_of(NAME),
            peft_config=LoraConfig(r=2, target_modules="all-linear"),
            callbacks=[KfacCallback(of, lam)],
        )
        trainer.train()
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert len(logs) == 3
        assert all(entry["penalty"] >= 0 for entry in logs)
        ends[lam] = logs[-1]["penalty"]
    assert ends[100.0] < 0.5 * ends[0.0]


def test_an_encoder_of_sentence_transformers_is_held_back(tmp_path: Path) -> None:
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

    encoder = save_tiny_bert(tmp_path / "bert")
    rows = [{"text": t} for t in ("the cat runs", "a dog sits", "it is good", "a bird")]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows * 2)
    (tmp_path / "x.jsonl").write_text(lines)
    ends = {}
    for lam in (0.0, 1000.0):
        modules = [Transformer(str(encoder)), Pooling(8)]
        model = SentenceTransformer(modules=modules, device="cpu")
        model.save_pretrained(str(tmp_path / "st"))
        network = load_network(tmp_path / "st")
        of = compute(
            network,
            load_examples(str(tmp_path / "x.jsonl"), network),
            count=8,
            allow_few=True,
        )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("word_embeddings" not in name)
        args = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "out"),
            max_steps=4,
            learning_rate=0.01,
            logging_steps=2,
            **BRIEF,
        )
        pairs = {"anchor": ["the cat runs", "a dog"] * 4, "positive": ["it", "on"] * 4}
        trainer = SentenceTransformerTrainer(
            model,
            args=args,
            train_dataset=Dataset.from_dict(pairs),
            loss=MultipleNegativesRankingLoss(model),
            callbacks=[KfacCallback(of, lam, free=["embeddings.*", "pooler.*"])],
        )
        trainer.train()
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        ends[lam] = logs[-1]["penalty"]
    assert 0 < ends[1000.0] < 0.5 * ends[0.0]
