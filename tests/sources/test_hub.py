"""Models by Hub id, with the real client against a server of our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from kfac_artifacts.errors import SourceError
from kfac_artifacts.sources import load_network
from tests.hub.server import running
from tests.hub.wire import Server
from tests.models import SavedModel


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with running() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        here = template.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_owner")
        yield server


@pytest.fixture
def commit(server: Server, saved_model: SavedModel) -> str:
    """Put a tiny BERT on the Hub, and move ``main`` on behind it."""
    api = HfApi(endpoint=server.url)
    api.create_repo("owner/bert")
    folder = saved_model("bert")
    done = api.upload_folder(repo_id="owner/bert", folder_path=folder)
    api.upload_file(
        repo_id="owner/bert", path_in_repo="notes.txt", path_or_fileobj=b"later"
    )
    return done.oid


def test_a_model_of_the_hub_records_its_id_and_commit(
    server: Server, commit: str, saved_model: SavedModel
) -> None:
    network = load_network("owner/bert")
    assert network.id == "owner/bert"
    assert network.revision == server.store.repos["owner/bert"].branches["main"]
    local = load_network(str(saved_model("bert")))
    assert network.base.parameters == local.base.parameters


def test_a_revision_can_be_named(commit: str) -> None:
    assert load_network(f"hf://owner/bert@{commit}").revision == commit
    assert load_network("owner/bert").revision != commit


@pytest.mark.usefixtures("commit")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("owner/bird", "'owner/bird' is neither here nor a model of the Hub"),
        ("owner/bert@v9", "the model 'owner/bert' has no revision 'v9'"),
        ("owner/bert--x", "'owner/bert--x' is neither here nor a model of the Hub"),
    ],
)
def test_what_the_hub_does_not_have_is_said(model: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load_network(model)
