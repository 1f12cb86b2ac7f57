"""The card of a registry: what it has, and how to use it."""

from kfac_artifacts.hub import collection_metadata, marked, tag_of
from kfac_artifacts.registry.index import Collection, Index


def registry_card(index: Index, place: str) -> str:
    """Describe a registry.

    Args:
        index: What is in it.
        place: Address to pull from.

    Returns:
        Markdown with a YAML head, and a mark that shows later edits.
    """
    bases = [c.kind.base for c in index.collections.values()]
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
    kind = collection.kind
    rows = [
        f"| {task} | {v.artifact.examples:,} | {v.artifact.size:,} | {v.date[:10]} | "
        f"{', '.join(v.variants) or '-'} | {tag_of(v.artifact.digest)} |"
        for task, v in collection.current.items()
    ]
    head = "| task | examples | of | date | compressed | version |\n|" + " --- |" * 6
    base = kind.base.replace("`", "´").replace("|", "/")
    return (
        f"## {name}\n\nBase model `{base}`, estimator `{kind.estimator}`.\n\n"
        + "\n".join([head, *rows])
    )
