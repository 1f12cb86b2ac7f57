"""How task vectors are merged, and the settings of every method."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import MERGES, TASK_WEIGHTS
from kfac_cli.groups import given, option
from kfac_cli.parameters import Share

if TYPE_CHECKING:
    from kfac_artifacts.task_vector import Begin


alpha_option = click.option(
    "--alpha",
    "alphas",
    type=float,
    multiple=True,
    help="Factor of the task vectors: one for all, or repeated, one for each. "
    "[default: 1]",
)


def factors(alphas: Sequence[float], vectors: Sequence[Path]) -> list[float]:
    """The factor of every task vector."""
    if len(alphas) == len(vectors):
        return [*alphas]
    if len(alphas) > 1:
        raise click.UsageError(
            f"{len(vectors)} task vectors need one --alpha or {len(vectors)}, found "
            f"{len(alphas)}"
        )
    return [*(alphas or (1.0,))] * len(vectors)


@dataclass(frozen=True)
class MergeOptions:
    """How the task vectors are merged."""

    name: str = option(
        "--method",
        "name",
        type=click.Choice(list(MERGES)),
        default="sum",
        show_default=True,
        help="How the task vectors are merged: added; trimmed and averaged where "
        "signs agree (ties); by singular vectors (tsv, iso-c, iso-cts); by regression "
        "on inputs that are guessed from the changes (actmat), or are known (regmean).",
    )
    keep: float = option(
        "--keep",
        type=Share(),
        default="20%",
        show_default=True,
        help="Share of the numbers that ties keeps of every task vector.",
    )
    rank_share: float | None = option(
        "--rank-share",
        type=Share(),
        help="Share of the singular values that tsv keeps of every task.  "
        "[default: one divided by the number of tasks]",
    )
    common_share: float = option(
        "--common-share",
        type=Share(),
        default="80%",
        show_default=True,
        help="Share of the directions of iso-cts that are those of the sum.",
    )
    centred: bool = option(
        "--centred",
        is_flag=True,
        help="Take the mean of rows out of the changes that actmat guesses from.",
    )
    columns: tuple[str, ...] = option(
        "--columns",
        multiple=True,
        metavar="PATTERN",
        help="For actmat: the weights named so are stored [inputs, outputs], as "
        "'*.c_attn.weight' of GPT-2; may be repeated.",
    )
    off_diagonal: float = option(
        "--off-diagonal",
        type=Share(),
        default="90%",
        show_default=True,
        help="What regmean multiplies the entries of A off the diagonal by.",
    )
    weights: str = option(
        "--weights",
        type=click.Choice(TASK_WEIGHTS),
        default=TASK_WEIGHTS[0],
        show_default=True,
        help="What regmean weighs the A of tasks by.",
    )
    curvature: tuple[str, ...] = option(
        "--curvature",
        multiple=True,
        metavar="TAU=ARTIFACT",
        help="For regmean: the artifact of the task of TAU, once for every TAU. Its A "
        "is of the inputs in the pretrained model; RegMean as published takes those in "
        "the fine-tuned one.",
    )

    def artifacts(self, vectors: Sequence[Path]) -> list[Path]:
        """The artifact of every task vector, in their order; none if none is given."""
        if not self.curvature:
            return []
        found = [_artifact_of(each, vectors, self.curvature) for each in vectors]
        if len(self.curvature) != len(vectors):
            raise click.UsageError(
                f"{len(vectors)} task vectors and {len(self.curvature)} --curvature; "
                "give one for every TAU"
            )
        return found

    def method(self, artifacts: Sequence[Path]) -> "Begin":
        """Choose it in the library, with the settings that were given."""
        from kfac_artifacts.format import load_artifact
        from kfac_artifacts.task_vector import choose_method

        settings = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in {"name", "curvature"} and given(field.name)
        }
        if artifacts:
            settings["curvature"] = tuple(load_artifact(path) for path in artifacts)
        return choose_method(self.name, **settings)


def _artifact_of(vector: Path, vectors: Sequence[Path], pairs: Sequence[str]) -> Path:
    """Find the artifact of a task vector, which is named by its path or its name."""
    names = {f"{vector}="}
    if [other.name for other in vectors].count(vector.name) == 1:
        names.add(f"{vector.name}=")
    found = [
        pair.removeprefix(name)
        for pair in pairs
        for name in names
        if pair.startswith(name)
    ]
    if len(found) != 1 or not found[0]:
        raise click.UsageError(
            f"there are {len(found)} --curvature of {vector}; give one, as "
            f"{vector.name}=ARTIFACT"
        )
    return Path(found[0])
