"""What a manifest says of the noise that hides the examples of a task (7.3.1)."""

from typing import Any

from kfac_artifacts.artifact import Privacy
from kfac_artifacts.json_object import JsonObject, positive

MECHANISM, NEIGHBOURS = "gaussian", "replace-one"
"""The one mechanism, and what it hides: which example is in the place of another."""


def privacy_to_json(privacy: Privacy | None) -> dict[str, Any]:
    """What the description of a task says of it; nothing without noise."""
    if privacy is None:
        return {}
    told = {
        "must_understand": False,
        "mechanism": MECHANISM,
        "neighbours": NEIGHBOURS,
        "epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "noise_multiplier": privacy.noise_multiplier,
        "clip": dict(privacy.clip),
    }
    return {"privacy": told}


def privacy_from_json(fields: JsonObject) -> Privacy | None:
    """Take what ``privacy_to_json`` wrote, if it is there."""
    value = fields.optional("privacy", dict)
    if value is None:
        return None
    own = JsonObject(value, f"{fields.where}.privacy")
    own.require(own.take("must_understand", bool) is False, "must_understand is false")
    for member, known in (("mechanism", MECHANISM), ("neighbours", NEIGHBOURS)):
        own.require(own.take(member, str) == known, f"{member} is {known}")
    epsilon, delta, multiplier = (
        positive(own.take(member, object), f"{own.where}.{member}")
        for member in ("epsilon", "delta", "noise_multiplier")
    )
    found = Privacy(epsilon, delta, multiplier, own.each("clip", positive))
    own.finish()
    own.require(delta < 1, "delta must be below 1")
    own.require(len(found.clip) > 0, "clip must not be empty")
    return found
