"""A suite's results as one page that needs nothing else: tables and bars."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from kfac_artifacts.format import write_durably
from kfac_artifacts.page import page, table, table_row
from kfac_artifacts.suite.results import Row, Spread, SuiteResults

MODES = {
    "linear": "linearised, f(x, θ0) + α J(x) τ",
    "plain": "as an ordinary model, f(x, θ0 + α τ)",
}


def write_report(results: SuiteResults, path: str | Path) -> None:
    """Write a page with every number of a suite that people look at.

    Args:
        results: What was found.
        path: The file; what is there is replaced.
    """
    write_durably(Path(path), _page(results).encode())


def _page(results: SuiteResults) -> str:
    suite: Any = results.suite
    modes = list(dict.fromkeys(row.mode for row in results.rows))
    parts = [
        f"<h1>{escape(suite['name'])}</h1>",
        f"<p>{escape(suite['model'])}; {len(suite['tasks'])} tasks; seeds "
        f"{', '.join(map(str, suite['seeds']))}. The pretrained model has "
        f"{_percent(results.pretrained)} on average. Learning rate and λ of every arm "
        "and way to merge were chosen on validation data with the first seed; all "
        "numbers are of test data, the mean over seeds with the standard deviation of "
        "one.</p>",
    ]
    for mode in modes:
        parts.append(f"<h2>{escape(MODES.get(mode, mode))}</h2>")
        parts.append(_mode_table([r for r in results.rows if r.mode == mode], results))
        parts.append(_task_table([r for r in results.rows if r.mode == mode], suite))
    parts += ["<h2>Search</h2>", _search_tables(results)]
    about = ", ".join(f"{n} {v}" for n, v in results.versions.items())
    parts.append(f'<p class="note">{escape(about)}; {results.seconds:.0f} s</p>')
    return page(suite["name"], parts)


def _mode_table(rows: Sequence[Row], results: SuiteResults) -> str:
    best = dict[frozenset[str], float]()  # of the same tasks: others are not compared
    for row in rows:
        tasks, mean = frozenset(row.tasks), row.scores["absolute"].mean
        best[tasks] = max(mean, best.get(tasks, 0.0))
    header = ("arm", "merged by", "α", "merged", "", "normalised", "alone", "rate", "λ")
    lines = []
    for row in rows:
        merged = row.scores["absolute"]
        alphas = sorted(set(row.alphas))
        shown = ", ".join(f"{alpha:g}" for alpha in alphas)
        cells = [
            escape(results.name_of(row)),
            escape(row.merging),
            f"{shown} (validation)" if row.chosen else shown,
            _spread(merged),
            _bar(merged, row.pretrained),
            _spread(row.scores["normalised"]),
            _spread(row.scores["individual"]),
            f"{row.rate:g}",
            "usual" if row.weight is None else f"{row.weight:g}",
        ]
        leads = merged.mean == best[frozenset(row.tasks)]
        lines.append(table_row(cells, kind="best" if leads else ""))
    return table(header, lines)


def _bar(merged: Spread, pretrained: float) -> str:
    """A bar of the accuracy, and a thin one of the pretrained model's."""
    return (
        f'<div style="width:{100 * merged.mean:.1f}%"></div>'
        f'<div class="from" style="width:{100 * pretrained:.1f}%"></div>'
    )


def _task_table(rows: Sequence[Row], suite: Any) -> str:
    names = [task["name"] for task in suite["tasks"]]
    lines = [
        table_row(
            [
                escape(f"{row.arm}, {row.merging}{', α chosen' if row.chosen else ''}"),
                *(_spread(row.tasks[n]) if n in row.tasks else "" for n in names),
            ]
        )
        for row in rows
    ]
    return table(("merged, by task", *names), lines)


def _search_tables(results: SuiteResults) -> str:
    parts = []
    for arm, tried in results.searches.items():
        for merging in dict.fromkeys(str(each["merging"]) for each in tried):
            own: list[Any] = [each for each in tried if each["merging"] == merging]
            parts.append(f"<h3>{escape(arm)}, {escape(merging)}</h3>")
            parts.append(_search_table(own))
    return "\n".join(parts) or "<p>Nothing had to be chosen.</p>"


def _search_table(tried: Sequence[Any]) -> str:
    best = max(each["accuracy"] for each in tried)
    lines = [
        table_row(
            [
                f"{each['rate']:g}",
                "usual" if each["weight"] is None else f"{each['weight']:g}",
                _percent(each["accuracy"]),
                f"{_percent(each['best'])} ({each['alpha']:g})",
            ],
            kind="best" if each["accuracy"] == best else "",
        )
        for each in tried
    ]
    return table(("rate", "λ", "validation", "best (α)"), lines)


def _spread(spread: Spread) -> str:
    found = _percent(spread.mean)
    if spread.deviation is None:
        return found
    return f"{found} ± {100 * spread.deviation:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
