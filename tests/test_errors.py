"""How messages list names, and what is known of other people's errors."""

import pytest
import torch

from kfac_artifacts.errors import is_out_of_memory, listed


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


def test_memory_that_does_not_suffice_is_known_by_what_is_raised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("cannot allocate memory"))
