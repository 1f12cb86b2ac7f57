"""Whether things belong together: models, output maps, and inputs.

Two of artifact, task vector, network and checkpoint are of one model if the weights
that both know are the same to the last bit of float32; names and revisions only help.
"""

from collections.abc import Mapping

from kfac_artifacts.artifact.provenance import BaseModel, NamedConfig, Provenance
from kfac_artifacts.errors import MismatchError

USUAL = {"prompt": "", "lower_case": False, "packed": False, "padding": "longest"}
"""What is not recorded where nothing special was done."""


def require_base(what: str, own: BaseModel, found: BaseModel) -> None:
    """Refuse another pretrained model, listing all differences.

    Args:
        what: What was made with a model, such as ``the task vector``.
        own: That model, seen through the parameters that matter.
        found: The model that it is to be used with.

    Raises:
        MismatchError: If a parameter is missing there, or has another shape or values.
    """
    differences = own.differences(found)
    if differences:
        raise MismatchError(
            f"{what} belongs to {own.id}, and {found.id} is another model: "
            f"{'; '.join(differences)}"
        )


def require_curvature_of(
    provenance: Provenance, base: BaseModel, output_map: NamedConfig
) -> None:
    """Refuse curvature of another model or output map, listing all differences.

    Args:
        provenance: Where the curvature comes from.
        base: The model that it is to be used with.
        output_map: The function f of that model.

    Raises:
        MismatchError: If they do not belong together.
    """
    differences = provenance.base.differences(base)
    if provenance.output_map != output_map:
        differences.append(
            f"its output map is {provenance.output_map}, the network's is {output_map} "
            f"(kfac compute --output-map {output_map.name})"
        )
    if differences:
        raise MismatchError(
            f"the curvature of {provenance.base.id} does not fit {base.id}: "
            f"{'; '.join(differences)}"
        )


def require_shared_base(what: str, own: BaseModel, other: BaseModel) -> None:
    """Refuse two things of which each may know parameters that the other does not.

    Args:
        what: What cannot be done with them, such as ``cannot compare``.
        own: The model of one.
        other: The model of the other.

    Raises:
        MismatchError: If they share no parameter, or differ in one that they share.
    """
    differences = shared_differences(own, other)
    if differences:
        raise MismatchError(f"{what} {own.id} and {other.id}: {'; '.join(differences)}")


def shared_differences(own: BaseModel, other: BaseModel) -> list[str]:
    """Say in words how two models differ in the parameters that both know."""
    common = own.parameters.keys() & other.parameters.keys()
    if not common:
        return ["they share no parameter"]
    return own.restrict(common).differences(other.restrict(common))


def preprocessing_differences(theirs: NamedConfig, ours: NamedConfig) -> list[str]:
    """Say in words how two ways to make examples into inputs differ.

    Args:
        theirs: One way, as it was recorded.
        ours: The other one.

    Returns:
        What differs. Names of columns change no input, and of tensors that somebody
        made for themselves nothing is known.
    """
    if "tensors" in {theirs.name, ours.name}:
        return []
    if theirs.name != ours.name:
        return [f"{theirs.name}, not {ours.name}"]
    one, other = _settings(theirs), _settings(ours)
    return [
        f"{key} {_shown(key, one)}, not {_shown(key, other)}"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]


def _shown(key: str, settings: Mapping[str, object]) -> str:
    value = settings.get(key, USUAL.get(key, "unknown"))
    return repr(value) if key == "prompt" else str(value)


def _settings(way: NamedConfig) -> dict[str, object]:
    settings: dict[str, object] = dict(way.configuration)
    columns = settings.pop("columns", None)
    settings.pop("column", None)
    if isinstance(columns, list):
        settings["texts per example"] = len(columns)
    return settings
