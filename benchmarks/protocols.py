"""What the paper measures beside addition, on the task vectors that a suite has left.

Task negation with a control task (Table 2), accuracy among the classes of all tasks
(Table 7), the disentanglement error (Fig. 9), how well a task vector tells its own
task's data from others (Figs. 5, 13, 14), and what merging the curvature loses beside
its bound (Appendix C). Of every arm the rate and the weight are those that the suite
chose, and the seed is its first. Run ``python benchmarks/suite.py`` before.
"""

import argparse
import json
import os
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, median
from typing import Any

from kfac_artifacts.evaluate import (
    ControlTask,
    EvaluationTask,
    disentanglement,
    evaluate,
    localise,
    negate,
    with_union_head,
)
from kfac_artifacts.format import load_artifact
from kfac_artifacts.merge import merge_errors
from kfac_artifacts.suite import Choice, Session, Store, Suite, read_suite
from kfac_artifacts.task_vector import TaskVector
from suite import HERE, PREPARED, WORK

CONTROL = {"text": "clinc", "vision": "cifar10", "ablations": "clinc"}
"""What must not be forgotten: the task with the most kinds of data."""
FACTORS = (0.5, 1.0, 1.5, 2.0, 3.0)
MAP_FACTORS = (-1.0, 0.0, 1.0, 2.0)
PAIRS = 3
"""Pairs of tasks whose disentanglement error is measured, the first of all."""


@dataclass(frozen=True)
class Case:
    """The task vectors of an arm.

    Attributes:
        session: Of the suite; it has the data.
        tasks: Task vectors with test data.
        mode: ``linear`` of linearised arms, ``plain`` of others.
        control: Name of the control task.
    """

    session: Session
    tasks: list[EvaluationTask]
    mode: str
    control: str

    def union(self) -> dict[str, Any]:
        """Accuracy among the classes of all tasks."""
        network = self.session.network
        together = with_union_head(network, self.tasks)
        found = evaluate(network, together, modes=(self.mode,)).to_json()
        return {"accuracy": found["modes"][self.mode]["absolute"][0]}

    def negation(self) -> dict[str, Any]:
        """Accuracies left when every task but the control is subtracted alone."""
        data = self.session.tasks
        loaded = data[self.control]
        control = ControlTask(
            self.control, loaded.test, loaded.head, validation=loaded.validation
        )
        others = [task for task in self.tasks if task.name != self.control]
        found = negate(
            self.session.network,
            others,
            control,
            alphas=FACTORS,
            modes=(self.mode,),
            validation=[data[task.name].validation for task in others],
        )
        keys = ("pretrained", "control_pretrained", "target", "control_left")
        return dict(zip(keys, found.modes[0].means() or (), strict=True))

    def disentanglement(self) -> dict[str, Any]:
        """The error ξ of some pairs, the mean over the map."""
        pairs = list(combinations(self.tasks, 2))[:PAIRS]
        errors = {}
        for pair in pairs:
            found = disentanglement(
                self.session.network, pair, alphas=MAP_FACTORS, modes=(self.mode,)
            )
            grid = found.modes[0].error
            errors[" and ".join(t.name for t in pair)] = fmean(map(fmean, grid))
        return {"pairs": errors, "mean": fmean(errors.values())}

    def localisation(self) -> dict[str, Any]:
        """AUROC of own against other data, by the change of f."""
        found = localise(
            self.session.network,
            {task.name: task.vector for task in self.tasks},
            {task.name: task.examples for task in self.tasks},
            modes=(self.mode,),
        )
        scores = {each.name: each.auroc for each in found.modes[self.mode]}
        return {"auroc": scores, "mean": fmean(scores.values())}


MEASURES = ("union", "negation", "disentanglement", "localisation")


def main() -> None:
    """Measure every arm, print the table and keep the numbers."""
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    work, results = WORK / options.suite, HERE / "results"
    suite = read_suite(work / "suite.toml")
    session = Session(suite, Store(work / "kept"), options.device)
    rows = json.loads((results / f"suite-{options.suite}.json").read_text())["rows"]
    path = results / f"protocols-{options.suite}.json"
    found = json.loads(path.read_text()) if path.is_file() else {"arms": {}}
    found |= {"control": CONTROL[options.suite], "seed": suite.seeds[0]}
    found["merging"] = _merging(suite, session)
    chosen = {
        row["arm"]: Choice(row["rate"], row["weight"])
        for row in rows
        if row["merging"] == "sum" and not row["chosen"]
    }
    for name in options.arms or chosen:
        case = _case(session, name, chosen[name], found["control"])
        measured = {measure: getattr(case, measure)() for measure in MEASURES}
        found["arms"][name] = {"mode": case.mode, **measured}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(found["arms"][name]), flush=True)
    print("merging", json.dumps(found["merging"]))
    if options.json:
        print(json.dumps(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("suite", nargs="?", choices=PREPARED, default="text")
    add("--arms", nargs="+", help="default: all that the suite has run")
    add("--device", default="auto")
    add("--json", action="store_true", help="print everything in one last line")
    return parser.parse_args()


def _case(session: Session, name: str, choice: Choice, control: str) -> Case:
    suite = session.suite
    arm = next(arm for arm in suite.arms if arm.name == name)
    tasks = [
        EvaluationTask(
            task.name,
            TaskVector.load(session.vector(arm, task.name, choice, suite.seeds[0])),
            session.tasks[task.name].test,
        )
        for task in suite.tasks
    ]
    mode = "linear" if arm.regime == "linearised" else "plain"
    return Case(session, tasks, mode, control)


def _merging(suite: Suite, session: Session) -> dict[str, Any]:
    """What merging the curvature of all tasks loses, and its bound, over the blocks."""
    spec = replace(suite.curvature("kfac"), recipe=None)
    seed = suite.seeds[0]
    parts = [load_artifact(session.curvature(spec, t.name, seed)) for t in suite.tasks]
    errors = merge_errors(parts).values()
    exact = [each.relative for each in errors]
    ratios = [each.bound / each.relative for each in errors if each.relative]
    return {
        "blocks": len(exact),
        "error": {"median": median(exact), "most": max(exact)},
        "bound_over_error": {"median": median(ratios), "least": min(ratios)},
    }


if __name__ == "__main__":
    main()
