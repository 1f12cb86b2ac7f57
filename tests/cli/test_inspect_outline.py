"""``kfac inspect`` of artifacts with names that only third parties know."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kfac_artifacts.compress import USES
from kfac_artifacts.errors import FormatError
from kfac_artifacts.format import load_artifact, read_outline
from kfac_artifacts.names import is_foreign
from tests.commands import bad, good

VALID = Path(__file__).parents[2] / "spec/vectors/valid"
OWN = "org.example/own"
FOREIGN = [OWN, "com.example.research/Tree_2.x-1", "io.a-b/0", "a.b/c"]
PLAIN = [
    *("kfac", "x-own", "org.example", "org.example/", "/own", "example/own"),
    *("Org.example/own", "org..example/own", "-org.example/own", "org.example/a/b"),
    *("org.example/.own", "org.example/own\n", "org.exämple/own", ".example/own"),
]


def artifact(path: Path, edit: Callable[[Any], object]) -> Path:
    """A valid artifact whose manifest is changed."""
    shutil.copytree(VALID / "merged-1-2", path)
    manifest = json.loads((path / "kfac.json").read_text())
    edit(manifest)
    (path / "kfac.json").write_text(json.dumps(manifest))
    return path


def named(*keys: str | int) -> Callable[[Any], object]:
    """Give a third party's name to what a path of keys leads to."""

    def edit(manifest: Any) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = OWN

    return edit


PLACES: dict[str, Callable[[Any], object]] = {
    "estimator": named("estimator", "name"),
    "cotangents": named("sources", 1, "cotangents", "name"),
    "kind": named("blocks", "layer", "kind"),
    "structure": named("factors", "in", "structure", "name"),
    "storage": named("factors", "in", "storage", "name"),
}


@pytest.mark.parametrize("what", PLACES)
def test_what_a_third_party_names_is_shown_and_not_decoded(
    tmp_path: Path, what: str
) -> None:
    path = artifact(tmp_path / "a", PLACES[what])
    with pytest.raises(FormatError, match="kfac inspect"):
        load_artifact(path)
    said = good("inspect", path)
    assert f"unknown {what}: {OWN}" in said
    assert "merged" in said
    details = json.loads(good("inspect", path, "--json"))
    assert {use["fit"] for use in details["uses"].values()} == {None}
    assert said.count("unknown: names of third parties are in it") == len(USES)
    (unknown,) = details["unknown"]
    assert (unknown["what"], unknown["name"]) == (what, OWN)
    plain = json.loads(good("inspect", VALID / "merged-1-2", "--json"))
    same = ["base_model", "base_sha256", "size", "tensors", "parameters", "tasks"]
    assert {k: details[k] for k in same} == {k: plain[k] for k in same}
    modules = {module["name"]: module for module in details["modules"]}
    assert modules.keys() == {"layer", "norm"}
    assert (modules["layer"]["parameters"] is None) == (what == "kind")
    assert modules["norm"]["kind"] == "gramian"
    assert bad("merge", path, VALID / "part-3", "-o", tmp_path / "b", code=3)


def test_members_of_a_block_of_a_third_party_are_its_own(tmp_path: Path) -> None:
    path = artifact(
        tmp_path / "a",
        lambda m: m["blocks"].update(layer={"kind": OWN, "tree": [1, {"x": None}]}),
    )
    assert f"unknown kind: {OWN} (layer)" in good("inspect", path)


WRONG: dict[str, Callable[[Any], object]] = {
    "another field": lambda m: m.update(more=1),
    "tasks": lambda m: m.update(tasks=3),
    "the hash of the base model": lambda m: m["base_model"].update(sha256="0" * 64),
    "a plain kind": lambda m: m["blocks"]["norm"].update(kind="own"),
    "a factor of another size": lambda m: m["factors"]["in"].update(dim=3),
    "no factor": lambda m: m["factors"].pop("norm"),
    "no parameter": lambda m: m["blocks"]["norm"].update(parameter="other"),
    "a member of a factor": lambda m: m["factors"]["in"].update(more=1),
    "another version": lambda m: m.update(version=2),
    "a path": lambda m: m["files"].update({"../x": m["files"]["factors.safetensors"]}),
    "a size": lambda m: m["files"]["factors.safetensors"].update(size=9),
    "no digest": lambda m: m["sources"][0].pop("digest"),
    "no sources": lambda m: m.pop("sources"),
    "sources of another type": lambda m: m.update(sources=[1]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_else_is_wrong_is_refused(tmp_path: Path, what: str) -> None:
    def edit(manifest: Any) -> None:
        PLACES["structure"](manifest)
        WRONG[what](manifest)

    with pytest.raises(FormatError):
        read_outline(artifact(tmp_path / "a", edit))


def test_an_artifact_without_such_names_is_read_in_full(tmp_path: Path) -> None:
    assert read_outline(VALID / "merged-1-2") is None
    assert read_outline(tmp_path) is None
    plain = artifact(tmp_path / "a", lambda m: m["estimator"].update(name="own"))
    assert "is not one of" in bad("inspect", plain, code=3)


def test_names_of_third_parties_are_told_from_others() -> None:
    assert [name for name in (*FOREIGN, *PLAIN) if is_foreign(name)] == FOREIGN
