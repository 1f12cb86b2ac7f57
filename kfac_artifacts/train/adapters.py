"""Low-rank adapters of language models, trained to go on as texts do, and held back."""

import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kfac_artifacts.artifact import Artifact, Json
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.format import dump_json
from kfac_artifacts.network import Batch, Examples, Network
from kfac_artifacts.places import (
    ADAPTER_FORMAT,
    ADAPTER_MARKER,
    check_free,
    new_directory,
)
from kfac_artifacts.progress import unseen
from kfac_artifacts.train.peft_lora import LoraSettings, linear_maps, with_adapter
from kfac_artifacts.train.run import TrainingProgress
from kfac_artifacts.train.settings import TrainSettings
from kfac_artifacts.tuning import ModelPenalty, adapted_layers

PREDICTED, IGNORED = "predicted", -100
USUAL_WEIGHT = 1.0
"""λ of ``lm-fisher``, where ``τᵀ G τ`` is twice a divergence in nats."""
RECENT = 20
MEASURED = 16
"""Examples per pass where nothing is trained."""
ENCODED = 256
"""Examples that are encoded at once where nothing is computed."""


@dataclass(frozen=True)
class Predicted:
    """How well tokens are predicted.

    Attributes:
        loss: Mean of ``-log p`` over tokens, in nats.
        accuracy: Share of the tokens that are the most probable ones.
        tokens: Over how many tokens.
    """

    loss: float
    accuracy: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """``e`` to the loss."""
        return math.exp(min(self.loss, 700.0))


def train_adapter(  # noqa: PLR0913 - as many arguments as there are choices
    network: Network,
    examples: Examples,
    settings: TrainSettings,
    output: str | Path,
    *,
    lora: LoraSettings | None = None,
    curvature: Artifact | None = None,
    held_out: Examples | None = None,
    replace: bool = False,
    report: Callable[[TrainingProgress], None] = unseen,
) -> dict[str, Json]:
    """Train an adapter by the next tokens of texts, and write it as ``peft`` does.

    The loss of a step is the mean over all predicted tokens of its batch; to it comes
    ``λ τᵀ G τ``, whose gradient is added once.

    Args:
        network: A language model that predicts the next token; it has the adapter
            afterwards.
        examples: Texts, prompts with continuations, or conversations, encoded for it.
        settings: Steps, rates and λ (a number; None is 1).
        output: The adapter's directory.
        lora: What is adapted; None for what is usual.
        curvature: What is to be preserved; None holds nothing back.
        held_out: Examples to measure the result on.
        replace: Whether what this package wrote at the output may be replaced.
        report: Called after every step.

    Returns:
        Metrics: ``loss`` and ``accuracy`` of the last steps, ``penalty``, of how many
        of the ``linear_maps`` there are how many are ``adapted``, and of ``held_out``
        the loss, perplexity and accuracy before and after.

    Raises:
        SettingsError: If the model does not predict the next token, there are several
            processes, ``peft`` is missing, λ is no number, or training diverges.
        SourceError: If of an example that is trained on no token is predicted.
        CoverageError: If a layer is adapted that the curvature does not cover.
        MismatchError: If the curvature is of another model.
        PlaceError: If the output is taken or cannot be written.
    """
    check_free(output, replace=replace)
    lora = lora or LoraSettings()
    weight = _checked(network, settings)
    indices = tuple(settings.choose(len(examples)))
    batches = [settings.batch(step, indices) for step in range(settings.steps)]
    _encode_all(examples, {row for rows in batches for row in rows})
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        whole = len(linear_maps(network.module))
        model = with_adapter(network, lora, curvature)
        penalty = (
            None
            if curvature is None
            else ModelPenalty(
                model,
                curvature,
                weights=settings.penalty.module_weights or None,
                allow_indefinite=settings.penalty.allow_indefinite,
            )
        )
        adapted = sum(1 for _ in adapted_layers(model))
        metrics: dict[str, Json] = {"adapted": adapted, "linear_maps": whole}
        if held_out is not None:
            model.eval()
            with model.disable_adapter():
                before = measure_predictions(network, model, held_out)
        step = partial(_go_back, network, model, examples, settings)
        metrics |= _loop(model, step, batches, settings, penalty, weight, report)
    model.eval()
    if held_out is not None:
        after = measure_predictions(network, model, held_out)
        metrics["held_out"] = {"pretrained": _told(before), "adapted": _told(after)}
    about: dict[str, Json] = {**settings.to_json(), "lora": _json(asdict(lora))}
    about["lam"] = weight if penalty is not None else 0.0
    _write(network, model, Path(output), {**about, "metrics": metrics}, replace=replace)
    return metrics


def measure_predictions(network: Network, model: Any, examples: Examples) -> Predicted:
    """Measure how well a model predicts all examples.

    Args:
        network: Where it runs.
        model: The model.
        examples: Encoded examples.

    Returns:
        Means over all predicted tokens.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, len(examples), MEASURED):
            rows = range(start, min(start + MEASURED, len(examples)))
            sums += _sums(network, model, examples.batch(rows)).double().cpu()
    loss, right, tokens = sums.tolist()
    return Predicted(loss / tokens, right / tokens, int(tokens))


def _told(found: Predicted) -> Json:
    return {**asdict(found), "perplexity": found.perplexity}


def _json(values: dict[str, Any]) -> Json:
    return {k: [*v] if isinstance(v, tuple) else v for k, v in values.items()}


def _checked(network: Network, settings: TrainSettings) -> float:
    """Refuse what cannot be trained so; give λ."""
    kind = type(network.module).__name__
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise SettingsError(
            f"{network.id} is a {kind}, which does not predict the next token; an "
            "adapter is trained for language models saved as …ForCausalLM"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            "an adapter is trained by one process here; for several give KfacCallback "
            "to a Trainer of transformers"
        )
    weight = settings.penalty.weight
    if isinstance(weight, str):
        raise SettingsError(
            "λ of an adapter is not chosen by itself; give a number, such as 1, at "
            "which a divergence of 1 nat from the pretrained model costs 2"
        )
    return USUAL_WEIGHT if weight is None else float(weight)


def _loop(
    model: Any,
    go_back: Callable[[Sequence[int]], tuple[float, float]],
    batches: Sequence[Sequence[int]],
    settings: TrainSettings,
    penalty: ModelPenalty | None,
    weight: float,
    report: Callable[[TrainingProgress], None],
) -> dict[str, Json]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    recent: list[tuple[float, float]] = []
    model.train()
    for step, rows in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        optimizer.zero_grad()
        found = go_back(rows)
        factor = 0.0 if penalty is None else _factor(settings, weight, step)
        if penalty is not None and factor:
            penalty.backward(factor)
        optimizer.step()
        if not math.isfinite(found[0]):
            raise SettingsError(
                f"training diverged: the loss of step {step + 1} is {found[0]}; take a "
                "lower learning rate"
            )
        recent = [*recent, found][-RECENT:]
        loss, accuracy = (sum(each) / len(recent) for each in zip(*recent, strict=True))
        report(TrainingProgress(step + 1, settings.steps, loss, accuracy))
    metrics: dict[str, Json] = {"steps": settings.steps}
    metrics |= {"loss": loss, "accuracy": accuracy}
    if penalty is not None:
        with torch.no_grad():
            metrics["penalty"] = float(penalty())
    return metrics


def _encode_all(examples: Examples, rows: Collection[int]) -> None:
    """Refuse examples of which nothing is predicted now, and not in a late step."""
    wanted = sorted(rows)
    for start in range(0, len(wanted), ENCODED):
        examples.batch(wanted[start : start + ENCODED])


def _factor(settings: TrainSettings, weight: float, step: int) -> float:
    return settings.weighed(weight).penalty.factor(step)


def _go_back(
    network: Network,
    model: Any,
    examples: Examples,
    settings: TrainSettings,
    rows: Sequence[int],
) -> tuple[float, float]:
    """Add the gradient of the mean loss of a batch; give it, and the accuracy."""
    parts = [rows[i :: settings.accumulate] for i in range(settings.accumulate)]
    batches = [examples.batch(part) for part in parts if part]
    tokens = sum(int((_labels(batch)[:, 1:] != IGNORED).sum()) for batch in batches)
    total = torch.zeros(3)
    for batch in batches:
        with torch.autocast(
            network.device.type, torch.bfloat16, enabled=settings.precision == "bf16"
        ):
            sums = _sums(network, model, batch)
        (sums[0] / tokens).backward()
        total += sums.detach().float().cpu()
    return float(total[0]) / tokens, float(total[1]) / tokens


def _labels(batch: Batch) -> Tensor:
    """What is predicted, by token; everything else is left out."""
    ids, predicted = batch["input_ids"], batch[PREDICTED].bool()
    return ids.masked_fill(~predicted, IGNORED)


def _sums(network: Network, model: Any, batch: Batch) -> Tensor:
    """Sum of the losses of a batch's tokens, how many were right, and their number."""
    labels = _labels(batch)[:, 1:].to(network.device)
    inputs = {n: v for n, v in network.to_device(batch).items() if n != PREDICTED}
    logits = model(**inputs).logits[:, :-1].float()
    loss = cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    counts = labels != IGNORED
    right = ((logits.argmax(-1) == labels) & counts).sum()
    return torch.stack([loss, right.to(loss), counts.sum().to(loss)])


def _write(
    network: Network,
    model: Any,
    output: Path,
    about: dict[str, Json],
    *,
    replace: bool,
) -> None:
    with new_directory(output, replace=replace) as directory:
        with _called(network.module, network.id):
            model.save_pretrained(str(directory), save_embedding_layers=False)
        for file in directory.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner alone
        files: list[Json] = [*sorted(f.name for f in directory.iterdir())]
        marker: dict[str, Json] = {
            "format": ADAPTER_FORMAT,
            "version": 1,
            "base": {"id": network.id, "revision": network.revision},
            "settings": about,
            "files": files,
        }
        (directory / ADAPTER_MARKER).write_bytes(dump_json(marker))


@contextmanager
def _called(module: Any, name: str) -> Iterator[None]:
    """Let a model be called so in what is published: by no path of this machine."""
    before = module.config._name_or_path, module.name_or_path
    module.config._name_or_path = module.name_or_path = name
    try:
        yield
    finally:
        module.config._name_or_path, module.name_or_path = before
