"""Reading a suite from TOML: every key known, everything checked before any work."""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kfac_artifacts.choices import (
    COTANGENTS,
    ESTIMATORS,
    HEADS,
    MERGES,
    PENALTIES,
    REGIMES,
)
from kfac_artifacts.errors import FormatError, SettingsError
from kfac_artifacts.json_object import JsonObject
from kfac_artifacts.suite.checks import check
from kfac_artifacts.suite.declaration import (
    SEARCHES,
    SELECT,
    Arm,
    CurvatureSpec,
    MergeSpec,
    Suite,
    TaskSpec,
)

T = TypeVar("T")
TRAINING = ("steps", "batch_size", "weight_decay", "warmup", "optimizer")
"""What a suite may say of training; rates, weights and seeds it says elsewhere."""


def read_suite(path: str | Path) -> Suite:
    """Read a suite.

    Args:
        path: A TOML file; relative paths in it are seen from its folder.

    Returns:
        The suite.

    Raises:
        SettingsError: If it cannot be read, or something in it is unknown, missing or
            does not fit; it is named.
    """
    path = Path(path)
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as a suite: {error}") from error
    try:
        suite = _suite(JsonObject(value, "the suite"), path.parent)
    except FormatError as error:
        raise SettingsError(f"{path}: {error}") from error
    check(suite, path)
    return suite


def _suite(found: JsonObject, folder: Path) -> Suite:
    suite = Suite(
        name=found.take("name", str),
        model=_place(found.take("model", str), folder),
        tasks=found.list_of("tasks", lambda v, w: _task(JsonObject(v, w), folder)),
        arms=found.list_of("arms", lambda v, w: _arm(JsonObject(v, w))),
        curvatures=_list(
            found, "curvatures", lambda v, w: _curvature(JsonObject(v, w), folder)
        ),
        seeds=_numbers(found, "seeds", int, (0, 1, 2)),
        modules=_strings(found, "modules"),
        alphas=_numbers(found, "alphas", float, ()),
        search=_one_of(found, "search", SEARCHES) or "grid",
        max_length=found.optional("max_length", int),
        training=_training(found),
        output_map=found.optional("output_map", str),
    )
    found.finish()
    return suite


def _task(found: JsonObject, folder: Path) -> TaskSpec:
    validation = found.optional("validation", str)
    task = TaskSpec(
        name=found.take("name", str),
        train=_place(found.take("train", str), folder),
        test=_place(found.take("test", str), folder),
        validation=None if validation is None else _place(validation, folder),
        splits=found.optional("splits", dict) or {},
        text_columns=_strings(found, "text_columns"),
        label_column=found.optional("label_column", str) or "label",
        image_column=found.optional("image_column", str),
        head=_one_of(found, "head", HEADS),
        template=found.optional("template", str) or "{}",
        logit_scale=_positive(found, "logit_scale"),
        limit=found.optional("limit", int),
    )
    found.finish()
    return task


def _positive(found: JsonObject, key: str) -> float | None:
    value = found.optional_number(key)
    found.require(value is None or value > 0, f"{key} must be above 0")
    return value


def _curvature(found: JsonObject, folder: Path) -> CurvatureSpec:
    cotangents = _one_of(found, "cotangents", COTANGENTS) or "orthogonal"
    reference = found.optional("reference", str)
    spec = CurvatureSpec(
        name=found.take("name", str),
        estimator=_one_of(found, "estimator", ESTIMATORS) or "kfac",
        examples=found.optional("examples", int) or 256,
        cotangents=cotangents,
        draws=None if cotangents == "exact" else found.optional("draws", int) or 1,
        recipe=found.optional("recipe", str),
        reference=None if reference is None else _place(reference, folder),
    )
    found.finish()
    return spec


def _arm(found: JsonObject) -> Arm:
    regime = _one_of(found, "regime", REGIMES) or "linearised"
    arm = Arm(
        name=found.take("name", str),
        regime=regime,
        regime_settings=found.optional("regime_settings", dict) or {},
        penalty=_one_of(found, "penalty", PENALTIES),
        curvature=found.optional("curvature", str),
        rates=_numbers(found, "rates", float, (3e-4,)),
        weights=_numbers(found, "weights", float, (None,)),
        every=1 if (every := found.optional("every", int)) is None else every,
        select=_one_of(found, "select", SELECT)
        or ("linear" if regime == "linearised" else "plain"),
        merges=_list(found, "merges", _merge) or (MergeSpec(),),
        tasks=_strings(found, "tasks"),
        training=_training(found),
    )
    found.finish()
    return arm


def _merge(value: object, where: str) -> MergeSpec:
    if isinstance(value, str):
        value = {"method": value}
    found = JsonObject(value, where)
    method = _one_of(found, "method", MERGES) or "sum"
    settings = found.optional("settings", dict) or {}
    spec = MergeSpec(method, settings, found.optional("curvature", str))
    found.finish()
    return spec


def _place(name: str, folder: Path) -> str:
    """A path seen from the folder of the file, if there is such a one."""
    place = folder / Path(name).expanduser()
    return str(place) if place.exists() else name


def _one_of(found: JsonObject, key: str, choices: Any) -> str | None:
    value = found.optional(key, str)
    if value is not None and value not in choices:
        raise FormatError(
            f"{found.where}.{key} is {value!r}, and must be one of {', '.join(choices)}"
        )
    return value


def _list(
    found: JsonObject, key: str, read: Callable[[object, str], T]
) -> tuple[T, ...]:
    value = found.optional(key, list) or []
    return _read_all(value, f"{found.where}.{key}", read)


def _read_all(
    value: Sequence[object], where: str, read: Callable[[object, str], T]
) -> tuple[T, ...]:
    return tuple(read(each, f"{where}[{i}]") for i, each in enumerate(value))


def _strings(found: JsonObject, key: str) -> tuple[str, ...]:
    def read(value: object, where: str) -> str:
        if not isinstance(value, str):
            raise FormatError(f"{where} must be a string")
        return value

    return _list(found, key, read)


def _numbers(
    found: JsonObject, key: str, kind: type[int] | type[float], usual: Sequence[Any]
) -> Any:
    def read(value: object, where: str) -> int | float:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if (
            kind is float
            and isinstance(value, int | float)
            and (whole or isinstance(value, float))
        ):
            return float(value)
        if kind is int and isinstance(value, int) and whole:
            return value
        raise FormatError(f"{where} must be a number")

    value = found.optional(key, list)
    if value is None:
        return tuple(usual)
    fits = bool(value) or not usual
    found.require(fits, f"{key} is empty; leave it out, or give some")
    return _read_all(value, f"{found.where}.{key}", read)


def _training(found: JsonObject) -> dict[str, Any]:
    value = found.optional("training", dict) or {}
    for key in value:
        if key not in TRAINING:
            raise FormatError(
                f"{found.where}.training has an unknown {key!r}; it may have "
                f"{', '.join(TRAINING)}"
            )
    return value
