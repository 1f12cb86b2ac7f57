"""The tables of section 7 of ``format.md``, as checks that say yes or no."""

import math
from collections.abc import Callable
from typing import Any

from reader_values import DTYPES, SIZES

Check = Callable[[Any], bool]
HIDDEN = [(0, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F)]
HIDDEN += [(0xD800, 0xDFFF), (0xFEFF, 0xFEFF), (0xFFF0, 0xFFFF)]


def name(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value) <= 512
        and not any(low <= ord(c) <= high for c in value for low, high in HIDDEN)
    )


def sha(value: Any) -> bool:
    return (
        isinstance(value, str)
        and len(value) == 64
        and set(value) <= set("0123456789abcdef")
    )


def digest(value: Any) -> bool:
    return isinstance(value, str) and value[:7] == "sha256:" and sha(value[7:])


def whole(low: int = 1, high: int = 2**53 - 1) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def error(value: Any) -> bool:
    return type(value) in {int, float} and value >= 0


def positive(value: Any) -> bool:
    return error(value) and value > 0


def share(value: Any) -> bool:
    return error(value) and value <= 1


def number(value: Any) -> bool:
    return type(value) in {int, float}


def only(*values: Any) -> Check:
    return lambda value: any(type(value) is type(v) and value == v for v in values)


def null_or(check: Check) -> Check:
    return lambda value: value is None or check(value)


def array(check: Check, least: int = 0, most: float = math.inf) -> Check:
    return lambda value: (
        isinstance(value, list)
        and least <= len(value) <= most
        and all(map(check, value))
    )


def mapping(check: Check, least: int = 0) -> Check:
    return lambda value: (
        isinstance(value, dict)
        and len(value) >= least
        and all(name(k) and check(v) for k, v in value.items())
    )


def record(
    fields: dict[str, Check],
    *,
    open_: bool = False,
    optional: dict[str, Check] | None = None,
) -> Check:
    def check(value: Any) -> bool:
        if isinstance(value, dict) and optional:
            given = value.keys() & optional.keys()
            if not all(optional[k](value[k]) for k in given):
                return False
            value = {k: v for k, v in value.items() if k not in given}
        if not isinstance(value, dict) or not fields.keys() <= value.keys():
            return False
        others = [v for k, v in value.items() if k not in fields]
        ignored = [
            v
            for v in others
            if isinstance(v, dict) and v.get("must_understand") is False
        ]
        known = all(fields[k](value[k]) for k in fields)
        return known and (not others or (open_ and len(ignored) == len(others)))

    return check


def either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def named(kind: Check, configuration: Check) -> Check:
    return record({"name": kind, "configuration": configuration})


NONE = record({})
FREE = named(name, lambda value: isinstance(value, dict))
PLAIN = named(only(*DTYPES, "int8"), NONE)
PACKED = named(only("symmetric"), record({"dtype": only(*DTYPES)}))
DIM = whole(1, 2**31 - 1)
YES_OR_NO = only(True, False)
PARAMETER = record({"shape": array(DIM, most=8), "sha256": sha})
ORIGIN = record({"name": name, "sha256": sha, "how": null_or(name)})
DERIVED = record({"must_understand": only(False), "files": array(ORIGIN, least=1)})
BASE = record(
    {
        "id": name,
        "revision": null_or(name),
        "sha256": sha,
        "parameters": mapping(PARAMETER),
    },
    open_=True,
    optional={"derived": DERIVED},
)
FILE = record({"size": whole(8), "sha256": sha})
SEED = whole(0)
PRIVACY = record(
    {
        "must_understand": only(False),
        "mechanism": only("gaussian"),
        "neighbours": only("replace-one"),
        "epsilon": positive,
        "delta": lambda value: positive(value) and value < 1,
        "noise_multiplier": positive,
        "clip": mapping(positive, least=1),
    }
)
SOURCE = record(
    {
        "data": record(
            {
                "id": name,
                "config": null_or(name),
                "split": null_or(name),
                "fingerprint": sha,
                "examples": whole(),
                "size": whole(),
                "preprocessing": FREE,
            },
            open_=True,
        ),
        "cotangents": either(
            record(
                {
                    "name": only("orthogonal", "mc", "labels"),
                    "draws": whole(),
                    "seed": SEED,
                }
            ),
            record(
                {
                    "name": only("exact", "none", "unknown"),
                    "draws": only(None),
                    "seed": SEED,
                }
            ),
        ),
        "digest": null_or(digest),
    },
    open_=True,
    optional={"privacy": PRIVACY},
)


def linear(kind: str, term: dict[str, Check], *optional: str, **count: int) -> Check:
    needed = {
        "kind": only(kind),
        "weight": name,
        "bias": null_or(name),
        "layout": only("rows", "columns"),
        "terms": array(record(term), least=1, **count),
    }
    known = {"positions": whole(0), "constant": lambda value: value is True}
    chosen = {key: known[key] for key in optional}
    return record(needed, optional={"part": whole(0), **chosen})


BLOCK = either(
    linear("kronecker", {"A": name, "B": name}, "positions", "constant"),
    linear("eigen", {"A": name, "B": name, "S": name}, "positions", most=1),
    linear("inputs", {"A": name}, "positions", "constant", most=1),
    linear("diagonal", {"S": name}, most=1),
    record(
        {
            "kind": only("gramian"),
            "parameter": name,
            "terms": array(record({"G": name}), least=1),
        }
    ),
)
LOSS = record(
    {"error": error, "min_eigenvalue": number, "lift": error},
    optional={"inverse_error": error, "null_overlap": share, "diagonal_error": error},
)
RUNS = array(array(DIM, least=2, most=2), least=1)
DENSE = named(only("dense"), NONE)
BLOCKS = named(only("block_diagonal"), record({"blocks": RUNS, "permuted": YES_OR_NO}))
OTHERS = either(
    named(only("diagonal"), NONE),
    named(only("low_rank"), record({"rank": DIM, "diagonal": YES_OR_NO})),
    named(only("pruned"), record({"kept": whole(0)})),
)


def factor(structure: Check, storage: Check) -> Check:
    needed = {"dim": DIM, "structure": structure, "storage": storage}
    return record(needed, optional={"loss": LOSS})


FACTOR = either(
    factor(either(DENSE, BLOCKS), either(PLAIN, PACKED)), factor(OTHERS, PLAIN)
)
MANIFEST = record(
    {
        "format": only("kfac-artifact"),
        "version": only(1),
        "base_model": BASE,
        "output_map": FREE,
        "estimator": named(
            only("kfac", "kfac-reduce", "nearest", "ekfac", "inputs", "diagonal"),
            lambda value: isinstance(value, dict),
        ),
        "tasks": whole(),
        "size": whole(),
        "sources": array(SOURCE, least=1),
        "excluded": array(name),
        "uncovered": mapping(name),
        "merge_errors": mapping(record({"relative": error, "bound": error})),
        "blocks": mapping(BLOCK, least=1),
        "factors": mapping(FACTOR),
        "files": mapping(FILE),
    },
    open_=True,
    optional={"weighting": only("size", "positions")},
)

TENSOR = record(
    {
        "dtype": only(*SIZES),
        "shape": array(whole(0)),
        "data_offsets": array(whole(0, 2**63), least=2, most=2),
    }
)
"""What a header says of a tensor (section 8)."""
