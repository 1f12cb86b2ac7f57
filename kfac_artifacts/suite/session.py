"""The work of a suite: curvature, task vectors and scores, each made once and kept."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import override

from kfac_artifacts.artifact import Artifact, Cotangents, Json
from kfac_artifacts.choices import EMBEDDING, MODES, PENALTIES
from kfac_artifacts.compress import save_artifact
from kfac_artifacts.errors import SourceError
from kfac_artifacts.estimate import choose_estimator, compute
from kfac_artifacts.evaluate import EvaluationTask, evaluate
from kfac_artifacts.format import CHECKPOINT_MANIFEST, load_artifact
from kfac_artifacts.merge import merge
from kfac_artifacts.network import Network
from kfac_artifacts.places import checkpoint_beside
from kfac_artifacts.sources import load_examples, load_network, make_head
from kfac_artifacts.suite.counts import StoredCounts
from kfac_artifacts.suite.declaration import (
    Arm,
    CurvatureSpec,
    MergeSpec,
    Suite,
    TaskSpec,
)
from kfac_artifacts.suite.loaded import Loaded, fingerprint, sha256_of_head
from kfac_artifacts.suite.parts import divided
from kfac_artifacts.suite.store import Store
from kfac_artifacts.suite.telling import telling_of
from kfac_artifacts.task_vector import TaskVector, choose_method
from kfac_artifacts.train import (
    PenaltySettings,
    TrainingTask,
    TrainSettings,
    Weight,
    choose_regime,
    train,
)


@dataclass(frozen=True)
class Choice:
    """What was chosen for an arm, or is tried.

    Attributes:
        rate: Learning rate.
        weight: Weight λ of the penalty; None is what is usual for it.
    """

    rate: float
    weight: float | None

    @override
    def __str__(self) -> str:
        weight = "" if self.weight is None else f", λ {self.weight:g}"
        return f"rate {self.rate:g}{weight}"


class Session:
    """Does what a suite needs, on one device.

    Args:
        suite: The suite.
        store: Where everything is kept.
        device: Where to compute.
    """

    def __init__(self, suite: Suite, store: Store, device: str = "auto") -> None:
        self.suite = suite
        self.store = store
        self._device = device

    @functools.cached_property
    def network(self) -> Network:
        """The pretrained network."""
        return load_network(
            self.suite.model,
            output_map=self.suite.output_map or EMBEDDING,
            device=self._device,
        )

    @functools.cached_property
    def tasks(self) -> dict[str, Loaded]:
        """All tasks, by name."""
        return {task.name: self._loaded(task) for task in self.suite.tasks}

    def curvature(self, spec: CurvatureSpec, task: str, seed: int) -> Path:
        """The curvature of a task's training data, or of the reference; computed once.

        Args:
            spec: How it is computed.
            task: Whose; it does not matter with a reference.
            seed: Of the examples and the cotangents.

        Returns:
            Where the artifact is.
        """
        examples = self._examples_of(spec, task)
        unlike = {"name", "recipe", "reference"}  # which do not change its numbers
        about: dict[str, Json] = {
            **{n: v for n, v in asdict(spec).items() if n not in unlike},
            "base": self.network.base.sha256,
            "output_map": asdict(self.network.output_map.info),
            "modules": [*self.suite.modules],
            "data": fingerprint(examples),
            "seed": seed,
        }
        place = self.store.place("curvature", about)
        if not place.is_dir():
            artifact = compute(
                self.network,
                examples,
                count=spec.examples,
                estimator=choose_estimator(spec.estimator),
                cotangents=Cotangents(spec.cotangents, spec.draws, seed),
                only=self.suite.modules,
                allow_few=True,  # nothing of it is published
            )
            save_artifact(artifact, place)
        return place

    def curvature_of_others(
        self, spec: CurvatureSpec, others: Sequence[str], seed: int
    ) -> list[Artifact]:
        """The curvature of all other tasks, or of the reference in their place."""
        if spec.reference is not None:
            others = others[:1]
        parts = [load_artifact(self.curvature(spec, t, seed)) for t in others]
        if spec.recipe is None:
            return parts
        about: dict[str, Json] = {
            "parts": [part.digest for part in parts],
            "recipe": spec.recipe,
        }
        place = self.store.place("compressed", about)
        if not place.is_dir():
            whole = merge(parts) if parts[1:] else parts[0]
            save_artifact(whole, place, recipe=spec.recipe)
        return [load_artifact(place)]

    def vector(self, arm: Arm, task: str, choice: Choice, seed: int) -> Path:
        """The task vector of an arm; trained once, and gone on with if interrupted.

        Args:
            arm: How it is trained.
            task: Which task.
            choice: With which rate and weight.
            seed: Of curvature and training.

        Returns:
            Where it is.
        """
        place = self.store.place("vectors", self.about(arm, task, choice, seed))
        if place.is_dir():
            return place
        loaded, known = self.tasks[task], dict[str, Any]()
        others = self._others(arm, task)
        if arm.curvature is not None and arm.penalty != "tau-jp":
            spec = self.suite.curvature(arm.curvature)
            known["curvature"] = self.curvature_of_others(spec, others, seed)
        if arm.penalty == "tau-jp":
            known["others"] = [self.tasks[name].train for name in others]
        begun = (checkpoint_beside(place) / CHECKPOINT_MANIFEST).is_file()
        with telling_of(f"{arm.name}, {task}, {choice}, seed {seed}"):
            train(
                self.network,
                TrainingTask(loaded.train, loaded.head),
                self.settings(arm, task, choice, seed),
                penalty=arm.penalty,
                regime=choose_regime(arm.regime, **_tuples(arm.regime_settings)),
                output=place,
                resume=begun,
                **known,
            )
        return place

    def settings(self, arm: Arm, task: str, choice: Choice, seed: int) -> TrainSettings:
        """How an arm trains a task."""
        spec = next(t for t in self.suite.tasks if t.name == task)
        usual = TrainSettings.usual(self.tasks[task].train, limit=spec.limit)
        changes: dict[str, Any] = {**self.suite.training, **arm.training}
        return replace(
            usual,
            learning_rate=choice.rate,
            penalty=PenaltySettings(_weight(arm, choice), arm.every),
            modules=self.suite.modules,
            seed=seed,
            **changes,
        )

    def about(self, arm: Arm, task: str, choice: Choice, seed: int) -> dict[str, Json]:
        """Everything that decides a task vector."""
        loaded = self.tasks[task]
        spec = self._about_curvature(arm.curvature)
        names = self._others(arm, task)
        others = [self.tasks[name].fingerprints["train"] for name in names]
        return {
            "base": self.network.base.sha256,
            "output_map": asdict(self.network.output_map.info),
            "data": loaded.fingerprints["train"],
            "others": sorted(map(str, others)) if spec or arm.penalty else [],
            "head": loaded.head_sha256,
            "regime": [arm.regime, dict(arm.regime_settings)],
            "penalty": arm.penalty,
            "curvature": spec,
            "settings": self.settings(arm, task, choice, seed).to_json(),
        }

    def _others(self, arm: Arm, task: str) -> list[str]:
        """The other tasks of an arm."""
        return [name for name in self.suite.tasks_of(arm) if name != task]

    def _about_curvature(self, name: str | None) -> dict[str, Json] | None:
        """What decides a curvature, beside the tasks' own data."""
        if name is None:
            return None
        spec = self.suite.curvature(name)
        about = {n: v for n, v in asdict(spec).items() if n != "name"}
        if spec.reference is not None:  # its content, and not what it is called
            task = self.suite.tasks[0].name
            about["reference"] = fingerprint(self._examples_of(spec, task))
        return about

    def scores(
        self,
        arm: Arm,
        choice: Choice,
        seed: int,
        merging: MergeSpec,
        *,
        part: str,
        alphas: Sequence[float] = (1.0,),
        modes: Sequence[str] = MODES,
    ) -> Any:
        """Accuracies of an arm's merged task vectors; measured once.

        Args:
            arm: How they are trained.
            choice: With which rate and weight.
            seed: Of curvature and training.
            merging: How they are merged.
            part: Which data: ``validation`` or ``test``.
            alphas: Factors. Of the validation data all are reported; for test data one
                of several is chosen on the validation data, mode by mode.
            modes: ``linear``, ``plain`` or both.

        Returns:
            As of ``Evaluation.to_json``.
        """
        names = self.suite.tasks_of(arm)
        choose = part != "validation" and len(alphas) > 1
        abouts = [self.about(arm, name, choice, seed) for name in names]
        merged: dict[str, Json] = {
            "vectors": abouts,
            "merging": [merging.method, dict(merging.settings)],
            "curvature": self._about_curvature(merging.curvature or arm.curvature)
            if merging.method == "regmean"
            else None,
        }
        about: dict[str, Json] = {
            **merged,
            "data": [self.tasks[n].fingerprints[part] for n in names],
            "chosen_on": [self.tasks[n].fingerprints["validation"] for n in names]
            if choose
            else [],
            "alphas": [*alphas],
            "modes": [*modes],
        }

        def measure() -> dict[str, Json]:
            tasks = [
                EvaluationTask(
                    name,
                    TaskVector.load(self.vector(arm, name, choice, seed)),
                    getattr(self.tasks[name], part),
                )
                for name in names
            ]
            chosen_on = [self.tasks[n].validation for n in names]
            found = evaluate(
                self.network,
                tasks,
                alphas=alphas,
                modes=modes,
                method=self._method(arm, merging, seed),
                validation=chosen_on if choose else None,
                counts=self._counts(tasks, abouts, merged, part),
            )
            return found.to_json()

        return self.store.scores(about, measure)

    def _counts(
        self,
        tasks: Sequence[EvaluationTask],
        abouts: Sequence[Mapping[str, Json]],
        merged: Json,
        part: str,
    ) -> StoredCounts:
        network: dict[str, Json] = {
            "base": self.network.base.sha256,
            "output_map": asdict(self.network.output_map.info),
        }
        decided: list[dict[str, Json]] = [
            {
                "reported": self.tasks[task.name].fingerprints[part],
                "validation": self.tasks[task.name].fingerprints["validation"],
                "head": None
                if task.vector.head is None
                else sha256_of_head(task.vector.head),
                "vector": {**about},
            }
            for task, about in zip(tasks, abouts, strict=True)
        ]
        return StoredCounts(self.store, network, decided, merged)

    def _method(self, arm: Arm, merging: MergeSpec, seed: int) -> Any:
        settings: dict[str, Any] = dict(merging.settings)
        named = merging.curvature or arm.curvature
        if merging.method == "regmean" and named is not None:
            spec = self.suite.curvature(named)
            settings["curvature"] = tuple(
                load_artifact(self.curvature(spec, name, seed))
                for name in self.suite.tasks_of(arm)
            )
        return choose_method(merging.method, **settings)

    def _examples_of(self, spec: CurvatureSpec, task: str) -> Any:
        if spec.reference is None:
            return self.tasks[task].train
        return load_examples(
            spec.reference, self.network, max_length=self.suite.max_length
        )

    def _loaded(self, task: TaskSpec) -> Loaded:
        def read(data: str, part: str, classes: Sequence[str] = ()) -> Any:
            return load_examples(
                data,
                self.network,
                split=task.splits.get(part),
                text_columns=task.text_columns,
                image_column=task.image_column,
                label_column=task.label_column,
                classes=classes,
                max_length=self.suite.max_length,
            )

        whole = read(task.train, "train")
        classes = whole.classes
        if len(classes) == 1:
            raise SourceError(
                f"the task {task.name}: all rows of {task.train} are of one class, and "
                f"training needs two; is {task.label_column!r} the column of classes "
                "(label_column)?"
            )
        if task.validation is None:
            own, chosen_on = divided(whole, self.suite.seeds[0])
        else:
            own, chosen_on = whole, read(task.validation, "validation", classes)
        head = make_head(
            self.network,
            own,
            task.head,
            template=task.template,
            logit_scale=task.logit_scale,
        )
        return Loaded(own, chosen_on, read(task.test, "test", classes), head)


def _weight(arm: Arm, choice: Choice) -> Weight | None:
    """The weight that was chosen; else what is usual: a key names it."""
    if choice.weight is not None or not (arm.curvature or arm.penalty):
        return choice.weight
    usual: Weight = PENALTIES[arm.penalty or "kfac"].usual_weight
    return usual


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as regimes take them: TOML has lists where they have tuples."""
    return {n: tuple(v) if isinstance(v, list) else v for n, v in settings.items()}
