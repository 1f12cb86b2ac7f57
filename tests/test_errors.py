"""How messages list names."""

import pytest

from kfac_artifacts.errors import listed


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], "none"),
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
        (["a\x1b"], "'a\\x1b'"),
        (list("abc") + ["d"] * 1234, "a, b, c and 1,234 more"),
    ],
)
def test_names_are_listed_as_far_as_they_fit(names: list[str], shown: str) -> None:
    assert listed(names, 3) == shown
