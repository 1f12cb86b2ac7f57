"""What the parts of a suite must be to fit together, before any work."""

from itertools import product
from pathlib import Path
from typing import Any

from kfac_artifacts.choices import PENALTY_NEEDS, REGIME_SETTINGS
from kfac_artifacts.errors import SettingsError
from kfac_artifacts.suite.declaration import Arm, Suite
from kfac_artifacts.train import PenaltySettings, TrainSettings


def check(suite: Suite, path: Path) -> None:
    """Refuse a suite whose parts do not fit together.

    Args:
        suite: The suite.
        path: Its file, for the error.

    Raises:
        SettingsError: If they do not; what is wrong is named.
    """
    for what, named in (
        ("tasks", suite.tasks),
        ("arms", suite.arms),
        ("curvatures", suite.curvatures),
    ):
        names = [each.name for each in named]
        if len(set(names)) < len(names):
            raise SettingsError(f"{path}: two {what} have one name; rename one")
    if len(suite.tasks) < 2 or not suite.arms or not suite.seeds:
        raise SettingsError(
            f"{path}: a suite needs two tasks, an arm and a seed at least; found "
            f"{len(suite.tasks)}, {len(suite.arms)} and {len(suite.seeds)}"
        )
    if len(set(suite.seeds)) < len(suite.seeds):
        raise SettingsError(
            f"{path}: a seed stands twice in {list(suite.seeds)}, and the deviation "
            "would be of the same numbers; name each once"
        )
    known = {each.name for each in suite.curvatures}
    tasks = [each.name for each in suite.tasks]
    for arm in suite.arms:
        _check_arm(arm, known, path)
        _check_training(suite, arm, path)
        if unknown := [name for name in arm.tasks if name not in tasks]:
            raise SettingsError(
                f"{path}: the arm {arm.name} is for the task {unknown[0]!r}, and there "
                f"are {', '.join(tasks)}"
            )
        if len(suite.tasks_of(arm)) < 2:
            raise SettingsError(
                f"{path}: the arm {arm.name} is for one task; name two at least"
            )


def _check_arm(arm: Arm, curvatures: set[str], path: Path) -> None:
    needs = PENALTY_NEEDS.get(arm.penalty or ("kfac" if arm.curvature else ""))
    where = f"{path}: the arm {arm.name}"
    for used in (arm.curvature, *(merge.curvature for merge in arm.merges)):
        if used is not None and used not in curvatures:
            raise SettingsError(
                f"{where} uses the curvature {used!r}, and there are "
                f"{', '.join(sorted(curvatures)) or 'none'}"
            )
    _check_merges(arm, where)
    if (needs == "curvatures") != (arm.curvature is not None):
        raise SettingsError(
            f"{where} has {'a' if arm.curvature else 'no'} curvature, and its penalty "
            f"{'needs one' if needs == 'curvatures' else 'uses none'}"
        )
    allowed = REGIME_SETTINGS.get(arm.regime, ())
    for name in arm.regime_settings:
        if name not in allowed:
            raise SettingsError(
                f"{where}: {name} is no setting of the regime {arm.regime}; those are "
                f"{', '.join(allowed) or 'none'}"
            )


def _check_merges(arm: Arm, where: str) -> None:
    for merge in arm.merges:
        regmean = merge.method == "regmean"
        if regmean and merge.curvature is None and arm.curvature is None:
            raise SettingsError(f"{where}: regmean needs a curvature to take A from")
        if merge.curvature is not None and not regmean:
            raise SettingsError(f"{where}: {merge.method} takes no curvature")


def _check_training(suite: Suite, arm: Arm, path: Path) -> None:
    """Refuse numbers that no training takes, before any is begun."""
    named: dict[str, Any] = {**suite.training, **arm.training}
    for rate, weight in product(arm.rates, arm.weights):
        try:
            penalty = PenaltySettings(weight, arm.every)
            TrainSettings(learning_rate=rate, penalty=penalty, **named)
        except SettingsError as error:
            raise SettingsError(f"{path}: the arm {arm.name}: {error}") from error
