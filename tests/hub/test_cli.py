"""The commands ``kfac push`` and ``kfac pull``."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants

from kfac_artifacts.hub import Hub, client, output
from kfac_cli import pull, push
from kfac_cli.console import KfacGroup
from tests.hub.conftest import contents, write_artifact
from tests.hub.store import Fault
from tests.hub.wire import Server


@pytest.fixture
def endpoint(
    server: Server, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return server.url


def run(*arguments: object) -> Result:
    group = KfacGroup(commands=[push.command, pull.command])
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def test_push_prints_what_pull_takes(
    endpoint: str, artifact: Path, tmp_path: Path
) -> None:
    pushed = run("push", artifact, "hf://owner/kfac", "--endpoint", endpoint)
    assert pushed.exit_code == 0, pushed.output
    reference = pushed.stdout.strip()
    assert reference.startswith("hf://owner/kfac@")
    pulled = run("pull", reference, tmp_path / "copy", "--endpoint", endpoint)
    assert pulled.exit_code == 0, pulled.output
    assert pulled.stdout.strip() == reference
    assert "verified" in pulled.stderr
    assert contents(tmp_path / "copy") == contents(artifact)


def test_json_is_all_that_is_on_stdout(
    endpoint: str, artifact: Path, tmp_path: Path
) -> None:
    arguments = ("--endpoint", endpoint, "--json")
    pushed = json.loads(run("push", artifact, "hf://owner/kfac", *arguments).stdout)
    again = run("push", artifact, "hf://owner/kfac", *arguments)
    assert pushed["changed"]
    assert json.loads(again.stdout) == {**pushed, "changed": False}
    pulled = json.loads(
        run("pull", "hf://owner/kfac", tmp_path / "copy", *arguments).stdout
    )
    assert pulled["reference"] == pushed["reference"]
    assert pulled["directory"] == str(tmp_path / "copy")


def test_nothing_but_words_is_written_without_a_terminal(
    endpoint: str, artifact: Path, tmp_path: Path
) -> None:
    pushed = run("push", artifact, "hf://owner/kfac", "--endpoint", endpoint)
    pulled = run("pull", "hf://owner/kfac", tmp_path / "copy", "--endpoint", endpoint)
    for result in (pushed, pulled):
        assert "%|" not in result.output  # a progress bar
        assert "\x1b" not in result.output
        assert "\r" not in result.output


def test_an_unchanged_push_says_so(endpoint: str, artifact: Path) -> None:
    first = run("push", artifact, "hf://owner/kfac", "--endpoint", endpoint)
    again = run("push", artifact, "hf://owner/kfac", "--endpoint", endpoint)
    assert again.stderr.splitlines()[-1] == "hf://owner/kfac is already up to date"
    assert again.stdout == first.stdout


def test_a_pull_from_the_cache_warns(
    endpoint: str, server: Server, artifact: Path, tmp_path: Path
) -> None:
    run("push", artifact, "hf://owner/kfac", "--endpoint", endpoint)
    run("pull", "hf://owner/kfac", tmp_path / "a", "--endpoint", endpoint)
    server.store.faults.append(Fault("GET", "status"))
    arguments = ("--endpoint", endpoint, "--retries", "0")
    pulled = run("pull", "hf://owner/kfac", tmp_path / "b", *arguments)
    assert pulled.exit_code == 0
    assert "Warning: the Hub did not answer" in pulled.stderr


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("GET", "status", status=401, message="Invalid credentials"), 4),
        (Fault("GET", "status", status=503), 5),
        (Fault("GET /storage", "flip"), 3),
        (Fault("GET", "status", status=418), 1),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    endpoint: str,
    server: Server,
    artifact: Path,
    tmp_path: Path,
    fault: Fault,
    code: int,
) -> None:
    run("push", artifact, "hf://owner/kfac", "--endpoint", endpoint)
    server.store.faults.append(fault)
    arguments = ("--endpoint", endpoint, "--retries", "0")
    pulled = run("pull", "hf://owner/kfac", tmp_path / "copy", *arguments)
    assert pulled.exit_code == code
    assert pulled.stderr.startswith("Error: ")
    assert pulled.stderr.count("\n") == 1
    assert pulled.stdout == ""
    assert "hf_owner" not in pulled.output


def test_a_wrong_address_is_a_usage_error(artifact: Path) -> None:
    result = run("push", artifact, "hf://name")
    assert result.exit_code == 2
    assert "write hf://org/name" in result.stderr


def test_an_artifact_there_is_replaced_with_force(
    artifact: Path, tmp_path: Path
) -> None:
    place = write_artifact(tmp_path / "place", seed=1)
    assert run("pull", artifact, place).exit_code == 1
    assert run("pull", artifact, place, "--force").exit_code == 0
    assert contents(place) == contents(artifact)


def test_a_log_gets_a_line_now_and_then(
    endpoint: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("hf://owner/kfac", "--endpoint", endpoint)
    monkeypatch.setattr(client, "LONG", 100)
    pushed = run("push", artifact, *arguments)
    assert "\nuploading 0.0 MB\npushed " in pushed.stderr
    monkeypatch.setattr(output, "LINE_SECONDS", 0.0)
    pulled = run("pull", arguments[0], tmp_path / "copy", *arguments[1:])
    assert "downloading 0.0 MB\nfactors.safetensors is here\n" in pulled.stderr
