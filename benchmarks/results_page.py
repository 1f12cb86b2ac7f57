"""Write RESULTS.md: every table and figure of the paper, its numbers, and ours.

The paper's are in ``paper.toml``. Ours are read from ``results/``, where the benchmarks
put what they measured; what is not there is said to be open, with what it takes.
"""

import json
import tomllib
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "RESULTS.md"
SUITES = {"text": "texts", "vision": "images"}
ABLATIONS = {"ablations": "five sets of texts"}
EXAMPLES = ("kfac", "kfac, 32 examples", "kfac, 128 examples", "kfac, 4 draws")
EVERY = ("kfac", "kfac, every 4", "kfac, every 16")
DATA_FREE = ("actmat", "regmean of inputs")
STEP = {
    "linearised_vs_ordinary": "a linearised step, in ordinary ones",
    "dense_penalty_time_overhead": "what a dense penalty adds to its time",
    "dense_penalty_memory_overhead": "and memory",
    "penalty_time_overhead": "what a compressed one adds to its time",
    "penalty_memory_overhead": "and memory",
    "tau_jp_vs_kfac_time": "time of a step with τJp, in those with the dense penalty",
    "tau_jp_vs_kfac_memory": "and memory",
}
MODES = {"linear": "linearised", "plain": "as an ordinary model"}
HEAD = """# The paper's tables and figures, and ours

Written by `python benchmarks/results_page.py` from what the benchmarks measured
(`benchmarks/results/`). The paper has CLIP on eight sets of images and T5 on six of
texts; neither is in a package, so ours are smaller models and other data, and only
orders and differences can be compared. Accuracies are percent, absolute / normalised
(the mean over tasks of the ratio to the task's own fine-tuned model), mean over the
seeds; rates and λ were chosen on validation data with the first seed. `-` stands where
nothing was measured.
"""


class Measured:
    """What the benchmarks have left, and how it is written in a cell."""

    def __init__(self, folder: Path = HERE / "results") -> None:
        self._folder = folder

    def read(self, name: str) -> Any:
        """Read a file of results; None if there is none."""
        path = self._folder / f"{name}.json"
        return json.loads(path.read_text("utf-8")) if path.is_file() else None

    def suites(self) -> dict[str, Any]:
        """The suites that were run, by what their data are."""
        return self._read("suite", SUITES)

    def all_suites(self) -> dict[str, Any]:
        """Those, and the one of single choices."""
        return self._read("suite", SUITES | ABLATIONS)

    def protocols(self) -> dict[str, Any]:
        """What ``protocols.py`` has measured, by what the data are."""
        return self._read("protocols", SUITES | ABLATIONS)

    def addition(self) -> str:
        """Every arm's sum at α = 1."""
        return self._arms(chosen=False)

    def addition_best(self) -> str:
        """Every arm's sum at the α that is best on validation data."""
        return self._arms(chosen=True)

    def by_task(self) -> str:
        """Accuracies of the merged model task by task."""
        return _joined(
            (
                f"{data}, {arm}",
                ", ".join(f"{t} {_percent(s)}" for t, s in row["tasks"].items()),
            )
            for data, suite in self.suites().items()
            for arm in ("linear", "kfac")
            if (row := _row(suite, arm))
        )

    def per_task(self) -> str:
        """The naive penalty beside the merged one."""
        return self._some("kfac per task", "kfac")

    def delta(self) -> str:
        """DELTA beside TAK."""
        return self._some("delta", "kfac")

    def orthoreg(self) -> str:
        """OrthoReg beside nothing."""
        return self._some("linear, orthoreg", "linear")

    def universal(self) -> str:
        """One reference's curvature beside the tasks' own."""
        return self._some("kfac, universal", "kfac")

    def examples(self) -> str:
        """Curvature of fewer examples, and of more draws, beside 256 and one."""
        return self._some(*EXAMPLES, needs=EXAMPLES[1])

    def every(self) -> str:
        """The penalty in every step, and in every Nth alone."""
        return self._some(*EVERY, needs=EVERY[-1])

    def mergers_linear(self) -> str:
        """Ways to merge linearised task vectors, at α = 1."""
        arms = ("linear, mergers", "linear", "kfac")
        return _joined((arm, self._mergers(arm, chosen=False)) for arm in arms)

    def mergers_ordinary(self) -> str:
        """Ways to merge ordinary task vectors, at the best α."""
        return self._mergers("ordinary, mergers", chosen=True)

    def mergers_data_free(self) -> str:
        """ACTMat, and RegMean with the A that is stored."""
        return self._mergers("ordinary, mergers", chosen=True, only=DATA_FREE)

    def weights(self) -> str:
        """Accuracy on validation data by rate and λ."""
        return _joined(
            (
                data,
                ", ".join(
                    f"rate {t['rate']:g}, λ {t['weight']:g}: {100 * t['accuracy']:.1f}"
                    for t in suite["searches"].get("kfac", [])
                    if t["merging"] == "sum"
                ),
            )
            for data, suite in self.suites().items()
        )

    def beside_tau_jp(self) -> str:
        """Points that TAK has over what uses the others' data."""
        return _joined(
            (data, f"{100 * (_mean(suite, 'kfac') - _mean(suite, 'tau-jp')):+.1f}")
            for data, suite in self.suites().items()
            if _row(suite, "kfac") and _row(suite, "tau-jp")
        )

    def negation(self) -> str:
        """Target and control after subtraction, with the control's name."""

        def cell(found: Any) -> str:
            about = found["negation"]
            return f"{100 * about['target']:.1f}/{100 * about['control_left']:.1f}"

        return self._protocol(cell, before=True)

    def union(self) -> str:
        """Accuracy among all classes."""
        return self._protocol(lambda found: f"{100 * found['union']['accuracy']:.1f}")

    def disentanglement(self) -> str:
        """Mean of ξ over pairs and factors."""
        return self._protocol(lambda found: f"{found['disentanglement']['mean']:.3f}")

    def localisation(self) -> str:
        """Mean AUROC over the tasks."""
        return self._protocol(lambda found: f"{found['localisation']['mean']:.3f}")

    def merging(self) -> str:
        """The exact error of merging, and how far the bound is above it."""
        return _joined(
            (
                data,
                f"relative error, median over blocks {about['error']['median']:.2f}, "
                f"most {about['error']['most']:.2f}; bound / error, median "
                f"{about['bound_over_error']['median']:.2f}",
            )
            for data, each in self.protocols().items()
            if (about := each["merging"])
        )

    def compression(self) -> str:
        """Accuracy and bytes by recipe, linearised."""
        found = self.read("compression-seeds")
        return _joined(
            (
                arm["recipe"],
                _megabytes(arm) + f"{arm['accuracy']['linear']['mean']:.1f}",
            )
            for arm in (found or {"arms": []})["arms"]
        )

    def draws(self) -> str:
        """Seconds of the whole of B, and of one draw of it."""
        found = self.read("draws")
        if not found:
            return ""
        return (
            f"all of MiniLM, one core: 8 texts: exact B {found['exact']:.1f} s, one "
            f"draw {found['drawn']:.1f} s; 8 tasks of 128, one draw: "
            f"{found['tasks'] / 60:.1f} min"
        )

    def step(self) -> str:
        """Ratios of a training step."""
        found = self.read("training") or {}
        return _joined(
            (about, f"{found[name]:.2f}")
            for name, about in STEP.items()
            if name in found
        )

    def _read(self, kind: str, names: dict[str, str]) -> dict[str, Any]:
        found = {about: self.read(f"{kind}-{name}") for name, about in names.items()}
        return {about: each for about, each in found.items() if each}

    def _arms(self, *, chosen: bool) -> str:
        return _joined(
            (
                f"{data}: pretrained {100 * suite['pretrained']:.1f}",
                ", ".join(
                    f"{arm['name']} {_cell(row)}"
                    for arm in suite["suite"]["arms"]
                    if (row := _row(suite, arm["name"], chosen=chosen))
                ),
            )
            for data, suite in self.suites().items()
        )

    def _some(self, *arms: str, needs: str | None = None) -> str:
        return _joined(
            (data, ", ".join(f"{arm} {_cell(row)}" for arm, row in rows))
            for data, suite in self.all_suites().items()
            if (rows := [(a, row) for a in arms if (row := _row(suite, a))])
            and (needs or arms[0]) in dict(rows)
        )

    def _mergers(
        self, arm: str, *, chosen: bool, only: tuple[str, ...] | None = None
    ) -> str:
        def rows(suite: Any) -> Iterable[Any]:
            mode = _mode(suite, arm)
            return (
                row
                for row in suite["rows"]
                if (row["arm"], row["mode"], row["chosen"]) == (arm, mode, chosen)
                and (only is None or row["merging"] in only)
            )

        return _joined(
            (data, cells)
            for data, suite in self.all_suites().items()
            if (cells := ", ".join(f"{r['merging']} {_cell(r)}" for r in rows(suite)))
            and cells.count(",")
        )

    def _protocol(self, cell: Callable[[Any], str], *, before: bool = False) -> str:
        return _joined(
            (
                data,
                _before(each) * before
                + ", ".join(
                    f"{name} {cell(arm)}" for name, arm in each["arms"].items()
                ),
            )
            for data, each in self.protocols().items()
        )


def _before(found: Any) -> str:
    """What the control is, and target and control before anything is subtracted."""
    about = next(iter(found["arms"].values()))["negation"]
    target, control = 100 * about["pretrained"], 100 * about["control_pretrained"]
    return f"control {found['control']}, pretrained {target:.1f}/{control:.1f}, "


def _megabytes(arm: Any) -> str:
    return f"{arm['bytes'] / 1e6:.2f} MB, " if arm.get("bytes") else ""


def _row(suite: Any, arm: str, *, chosen: bool = False) -> Any:
    """The sum of an arm, in the mode that it was trained for."""
    wanted = (arm, "sum", _mode(suite, arm), chosen)
    keys = ("arm", "merging", "mode", "chosen")
    return next((r for r in suite["rows"] if tuple(r[k] for k in keys) == wanted), None)


def _mode(suite: Any, arm: str) -> str:
    arms = {each["name"]: each["regime"] for each in suite["suite"]["arms"]}
    return "linear" if arms.get(arm) == "linearised" else "plain"


def _mean(suite: Any, arm: str) -> float:
    return float(_row(suite, arm)["scores"]["absolute"]["mean"])


def _cell(row: Any) -> str:
    scores = row["scores"]
    return f"{_percent(scores['absolute'])}/{100 * scores['normalised']['mean']:.1f}"


def _percent(spread: Any) -> str:
    mean, deviation = spread["mean"], spread["deviation"]
    more = "" if deviation is None else f" ± {100 * deviation:.1f}"
    return f"{100 * mean:.1f}{more}"


def _joined(parts: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {cell}" for name, cell in parts if cell)


def rows() -> list[dict[str, str]]:
    """The tables and figures of the paper."""
    found: list[dict[str, str]] = tomllib.loads(
        (HERE / "paper.toml").read_text("utf-8")
    )["rows"]
    return found


def page(measured: Measured) -> str:
    """Write the page.

    Args:
        measured: Our numbers.

    Returns:
        Markdown.
    """
    lines = [HEAD, "| | | the paper | ours |", "|---|---|---|---|"]
    for row in rows():
        found = getattr(measured, row["ours"])() if "ours" in row else ""
        ours = found or f"- {row.get('why', '')}".strip()
        about = f"{row['where']}: {row['what']}"
        lines.append(f"| {row['id']} | {about} | {row['paper']} | {ours} |")
    for name, data in (SUITES | ABLATIONS).items():
        suite = measured.read(f"suite-{name}")
        if suite:
            lines += ["", f"## All arms on {data}", "", *_about(name, suite)]
    return "\n".join(lines) + "\n"


def _about(name: str, suite: Any) -> list[str]:
    """The whole table of a suite, with how it was made."""
    declared = suite["suite"]
    versions = ", ".join(f"{k} {v}" for k, v in suite["versions"].items())
    lines = [
        f"`python benchmarks/suite.py {name}`: {declared['name']}, "
        f"{len(declared['tasks'])} tasks, seeds {declared['seeds']}, "
        f"{declared['training']}; {versions}; {suite['seconds'] / 60:.0f} minutes. "
        "A star marks a rate or λ at the edge of what was tried.",
        "",
        "| arm | rate, λ | linearised, α = 1 | best α | as an ordinary model, α = 1 "
        "| best α |",
        "|---|---|---|---|---|---|",
    ]
    for arm in declared["arms"]:
        found = [r for r in suite["rows"] if r["arm"] == arm["name"]]
        for merging in dict.fromkeys(row["merging"] for row in found):
            own = [row for row in found if row["merging"] == merging]
            cells = {(row["mode"], row["chosen"]): _cell(row) for row in own}
            every = [cells.get(key, "-") for key in product(MODES, (False, True))]
            tried = suite["searches"].get(arm["name"], [])
            setting = ", ".join(
                f"{own[0][key]:g}{_edge(own[0][key], {t[key] for t in tried})}"
                for key in ("rate", "weight")
                if own[0][key] is not None
            )
            label = arm["name"] + ("" if merging == "sum" else f", {merging}")
            lines.append(f"| {label} | {setting} | {' | '.join(every)} |")
    return lines


def _edge(chosen: float, tried: set[float]) -> str:
    """A star if more of several that were tried might have been better still."""
    return "*" if len(tried) > 1 and chosen in (min(tried), max(tried)) else ""


if __name__ == "__main__":
    PAGE.write_text(page(Measured()), "utf-8")
