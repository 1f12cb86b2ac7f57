"""The artifacts that the cases of section 11 join."""

from typing import Any

from draft import Draft, artifact, base_model, kronecker, named, source, spd
from privacy_cases import PRIVACY
from stored import dense


def module(
    name: str, tasks: tuple[str, ...] = ("texts",), factors: str = "", **members: Any
) -> Draft:
    """What one estimation gives for one module; ``factors`` names its factors."""
    owner = factors or name
    made = {f"{owner}/A": dense(spd(2, 1)), f"{owner}/B": dense(spd(2, 2))}
    block = {name: kronecker(f"{name}.weight", (f"{owner}/A", f"{owner}/B"))}
    shapes = {f"{name}.weight": [2, 2]}
    usual = {"sources": [source(f"example/{task}") for task in tasks]}
    return artifact(shapes, block, made, **(usual | members))


def module_as(block: str, parameter: str) -> Draft:
    """A module ``two`` of which the block or the parameter is called otherwise."""
    term = kronecker(parameter, ("two/A", "two/B"))
    factors = {"two/A": dense(spd(2, 1)), "two/B": dense(spd(2, 2))}
    task = [source("example/texts")]
    return artifact({parameter: [2, 2]}, {block: term}, factors, sources=task)


def modules() -> dict[str, Draft]:
    """What is joined, and what is not."""
    exact = {"name": "exact", "draws": None, "seed": 0}
    other = base_model({"two.weight": [2, 2]}) | {"id": "example/other"}
    tasks = ("a", "b")
    why = {"two.weight": "not looked at", "pooler": "not reached"}
    return {
        "module-1": module("one", excluded=["head", "two.weight"]),
        "module-2": module("two", excluded=["head"], uncovered={"norm": "unknown"}),
        "module-1-of-others": module("one", uncovered=why),
        "module-of-another-model": module("two", base_model=other),
        "module-of-another-map": module("two", output_map=named("logits")),
        "module-of-another-estimator": module("two", estimator=named("nearest")),
        "module-of-other-data": module("two", ("other",)),
        "module-of-other-cotangents": module(
            "two", sources=[source("example/texts") | {"cotangents": exact}]
        ),
        "module-with-noise": module(
            "two", sources=[source("example/texts") | {"privacy": PRIVACY}]
        ),
        "module-1-of-two-tasks": module("one", tasks),
        "module-2-of-two-tasks": module("two", tasks),
        "module-of-the-parameter": module_as("two", "one.weight"),
        "module-of-the-block": module_as("one", "two.weight"),
        "module-of-the-factors": module("two", factors="one"),
    }
