"""What commands do when one of their requests fails: exit code, words, what stands.

Every step of a command is refused with 503, and many with one of the other faults; the
environment variable ``KFAC_ALL_FAULTS`` asks for all of them.
"""

import copy
import os
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
from huggingface_hub import constants

from kfac_artifacts.compress import save_artifact
from kfac_artifacts.hub import Hub
from kfac_artifacts.registry import check, read_registry
from tests.artifacts import artifact
from tests.commands import good, kfac
from tests.hub.conftest import contents
from tests.hub.faults import PULL, PUSH
from tests.hub.server import running
from tests.hub.store import Fault, Repo
from tests.hub.wire import Server
from tests.places.surroundings import file_size_limit
from tests.running import Process, finish

PLACE, SINGLE, NEW = "hf://owner/registry", "hf://owner/single", "hf://owner/new"
CARD = "# Ours\n\nPlease cite us.\n"
ALL = "KFAC_ALL_FAULTS" in os.environ

REQUESTS = {
    **PUSH,
    "paths": "POST .*/paths-info/",
    "tree": "GET .*/tree/[^/]+(/mnli|/qnli)?$",
    "log": "GET .*/tree/.*/log",
    "folder": "GET .*/tree/.*/(tasks|total)/",
    "index": "(GET|HEAD) .*/registry.json",
    "card": "(GET|HEAD) .*/(README.md|spectra.svg)",
    "manifest": "(GET|HEAD) .*/kfac.json",
    "tensors": "HEAD .*/factors.safetensors|GET .*/resolve/.*/factors",
    "storage": PULL["storage"],
    "list": "GET /api/models$",
}
"""Every request that a command makes, in groups; those anew beside the same."""
UPLOADED = ["preupload", "batch", "upload", "verify", "commit"]
DOWNLOADED = ["folder", "manifest", "tensors", "storage"]
STATE = ["info", "tree", "index", "card", "log"]
STEPS = {
    "push": ["info", "tree", "paths", *UPLOADED, "refs", "tag"],
    "push anew": ["create", "yaml"],
    "pull": ["paths", "info", "tree", "card", "manifest", "tensors", "storage"],
    "add": [*STATE, *DOWNLOADED, *UPLOADED, "paths"],
    "add anew": ["create", "yaml"],
    "remove": [*STATE, *DOWNLOADED, *UPLOADED, "paths"],
    "take": ["paths", *STATE, *DOWNLOADED],
    "search": ["list"],
}
COMMITTED = {"commit", "paths", "refs", "tag"}
"""Steps of those that publish, of which the commit is one or is done."""
PULLS = ["pull", "take"]
KILLED = {
    "push": ["info", "upload", "commit", "tag"],
    "add": ["index", "storage", "batch", *UPLOADED[2:], "paths"],
    "pull": ["manifest", "storage"],
    "take": ["index", "manifest", "storage"],
}
if ALL:
    KILLED = {command: STEPS[command] for command in KILLED}
KFAC = """
import sys
from huggingface_hub import constants
constants.HF_HUB_CACHE = sys.argv.pop(1)
constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = False, True
from kfac_cli.main import main
main()
"""

BROKEN = (5, "broke off")
CLOCK = (5, "check this machine's clock")
FAULTS = {
    "503": (Fault("", "status"), (5, "answered 503 .*wait a while and try again")),
    "429": (
        Fault("", "status", status=429, headers={"Retry-After": "1"}),
        (5, "answered 429 .*wait a while and try again"),
    ),
    "drop": (Fault("", "drop"), BROKEN),
    "truncate": (Fault("", "truncate"), BROKEN),
    "401": (Fault("", "status", status=401), (4, "token was not accepted: log in")),
    "403": (Fault("", "status", status=403), (4, "token may not do this")),
}
FLIP = Fault("", "flip")
EXCEPTIONS = {
    ("storage", "401"): CLOCK,  # what is refused is a link that the Hub has signed
    ("storage", "403"): CLOCK,
    ("upload", "401"): CLOCK,
    ("upload", "403"): CLOCK,
    ("commit", "truncate"): (0, ""),  # it stands, and that is seen
    ("upload", "truncate"): (0, ""),  # the answer is empty,
    ("tensors", "truncate"): (0, ""),  # or leads elsewhere
    ("paths", "add"): (0, ""),  # only looks once more at what stands
    ("paths", "remove"): (0, ""),
    ("paths", "pull"): (0, ""),  # only asks whether there is a registry
    ("log", "take"): (0, "Warning: the Hub did not answer"),  # but told the index
    ("log", "401"): FAULTS["401"][1],
    ("log", "403"): FAULTS["403"][1],
    ("list", "401"): (4, "offers no search"),
    ("list", "403"): (4, "offers no search"),
    ("refs", "push"): (0, "Warning: the tag could not be set"),
    ("tag", "push"): (0, "Warning: the tag could not be set"),
    ("storage", "flip"): (3, "was damaged or changed"),
    ("upload", "flip"): (5, "did not arrive whole: try again"),
}


def rows() -> Iterator[tuple[str, str, str]]:
    others = [name for name in FAULTS if name != "503"]
    for number, (command, step) in enumerate(
        (command, step) for command, steps in STEPS.items() for step in steps
    ):
        drawn = others if ALL else others[number % 12 : number % 12 + 1]
        flipped = ["flip"] if (step, "flip") in EXCEPTIONS else []
        for fault in ("503", *drawn, *flipped):
            yield command, step, fault


@dataclass
class World:
    """A Hub with a registry and an artifact, as it was before every command."""

    server: Server
    folder: Path
    repos: dict[str, Repo]
    large: dict[str, bytes]
    turn: Iterator[int]

    def words(self, command: str, out: Path) -> Sequence[object]:
        own = self.folder / "data2"
        how = ("--endpoint", self.server.url, "--retries", "0")
        every: dict[str, Sequence[object]] = {
            "push": ["push", own, f"{SINGLE}/qnli", *how],
            "push anew": ["push", own, NEW, *how],
            "pull": ["pull", f"{SINGLE}/mnli", out, *how],
            "add": ["registry", "add", own, PLACE, *how],
            "add anew": ["registry", "add", own, NEW, *how],
            "remove": ["registry", "remove", PLACE, "data0", *how],
            "take": ["pull", PLACE, out, "--all-but", "data0", *how],
            "search": ["search", "--base-model", "toy", *how],
        }
        return every[command]

    def reset(self) -> Path:
        store = self.server.store
        store.repos, store.large = copy.deepcopy(self.repos), dict(self.large)
        store.faults.clear()
        store.requests.clear()
        number = next(self.turn)
        constants.HF_HUB_CACHE = str(self.folder / f"cache{number}")
        (self.folder / f"run{number}").mkdir()
        return self.folder / f"run{number}" / "out"

    def heads(self) -> dict[str, object]:
        repos = self.server.store.repos.items()
        return {n: r.head for n, r in repos if n in self.repos or len(r.log) > 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    for number in range(3):
        made = artifact(number, 100 + number)
        save_artifact(made, folder / f"data{number}", storage="float32")
    with pytest.MonkeyPatch.context() as patch, running() as server:
        patch.setenv("HF_TOKEN", "hf_owner")
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        for number in range(2):
            own = folder / f"data{number}"
            good("registry", "add", own, PLACE, "--endpoint", server.url)
        good("push", folder / "data0", f"{SINGLE}/mnli", "--endpoint", server.url)
        server.store.repos["owner/registry"].put("README.md", CARD.encode())
        repos = copy.deepcopy(server.store.repos)
        yield World(server, folder, repos, dict(server.store.large), count())


@pytest.mark.parametrize("command", ["push", "pull", "add", "remove", "take"])
def test_the_table_has_every_step(world: World, command: str) -> None:
    words = world.words(command, world.reset())
    good(*words)
    patterns = [REQUESTS[step] for step in STEPS[command]]
    made = world.server.store.requests
    assert [r for r in made if not any(re.search(p, r) for p in patterns)] == []
    assert [p for p in patterns if not any(re.search(p, r) for r in made)] == []


@pytest.mark.parametrize(("command", "step", "fault"), [*rows()])
def test_a_step_that_fails(world: World, command: str, step: str, fault: str) -> None:
    out = world.reset()
    kind, expected = FAULTS.get(fault, (FLIP, (0, "")))
    for key in ((step, command), (step, fault)):
        expected = EXCEPTIONS.get(key, expected)
    before = world.heads()
    broken = replace(kind, pattern=REQUESTS[step])
    world.server.store.faults.append(broken)
    result = kfac(*world.words(command, out))
    assert broken.times < kind.times, "the step was not reached"
    assert (result.exit_code, result.exception is None) == (
        expected[0],
        not expected[0],
    )
    assert re.search(expected[1], result.stderr)
    assert "hf_owner" not in result.output
    if expected[0]:
        assert (
            sum(line.startswith("Error: ") for line in result.stderr.split("\n")) == 1
        )
        assert result.stdout == ""
        assert list(out.parent.iterdir()) == []  # nothing, not even half of it
        assert world.heads() == before
    world.server.store.faults.clear()
    if step in {"commit", "create"} and (command, expected[0]) != ("remove", 0):
        good(*world.words(command, out), *(["--force"] if out.exists() else []))
        stands(world, command)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "step"), [(c, step) for c, steps in KILLED.items() for step in steps]
)
def test_a_kill_at_a_step(world: World, command: str, step: str) -> None:
    """Once it was done there, and nobody lives to hear of it."""
    out, before = world.reset(), world.heads()
    words = world.words(command, out)
    started: list[Process] = []

    def kill() -> None:
        started.pop().kill()

    fault = Fault(REQUESTS[step], "after", times=1, action=kill)
    world.server.store.faults.append(fault)
    started.append(run := process(*words))
    ((status, _, said),) = finish([run])
    assert status == -signal.SIGKILL, said
    assert not out.exists()
    if step not in COMMITTED or (command, step) == ("push", "paths"):
        assert world.heads() == before
    good(*words)
    assert {path.name for path in out.parent.iterdir()} <= {out.name}
    stands(world, command)


@pytest.mark.parametrize(
    ("command", "warm", "said"),
    [
        ("pull", False, "{cache}: File too large; .* has room .HF_HOME moves it"),
        ("pull", True, "{out}: the file would be larger"),
        ("take", False, "{cache}: File too large"),
        ("take", True, "kfac-registry-.*: the file would be larger .* TMPDIR moves it"),
        ("add", True, "kfac-registry-.*: the file would be larger .* TMPDIR moves it"),
    ],
)
def test_a_full_disk(
    world: World, tmp_path: Path, command: str, warm: bool, said: str
) -> None:
    out, before = world.reset(), world.heads()
    if warm:
        good("registry", "check", PLACE, "--endpoint", world.server.url)
        good(*world.words("pull", tmp_path / "copy"))
    with file_size_limit(600):
        result = kfac(*world.words(command, out))
    assert result.exit_code == 1, result.output
    told = result.stderr
    assert re.search(said.format(cache=constants.HF_HUB_CACHE, out=out), told)
    assert list(out.parent.iterdir()) == []
    assert world.heads() == before
    good(*world.words(command, out))
    stands(world, command)


@pytest.mark.processes
def test_processes_that_pull_into_one_cache(world: World) -> None:
    out = world.reset()
    words = [world.words(c, out.with_name(c + n)) for n in "ab" for c in PULLS]
    for status, _, said in finish([process(*each) for each in words]):
        assert status == 0, said
    for command in PULLS:
        first, second = (contents(out.with_name(command + n)) for n in "ab")
        assert first == second
    assert len(list(out.parent.iterdir())) == len(words)


def process(*words: object) -> Process:
    """Give a command in a process of its own, which speaks with the same cache."""
    return Process(["-c", KFAC, constants.HF_HUB_CACHE, *map(str, words)])


def stands(world: World, command: str) -> None:
    """After all, the change was made once, and nobody's card was written over."""
    if command.split(maxsplit=1)[0] not in {"add", "remove"}:
        return
    place = NEW if "anew" in command else PLACE
    registry, state = read_registry(place, hub=Hub(world.server.url))
    assert list(check(registry, state)) == []
    assert len(state.index.changes) == (1 if place == NEW else 3)
    if place == PLACE:
        assert state.card == CARD
