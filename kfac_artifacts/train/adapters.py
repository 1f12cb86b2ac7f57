"""Low-rank adapters of language models, trained to go on as texts do, and held back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kfac_artifacts.artifact import Artifact, BaseModel, Json
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.format import Checkpoint, dump_json
from kfac_artifacts.network import (
    Examples,
    Network,
    RowsOfExamples,
    parameter_info,
)
from kfac_artifacts.places import (
    ADAPTER_FORMAT,
    ADAPTER_MARKER,
    check_free,
    checkpoint_beside,
    new_directory,
)
from kfac_artifacts.progress import unseen
from kfac_artifacts.train.adapter_probe import probe_adapter
from kfac_artifacts.train.adapter_run import AdapterRun, finish, resume_run
from kfac_artifacts.train.checkpoint import goes_on, held
from kfac_artifacts.train.peft_lora import LoraSettings, linear_maps, with_adapter
from kfac_artifacts.train.penalties import AUTO
from kfac_artifacts.train.penalties.kfac import described
from kfac_artifacts.train.precision import check_precision
from kfac_artifacts.train.predictions import Predicted, measure_predictions
from kfac_artifacts.train.probe import weight_of
from kfac_artifacts.train.processes import find_processes
from kfac_artifacts.train.record import FINGERPRINTED
from kfac_artifacts.train.settings import TrainSettings
from kfac_artifacts.train.underway import TrainingProgress
from kfac_artifacts.tuning import ModelPenalty, adapted_layers

ENCODED = 256
"""Examples that are encoded at once where nothing is computed."""


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
    resume: bool = False,
    report: Callable[[TrainingProgress], None] = unseen,
) -> dict[str, Json]:
    """Train an adapter by the next tokens of texts, and write it as ``peft`` does.

    The loss of a step is the mean over all predicted tokens of its batch; to it comes
    ``λ τᵀ G τ``, whose gradient is added once. Several processes share each batch, and
    take the same steps. A checkpoint is kept beside the output, from which a run that
    was interrupted can go on; on the CPU it ends at the same numbers, bit for bit.

    Args:
        network: A language model that predicts the next token; it has the adapter
            afterwards.
        examples: Texts, prompts with continuations, or conversations, encoded for it.
        settings: Steps, rates and λ: a number; ``auto``, or None, makes the penalty as
            stiff as the own loss, in the direction in which training goes.
        output: The adapter's directory.
        lora: What is adapted; None for what is usual.
        curvature: What is to be preserved; None holds nothing back.
        held_out: Examples to measure the result on.
        replace: Whether what this package wrote at the output may be replaced.
        resume: Whether to go on from the checkpoint of an interrupted run.
        report: Called after every step, in the main process.

    Returns:
        Metrics: ``loss`` and ``accuracy`` of the last steps, ``lam`` and ``penalty``,
        of how many of the ``linear_maps`` there are how many are ``adapted``, and of
        ``held_out`` the loss, perplexity and accuracy before and after.

    Raises:
        SettingsError: If the model does not predict the next token, texts share rows,
            ``peft`` is missing, no λ follows from the first steps, or training
            diverges.
        SourceError: If of an example that is trained on no token is predicted.
        CoverageError: If a layer is adapted that the curvature does not cover.
        MismatchError: If the curvature is of another model, or the checkpoint to go on
            from of another training.
        PlaceError: If the output is taken or cannot be written, or another run has its
            checkpoint.
    """
    check_free(output, replace=replace)
    _check(network)
    if any(isinstance(each, RowsOfExamples) for each in (examples, held_out)):
        raise SettingsError(
            "an adapter is trained and measured on texts one by one, which in rows "
            "would see one another here; load the examples without pack=True"
        )
    if settings.penalty.weight is None or curvature is None:
        settings = settings.weighed(0.0 if curvature is None else AUTO)
    indices = _chosen(settings, examples)
    accelerator = _joined(network, settings)
    place = checkpoint_beside(output)
    with torch.random.fork_rng(), held(accelerator, place):
        whole = len(linear_maps(network.module))
        torch.manual_seed(settings.seed)  # the same adapter in every process
        model = with_adapter(network, lora or LoraSettings(), curvature)
        penalty = _penalty(model, curvature, settings)
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        run = AdapterRun(
            accelerator=accelerator,
            network=network,
            model=model,
            examples=examples,
            indices=indices,
            settings=settings,
            penalty=penalty,
            optimizer=optimizer,
        )
        before = _measured(run, held_out, adapter=False)
        about = _describe(run, lora or LoraSettings(), curvature)
        checkpoint = Checkpoint(place, about, "begin without --resume")
        if goes_on(place, main=run.main, resume=resume):
            resume_run(run, checkpoint, report)
        about = {**about, **_choose_weight(run)}
        metrics: dict[str, Json] = {
            "linear_maps": whole,
            "adapted": sum(1 for _ in adapted_layers(model)),
            **finish(run, checkpoint, report),
            **_outcome(run, before, _measured(run, held_out, adapter=True)),
        }
        if run.main:
            _write(run, Path(output), {**about, "metrics": metrics}, replace=replace)
            checkpoint.remove()
        accelerator.wait_for_everyone()
    return metrics


def _joined(network: Network, settings: TrainSettings) -> Accelerator:
    """The processes that train, with the network on the device of this one."""
    accelerator = find_processes()
    if accelerator.num_processes > 1:
        network.to(accelerator.device)
    main = accelerator.is_main_process
    check_precision(network.device, settings.precision, warn=main)
    return accelerator


def _chosen(settings: TrainSettings, examples: Examples) -> tuple[int, ...]:
    """What is trained on; of each of them something is predicted, or none is begun."""
    indices = tuple(settings.choose(len(examples)))
    batches = [settings.batch(step, indices) for step in range(settings.steps)]
    wanted = sorted({row for rows in batches for row in rows})
    for start in range(0, len(wanted), ENCODED):
        examples.batch(wanted[start : start + ENCODED])
    return indices


def _penalty(
    model: Any, curvature: Artifact | None, settings: TrainSettings
) -> ModelPenalty | None:
    if curvature is None:
        return None
    return ModelPenalty(
        model,
        curvature,
        weights=settings.penalty.module_weights or None,
        allow_indefinite=settings.penalty.allow_indefinite,
    )


def _describe(
    run: AdapterRun, lora: LoraSettings, curvature: Artifact | None
) -> dict[str, Json]:
    """What decides on the result, and must be the same to go on from a checkpoint."""
    adapted = adapted_layers(run.model)
    infos = {each.path: parameter_info(each.weight) for each in adapted}
    base = BaseModel(run.network.id, run.network.revision, infos)
    return {
        **run.settings.to_json(),
        "lora": _json(asdict(lora)),
        "data": asdict(run.examples.info(run.indices[:FINGERPRINTED])),
        "examples": len(run.indices),
        "curvature": [] if curvature is None else described(curvature),
        "adapted_sha256": base.sha256,
    }


def _choose_weight(run: AdapterRun) -> dict[str, Json]:
    """Make a number of λ, if that is to be done; a checkpoint knows by what.

    Returns:
        What is told of it.
    """
    if run.settings.penalty.weight != AUTO:
        return {"lam": run.settings.penalty.weight}
    run.probe = run.probe or probe_adapter(run)
    run.settings = run.settings.weighed(weight_of(run.probe))
    return {"lam": weight_of(run.probe), "lam_by": asdict(run.probe)}


def _measured(
    run: AdapterRun, held_out: Examples | None, *, adapter: bool
) -> Predicted | None:
    """How well held-out examples are predicted, with the adapter or without it."""
    if held_out is None:
        return None
    run.model.eval()
    if adapter:
        return measure_predictions(run.network, run.model, held_out, run.accelerator)
    with run.model.disable_adapter():
        return measure_predictions(run.network, run.model, held_out, run.accelerator)


def _outcome(
    run: AdapterRun, before: Predicted | None, after: Predicted | None
) -> dict[str, Json]:
    """λ, the predicted drift, and what was measured on held-out examples."""
    found: dict[str, Json] = {"lam": run.settings.penalty.weight}
    if run.penalty is not None:
        with torch.no_grad():
            found["penalty"] = float(run.penalty())
    if before is not None and after is not None:
        found["held_out"] = {
            name: {**asdict(each), "perplexity": each.perplexity}
            for name, each in (("pretrained", before), ("adapted", after))
        }
    return found


def _json(values: dict[str, Any]) -> Json:
    return {k: [*v] if isinstance(v, tuple) else v for k, v in values.items()}


def _check(network: Network) -> None:
    """Refuse what does not predict the next token."""
    kind = type(network.module).__name__
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise SettingsError(
            f"{network.id} is a {kind}, which does not predict the next token; an "
            "adapter is trained for language models saved as …ForCausalLM"
        )


def _write(
    run: AdapterRun, output: Path, about: dict[str, Json], *, replace: bool
) -> None:
    network, model = run.network, run.model
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
