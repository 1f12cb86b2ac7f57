"""The model card of an artifact: metadata for the Hub, and a table for people."""

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from kfac_artifacts.artifact import (
    ENOUGH_EXAMPLES,
    Artifact,
    BaseModel,
    NamedConfig,
    Provenance,
    Source,
    disclosure,
    task_names,
)
from kfac_artifacts.errors import listed
from kfac_artifacts.hub.address import LIBRARY, tag_of
from kfac_artifacts.hub.block_table import SPECTRA, block_table
from kfac_artifacts.hub.mark import marked
from kfac_artifacts.hub.markdown import code, plain_text, table

if TYPE_CHECKING:
    from kfac_artifacts.operator import BlockPortrait
else:
    BlockPortrait = object  # whoever pulls reads cards without torch

TAGS = ["kfac", "curvature", "task-arithmetic"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LICENSE = re.compile(r'^license: ("[^"\n]*")$', re.MULTILINE)
MEASURED = (
    "From layers right behind the embeddings of all-MiniLM-L6-v2 every token of 128 "
    "texts to a bank was read in its place, and 96 % of those of 256 texts "
    "(`spec/privacy.md` of kfac-artifacts)."
)
LOCAL_TABLE = re.compile(r"\.(csv|tsv|jsonl?|parquet)(\.\w+)?$", re.IGNORECASE)


def model_card(
    artifact: Artifact,
    portraits: Mapping[str, BlockPortrait],
    size: int,
    place: str,
    license: str | None = None,
) -> str:
    """Describe an artifact.

    Args:
        artifact: What is described.
        portraits: What its blocks are like, by name.
        size: Size of its files in bytes.
        place: Address to pull it from.
        license: Licence identifier of the Hub, or None to leave it open.

    Returns:
        Markdown with a YAML head, and a mark that shows later edits.
    """
    provenance = artifact.provenance
    parts = [
        _of_artifact(provenance, license),
        f"# KFAC curvature of {plain_text(provenance.base.id)}",
        _introduction(provenance),
        _overview(artifact, size),
        "## Data\n\n" + _data(provenance),
        "## What this gives away\n\n" + _given_away(artifact),
        "## Use\n\n" + _usage(place),
        "## Spectra and sizes\n\n" + SPECTRA,
        "## Blocks\n\n" + block_table(artifact, portraits),
    ]
    return marked("\n\n".join(parts) + "\n\n")


def collection_card(base: BaseModel, license: str | None = None) -> str:
    """Describe a repository whose artifacts stand in folders."""
    head = metadata(base_model=hub_id(base), license=license)
    text = (
        "# KFAC artifacts\n\nEvery folder with a `kfac.json` is an artifact: the "
        "curvature of a pretrained model on somebody's data. Its own `README.md` says "
        "what it is and how to pull it.\n\n"
    )
    return marked(f"{head}\n\n{text}")


def license_of(card: str | None) -> str | None:
    """The licence that a generated card names, if it does."""
    named = None if card is None else LICENSE.search(card)
    return str(json.loads(named[1])) if named else None


def collection_metadata(bases: Sequence[str], tags: Sequence[str]) -> str:
    """The YAML head of a repository with artifacts of several base models."""
    known = [base for base in bases if HUB_ID.fullmatch(base)]
    return metadata(base_model=known or None, tags=[*TAGS, *tags])


def _of_artifact(provenance: Provenance, license: str | None) -> str:
    ids = {source.data.id for source in provenance.sources}
    datasets = sorted(
        name for name in ids if HUB_ID.fullmatch(name) and not LOCAL_TABLE.search(name)
    )
    return metadata(
        base_model=hub_id(provenance.base), datasets=datasets or None, license=license
    )


def metadata(**fields: str | list[str] | None) -> str:
    """The YAML head of a card."""
    fields = {**fields, "library_name": LIBRARY, "tags": fields.get("tags", TAGS)}
    # JSON is YAML, and quotes every string that needs it.
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items() if value]
    return "\n".join(["---", *lines, "---"])


def hub_id(base: BaseModel) -> str | None:
    """The Hub id of a model, or None for one that only has a local name."""
    return base.id if HUB_ID.fullmatch(base.id) else None


def _introduction(provenance: Provenance) -> str:
    return (
        "The curvature (generalised Gauss-Newton matrix, block by block) of "
        f"{code(provenance.base.id)} on the data below: what a fine-tuning needs in "
        "order not to disturb tasks whose data it does not have. It holds second "
        "moments over the data, not the examples, and was computed with the weights of "
        "the base model, whose licence may bind it, too. Made with kfac-artifacts; the "
        "files are safetensors and JSON."
    )


def _overview(artifact: Artifact, size: int) -> str:
    provenance = artifact.provenance
    kinds = Counter(block.kind for block in artifact.blocks.values())
    numbers = sum(math.prod(shape) for shape in artifact.parameters.values())
    base = provenance.base
    rows = {
        "base model": code(base.id),
        "revision": code(base.revision or "unknown"),
        "hash of its covered parameters": code(base.sha256),
        "also for": _list(f"{f.name} (sha256 {f.sha256})" for f in base.derived),
        "output map": _named(provenance.output_map),
        "estimator": _estimator(provenance),
        "tasks": str(provenance.tasks),
        "examples in their datasets": f"{provenance.size:,}",
        "blocks": ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())),
        "parameters covered": f"{len(artifact.parameters)} ({numbers:,} numbers)",
        "excluded on request": _list(provenance.excluded),
        "not covered": _list(provenance.uncovered),
        "size": f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size:,} bytes",
        "digest": code(artifact.digest or ""),
    }
    return table(["", "what is inside"], [list(row) for row in rows.items()])


def _estimator(provenance: Provenance) -> str:
    source = provenance.estimator.configuration.get("converted_from")
    name = code(provenance.estimator.name)
    return f"{name}, converted from {code(source)}" if isinstance(source, str) else name


def _data(provenance: Provenance) -> str:
    header = ["data", "split", "examples used", "of", "preprocessing", "cotangents"]
    header.append("merged from")
    sources = provenance.sources
    named = zip(task_names(sources), sources, strict=True)
    return table(header, [_source(name, source) for name, source in named])


def _source(name: str, source: Source) -> list[str]:
    data, cotangents = source.data, source.cotangents
    name = name if data.config is None else f"{name} ({data.config})"
    draws = "" if cotangents.draws is None else f" × {cotangents.draws}"
    return [
        plain_text(name),
        plain_text(data.split or "-"),
        f"{data.examples:,}",
        f"{data.size:,}",
        _named(data.preprocessing),
        f"{plain_text(cotangents.name)}{draws}, seed {cotangents.seed}",
        "-" if source.digest is None else code(tag_of(source.digest)),
    ]


def _given_away(artifact: Artifact) -> str:
    found = disclosure(artifact)
    if found.fewest is None:
        return (
            f"Second moments of {found.examples:,} examples, with noise: "
            f"{found.guarantee}, their number being known."
        )
    tables = (
        f"It counts exactly how often the data use each row of {_list(found.tables)}: "
        "which tokens, or which places, and how many of each."
        if found.tables
        else "No table of tokens or places is covered, so none is counted."
    )
    few = (
        f"A task in it has {found.fewest} examples only: of fewer than "
        f"{ENOUGH_EXAMPLES} each can be read, word for word. "
        if found.few
        else ""
    )
    first = (
        f"The input factors of {_list(found.first)} are nearest to the input. "
        if found.first
        else ""
    )
    return (
        f"Second moments of {found.examples:,} examples, "
        f"{found.guarantee or 'without noise and without a guarantee'}. "
        f"{tables} {few}{first}{MEASURED}"
    )


def _usage(place: str) -> str:
    return (
        f"```sh\npip install kfac-artifacts\nkfac pull {shlex.quote(place)} curvature\n"
        "kfac train MODEL DATA --curvature curvature -o tau\n```\n\n"
        "```python\nimport kfac_artifacts as kfac\n\n"
        'penalty = kfac.KfacPenalty(kfac.load_artifact("curvature"))\n```'
    )


def _list(names: Iterable[str]) -> str:
    found = list(names)
    return listed(found, show=code) if found else "nothing"


def _named(value: NamedConfig) -> str:
    settings = json.dumps(dict(value.configuration)) if value.configuration else ""
    return f"{code(value.name)} {code(settings)}" if settings else code(value.name)
