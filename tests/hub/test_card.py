"""The model card."""

from dataclasses import replace
from pathlib import Path

import yaml

from kfac_artifacts.artifact import Artifact, BaseModel, NamedConfig
from kfac_artifacts.format import load_artifact
from kfac_artifacts.hub.card import collection_card
from kfac_artifacts.hub.mark import is_untouched
from tests.artifacts import card_of


def test_the_card_tells_what_is_inside(artifact: Path) -> None:
    opened = load_artifact(artifact, verify=False)
    card = card_of(opened, 1234567, "hf://org/name", "mit")
    assert opened.digest in card
    for words in (
        "| size | 1.23 MB |",
        "| blocks | 1 gramian, 1 kronecker |",
        "| parameters covered | 3 (22 numbers) |",
        "| org/texts | train | 8 | 100 | `text` | mc × 1, seed 0 |",
        "| `l` | kronecker | `l.weight`, `l.bias` | 3×5, 3 | 9.22e+03 | A 5.93 of 6, ",
        "](spectra.svg)",
        '| output map | `sentence-embedding` `{"pooling": "mean"}` |',
    ):
        assert words in card


def test_the_card_of_a_merge_tells_what_it_was_merged_from(artifact: Path) -> None:
    opened = load_artifact(artifact, verify=False)
    (source,) = opened.provenance.sources
    sources = (replace(source, digest="sha256:" + "0123456789ab" + 52 * "0"), source)
    about = replace(opened.provenance, tasks=2, sources=sources)
    card = card_of(Artifact(about, opened.blocks, opened.factors))
    assert "| mc × 1, seed 0 | `kfac-0123456789ab` |" in card
    assert "| mc × 1, seed 0 | - |" in card


def test_the_card_tells_what_was_converted(artifact: Path) -> None:
    opened = load_artifact(artifact, verify=False)
    estimator = NamedConfig("kfac", {"converted_from": "an|other"})
    about = replace(opened.provenance, estimator=estimator)
    told = Artifact(about, opened.blocks, opened.factors)
    card = card_of(told, 1, "place")
    assert "| estimator | `kfac`, converted from `an/other` |" in card


def test_an_edit_is_seen(artifact: Path) -> None:
    opened = load_artifact(artifact, verify=False)
    card = card_of(opened, 1, "hf://org/name")
    assert is_untouched(card)
    assert not is_untouched(card.replace("Blocks", "Bricks"))
    assert not is_untouched(card + "More.\n")
    assert not is_untouched("Mine.\n")
    assert is_untouched(collection_card(BaseModel("org/a", None, {})))


def test_foreign_names_stay_in_their_cell(artifact: Path) -> None:
    opened = load_artifact(artifact, verify=False)
    provenance = opened.provenance
    evil = "a | b\n# <script>\n---\nlicense: `x`"
    (source,) = provenance.sources
    data = replace(source.data, id=evil)
    changed = replace(
        provenance,
        base=replace(provenance.base, id=evil),
        sources=(replace(source, data=data),),
    )
    evil_one = Artifact(changed, opened.blocks, opened.factors)
    card = card_of(evil_one, 1, "place")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert set(metadata) == {"library_name", "tags"}
    assert "\n# <script>" not in card
    assert "a | b" not in card
