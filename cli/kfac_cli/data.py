"""DATA of a command: read before anything slow is imported, and said what was read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from typing_extensions import override

from kfac_cli import console
from kfac_cli.groups import option
from kfac_cli.parameters import COUNT

if TYPE_CHECKING:
    from kfac_artifacts.network import Network
    from kfac_artifacts.sources import Data, ImageExamples, Layout, TextExamples


@dataclass(frozen=True)
class TableOptions:
    """Which part of DATA, and how a file of text is laid out."""

    split: str | None = option("--split", help="Split of the dataset. [default: train]")
    text_columns: tuple[str, ...] = option(
        "--text-column",
        "text_columns",
        multiple=True,
        metavar="NAME",
        help="Column with the text; twice for pairs. [default: text, sentence, ...]",
    )
    no_header: bool = option(
        "--no-header",
        is_flag=True,
        help="The first row of a csv or tsv is data; columns are called 1, 2, ...",
    )
    delimiter: str | None = option(
        "--delimiter",
        metavar="CHARACTER",
        help="What divides the cells of a csv or tsv, such as ';' or tab. "
        "[default: found out]",
    )
    encoding: str | None = option(
        "--encoding",
        metavar="NAME",
        help="Encoding of a text file, such as cp1252. "
        "[default: by its byte order mark, or utf-8]",
    )

    @property
    def layout(self) -> "Layout":
        """How a file of text is laid out."""
        from kfac_artifacts.sources import Layout

        return Layout(self.delimiter, self.encoding, header=not self.no_header)


@dataclass(frozen=True)
class DataOptions(TableOptions):
    """How DATA are read."""

    image_column: str | None = option(
        "--image-column",
        metavar="NAME",
        help="Column with the image. [default: found by type]",
    )

    def read(
        self, data: str, *, labels: str | None = None, classes: Sequence[str] = ()
    ) -> "Data":
        """Read them, with the classes in column ``labels`` if there is one."""
        from kfac_artifacts.sources import Columns, read_data

        columns = Columns(self.text_columns, self.image_column, labels, classes)
        return read_data(data, split=self.split, columns=columns, layout=self.layout)

    def read_all(self, data: str, copied: Sequence[str]) -> "Data":
        """Read data to be labelled, be it one example, with columns to be copied."""
        from kfac_artifacts.sources import Columns, read_data

        columns = Columns(self.text_columns, self.image_column, copied=copied)
        return read_data(
            data, split=self.split, columns=columns, layout=self.layout, fewest=1
        )


@dataclass(frozen=True)
class ChatDataOptions(DataOptions):
    """The same, and conversations, of which language models have a curvature."""

    chat_column: str | None = option(
        "--chat-column",
        metavar="NAME",
        help="Column with conversations, lists of messages with role and content, in "
        "place of texts; what the assistant says is predicted. [default: messages or "
        "conversations, if no column is of texts]",
    )

    def read_any(self, data: str) -> "Data":
        """Read texts, images or conversations, without classes."""
        from kfac_artifacts.sources import Columns, read_data

        columns = Columns(self.text_columns, self.image_column, chat=self.chat_column)
        return read_data(data, split=self.split, columns=columns, layout=self.layout)


@dataclass(frozen=True)
class EncodeOptions:
    """How texts of DATA are given to the model."""

    max_length: int | None = option(
        "--max-length",
        type=COUNT,
        metavar="TOKENS",
        help="Cut texts after so many tokens. [default: what the model takes]",
    )
    prompt: str | None = option(
        "--prompt",
        metavar="TEXT",
        help="Put before every text. [default: what the model declares]",
    )

    @property
    def packed(self) -> bool:
        """Whether several texts share a row."""
        return False

    def encode(
        self, data: "Data", network: "Network", *, shown: bool = True
    ) -> "TextExamples | ImageExamples":
        """Encode data for a network, and show progress where that takes long."""
        from kfac_artifacts.sources import encode_data

        return encode_data(
            data,
            network,
            max_length=self.max_length,
            prompt=self.prompt,
            pack=self.packed,
            progress=partial(console.progress, unit="texts", shown=shown),
        )


@dataclass(frozen=True)
class PackOptions(EncodeOptions):
    """The same, and whether texts share rows."""

    pack: bool = option(
        "--pack",
        is_flag=True,
        help="Put several texts into a row of --max-length tokens, which is then an "
        "example; none sees another. For models that predict the next token.",
    )

    @property
    @override
    def packed(self) -> bool:
        return self.pack


def tell(
    examples: "TextExamples | ImageExamples", used: int | None = None
) -> dict[str, Any]:
    """Say on stderr what was read and how much of it is used; give the same as JSON."""
    click.echo(examples.account(used), err=True)
    return {
        "data": examples.description.id,
        "rows": len(examples),
        "blank_lines": examples.rows.blank,
        "columns": list(examples.used_columns),
        "label_column": examples.known_labels.column,
        "classes": len(set(examples.labels)),
        "notes": list(examples.rows.notes),
        "used": used,
    }
