"""What the Hub has to know of the library is what the library does."""

import re
import shlex
from pathlib import Path

import click
import pytest

from kfac_artifacts.hub import Hub, pull, push
from kfac_artifacts.hub.address import LIBRARY
from kfac_artifacts.hub.kinds import KINDS
from kfac_cli.main import main
from tests.hub.conftest import write_artifact
from tests.hub.test_task_vectors import write_vector
from tests.hub.wire import Server

PAGE = Path(__file__).parents[2] / "spec" / "hub_library.md"
ENTRY, SNIPPET = re.findall(r"```ts\n(.*?)```", PAGE.read_text(), re.DOTALL)


def counted(path: str) -> bool:
    """Whether the query of the entry counts a file."""
    (query,) = re.findall(r"countDownloads: `(.*)`", ENTRY)
    names = re.findall(r'path_filename:"(\w+)"', query)
    assert query == (
        "(" + " OR ".join(f'path_filename:"{name}"' for name in names) + ")"
        ' AND path_extension:"json"'
    )
    return Path(path).stem in names and Path(path).suffix == ".json"


def test_the_entry_is_of_this_library() -> None:
    assert re.match(r"\s*(\S+): \{", ENTRY)[1] == LIBRARY
    assert f"snippets: snippets.{LIBRARY}," in ENTRY
    assert f"export const {LIBRARY} = " in SNIPPET
    assert all(counted(f"folder/{kind.manifest}") for kind in KINDS)


@pytest.mark.parametrize("line", re.findall(r"^kfac .*$", SNIPPET, re.MULTILINE))
def test_the_commands_of_the_snippet_can_be_given(line: str) -> None:
    _, name, *words = shlex.split(line.replace("`", "").rstrip(",").strip())
    command = main.commands[name]
    context = click.Context(command)
    command.parse_args(context, words)
    assert not context.args


@pytest.mark.parametrize("kind", ["artifact", "vector"])
def test_a_pull_is_counted_once(
    hub: Hub, server: Server, tmp_path: Path, kind: str
) -> None:
    write = {"artifact": write_artifact, "vector": write_vector}[kind]
    push(write(tmp_path / "made"), "hf://owner/it/deep", hub=hub)
    server.store.requests.clear()
    fresh = Hub(server.url, cache_dir=tmp_path / "fresh", retries=2, wait=0.01)
    pull("hf://owner/it/deep", tmp_path / "copy", hub=fresh)
    got = [r for r in server.store.requests if r.startswith("GET /owner/it/resolve/")]
    assert sum(counted(request) for request in got) == 1
