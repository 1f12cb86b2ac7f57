"""JSON as section 6 of ``format.md`` wants it, and its canonical form (section 3)."""

import json
import math
import re
from collections import Counter
from typing import Any

import numpy as np

LIMIT = 64 * 1024 * 1024


class Refused(Exception):  # noqa: N818
    """The artifact breaks a rule."""


def demand(rule: object, what: str) -> None:
    if not rule:
        raise Refused(what)


def parse(data: bytes) -> Any:
    demand(len(data) <= LIMIT, "too much JSON")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from error
    todo = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        demand(depth <= 32, "too deep")
        if isinstance(item, dict):
            todo += [(x, depth + 1) for pair in item.items() for x in pair]
        elif isinstance(item, list):
            todo += [(x, depth + 1) for x in item]
        elif isinstance(item, str):
            demand(not re.search("[\ud800-\udfff]", item), "half a surrogate pair")
        elif isinstance(item, float | int):
            demand(finite(item), "no number")
    return value


def finite(number: float) -> bool:
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False


def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
    demand(max(Counter(k for k, _ in found).values(), default=1) == 1, "duplicate key")
    return dict(found)


def canonical(value: Any) -> str:
    """RFC 8785: no white space, keys in the order of UTF-16, numbers as ECMAScript."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{quoted(k)}:{canonical(value[k])}" for k in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if type(value) in {int, float}:
        return digits_of(float(value))
    return quoted(value)


def quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def digits_of(value: float) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = np.format_float_scientific(value, trim="-").split("e")
    power = int(exponent)
    if not -7 < power < 21:
        return f"{mantissa}e{power:+d}"
    return np.format_float_positional(value, trim="-")
