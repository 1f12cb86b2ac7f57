"""The card of a registry: what it has, and how to use it."""

from kfac_artifacts.hub import collection_metadata, marked, tag_of
from kfac_artifacts.registry.index import Collection, Index, Version

HEADS = ("examples", "of", "date", "compressed", "version")


def registry_card(index: Index, place: str) -> str:
    """Describe a registry.

    Args:
        index: What is in it.
        place: Address to pull from.

    Returns:
        Markdown with a YAML head, and a mark that shows later edits.
    """
    bases = [base for c in index.collections.values() for base in c.bases]
    parts = [
        collection_metadata(sorted(set(bases)), ["kfac-registry"]),
        "# A registry of KFAC artifacts",
        "The curvature of pretrained models on the data of several owners, each by "
        "itself and all of them merged. `registry.json` is the index, `log` every "
        "change. Made with kfac-artifacts.",
        f"```sh\nkfac pull {place} total\nkfac pull {place} others --all-but TASK\n"
        "kfac train MODEL DATA --curvature others -o tau\n```",
        *(_collection(name, each) for name, each in index.collections.items()),
    ]
    return marked("\n\n".join(parts) + "\n\n")


def _collection(name: str, collection: Collection) -> str:
    own = len(collection.bases) > 1
    heads = ["task", *(["base model"] if own else []), *HEADS]
    rows = [
        [task, *([_plain(v.base)] if own else []), *_cells(v)]
        for task, v in collection.current.items()
    ]
    table = [heads, ["---"] * len(heads), *rows]
    models = " or ".join(f"`{_plain(base)}`" for base in collection.bases)
    same = ", the same weights" if own else ""
    return (
        f"## {name}\n\nBase model {models}{same}, estimator "
        f"`{collection.kind.estimator}`.\n\n"
        + "\n".join(f"| {' | '.join(row)} |" for row in table)
    )


def _cells(version: Version) -> list[str]:
    entry = version.artifact
    compressed = ", ".join(version.variants) or "-"
    counts = f"{entry.examples:,}", f"{entry.size:,}"
    return [*counts, version.date[:10], compressed, tag_of(entry.digest)]


def _plain(base: str) -> str:
    """A foreign name where it stands between backticks, or in a table."""
    return base.replace("`", "´").replace("|", "/")
