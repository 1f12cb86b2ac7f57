"""A registry as a page: all that is in it, and nothing that strangers make of it."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from huggingface_hub import constants
from typing_extensions import override

from kfac_artifacts.compress import save_artifact
from kfac_artifacts.hub import Hub
from kfac_artifacts.registry import (
    Offer,
    add,
    export_static,
    open_registry,
    read_registry,
    remove,
)
from kfac_artifacts.registry.page_script import SCRIPT
from tests.artifacts import artifact, renamed
from tests.commands import bad, good
from tests.hub.conftest import Made
from tests.hub.wire import Server

EVIL = "\"><script>alert('x')</script> & שלום 数据 " + "x" * 300
VOID = {"meta", "img", "input"}
RUNNING = re.compile(r"on\w+|srcdoc|formaction|action|xlink:href")


class Page(HTMLParser):
    """Elements of a page with the text in them; whatever is not closed is refused."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.texts[tag][-1] += data

    def all(self, tag: str, name: str) -> list[str]:
        """The values of an attribute."""
        return [
            attrs[name] or "" for t, attrs in self.tags if t == tag and name in attrs
        ]


def written(place: Path | str, out: Path, hub: Hub | None = None) -> Page:
    export_static(*read_registry(place, hub=hub), out)
    text = out.read_text()
    again = out.with_name("again.html")
    export_static(*read_registry(place, hub=hub), again)
    assert again.read_text() == text
    return Page(text)


def check_harmless(page: Page) -> None:
    """Nothing runs but our script, nothing is loaded, no link runs anything."""
    assert page.texts["script"] == [SCRIPT]
    (policy,) = (c for c in page.all("meta", "content") if "script-src" in c)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "object", "base", "form", "svg"}
        assert not any(RUNNING.fullmatch(name) for name in attrs), attrs
    for address in page.all("a", "href"):
        assert address.startswith(("#", "https://huggingface.co/")), address
    for address in page.all("img", "src"):
        assert address.startswith("data:image/svg+xml;base64,"), address


@pytest.fixture
def registry(made: Made, tmp_path: Path) -> Path:
    """Three tasks, one of them removed, one compressed, in a directory."""
    place = tmp_path / "my registry"
    for number in range(3):
        recipes = ("int8",) if number == 1 else ()
        add(open_registry(place), Offer(made(number), recipes=recipes, license="mit"))
    remove(open_registry(place), "data2")
    return place


def test_everything_is_on_the_page(registry: Path, tmp_path: Path) -> None:
    page = written(registry, tmp_path / "page.html")
    check_harmless(page)
    _, state = read_registry(registry)
    ((name, collection),) = state.index.collections.items()
    total = collection.total
    assert total is not None
    text = page.texts["body"][0]
    for version in collection.current.values():
        assert version.artifact.digest[7:19] in text
    assert total.entry.digest[7:19] in text
    assert text.count("data2") == 2  # only in the log: added, and removed
    commands = "".join(page.texts["pre"])
    for line in (
        f"kfac pull '{registry}' total\n",
        f"kfac pull '{registry}' data1 --tasks data1 --recipe int8",
        f"kfac pull '{registry}' others --all-but TASK",
    ):
        assert line in commands
    assert len(page.all("img", "src")) == 3
    assert {f"{name}/", f"{name}/data0", f"{name}/data1"} == set(
        page.all("details", "id")
    )
    targets = [value for tag, a in page.tags if (value := a.get("id")) and tag]
    assert {link[1:] for link in page.all("a", "href")} <= set(targets)
    assert len(targets) == len(set(targets))


def test_what_strangers_wrote_is_text(tmp_path: Path) -> None:
    place, made = tmp_path / "registry", tmp_path / "made"
    of = renamed(artifact(0), EVIL)
    base = replace(of.provenance.base, id=f"javascript:alert(1)//{EVIL}")
    of = replace(of, provenance=replace(of.provenance, base=base))
    save_artifact(of, made, storage="float32")
    add(open_registry(place), Offer(made, "x" * 64, license=EVIL))
    page = written(place, tmp_path / "page.html")
    check_harmless(page)
    assert page.texts["body"][0].count(EVIL) >= 3  # its data, base model and licence


def test_a_hostile_picture_is_not_shown(registry: Path, tmp_path: Path) -> None:
    pictures = sorted(registry.rglob("spectra.svg"))
    evil = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    pictures[0].write_bytes(evil)
    pictures[1].unlink()
    pictures[1].symlink_to("/etc/hostname")
    page = written(registry, tmp_path / "page.html")
    shown = [base64.b64decode(a.split(",")[1]) for a in page.all("img", "src")]
    assert evil not in shown
    assert len(shown) <= 2
    assert "No picture" in page.texts["body"][0]


def test_what_is_damaged_is_told(registry: Path, tmp_path: Path) -> None:
    (manifest,) = registry.glob("*/tasks/data0/*/kfac.json")
    manifest.write_bytes(b"{}")
    page = written(registry, tmp_path / "page.html")
    assert "it is not there as the index says" in page.texts["body"][0]


def test_of_nothing_there_is_a_page(registry: Path, tmp_path: Path) -> None:
    for task in ("data0", "data1"):
        remove(open_registry(registry), task)
    page = written(registry, tmp_path / "page.html")
    assert "Nothing counts in it" in page.texts["body"][0]
    assert page.all("details", "id") == []


def test_a_repository_has_a_page_as_well(
    server: Server,
    hub: Hub,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(2):
        add(open_registry("hf://owner/registry/deep", hub=hub), Offer(made(number)))
    page = written("hf://owner/registry/deep", tmp_path / "page.html", hub)
    check_harmless(page)
    assert len(page.all("img", "src")) == 3
    head = read_registry("hf://owner/registry/deep", hub=hub)[1].head
    assert head is not None
    assert head in page.texts["body"][0]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "fresh"))
    out = tmp_path / "other.html"
    words = ("owner/registry/deep", out, "--endpoint", server.url)
    assert good("registry", "export-static", *words).strip() == str(out)
    assert not list((tmp_path / "fresh").rglob("*.safetensors"))


def test_the_command_replaces_its_own_pages_only(
    registry: Path, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    for _ in range(2):
        good("registry", "export-static", registry, out)
    out.write_text("mine")
    said = bad("registry", "export-static", registry, out)
    assert "kfac did not write it" in said
    assert out.read_text() == "mine"
    assert "there is no registry" in bad(
        "registry", "export-static", tmp_path / "no", tmp_path / "new.html"
    )
