"""Finding what others published: on the Hub by tags, in directories by looking.

Curvature of a base model, by itself or in a registry, and task vectors.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub import ModelInfo
from huggingface_hub.errors import HfHubHTTPError

from kfac_artifacts.artifact import task_names
from kfac_artifacts.errors import AddressError, KfacError, RegistryError, listed
from kfac_artifacts.format import (
    MAX_JSON_BYTES,
    Manifest,
    manifest_from_json,
    parse_json,
    read_manifest,
)
from kfac_artifacts.hub import (
    TAGS,
    TASK_VECTOR,
    Client,
    Hub,
    HubAddress,
    Kind,
    Patience,
    explain_search,
    kind_among,
    license_of,
    parse,
    read_card,
    resolve,
)
from kfac_artifacts.registry.index import INDEX, Index
from kfac_artifacts.registry.opening import open_registry
from kfac_artifacts.task_vector import (
    Manifest as VectorManifest,
    manifest_from_json as vector_from_json,
    read_manifest as read_vector,
)

CURVATURE, VECTOR = "curvature", "task vector"
logger = logging.getLogger(__name__)
MOST_REPOS = 50
MOST_FILES = 50
"""Of one repository."""
MOST_FOLDERS, DEEPEST = 10_000, 5
"""Of a directory."""


@dataclass(frozen=True)
class Found:
    """An artifact, or a task vector, that was found.

    Attributes:
        kind: ``curvature`` or ``task vector``.
        place: What `kfac pull` takes.
        task: The task in a registry, or what it says its data are called.
        base_model: What its base model is called.
        estimator: Name of the estimator; None of a task vector.
        examples: How many examples were used; None if a task vector does not say.
        size: How many the data have; None likewise.
        bytes: Size of its files.
        date: When it was published, as far as is known: ``2026-11-26``.
        license: Licence identifier, or None.
        registry: Whether ``place`` is a registry, and the task one of it.
        same_weights: What others of that registry call the same base model.
    """

    kind: str
    place: str
    task: str
    base_model: str
    estimator: str | None
    examples: int | None
    size: int | None
    bytes: int
    date: str | None
    license: str | None
    registry: bool = False
    same_weights: tuple[str, ...] = ()


def search(
    base_model: str | None = None,
    places: Iterable[str | Path] = (),
    *,
    hub: Hub | None = None,
) -> list[Found]:
    """Find artifacts and task vectors, by what they themselves say.

    Args:
        base_model: Id of the base model, or its last part; None finds all.
        places: Directories, or ``hf://org/name``; by default all of the Hub.
        hub: The Hub; by default the one of the environment.

    Returns:
        What was found, in the order of places and tasks. Where all of it is of other
        models a warning names them.

    Raises:
        RegistryError: If there is no such directory, or the Hub refuses.
    """
    hub = hub or Hub()
    found: list[Found] = []
    for place in places:
        address = resolve(str(place))
        if isinstance(address, HubAddress):
            with hub.explained(address):
                commit = Client(hub, address).head(address.revision).commit
                found += _in_repo(address, commit, None, None, hub)
            continue
        if not address.directory.is_dir():
            raise RegistryError(
                f"there is no directory {place}; for a repository write hf://org/name"
            )
        found += _in_directory(address.directory)
    if not places:
        found = list(_on_hub(base_model, hub))
    of_it = [f for f in found if base_model is None or _is_of(f, base_model)]
    if found and not of_it:
        bases = sorted({each.base_model for each in found})
        logger.warning(
            "nothing is of %s; what there is is of %s", base_model, listed(bases)
        )
    return of_it


def _is_of(found: Found, wanted: str) -> bool:
    names = [name.lower() for name in (found.base_model, *found.same_weights)]
    return any(wanted.lower() in {n, n.rpartition("/")[2]} for n in names)


class _AllOfIt(HubAddress):
    """The Hub as a whole, where an address is named in a message."""

    def __str__(self) -> str:
        return "the search"


def _on_hub(base_model: str | None, hub: Hub) -> Iterator[Found]:
    tags = [TAGS[0], *([f"base_model:{base_model}"] if base_model else [])]
    with hub.explained(_AllOfIt("all/models")):
        hits = _hits(tags, hub) or (_hits(tags[:1], hub) if base_model else [])
    for info in hits:
        try:
            address = parse(f"hf://{info.id}")
            assert isinstance(address, HubAddress)  # noqa: S101 - it begins so
            client = Client(hub, address)
            with hub.explained(address):
                commit = info.sha or client.head(None).commit
                yield from _in_repo(address, commit, _date(info), _license(info), hub)
        except (AddressError, KfacError) as error:
            logger.warning("%s was passed over: %s", ascii(info.id), error)


def _hits(tags: list[str], hub: Hub) -> list[ModelInfo]:
    def once() -> list[ModelInfo]:
        return list(hub.api.list_models(filter=tags, full=True, limit=MOST_REPOS))

    try:
        return Patience(hub).ask(once)
    except HfHubHTTPError as error:
        told = explain_search(error, hub.url)
        if told is None:
            raise
        raise told from error


def _license(info: ModelInfo) -> str | None:
    named = (t.partition(":")[2] for t in info.tags or () if t.startswith("license:"))
    return next(named, None)


def _date(info: ModelInfo) -> str | None:
    when = info.last_modified
    return when.date().isoformat() if isinstance(when, datetime) else None


def _in_repo(
    address: HubAddress, commit: str, date: str | None, license: str | None, hub: Hub
) -> list[Found]:
    """What a repository has, by its indices and manifests."""
    client = Client(hub, address)
    files = client.files(commit, address.path, recursive=True)
    indices = [p for p in files if Path(p).name == INDEX]
    roots = [p.removesuffix(INDEX) for p in indices]
    manifests = {
        path: kind
        for path in files
        if (kind := kind_among([Path(path).name]))
        and not any(path.startswith(root) for root in roots)
    }
    found: list[Found] = []
    for path in [*indices, *manifests][:MOST_FILES]:
        if files[path].size > MAX_JSON_BYTES:
            raise RegistryError(f"{path} of {address} is too large to be read")
        text = client.read(path, commit, files[path])
        place = str(HubAddress(address.repo, path.rpartition("/")[0]))
        if path in indices:
            found += _of_index(Index.from_bytes(text, place), place)
            continue
        about = _manifest(manifests[path], text, place)
        found.append(_of(about, place, len(text), date, license))
    return found


def _manifest(kind: Kind, text: bytes, place: str) -> Manifest | VectorManifest:
    value = parse_json(text, place)
    return vector_from_json(value) if kind is TASK_VECTOR else manifest_from_json(value)


def _in_directory(root: Path) -> Iterator[Found]:
    """What a directory has in it, links not followed."""
    for number, (folder, inner, names) in enumerate(os.walk(root)):
        place = Path(folder)
        inner.sort()
        if len(place.relative_to(root).parts) >= DEEPEST or number > MOST_FOLDERS:
            inner.clear()
        try:
            if INDEX in names:
                inner.clear()
                index = open_registry(place.absolute()).state().index
                yield from _of_index(index, str(place))
            elif kind := kind_among(names):
                yield _of_place(place, kind)
        except (KfacError, OSError) as error:
            logger.warning("%s was passed over: %s", place, error)


def _of_place(place: Path, kind: Kind) -> Found:
    about = read_vector(place) if kind is TASK_VECTOR else read_manifest(place)
    file = (place / kind.manifest).stat()
    date = datetime.fromtimestamp(file.st_mtime, UTC).date().isoformat()
    return _of(about, str(place), file.st_size, date, license_of(read_card(place)))


def _of(
    about: Manifest | VectorManifest,
    place: str,
    own: int,
    date: str | None,
    license: str | None,
) -> Found:
    """Describe what has a manifest of so many bytes."""
    if isinstance(about, VectorManifest):
        return _of_vector(about, place, about.file.size + own, date, license)
    sources = about.provenance.sources
    names = task_names(sources)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Found(
        CURVATURE,
        place,
        ", ".join(names[:3]) + more,
        about.provenance.base.id,
        about.provenance.estimator.name,
        sum(source.data.examples for source in sources),
        about.provenance.size,
        sum(info.size for info in about.files.values()) + own,
        date,
        license,
    )


def _of_vector(
    about: VectorManifest, place: str, size: int, date: str | None, license: str | None
) -> Found:
    """Describe a task vector; what it was trained on it may say or not."""
    told = about.settings.get("data")
    data = told if isinstance(told, dict) else {}
    name = data.get("id")
    return Found(
        VECTOR,
        place,
        name if isinstance(name, str) else "unknown",
        about.base.id,
        None,
        _count(about.settings.get("examples")),
        _count(data.get("size")),
        size,
        date,
        license,
    )


def _count(told: object) -> int | None:
    return told if isinstance(told, int) and not isinstance(told, bool) else None


def _of_index(index: Index, place: str) -> Iterator[Found]:
    for collection in index.collections.values():
        for task, version in collection.current.items():
            entry = version.artifact
            yield Found(
                CURVATURE,
                place,
                task,
                version.base,
                collection.kind.estimator,
                entry.examples,
                entry.size,
                entry.bytes,
                version.date[:10],
                entry.license,
                registry=True,
                same_weights=tuple(b for b in collection.bases if b != version.base),
            )
