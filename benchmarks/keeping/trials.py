"""Adapters that are trained, and what is measured of them: nothing is done twice."""

import dataclasses
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import kfac_artifacts as kfac
from keeping import measures
from keeping.sizes import LORA, PENALTIES, REPLAY, Held, Sizes
from keeping.texts import Texts
from kfac_artifacts.artifact import Json
from kfac_artifacts.format import load_artifact
from kfac_artifacts.network import Network
from kfac_artifacts.suite import Store

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
LAYERS = ("q_proj", "v_proj")
VERSION = 2
"""Raised when the same settings would give other numbers than before."""
_MEASURED = {"choosing": "choosing", "reported": "reported 3"}
"""So it is with a part of what is measured."""


@dataclass(frozen=True)
class Setting:
    """One training.

    Attributes:
        arm: What holds it back.
        rate: Learning rate.
        strength: Of a penalty in nats (``Trials.weight``), of replay in texts per step.
        weight: Factor λ of the penalty.
    """

    arm: str
    rate: float
    strength: float = 0.0
    weight: float = 0.0


class Trials:
    """Everything that is trained for one task.

    Args:
        work: The directory in which it is kept.
        model: The directory of the pretrained model.
        task: The set that the task is made of.
        sizes: How much is trained and measured.
    """

    def __init__(self, work: Path, model: Path, task: str, sizes: Sizes) -> None:
        self.store, self.model, self.sizes = Store(work), model, sizes
        counts = {
            name: asdict(sizes)[name]
            for name in ("batch", "curvature", "train", "dev", "test", "texts")
        }
        about = {"task": task, "version": VERSION, "replays": [*sizes.replays]}
        self._about: dict[str, Json] = {
            "model": MODEL_ID,
            "texts": {**about, **counts},
            "tokens": sizes.tokens,
        }
        place = self.store.place("texts", self._about["texts"])
        self.texts = Texts(place, task).write(sizes)

    def network(self) -> Network:
        """The pretrained model, anew."""
        return kfac.load_network(self.model, model_id=MODEL_ID)

    def pretrained(self, part: str) -> Any:
        """Measure the pretrained model; ``part`` as of ``measured``."""
        about = {**self._about, "pretrained": _MEASURED[part]}
        return self.store.scores(about, lambda: self._measure(part, None))

    def measured(self, setting: Setting, seed: int, part: str) -> Any:
        """Train, and measure.

        Args:
            setting: How to train.
            seed: Of the order of the rows and of the adapter's beginning.
            part: ``choosing`` on validation data, or ``reported`` on test data.

        Returns:
            As of the function ``part`` of ``measures``.
        """
        about = {**self._trained(setting, seed), "measured": _MEASURED[part]}
        return self.store.scores(
            about, lambda: self._measure(part, self._adapter(setting, seed))
        )

    def weight(self, arm: str, strength: float, unpenalised: Setting) -> float:
        """λ at which the adapter of LoRA alone would pay so many nats for its penalty.

        So the same strengths suit every curvature, whatever its scale.

        Args:
            arm: Whose curvature.
            strength: The nats.
            unpenalised: The setting that was chosen for LoRA alone; with seed 0.

        Returns:
            λ.
        """
        about = {**self._trained(unpenalised, 0), "penalty": self._curvature_about(arm)}
        found = self.store.scores(about, lambda: self._penalty(arm, unpenalised))
        return strength / found["penalty"]

    def _penalty(self, arm: str, setting: Setting) -> dict[str, Json]:
        _, model = self._adapted(self._adapter(setting, 0))
        with torch.no_grad():
            return {"penalty": float(kfac.ModelPenalty(model, self.curvature(arm))())}

    def curvature(self, arm: str) -> Path:
        """The artifact of an arm; it is computed if need be."""
        return self._curvature(PENALTIES[arm])

    def _curvature(self, held: Held) -> Path:
        path = self.store.place("curvature", self._about_held(held))
        if not path.is_dir():
            made = self._made(held)
            kfac.save_artifact(made, path, recipe=held.recipe)
        return path

    def _made(self, held: Held) -> kfac.Artifact:
        """Curvature before it is compressed: of others that are kept, or computed."""
        if held.recipe is not None:
            return load_artifact(
                self._curvature(dataclasses.replace(held, recipe=None))
            )
        if held.texts == "both":
            parts = [dataclasses.replace(held, texts=t) for t in ("general", "talks")]
            return kfac.merge([load_artifact(self._curvature(part)) for part in parts])
        network = self.network()
        examples = self._published(held.texts, network)
        count = len(examples) // held.share
        _say(f"curvature, {held.estimator}, of {count} {held.texts} texts")
        return kfac.compute(
            network,
            examples,
            count=count,
            estimator=kfac.choose_estimator(held.estimator),
            only=[f"*.{layer}.weight" for layer in LAYERS],
            allow_few=True,  # of public texts
        )

    def _published(self, texts: str, network: Network) -> Any:
        if texts == "general":
            path, columns = self.texts.published, "text"
            tokens = self.sizes.tokens
        else:
            path, columns = self.texts.talks(network, self.sizes), measures.PAIR
            tokens = measures.LONGEST
        return kfac.load_examples(
            path, network, text_columns=columns, max_length=tokens
        )

    def _about_held(self, held: Held) -> dict[str, Json]:
        about = {"curvature": [held.estimator, held.recipe], "layers": [*LAYERS]}
        if held.texts != "general" or held.share > 1:
            about["of"] = [held.texts, held.share]
        return {**self._about, **about}

    def _curvature_about(self, arm: str) -> dict[str, Json]:
        return self._about_held(PENALTIES[arm])

    @cached_property
    def _settings(self) -> kfac.TrainSettings:
        return kfac.TrainSettings(
            steps=self.sizes.steps, batch_size=self.sizes.batch, weight_decay=0.0
        )

    def _train_settings(self, setting: Setting, seed: int) -> kfac.TrainSettings:
        more = int(setting.strength) if setting.arm == REPLAY else 0
        return dataclasses.replace(
            self._settings,
            batch_size=self.sizes.batch + more,
            learning_rate=setting.rate,
            penalty=kfac.PenaltySettings(setting.weight),
            seed=seed,
        )

    def _trained(self, setting: Setting, seed: int) -> dict[str, Json]:
        """Everything that an adapter depends on."""
        about = {
            **self._about,
            "arm": setting.arm,
            "strength": setting.strength,
            "rank": self.sizes.rank,
            "train": self._train_settings(setting, seed).to_json(),
        }
        if setting.arm in PENALTIES:
            about["held"] = self._curvature_about(setting.arm)
        return about

    def _adapter(self, setting: Setting, seed: int) -> Path:
        about = self._trained(setting, seed)
        path = self.store.place("adapters", about)
        if path.is_dir():
            return path
        network, held = self.network(), setting.arm in PENALTIES
        rows = (
            self.texts.replayed(int(setting.strength))
            if setting.arm == REPLAY
            else self.texts.instructions(self.texts.task, "train")
        )
        examples = kfac.load_examples(
            rows, network, text_columns=measures.PAIR, max_length=measures.LONGEST
        )
        started = time.perf_counter()
        kfac.train_adapter(
            network,
            examples,
            self._train_settings(setting, seed),
            path,
            lora=kfac.LoraSettings(r=self.sizes.rank, targets=LAYERS),
            curvature=load_artifact(self.curvature(setting.arm)) if held else None,
        )
        seconds = time.perf_counter() - started
        _say(f"{named(setting)}, seed {seed}: trained in {seconds:.0f} s")
        return path

    def _adapted(self, adapter: Path | None) -> tuple[Network, Any]:
        from peft import PeftModel

        network = self.network()
        if adapter is None:
            return network, network.module
        model = PeftModel.from_pretrained(network.module, adapter, is_trainable=True)
        return network, model.eval()

    def _measure(self, part: str, adapter: Path | None) -> Any:
        network, model = self._adapted(adapter)
        return getattr(measures, part)(network, model, self.texts, self.sizes)


def named(setting: Setting) -> str:
    """A setting for people."""
    rate = f"{setting.arm}, rate {setting.rate:g}"
    if setting.arm == LORA:
        return rate
    if setting.arm == REPLAY:
        return f"{rate}, {setting.strength:g} texts per step"
    return f"{rate}, {setting.strength:g} nats (λ = {setting.weight:.3g})"


def _say(text: str) -> None:
    print(f"  {text}", flush=True)
