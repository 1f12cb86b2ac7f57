"""Artifacts of one model under several names: each is shown with its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kfac_artifacts.compress import save_artifact
from kfac_artifacts.registry import Offer, add, open_registry, search
from tests.artifacts import artifact
from tests.commands import good

NAMES = {"data0": "toy", "data1": "org/toy", "data2": "mirror|s/toy"}


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    place = tmp_path / "registry"
    for number, name in enumerate(NAMES.values()):
        made, own = artifact(number, 100 + number), tmp_path / f"own{number}"
        base = replace(made.provenance.base, id=name)
        info = replace(made.provenance, base=base)
        save_artifact(replace(made, provenance=info), own, storage="float32")
        add(open_registry(place), Offer(own))
    return place


def test_they_are_one_collection_and_are_found_by_every_name(registry: Path) -> None:
    (collection,) = open_registry(registry).state().index.collections.values()
    assert collection.total is not None
    assert collection.total.entry.tasks == 3
    found = search(None, [registry])
    assert {f.task: f.base_model for f in found} == NAMES
    assert search("org/toy", [registry]) == found == search("toy", [registry])
    assert search("org/other", [registry]) == []


def test_each_is_listed_with_its_own(registry: Path) -> None:
    (told,) = json.loads(good("registry", "list", registry, "--json"))[
        "collections"
    ].values()
    assert {t: about["base_model"] for t, about in told["tasks"].items()} == NAMES
    head, *lines = good("registry", "list", registry).splitlines()
    assert head.endswith(": toy or org/toy or mirror|s/toy, kfac")
    assert [line.split()[-1] for line in lines[1:4]] == list(NAMES.values())


def test_card_and_page_tell_each(registry: Path, tmp_path: Path) -> None:
    card = (registry / "README.md").read_text()
    assert 'base_model: ["org/toy"]' in card  # the one that can be an id of the Hub
    assert "Base model `toy` or `org/toy` or `mirror/s/toy`, the same weights" in card
    assert "| data1 | org/toy | 5 | 101 |" in card
    assert "| data2 | mirror/s/toy | 5 | 102 |" in card
    page = tmp_path / "page.html"
    good("registry", "export-static", registry, page)
    text = page.read_text()
    assert 'href="https://huggingface.co/org/toy"' in text
    assert "kfac train org/toy mine.csv" in text
    for task, name in NAMES.items():
        row = text.partition(f'/{task}">')[2].partition("</tr>")[0]
        assert f"<td>{name}</td>" in row
