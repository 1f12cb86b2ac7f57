"""A registry as one page to browse: what is in it, how it came there, how to pull it.

All names in it are of strangers, and are escaped; pictures are shown as images, where
nothing runs.
"""

import re
import shlex
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path

from kfac_artifacts.artifact import task_names
from kfac_artifacts.format import write_durably
from kfac_artifacts.hub import tag_of
from kfac_artifacts.page import page, table, table_row
from kfac_artifacts.places import check_file_free
from kfac_artifacts.progress import Advance, unseen
from kfac_artifacts.registry.entries import Entry
from kfac_artifacts.registry.index import (
    Collection,
    Index,
    Task,
    Version,
    folder_of,
)
from kfac_artifacts.registry.page_script import SCRIPT, STYLE
from kfac_artifacts.registry.places import Registry, State
from kfac_artifacts.registry.showing import Shown, look_at

MARK = "<!-- written by kfac registry export-static -->"
"""Stands in every page, so that a file of somebody else is not written over."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
LONG = 64
"""Letters of a model's name that the table of tasks shows."""
COLUMNS = ("task", "base model", "estimator", "examples", "of", "size", "")
MORE = ("date", "licence", "compressed", "version")


def registry_page(
    place: str, index: Index, shown: Mapping[str, Shown], head: str | None
) -> str:
    """Make the page.

    Args:
        place: The address that people pull from.
        index: What is in the registry.
        shown: Manifests and pictures, by the digest of the artifact.
        head: The commit that was looked at, None of a directory.

    Returns:
        The page; the same for the same registry.
    """
    collections = {n: c for n, c in index.collections.items() if c.current}
    tasks = sum(len(each.current) for each in collections.values())
    when = index.changes[-1].date if index.changes else "never"
    at = f", commit <code>{escape(head)}</code>" if head else ""
    body = [
        f"<h1>{escape(place)}</h1>",
        "<p>A registry of KFAC artifacts: the curvature of pretrained models on the "
        f"data of several owners. {_count(tasks, 'task')} in "
        f"{_count(len(collections), 'collection')}, changed {escape(when)}{at}.</p>",
    ]
    if not collections:
        body.append("<p>Nothing counts in it.</p>")
    else:
        steps = _commands(_first_steps(place, collections))
        body += ["<h2>How to use it</h2>", steps, *_overview(collections)]
    for name, collection in collections.items():
        body += _collection(place, name, collection, shown, only=len(collections) == 1)
    body += _log(index)
    return page(place, [*body, MARK], style=STYLE, script=SCRIPT)


def export_static(
    registry: Registry, state: State, out: Path, progress: Advance = unseen
) -> None:
    """Write a registry as one page that needs nothing else.

    Args:
        registry: The registry.
        state: As it was looked at.
        out: The file; a page that was written so before is replaced.
        progress: Called with 1 after every artifact that was looked at.
    """
    check_page_free(out)
    shown = look_at(registry, state, progress)
    text = registry_page(str(registry), state.index, shown, state.head)
    write_durably(out, text.encode())


def check_page_free(out: Path) -> None:
    """Refuse a place where no page can be written, or something else would be lost."""
    check_file_free(out, is_ours=lambda content: MARK.encode() in content)


def _overview(collections: Mapping[str, Collection]) -> Iterator[str]:
    """All tasks in one table, which is sorted and filtered by the script."""
    largest = max(
        v.artifact.bytes for c in collections.values() for v in c.current.values()
    )
    rows = [
        table_row(_cells(name, collection, task, version, largest))
        for name, collection in collections.items()
        for task, version in collection.current.items()
    ]
    yield (
        '<h2 id="tasks">Tasks</h2><p class="filter" hidden><label>Filter '
        '<input type="search" id="filter" autocomplete="off"></label> '
        '<span id="count" role="status"></span></p>'
    )
    yield (
        '<div class="wide" role="region" aria-labelledby="tasks" tabindex="0">'
        f"{table((*COLUMNS, *MORE), rows)}</div>"
    )


def _cells(
    name: str, collection: Collection, task: str, version: Version, largest: int
) -> list[str | tuple[int, str]]:
    entry, base = version.artifact, version.base
    bar = f'<div style="width:{100 * entry.bytes / largest:.1f}%"></div>'
    return [
        f'<a href="#{escape(name)}/{escape(task)}">{escape(task)}</a>',
        escape(base if len(base) <= LONG else f"{base[:LONG]}…"),
        escape(collection.kind.estimator),
        (entry.examples, f"{entry.examples:,}"),
        (entry.size, f"{entry.size:,}"),
        (entry.bytes, _size(entry)),
        bar,
        f"<time>{escape(version.date[:10])}</time>",
        escape(entry.license or "-"),
        escape(", ".join(version.variants) or "-"),
        f"<code>{tag_of(entry.digest)}</code>",
    ]


def _first_steps(place: str, collections: Mapping[str, Collection]) -> list[str]:
    name, collection = next(iter(collections.items()))
    which = "" if len(collections) == 1 else f" --collection {name}"
    model = next((b for b in collection.bases if HUB_ID.fullmatch(b)), "MODEL")
    there = shlex.quote(place)
    return [
        "pip install kfac-artifacts",
        f"kfac pull {there} total{which}",
        f"kfac train {model} mine.csv --curvature total -o tau-mine",
    ]


def _collection(
    place: str,
    name: str,
    collection: Collection,
    shown: Mapping[str, Shown],
    *,
    only: bool,
) -> Iterator[str]:
    kind, which = collection.kind, "" if only else f" --collection {name}"
    facts = {
        "base model": ", ".join(map(_model, collection.bases)),
        "revision": _code(kind.revision or "unknown"),
        "hash of its covered parameters": _code(kind.sha256),
        "output map": _code(kind.output_map.name),
        "estimator": _code(kind.estimator),
    }
    yield f'<h2 id="{escape(name)}">{escape(name)}</h2>{_facts(facts)}'
    there = shlex.quote(place)
    if collection.total is not None:
        entry = collection.total.entry
        yield _details(
            f"{name}/",
            f"<b>total</b> of {_count(entry.tasks, 'task')}, {_size(entry)}",
            _total(name, collection, entry),
            shown.get(entry.digest),
            [
                f"kfac pull {there} total{which}",
                f"kfac pull {there} others --all-but TASK{which}",
            ],
        )
    for task, version in collection.current.items():
        entry = version.artifact
        yield _details(
            f"{name}/{task}",
            f"<b>{escape(task)}</b>, {entry.examples:,} examples, {_size(entry)}",
            _task(place, name, task, collection.tasks[task]),
            shown.get(entry.digest),
            [
                f"kfac pull {there} {task} --tasks {task}{which}",
                *(
                    f"kfac pull {there} {task} --tasks {task} --recipe {recipe}{which}"
                    for recipe in version.variants
                ),
            ],
        )


def _details(
    anchor: str,
    summary: str,
    lineage: str,
    shown: Shown | None,
    commands: Iterable[str],
) -> str:
    """An artifact, folded until somebody wants to see it."""
    parts = [_commands(commands), lineage]
    if shown is not None and shown.wrong is not None:
        parts.append(f"<p>Its manifest was passed over: {escape(shown.wrong)}.</p>")
    elif shown is not None:
        parts += _made_of(shown)
    return (
        f'<details id="{escape(anchor)}"><summary>{summary}</summary>'
        f"{''.join(parts)}</details>"
    )


def _made_of(shown: Shown) -> Iterator[str]:
    """Data, lineage and picture."""
    rows = [
        table_row(
            [
                escape(name),
                escape(source.data.split or "-"),
                (source.data.examples, f"{source.data.examples:,}"),
                (source.data.size, f"{source.data.size:,}"),
                f"<code>{tag_of(source.digest)}</code>" if source.digest else "itself",
            ]
        )
        for name, source in zip(task_names(shown.sources), shown.sources, strict=True)
    ]
    yield f"<p>{_count(shown.blocks, 'block')}, of these data:</p>"
    heads = ("data", "split", "used", "of", "from")
    yield f'<div class="wide">{table(heads, rows)}</div>'
    if shown.picture is None:
        yield "<p>No picture of its spectra was published.</p>"
        return
    told = b64encode(shown.picture).decode()
    yield (
        '<img loading="lazy" alt="Eigenvalues of its factors, trace and size of its '
        f'blocks" src="data:image/svg+xml;base64,{told}">'
    )


def _total(name: str, collection: Collection, entry: Entry) -> str:
    links = ", ".join(
        f'<a href="#{escape(name)}/{escape(task)}">{escape(task)}</a> '
        f"<code>{tag_of(version.artifact.digest)}</code>"
        for task, version in collection.current.items()
    )
    return f"<p><code>{tag_of(entry.digest)}</code> is the merge of {links}.</p>"


def _task(place: str, name: str, task: str, about: Task) -> str:
    """Its versions, each with its compressed forms."""
    rows = [
        table_row(
            [
                f"<time>{escape(version.date)}</time>",
                _code(recipe) if recipe else "as computed",
                (entry.bytes, _size(entry)),
                _code(f"{place}/{folder_of(name, task, entry)}"),
            ]
        )
        for version in reversed(about.versions)
        for recipe, entry in (("", version.artifact), *version.variants.items())
    ]
    heads = ("published", "form", "size", "place")
    return f'<div class="wide">{table(heads, rows)}</div>'


def _log(index: Index) -> Iterator[str]:
    rows = [
        table_row(
            [
                f"<time>{escape(c.date)}</time>",
                escape(c.action),
                escape(c.collection),
                escape(c.task),
                f"<code>{tag_of(c.artifact.digest)}</code>" if c.artifact else "",
            ]
        )
        for c in reversed(index.changes)
    ]
    heads = ("date", "", "collection", "task", "version")
    yield "<h2>Log</h2><details><summary>"
    yield f"{_count(len(rows), 'change')}, the last one first</summary>"
    yield f'<div class="wide">{table(heads, rows)}</div></details>'


def _facts(rows: Mapping[str, str]) -> str:
    told = "".join(f"<dt>{title}</dt><dd>{told}</dd>" for title, told in rows.items())
    return f"<dl>{told}</dl>"


def _commands(lines: Iterable[str]) -> str:
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def _model(name: str) -> str:
    """A model's name, as a link if it is one of the Hub."""
    if HUB_ID.fullmatch(name) is None:
        return _code(name)
    return f'<a href="https://huggingface.co/{name}" rel="noreferrer">{name}</a>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _size(entry: Entry) -> str:
    if entry.bytes < 1e5:
        return f"{entry.bytes / 1e3:,.1f} kB"
    return f"{entry.bytes / 1e6:,.1f} MB"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
