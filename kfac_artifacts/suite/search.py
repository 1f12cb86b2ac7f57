"""Choosing rate and weight of every arm, on validation data, with the first seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from kfac_artifacts.artifact import Json
from kfac_artifacts.suite.declaration import Arm, MergeSpec, Suite
from kfac_artifacts.suite.session import Choice, Session


@dataclass(frozen=True)
class Trial:
    """What a setting of an arm reached with one way to merge.

    Attributes:
        choice: The setting.
        merging: Name of the way to merge.
        accuracy: Of the merged model at α = 1, the mean over tasks.
        alpha: The best of the suite's factors.
        best: The accuracy at that.
    """

    choice: Choice
    merging: str
    accuracy: float
    alpha: float
    best: float

    def to_json(self) -> dict[str, Json]:
        """Write everything as one JSON object."""
        named = {n: v for n, v in vars(self).items() if n != "choice"}
        return {**asdict(self.choice), **named}


@dataclass(frozen=True)
class Search:
    """The settings that a suite chooses from, and what they reached.

    Every way to merge has the setting that is best for itself: at α = 1, and, where α
    is chosen too, together with that.

    Attributes:
        suite: The suite.
    """

    suite: Suite

    @property
    def seed(self) -> int:
        """The seed that all is chosen with."""
        return self.suite.seeds[0]

    @property
    def alphas(self) -> tuple[float, ...]:
        """Factors that every setting is tried at, α = 1 first."""
        return (1.0, *(alpha for alpha in self.suite.alphas if alpha != 1.0))

    def stages(self, session: Session) -> Iterator[list[tuple[Arm, Choice]]]:
        """Settings that are tried: all, or rates first and then weights.

        Args:
            session: Where a stage is measured before the next is asked for.

        Yields:
            The settings of a stage, of the arms that have something to choose.
        """
        arms = [arm for arm in self.suite.arms if len(settings_of(arm)) > 1]
        if self.suite.search == "grid":
            yield [(arm, choice) for arm in arms for choice in settings_of(arm)]
            return
        first = {arm.name: _rates(arm) for arm in arms}
        yield [(arm, choice) for arm in arms for choice in first[arm.name]]
        yield [
            (arm, choice)
            for arm in arms
            for choice in self._weights(session, arm, first[arm.name])
        ]

    def asked(
        self, tried: Sequence[tuple[Arm, Choice]]
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Arguments of ``Session.scores`` for the settings of a stage.

        Args:
            tried: The settings.

        Returns:
            Positional ones and those with names.
        """
        return [
            ((arm, choice, self.seed, merging), self._named(arm))
            for arm, choice in tried
            for merging in arm.merges
        ]

    def trials(self, session: Session, arm: Arm) -> list[Trial]:
        """What the settings of an arm reached, by way to merge and setting.

        Args:
            session: Where it was measured.
            arm: The arm.

        Returns:
            None of an arm that has nothing to choose.
        """
        stages = self.stages(session)
        own = [choice for tried in stages for each, choice in tried if each is arm]
        return self._trials(session, arm, own)

    def _trials(
        self, session: Session, arm: Arm, choices: Sequence[Choice]
    ) -> list[Trial]:
        return [
            self._trial(session, arm, choice, merging)
            for merging, choice in product(arm.merges, choices)
        ]

    def _weights(
        self, session: Session, arm: Arm, first: Sequence[Choice]
    ) -> list[Choice]:
        """The other weights, at every rate that is best for a way to merge."""
        best = []
        for merging in arm.merges:
            own = self._trials(session, replace(arm, merges=(merging,)), first)
            best += [max(own, key=key).choice.rate for key in (_at_one, _chosen_alpha)]
        found = product(dict.fromkeys(best), arm.weights)
        return [c for c in (Choice(*each) for each in found) if c not in first]

    def _trial(
        self, session: Session, arm: Arm, choice: Choice, merging: MergeSpec
    ) -> Trial:
        found = session.scores(arm, choice, self.seed, merging, **self._named(arm))
        reached = found["modes"][arm.select]["absolute"]
        best = max(range(len(reached)), key=reached.__getitem__)
        return Trial(choice, merging.name, reached[0], self.alphas[best], reached[best])

    def _named(self, arm: Arm) -> dict[str, Any]:
        return {"part": "validation", "alphas": self.alphas, "modes": (arm.select,)}


@dataclass(frozen=True)
class Final:
    """What a row of the results is of.

    Attributes:
        arm: The arm.
        merging: How its task vectors are merged.
        choice: The setting that is best for both.
        alphas: 1 alone, or those of which one is chosen on validation data.
    """

    arm: Arm
    merging: MergeSpec
    choice: Choice
    alphas: tuple[float, ...]


def finals(suite: Suite, trials: Mapping[str, Sequence[Trial]]) -> Iterator[Final]:
    """What is reported of a suite, by arm, way to merge and whether α is chosen.

    Args:
        suite: The suite.
        trials: Of every arm; empty if it has nothing to choose.

    Yields:
        One for each.
    """
    reported = [(1.0,), suite.alphas] if suite.alphas else [(1.0,)]
    for arm in suite.arms:
        for merging, alphas in product(arm.merges, reported):
            own = [t for t in trials[arm.name] if t.merging == merging.name]
            choice = settings_of(arm)[0]
            if own:
                choice = max(own, key=_chosen_alpha if alphas[1:] else _at_one).choice
            yield Final(arm, merging, choice, alphas)


def settings_of(arm: Arm) -> list[Choice]:
    """All pairs of a rate and a weight that an arm chooses from."""
    return [Choice(*each) for each in product(arm.rates, arm.weights)]


def _rates(arm: Arm) -> list[Choice]:
    """Every rate, with the weight in the middle of those to choose from."""
    weights = sorted(arm.weights, key=lambda weight: weight or 0.0)
    middle = weights[len(weights) // 2]
    return [Choice(rate, middle) for rate in arm.rates]


def _at_one(trial: Trial) -> float:
    return trial.accuracy


def _chosen_alpha(trial: Trial) -> float:
    return trial.best
