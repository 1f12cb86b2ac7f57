"""Addresses of artifacts."""

from pathlib import Path

import pytest

from kfac_artifacts.errors import AddressError
from kfac_artifacts.hub import HubAddress, PlainAddress, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://org/name", HubAddress("org/name")),
        ("hf://org/name/a/b", HubAddress("org/name", "a/b")),
        ("hf://org/na.me_2@main", HubAddress("org/na.me_2", "", "main")),
        ("hf://org/name/a@refs/pr/1", HubAddress("org/name", "a", "refs/pr/1")),
        ("registry/org", PlainAddress(Path("registry/org"))),
        ("me@home/org", PlainAddress(Path("me@home/org"))),
        (
            "registry/org@kfac-0123456789ab",
            PlainAddress(Path("registry/org"), "kfac-0123456789ab"),
        ),
    ],
)
def test_an_address_is_read_and_written(
    text: str, address: HubAddress | PlainAddress
) -> None:
    assert parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hf://name",
        "hf://",
        "hf://org/name/../other",
        "hf://org/name/.git",
        "hf://org/name//a",
        "hf://org/name/a*",
        "hf://org/na--me",
        "hf://-org/name",
        "hf://org/name@",
        "hf://org/name@../../x",
        "hf://org/name@a b",
        "https://huggingface.co/org/name",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="write hf://org/name"):
        parse(text)
