"""The picture on a card: what it shows, and that it can do nothing else."""

import logging
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.hub import Hub, pull, push
from kfac_artifacts.hub.mark import is_untouched
from kfac_artifacts.hub.picture import (
    MOST_BARS,
    MOST_LINES,
    draw,
    drawn_factors,
    is_plain_picture,
)
from kfac_artifacts.operator import BlockPortrait, FactorPortrait, portrait
from kfac_artifacts.registry import Offer, add, open_registry
from tests.artifacts import rich
from tests.hub.conftest import Made, write_artifact
from tests.hub.wire import Server

SVG = "{http://www.w3.org/2000/svg}"
NAME = "spectra.svg"


def drawn(of: Artifact) -> bytes:
    names = {n for names in drawn_factors(of.blocks).values() for n in names}
    return draw(of.blocks, portrait(of, names))


def test_every_factor_has_a_line_and_every_role_a_panel() -> None:
    of = rich()
    picture = ElementTree.fromstring(drawn(of))
    words = [element.text or "" for element in picture.iter(f"{SVG}text")]
    titles = [word for word in words if word.startswith("eigenvalues of")]
    assert [title.split()[2] for title in titles] == ["A,", "B,", "G,"]
    lines = [p for p in picture.iter(f"{SVG}path") if p.get("fill") == "none"]
    assert len(lines) == len(of.factors)
    assert drawn(of) == drawn(rich())


def test_a_line_falls_as_the_eigenvalues_do() -> None:
    of = rich()
    block = next(iter(of.blocks.values()))
    leading = (10.0, 0.1, 1e-2, 1e-9, -1.0)
    factor = FactorPortrait(5, 10.1, 1.0, leading)
    about = BlockPortrait(1.0, 8, dict.fromkeys(block.factors, factor))
    picture = ElementTree.fromstring(draw({"q": block}, {"q": about}))
    line = next(p for p in picture.iter(f"{SVG}path") if p.get("fill") == "none")
    heights = [float(y) for y in (line.get("d") or "").split()[1::2]]
    top, bottom = heights[0], heights[-1]
    shares = [(bottom - y) / (bottom - top) for y in heights]
    # of 1, 1e-2, 1e-3 and of what is below 1e-4 and negative
    assert shares == pytest.approx([1, 2 / 4, 1 / 4, 0, 0], abs=1e-3)


def test_a_large_model_has_a_small_picture() -> None:
    block = next(iter(rich().blocks.values()))
    blocks = {
        f"m{i}": block.with_factors([f"{i}.A", f"{i}.B"]) for i in range(5 * MOST_BARS)
    }
    about = {
        name: BlockPortrait(
            1.0,
            10**6,
            {f: FactorPortrait(32, 1.0, 2.0, (1.0,) * 32) for f in each.factors},
        )
        for name, each in blocks.items()
    }
    chosen = drawn_factors(blocks)["A"]
    assert len(chosen) == MOST_LINES
    assert (chosen[0], chosen[-1]) == ("0.A", f"{5 * MOST_BARS - 1}.A")
    picture = draw(blocks, about)
    assert len(picture) < 64_000
    assert b"800 MB in all" in picture


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("</svg>", "<script>alert(1)</script></svg>"),
        ("<rect ", '<rect onload="x" '),
        ("<rect ", '<rect href="a" '),
        ("<path ", '<path style="x" '),
        ('class="page"', 'class="url(http://example.org)"'),
        ("text{", "@import 'http://example.org';text{"),
        ("<svg ", '<!DOCTYPE svg [<!ENTITY a "b">]><svg '),
        ("trace of", "&#60;script>"),
        ("<!--", "<image/><!--"),
        ("-->", "--><script/>"),
        ("<svg", "<SVG"),
    ],
)
def test_what_does_more_than_show_is_no_plain_picture(old: str, new: str) -> None:
    good = drawn(rich()).decode()
    assert is_plain_picture(good.encode())
    assert old in good
    assert not is_plain_picture(good.replace(old, new, 1).encode())


@pytest.mark.parametrize("where", ["hf://owner/registry/mine", "here"])
def test_a_picture_goes_with_its_artifact(
    hub: Hub, artifact: Path, tmp_path: Path, where: str
) -> None:
    place = str(tmp_path / "registry") if where == "here" else where
    pushed = push(artifact, place, hub=hub)
    pull(pushed.reference, tmp_path / "copy", hub=hub)
    picture = (tmp_path / "copy" / NAME).read_bytes()
    assert is_plain_picture(picture)
    assert is_untouched(picture.decode())
    assert f"]({NAME})" in (tmp_path / "copy" / "README.md").read_text()
    assert not push(artifact, place, hub=hub).changed
    # it is one of the files that kfac wrote, so it may be replaced with the artifact
    pull(pushed.reference, tmp_path / "copy", replace=True, hub=hub)


@pytest.mark.parametrize("where", ["hf://owner/registry/mine", "here"])
def test_an_edited_picture_stays_and_another_follows_the_artifact(
    hub: Hub, server: Server, tmp_path: Path, where: str
) -> None:
    place = str(tmp_path / "registry") if where == "here" else where

    def there() -> bytes:
        if where == "here":
            return (tmp_path / "registry" / NAME).read_bytes()
        return server.store.repos["owner/registry"].head[f"mine/{NAME}"].content

    first = write_artifact(tmp_path / "first")
    second = write_artifact(tmp_path / "second", seed=1)
    push(first, place, hub=hub)
    before = there()
    push(second, place, hub=hub)
    assert there() != before
    edited = there().replace(b"eigenvalues of", b"spectrum of")
    if where == "here":
        (tmp_path / "registry" / NAME).write_bytes(edited)
    else:
        server.store.repos["owner/registry"].put(f"mine/{NAME}", edited)
    push(first, place, hub=hub)
    assert there() == edited


def test_a_picture_that_may_run_something_is_not_pulled(
    hub: Hub,
    server: Server,
    artifact: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    push(artifact, "hf://owner/registry", hub=hub)
    evil = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    server.store.repos["owner/registry"].put(NAME, evil)
    with caplog.at_level(logging.WARNING):
        pull("hf://owner/registry", tmp_path / "copy", hub=hub)
    assert not (tmp_path / "copy" / NAME).exists()
    assert "may hold a script" in caplog.text


@pytest.mark.parametrize("where", ["hf://owner/registry", "here"])
def test_in_a_registry_every_artifact_and_the_total_have_pictures(
    hub: Hub, server: Server, made: Made, tmp_path: Path, where: str
) -> None:
    place = str(tmp_path / "registry") if where == "here" else where
    for number in range(2):
        add(open_registry(place, hub=hub), Offer(made(number)))
    if where == "here":
        paths = [str(p) for p in (tmp_path / "registry").rglob("*")]
    else:
        paths = list(server.store.repos["owner/registry"].head)
    folders = {p.rpartition("/")[0] for p in paths if p.endswith("/kfac.json")}
    assert {p.rpartition("/")[0] for p in paths if p.endswith(f"/{NAME}")} == folders
    assert len(folders) == 3
