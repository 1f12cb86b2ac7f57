"""A registry in a Hub repository: one commit a change, with its parent checked."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
)
from typing_extensions import override

from kfac_artifacts.errors import FormatError, RegistryError
from kfac_artifacts.format import MANIFEST, MAX_JSON_BYTES, SIGNATURE
from kfac_artifacts.hub import (
    CARD,
    COMMIT,
    PICTURE,
    Client,
    Entry as Listed,
    Hub,
    HubAddress,
    described_by,
    is_conflict,
    is_unreachable,
    kept_at,
    pull_from_hub,
    read_plain,
)
from kfac_artifacts.places import room_for, turn_in
from kfac_artifacts.registry.entries import Entry
from kfac_artifacts.registry.index import INDEX
from kfac_artifacts.registry.places import (
    LOG,
    ConflictError,
    Plan,
    Registry,
    State,
    state_of,
)

if TYPE_CHECKING:  # a pull needs no torch until something is merged
    from kfac_artifacts.artifact import Artifact
    from kfac_artifacts.hub import Package, Shipment

logger = getLogger("kfac_artifacts.hub")
PATIENCE = 3600.0
Operations = Sequence[CommitOperationAdd | CommitOperationDelete]


class HubRegistry(Registry):
    """A registry in a repository.

    Args:
        address: Its folder there, with the branch.
        hub: The Hub.
        private: Whether to make a new repository private.
    """

    def __init__(self, address: HubAddress, hub: Hub, *, private: bool = False) -> None:
        self.address = address
        self.hub = hub
        self.private = private
        self.client = Client(hub, address)
        needed = ExitStack()
        self._room = needed.enter_context(room_for("kfac-registry"))
        weakref.finalize(self, needed.close)
        self._fetched: dict[str, Path] = {}
        self._listed: dict[str, dict[str, Listed]] = {}

    @override
    def __str__(self) -> str:
        return str(replace(self.address, revision=None))

    @override
    def turn(self) -> AbstractContextManager[None]:
        """Let runs on one machine wait, who else would only be refused."""
        name = sha256(f"{self.hub.url} {self.address.repo}".encode()).hexdigest()[:16]
        folder = self.hub.cache / ".locks" / "kfac-registries" / name
        return turn_in(folder, patience=PATIENCE)

    @override
    def state(self, *, now: bool = False) -> State:
        with self.hub.explained(self.address):
            revision = self.address.revision
            if revision and COMMIT.fullmatch(revision):
                found = self._remembered()
                if found is not None:
                    return replace(found, stale=False)
            try:
                return self._state()
            except Exception as error:
                away = not now and is_unreachable(error)
                found = self._remembered() if away else None
                if found is None:
                    raise
                return found

    @override
    def announce(self, wanted: Iterable[tuple[str, Entry]]) -> None:
        every = [pair for pair in wanted if pair[1].digest not in self._fetched]
        sizes = [entry.bytes for path, entry in every if not self._kept(path, entry)]
        if sizes:
            told = (len(sizes), len(every), sum(sizes) / 1e6)
            text = "%d of %d artifacts are downloaded, %.1f MB"
            logger.info(text, *told, extra={"at_once": True})

    @override
    def fetch(
        self, path: str, entry: Entry, state: State, *, anew: bool = False
    ) -> "Artifact":
        if entry.digest not in self._fetched:
            self._fetched[entry.digest] = self._bring(
                path, entry, state, None if anew else self._kept(path, entry)
            )
        from kfac_artifacts.format import load_artifact

        return load_artifact(self._fetched[entry.digest], verify=False)

    @override
    def read(self, path: str, state: State) -> bytes | None:
        head = state.head or ""
        with self.hub.explained(self.address):
            if head not in self._listed:
                folder = self.address.path
                self._listed[head] = self.client.files(head, folder, recursive=True)
            entry = self._listed[head].get(self.address.file(path))
            if entry is None or entry.size > MAX_JSON_BYTES:
                return None
            return self.client.read(self.address.file(path), head, entry)

    @override
    def put(self, plan: Plan, state: State) -> None:
        try:
            with self.hub.explained(self.address):
                self._put(plan, state.head)
        except RegistryError as error:
            # what was to be deleted is gone: somebody else came first there, too
            if is_conflict(error) or isinstance(error.__cause__, EntryNotFoundError):
                raise ConflictError from error
            raise

    @override
    def holds(self, path: str) -> list[str]:
        with self.hub.explained(self.address):
            head = self._head()
            files = [] if head is None else self._files(path, head)
        start = len(self.address.file(path)) + 1
        return sorted({file[start:].partition("/")[0] for file in files})

    @property
    @override
    def history(self) -> str | None:
        repo = self.address.repo
        return (
            f"the history of {repo} still holds its files: in Python, huggingface_hub."
            f"HfApi().super_squash_history({repo!r}) drops it, and every revision that "
            "somebody has pinned, and permanently_delete_lfs_files the bytes; whoever "
            "has pulled it keeps it"
        )

    @override
    def locate(self, path: str, entry: Entry, state: State) -> Path:
        return self._fetched[entry.digest]

    def _bring(
        self, path: str, entry: Entry, state: State, kept: HubAddress | None
    ) -> Path:
        """Take an artifact from the cache, whichever commit it is of, or the Hub."""
        if kept is not None:
            with suppress(RegistryError):  # damaged, and its commit is gone
                return self._pull(kept, entry)
        folder = self.address.file(path)
        return self._pull(HubAddress(self.address.repo, folder, state.head), entry)

    def _pull(self, address: HubAddress, entry: Entry) -> Path:
        place = self._room / entry.digest.partition(":")[2]
        pulled = pull_from_hub(address, place, replace=False, hub=self.hub, links=True)
        if pulled.digest != entry.digest:
            raise FormatError(f"{address} is not the artifact that {INDEX} names")
        return place

    def _kept(self, path: str, entry: Entry) -> HubAddress | None:
        address = HubAddress(self.address.repo, self.address.file(path))
        return kept_at(address, entry.digest, self.hub)

    def _state(self) -> State:
        head = self._head()
        if head is None:
            return State()
        listed = self.client.files(head, self.address.path)
        index = self._text(INDEX, head, listed)
        card = self._text(CARD, head, listed)
        logged = self.client.files(head, self.address.file(LOG))
        told = None if card is None else card.decode("utf-8", errors="replace")
        log = {
            Path(path).name: partial(self.client.read, path, head, entry)
            for path, entry in logged.items()
        }
        return state_of(head, str(self), index, log, told)

    def _remembered(self) -> State | None:
        """What the cache has of it, for a day when the Hub does not answer."""
        path = self.address.file(INDEX)
        found = self.client.cached(path)
        if found is None:
            return None
        commit, file = found
        index = read_plain(file.resolve())
        if not described_by(file.resolve().name, index):
            return None  # damaged
        return replace(state_of(commit, str(self), index, {}, None), stale=True)

    def _put(self, plan: Plan, head: str | None) -> None:
        if head is None:
            self.client.create_repo(private=True if self.private else None)
            head = self._head() or ""
        gone = [path for folder in plan.gone for path in self._files(folder, head)]
        is_oid = constants.REGEX_COMMIT_OID.fullmatch(head) is not None
        parent = head if is_oid else None
        shipments = [self._shipment(*each) for each in plan.packages.items()]
        operations = self._operations(plan, shipments, gone)
        self._verify(shipments, self.client.commit(operations, plan.message, parent))

    def _files(self, folder: str, head: str) -> list[str]:
        path = self.address.file(folder)
        return list(self.client.files(head, path, recursive=True))

    def _verify(self, shipments: "Sequence[Shipment]", commit: str) -> None:
        """Look whether artifacts were stored as they were sent."""
        paths = [path for shipment in shipments for path in shipment.paths]
        stored = self.client.described(paths, commit) if paths else {}
        for shipment in shipments:
            if not shipment.is_all_in(stored):
                raise RegistryError(
                    f"{self.hub.url} did not store {shipment.address} as it was sent; "
                    "ask whoever runs it, and look with `kfac registry check`"
                )

    def _operations(
        self, plan: Plan, shipments: "Sequence[Shipment]", gone: list[str]
    ) -> Callable[[], Operations]:
        def operations() -> list[CommitOperationAdd | CommitOperationDelete]:
            texts = {self.address.file(path): text for path, text in plan.texts.items()}
            return [
                *(each for shipment in shipments for each in shipment.operations()),
                *(CommitOperationAdd(path, text) for path, text in texts.items()),
                *map(CommitOperationDelete, gone),
            ]

        return operations

    def _shipment(self, path: str, package: "Package") -> "Shipment":
        address = HubAddress(self.address.repo, self.address.file(path))
        texts = {address.file(MANIFEST): package.manifest}
        card = package.card(str(address), None)
        if card is not None:
            texts[address.file(CARD)] = card.encode()
        if package.picture is not None:
            texts[address.file(PICTURE)] = package.picture
        if package.signature is not None:
            texts[address.file(SIGNATURE)] = package.signature
        from kfac_artifacts.hub import Shipment

        return Shipment(package, address, texts, [])

    def _head(self) -> str | None:
        try:
            return self.client.head_noted(self.address.revision)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None

    def _text(self, name: str, head: str, listed: dict[str, Listed]) -> bytes | None:
        path = self.address.file(name)
        if path not in listed:
            return None
        if listed[path].size > MAX_JSON_BYTES:
            raise RegistryError(f"{path} of {self} is too large to be read")
        return self.client.read(path, head, listed[path])
