"""Pushes and pulls through faults drawn at random, and what came of them."""

import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from kfac_artifacts.errors import KfacError
from kfac_artifacts.hub import Hub, client_output, pull, push
from tests.hub.conftest import contents, write_artifact
from tests.hub.faults import FAULTS, PULL, PUSH, fault
from tests.hub.wire import Server

FOREVER = 10**9


@dataclass
class Campaign:
    """Counts of what happened, and every broken promise in words."""

    server: Server
    hub: Hub
    folder: Path
    draw: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def run(self, rounds: int) -> None:
        artifacts = [
            write_artifact(self.folder / f"artifact-{n}", seed=n, shard_bytes=size)
            for n, size in enumerate((10**9, 80, 10**9))
        ]
        with client_output(bars=False):
            for number in range(rounds):
                artifact = self.draw.choice(artifacts)
                act = self.push if self.draw.random() < 0.5 else self.pull
                act(number, artifact)

    def push(self, number: int, artifact: Path) -> None:
        name = f"owner/kfac-{self.draw.randrange(5)}"
        folder = self.draw.choice(["", "/mnli", "/qnli"])
        stood = self.stands(name, folder, artifact)
        said = self.draw_faults(PUSH)
        at = f"push {number} through {said}"
        try:
            pushed = push(artifact, f"hf://{name}{folder}", hub=self.hub)
        except KfacError as error:
            self.fail("push", at, error)
            told = "committed" in str(error) or "published" in str(error)
            if not (told or stood) and self.stands(name, folder, artifact):
                self.broken.append(f"{at}: it stood, but: {error}")
        except Exception as error:
            self.broken.append(f"{at}: {error!r}")
        else:
            self.counts["push succeeded"] += 1
            commit = pushed.reference.rpartition("@")[2]
            if not self.stands(name, folder, artifact, commit):
                self.broken.append(f"{at}: it does not stand at {commit}")
            if pushed.tag and pushed.tag not in self.server.store.repos[name].tags:
                self.broken.append(f"{at}: it is not tagged")
        self.server.store.faults.clear()

    def pull(self, number: int, artifact: Path) -> None:
        address = f"hf://owner/pulled-{number}"
        push(artifact, address, hub=self.hub)
        place = self.folder / f"copy-{number}"
        if self.draw.random() < 0.3:  # with something in the cache
            pull(address, place, hub=self.hub)
            shutil.rmtree(place)
        at = f"pull {number} through {self.draw_faults(PULL)}"
        try:
            pull(address, place, hub=self.hub)
        except KfacError as error:
            self.fail("pull", at, error)
            if place.exists():
                self.broken.append(f"{at}: something is visible")
        except Exception as error:
            self.broken.append(f"{at}: {error!r}")
        else:
            self.counts["pull succeeded"] += 1
            if contents(place) != contents(artifact):
                self.broken.append(f"{at}: other bytes")
        if list(self.folder.glob(f".{place.name}.*")):
            self.broken.append(f"{at}: something is left")
        self.server.store.faults.clear()

    def draw_faults(self, requests: dict[str, str]) -> str:
        said = []
        for _ in range(self.draw.randint(1, 3)):
            name = self.draw.choice(list(requests))
            kind = self.draw.choice(list(FAULTS))
            times = self.draw.choice([1, 1, 2, FOREVER])
            self.server.store.faults.append(fault(requests[name], kind, times))
            said.append(f"{kind} at {name} ({'always' if times == FOREVER else times})")
        return ", ".join(said)

    def fail(self, what: str, at: str, error: KfacError) -> None:
        self.counts[f"{what} failed: {type(error).__name__}"] += 1
        message = str(error)
        if not message.isprintable() or len(message) > 1200 or "hf_owner" in message:
            self.broken.append(f"{at}: {message!r}")

    def stands(
        self, name: str, folder: str, artifact: Path, commit: str | None = None
    ) -> bool:
        repo = self.server.store.repos.get(name)
        if repo is None or (commit is not None and commit not in repo.commits):
            return False
        files = repo.head if commit is None else repo.commits[commit]
        stored = {path: blob.content for path, blob in files.items()}
        prefix = f"{folder[1:]}/" if folder else ""
        wanted = {f"{prefix}{n}": c for n, c in contents(artifact).items()}
        return wanted.items() <= stored.items()
