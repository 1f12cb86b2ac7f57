"""When two values of JSON are the same: what the format compares, and how."""

import hashlib
import re
from typing import Any

import rfc8785

LARGEST_EXACT = 2**53 - 1
ALGORITHM = "sha256:"
DIGEST = re.compile(f"{ALGORITHM}[0-9a-f]{{64}}")


def canonical_json(value: object) -> bytes:
    """Write JSON in the canonical form of RFC 8785 (JCS).

    Values are the same if and only if this is: the order of keys has no meaning, types
    are told apart (``true`` is not 1), numbers are binary64 (1 is 1.0, and 0 is -0).

    Args:
        value: Dictionaries, lists, tuples, strings, finite numbers, booleans, None.

    Returns:
        The text, in UTF-8.

    >>> canonical_json({"b": 1.0, "a": [True, 2**53 + 1]})
    b'{"a":[true,9007199254740992],"b":1}'
    >>> canonical_json({"normalise": True}) == canonical_json({"normalise": 1})
    False
    """
    return rfc8785.dumps(_as_binary64(value))


def digest_of(value: object) -> str:
    """Name a document by its content: ``sha256:`` and the hash of its canonical form.

    Args:
        value: As of ``canonical_json``.

    Returns:
        The digest; other white space or another order of keys does not change it.

    >>> digest_of({})
    'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'
    """
    return ALGORITHM + hashlib.sha256(canonical_json(value)).hexdigest()


def short(digest: str) -> str:
    """The first 12 digits of a digest, which are enough for people."""
    return digest.removeprefix(ALGORITHM)[:12]


def _as_binary64(value: Any) -> Any:
    """The same with whole numbers that binary64 may round as it rounds them."""
    if isinstance(value, dict):
        return {key: _as_binary64(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_binary64(item) for item in value]
    if isinstance(value, int) and abs(value) > LARGEST_EXACT:
        return float(value)
    return value
