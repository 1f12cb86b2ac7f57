"""Task vectors that are trained with compressed curvature of the other tasks.

What has been made is kept, so that a run that was cut off goes on where it was: every
directory appears whole or not at all.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cli_session
from cli_session import TASKS
from compressing import models
from compressing.recipes import NONE, budget
from kfac_artifacts.compress import Budget, save_artifact
from kfac_artifacts.format import dense_bytes, load_artifact
from kfac_artifacts.task_vector import TaskVector
from kfac_artifacts.train import PenaltySettings, TrainSettings


@dataclass(frozen=True)
class Seed:
    """All conditions of one seed, in a directory of their own.

    Attributes:
        number: The seed.
        steps: Steps of a training.
    """

    number: int
    steps: int

    def curvature(self, task: str) -> Path:
        """The curvature of a task."""
        return Path(f"seed-{self.number}", "curvature", task)

    def others(self, trainer: str) -> Path:
        """The merged curvature of the others, which a trainer gets."""
        return Path(f"seed-{self.number}", "others", trainer)

    def compressed(self, recipe: str, trainer: str) -> Path:
        """The same, compressed."""
        return Path(f"seed-{self.number}", "compressed", recipe, trainer)

    def trained(self, recipe: str, trainer: str) -> Path:
        """The task vector that was trained with it."""
        return Path(f"seed-{self.number}", "trained", recipe, trainer)

    def prepare(self) -> None:
        """Compute the curvature of every task, and merge for every trainer."""
        for task in TASKS:
            if not self.curvature(task).is_dir():
                cli_session.compute(task, str(self.curvature(task)), self.number)
        for trainer in TASKS:
            if not self.others(trainer).is_dir():
                parts = [str(self.curvature(t)) for t in TASKS if t != trainer]
                cli_session.kfac(f"merge {' '.join(parts)} -o {self.others(trainer)}")

    def run(self, recipe: str) -> dict[str, dict[str, float]]:
        """Compress, train and measure one arm.

        Returns:
            Accuracies of the merged model in percent, by mode and task.
        """
        file = Path(f"seed-{self.number}", "trained", recipe, "accuracy.json")
        settings = self._settings(recipe)
        known = json.loads(file.read_text()) if file.is_file() else {}
        if known.get("settings") == asdict(settings):
            return known["accuracy"]
        vectors = {}
        for trainer in TASKS:
            self.compress(recipe, trainer)
            vectors[trainer] = self._trained(recipe, trainer, settings)
        found = models.score(vectors)
        result = {"settings": asdict(settings), "accuracy": found}
        file.write_text(json.dumps(result) + "\n")
        return found

    def compress(self, recipe: str, trainer: str) -> None:
        """Compress the curvature that a trainer gets."""
        path = self.compressed(recipe, trainer)
        if recipe == NONE or path.is_dir():
            return
        others = load_artifact(self.others(trainer), verify=False)
        share = budget(recipe)
        how: Budget | str = recipe
        if share is not None:
            how = Budget(max_bytes=round(share * dense_bytes(others)))
        save_artifact(others, path, recipe=how)

    def _settings(self, recipe: str) -> TrainSettings:
        return TrainSettings(
            steps=self.steps,
            batch_size=cli_session.BATCH,
            learning_rate=cli_session.RATE,
            penalty=PenaltySettings(
                0.0 if recipe == NONE else float(cli_session.LAMBDA),
                every=cli_session.EVERY,
            ),
            seed=self.number,
        )

    def _trained(
        self, recipe: str, trainer: str, settings: TrainSettings
    ) -> TaskVector:
        path = self.trained(recipe, trainer)
        if path.is_dir():
            vector = TaskVector.load(path)
            names = ("steps", "batch_size", "learning_rate", "lam", "every", "seed")
            wanted = settings.to_json()
            if all(vector.settings[n] == wanted[n] for n in names):
                return vector
        curvature = self.compressed(recipe, trainer)
        if recipe == NONE:
            curvature = self.others(trainer)  # for what may move
        vector = models.train(trainer, curvature, settings)
        vector.save(path, replace=True)
        return vector
