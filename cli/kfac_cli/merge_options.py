"""How task vectors are merged, and the settings of every method."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import click

from kfac_artifacts.choices import MERGES
from kfac_cli.groups import given, option
from kfac_cli.parameters import Share

if TYPE_CHECKING:
    from kfac_artifacts.task_vector import Begin


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
        "signs agree (ties); by singular vectors (tsv, iso-c, iso-cts); or by inputs "
        "that are guessed from the changes (actmat).",
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

    def method(self) -> "Begin":
        """Choose it in the library, with the settings that were given."""
        from kfac_artifacts.task_vector import choose_method

        settings = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "name" and given(field.name)
        }
        return choose_method(self.name, **settings)
