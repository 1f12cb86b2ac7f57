"""Pushing to a Hub with the real client."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from kfac_artifacts.canonical import short
from kfac_artifacts.errors import AddressError, FormatError, RegistryError
from kfac_artifacts.hub import Hub, pull, push
from tests.hub.conftest import contents, write_artifact
from tests.hub.store import Fault
from tests.hub.wire import Server


def test_a_push_is_one_commit_and_one_tag(
    server: Server, hub: Hub, artifact: Path
) -> None:
    pushed = push(artifact, "hf://owner/kfac", hub=hub)
    repo = server.store.repos["owner/kfac"]
    head = repo.branches["main"]
    assert len(repo.log) == 2  # the first is the creation of the repository
    assert repo.tags == {f"kfac-{short(pushed.digest)}": head}
    assert pushed.reference == f"hf://owner/kfac@{head}"
    assert pushed.changed
    stored = {p: b.content for p, b in repo.commits[head].items()}
    assert contents(artifact).items() <= stored.items()
    assert not repo.private


def test_a_pushed_artifact_is_pulled_bit_by_bit(
    hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    pushed = push(artifact, "hf://owner/kfac", hub=hub)
    pulled = pull(pushed.reference, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(artifact)
    assert pulled.reference == pushed.reference
    assert pulled.digest == pushed.digest
    assert not pulled.stale


def test_an_unchanged_push_is_no_commit(
    server: Server, hub: Hub, artifact: Path
) -> None:
    first = push(artifact, "hf://owner/kfac", hub=hub)
    second = push(artifact, "hf://owner/kfac", hub=hub)
    assert not second.changed
    assert second.reference == first.reference
    assert len(server.store.repos["owner/kfac"].log) == 2


def test_a_missing_tag_is_added_by_an_unchanged_push(
    server: Server, hub: Hub, artifact: Path
) -> None:
    push(artifact, "hf://owner/kfac", hub=hub)
    server.store.repos["owner/kfac"].tags.clear()
    pushed = push(artifact, "hf://owner/kfac", hub=hub)
    assert list(server.store.repos["owner/kfac"].tags) == [pushed.tag]


def test_files_of_an_earlier_artifact_are_removed(
    server: Server, hub: Hub, tmp_path: Path
) -> None:
    sharded = write_artifact(tmp_path / "sharded", shard_bytes=80)
    push(sharded, "hf://owner/kfac/mnli", hub=hub)
    repo = server.store.repos["owner/kfac"]
    repo.put("mnli/notes.txt", b"mine")
    single = write_artifact(tmp_path / "single", seed=1)
    push(single, "hf://owner/kfac/mnli", hub=hub)
    files = repo.head
    assert {p for p in files if p.startswith("mnli/")} == {
        "mnli/kfac.json",
        "mnli/factors.safetensors",
        "mnli/README.md",
        "mnli/spectra.svg",
        "mnli/notes.txt",
    }


@pytest.mark.parametrize("places", [("", "/mnli"), ("/mnli", ""), ("/a", "/a/b")])
def test_artifacts_in_a_folder_and_above_it_leave_each_other_alone(
    server: Server, hub: Hub, tmp_path: Path, places: tuple[str, str]
) -> None:
    for number, place in enumerate(places):
        own = write_artifact(tmp_path / f"own{number}", seed=number)
        push(own, f"hf://owner/kfac{place}", hub=hub)
    for number, place in enumerate(places):
        copy = tmp_path / f"copy{number}"
        pull(f"hf://owner/kfac{place}", copy, hub=hub)
        assert contents(copy) == contents(tmp_path / f"own{number}")


def test_a_damaged_artifact_is_not_pushed(
    server: Server, hub: Hub, artifact: Path
) -> None:
    file = artifact / "factors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        push(artifact, "hf://owner/kfac", hub=hub)
    assert server.store.requests == []


def test_a_new_repository_may_be_private(
    server: Server, hub: Hub, artifact: Path
) -> None:
    push(artifact, "hf://owner/kfac", private=True, hub=hub)
    assert server.store.repos["owner/kfac"].private


def test_a_public_repository_is_not_taken_for_private(
    server: Server, hub: Hub, artifact: Path
) -> None:
    server.store.create("owner/kfac")
    with pytest.raises(RegistryError, match="exists and is public"):
        push(artifact, "hf://owner/kfac", private=True, hub=hub)
    assert len(server.store.repos["owner/kfac"].log) == 1


def test_a_branch_is_made_when_it_is_named(
    server: Server, hub: Hub, artifact: Path
) -> None:
    push(artifact, "hf://owner/kfac@draft", hub=hub)
    repo = server.store.repos["owner/kfac"]
    assert "kfac.json" in repo.commits[repo.branches["draft"]]
    assert "kfac.json" not in repo.head


def test_a_chosen_tag_is_used(server: Server, hub: Hub, artifact: Path) -> None:
    pushed = push(artifact, "hf://owner/kfac", tag="v1", hub=hub)
    assert pushed.tag == "v1"
    assert list(server.store.repos["owner/kfac"].tags) == ["v1"]


def test_a_chosen_tag_that_exists_is_refused_before_uploading(
    server: Server, hub: Hub, artifact: Path
) -> None:
    repo = server.store.create("owner/kfac")
    repo.tags["v1"] = repo.branches["main"]
    repo.put("notes.txt", b"mine")
    with pytest.raises(RegistryError, match="tag 'v1' already"):
        push(artifact, "hf://owner/kfac", tag="v1", hub=hub)
    assert len(repo.log) == 2
    assert server.store.count("PUT") == 0


def test_large_files_go_up_in_parts(server: Server, hub: Hub, tmp_path: Path) -> None:
    large = write_artifact(tmp_path / "large", dim=1700)
    assert (large / "factors.safetensors").stat().st_size > 10**7
    pushed = push(large, "hf://owner/kfac", hub=hub)
    assert server.store.count(r"PUT /storage/\w+/\d") == 3
    pull(pushed.reference, tmp_path / "copy", hub=hub)
    assert contents(tmp_path / "copy") == contents(large)


def test_a_hub_without_xet_is_served_by_lfs(
    hub: Hub,
    artifact: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    assert push(artifact, "hf://owner/kfac", hub=hub).changed
    assert "has no Xet storage" in caplog.text
    assert constants.HF_HUB_DISABLE_XET is False


def test_the_card_has_metadata_that_the_hub_accepts(
    server: Server, hub: Hub, artifact: Path
) -> None:
    push(artifact, "hf://owner/kfac", license="cc-by-4.0", hub=hub)
    repo = server.store.repos["owner/kfac"]
    card = repo.head["README.md"].content.decode()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata == {
        "base_model": "org/encoder",
        "datasets": ["org/texts"],
        "license": "cc-by-4.0",
        "library_name": "kfac",
        "tags": ["kfac", "curvature", "task-arithmetic"],
    }
    assert "kfac pull hf://owner/kfac curvature" in card


def test_a_licence_unknown_to_the_hub_is_refused(hub: Hub, artifact: Path) -> None:
    with pytest.raises(RegistryError, match="license"):
        push(artifact, "hf://owner/kfac", license="no-such-license", hub=hub)


def test_an_edited_card_is_kept_and_a_generated_one_follows(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    push(artifact, "hf://owner/kfac", hub=hub)
    repo = server.store.repos["owner/kfac"]
    second = push(write_artifact(tmp_path / "b", seed=1), "hf://owner/kfac", hub=hub)
    card = repo.head["README.md"].content
    assert second.digest.encode() in card
    repo.put("README.md", card + b"my words\n")
    third = push(artifact, "hf://owner/kfac", hub=hub)
    assert third.card_kept
    assert repo.head["README.md"].content == card + b"my words\n"


def test_a_card_written_at_home_is_pushed(
    server: Server, hub: Hub, artifact: Path
) -> None:
    (artifact / "README.md").write_text("---\nlicense: mit\n---\nMy card.\n")
    push(artifact, "hf://owner/kfac", hub=hub)
    repo = server.store.repos["owner/kfac"]
    assert repo.head["README.md"].content.endswith(b"My card.\n")


def test_a_collection_has_a_card_of_its_own(
    server: Server, hub: Hub, artifact: Path
) -> None:
    push(artifact, "hf://owner/kfac/mnli", hub=hub)
    repo = server.store.repos["owner/kfac"]
    files = repo.head
    assert b"# KFAC artifacts" in files["README.md"].content
    assert b"# KFAC curvature" in files["mnli/README.md"].content


def test_an_answer_lost_after_the_commit_does_not_commit_twice(
    server: Server, hub: Hub, artifact: Path
) -> None:
    server.store.faults.append(Fault("POST .*/commit/", "lose", times=1))
    pushed = push(artifact, "hf://owner/kfac", hub=hub)
    repo = server.store.repos["owner/kfac"]
    assert len(repo.log) == 2
    assert pushed.reference.endswith(repo.log[-1])
    assert pushed.changed


@pytest.mark.parametrize(
    "request_",
    [
        "POST .*/repos/create",
        "POST .*/commit/",
        "POST .*/tag/",
        "GET .*/refs",
    ],
)
def test_a_push_survives_one_503(
    server: Server, hub: Hub, artifact: Path, request_: str
) -> None:
    server.store.faults.append(Fault(request_, "status", times=1))
    pushed = push(artifact, "hf://owner/kfac", hub=hub)
    repo = server.store.repos["owner/kfac"]
    assert len(repo.log) == 2
    assert list(repo.tags) == [pushed.tag]


def test_somebody_elses_commit_to_the_same_place_is_not_overwritten(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    other = write_artifact(tmp_path / "other", seed=1)
    push(write_artifact(tmp_path / "first", seed=2), "hf://owner/kfac", hub=hub)
    server.store.faults.append(
        Fault(
            "POST .*/commit/",
            "meanwhile",
            times=1,
            action=lambda: push(other, "hf://owner/kfac", hub=hub),
        )
    )
    with pytest.raises(RegistryError, match="somebody else pushed to hf://owner/kfac"):
        push(artifact, "hf://owner/kfac", hub=hub)
    stored = server.store.repos["owner/kfac"].head
    assert stored["kfac.json"].content == (other / "kfac.json").read_bytes()


def test_pushes_to_many_folders_at_once_all_arrive(
    server: Server, hub: Hub, tmp_path: Path
) -> None:
    hub = replace(hub, retries=0)
    server.store.create("owner/kfac")
    owned = [write_artifact(tmp_path / f"a{n}", seed=n) for n in range(12)]
    addresses = [f"hf://owner/kfac/task-{n}" for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        pushed = list(pool.map(lambda a, b: push(a, b, hub=hub), owned, addresses))
    head = server.store.repos["owner/kfac"].head
    for number, (place, done) in enumerate(zip(owned, pushed, strict=True)):
        stored = head[f"task-{number}/kfac.json"].content
        assert stored == (place / "kfac.json").read_bytes()
        assert done.changed
        assert done.tag in server.store.repos["owner/kfac"].tags


def test_a_hub_that_stores_other_bytes_is_noticed(
    server: Server, hub: Hub, artifact: Path
) -> None:
    server.store.verifies = False
    server.store.faults.append(Fault("PUT /storage", "flip"))
    with pytest.raises(RegistryError, match="did not store"):
        push(artifact, "hf://owner/kfac", hub=hub)


def test_a_hub_with_long_commit_ids_works(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    server.store.create("owner/kfac").sha_length = 64
    server.store.repos["owner/kfac"].put("notes.txt", b"mine")
    pushed = push(artifact, "hf://owner/kfac", hub=hub)
    pull("hf://owner/kfac", tmp_path / "copy", hub=hub)
    assert len(pushed.reference.rpartition("@")[2]) == 64
    assert contents(tmp_path / "copy") == contents(artifact)


def test_a_commit_is_no_place_to_push_to(hub: Hub, artifact: Path) -> None:
    with pytest.raises(AddressError, match="is pinned; push to hf://owner/kfac"):
        push(artifact, f"hf://owner/kfac@{'0' * 40}", hub=hub)


def test_a_licence_once_named_stays(
    server: Server, hub: Hub, artifact: Path, tmp_path: Path
) -> None:
    push(artifact, "hf://owner/kfac", license="mit", hub=hub)
    assert not push(artifact, "hf://owner/kfac", hub=hub).changed
    pull("hf://owner/kfac", tmp_path / "copy", hub=hub)
    push(tmp_path / "copy", "hf://owner/fork", hub=hub)
    card = server.store.repos["owner/fork"].head["README.md"].content
    assert b'license: "mit"' in card
