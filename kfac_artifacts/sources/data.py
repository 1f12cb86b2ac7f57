"""Data that were read, encoded for a network when a batch is asked for."""

import logging
from collections.abc import Sequence
from pathlib import Path

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.progress import Progress, silent
from kfac_artifacts.sources.encode import load_image_encoder
from kfac_artifacts.sources.examples import ImageExamples, TextExamples
from kfac_artifacts.sources.language import load_language_encoder, pack_texts
from kfac_artifacts.sources.output_maps import inputs
from kfac_artifacts.sources.own_models import OwnEncoder, OwnNetwork
from kfac_artifacts.sources.reading import Columns, Data, read_data
from kfac_artifacts.sources.tables import Layout
from kfac_artifacts.sources.texts import load_text_encoder

logger = logging.getLogger(__name__)


def load_examples(  # noqa: PLR0913 - as many arguments as there are choices
    data: str | Path,
    network: Network,
    *,
    split: str | None = None,
    text_columns: str | Sequence[str | int] = (),
    image_column: str | None = None,
    label_column: str | int | None = None,
    classes: Sequence[str] = (),
    max_length: int | None = None,
    prompt: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool = True,
    chat_column: str | None = None,
    pack: bool = False,
    progress: Progress = silent,
) -> TextExamples | ImageExamples:
    """Open a dataset, and encode it for a network when a batch is asked for.

    Args:
        data: File, folder or Hub id; see ``read_data``.
        network: A network whose module was loaded by ``from_pretrained``.
        split: Split of a Hub dataset or an image folder.
        text_columns: One column of texts, or two that form a pair, be it of
            conversations and how they go on; none for one with a usual name, such as
            ``text``. Without a header they are numbers.
        image_column: Column of images; None for the obvious one.
        label_column: Column of classes; None if labels are not needed.
        classes: Names of all classes in order, for example those of the training set;
            none for the ones found, sorted.
        max_length: Tokens after which a text is cut off; None for what the model
            declares, or else can take, but at most 512.
        prompt: What is put before every text; None for what the model declares.
        delimiter: What is between the cells of a csv or tsv; None to find out.
        encoding: Encoding of a file of text; None for its byte order mark, or UTF-8.
        header: Whether the first row of a csv or tsv has the names of the columns; if
            not, they are called by their numbers, from ``"1"``.
        chat_column: Column of conversations, lists of messages with role and content,
            instead of texts; only what the assistant says is predicted.
        pack: Whether several texts share a row of ``max_length`` tokens, which is then
            an example; for models that predict the next token.
        progress: Shows how many texts have been counted to be packed.

    Returns:
        The examples. Without a label column their ``labels`` are empty.
    """
    texts = [text_columns] if isinstance(text_columns, str) else text_columns
    label = None if label_column is None else str(label_column)
    columns = Columns(
        tuple(map(str, texts)), image_column, label, classes, chat=chat_column
    )
    layout = Layout(delimiter, encoding, header)
    found = read_data(str(data), split=split, columns=columns, layout=layout)
    examples = encode_data(
        found,
        network,
        max_length=max_length,
        prompt=prompt,
        pack=pack,
        progress=progress,
    )
    partly = found.table.unit == "image" and found.table.notes  # files were left out
    logger.log(logging.WARNING if partly else logging.INFO, "%s", examples.account())
    return examples


def encode_data(
    data: Data,
    network: Network,
    *,
    max_length: int | None = None,
    prompt: str | None = None,
    pack: bool = False,
    progress: Progress = silent,
) -> TextExamples | ImageExamples:
    """Encode data for a network when a batch is asked for.

    Args:
        data: Data that were read.
        network: A network whose module was loaded by ``from_pretrained``.
        max_length: Tokens after which a text is cut off; see ``load_examples``.
        prompt: What is put before every text; None for what the model declares.
        pack: Whether several texts share a row; see ``load_examples``.
        progress: Shows how many texts have been counted to be packed.

    Returns:
        The examples.

    Raises:
        SourceError: If the data do not fit the network.
    """
    examples = _encode_each(data, network, max_length=max_length, prompt=prompt)
    if not pack:
        return examples
    if not isinstance(examples, TextExamples):
        raise SourceError("only texts are packed into rows (--pack), not images")
    return pack_texts(examples, network, progress=progress)


def _encode_each(
    data: Data, network: Network, *, max_length: int | None, prompt: str | None
) -> TextExamples | ImageExamples:
    table, labels = data.table, data.labels
    if isinstance(network, OwnNetwork) and network.encoder is not None:
        if max_length is not None or prompt is not None:
            raise SourceError(
                f"{network.function} encodes texts itself; drop --max-length, --prompt"
            )
        return _encoded(data, network.encoder)
    argument = _argument(network)
    if argument == "input_ids":
        columns = data.texts()
        encoder = load_language_encoder(
            network,
            load_text_encoder(network, max_length, prompt),
            columns=len(columns),
            chats=bool(data.chats),
        )
        return TextExamples(table, columns, encoder, data.description, labels)
    if argument == "pixel_values":
        column, images = data.images(), load_image_encoder(network)
        return ImageExamples(
            table, column, images, data.description, labels, data.folder
        )
    raise SourceError(f"{network.id} takes {argument}; only text and images are known")


def _encoded(data: Data, encoder: OwnEncoder) -> TextExamples | ImageExamples:
    """Data with an encoder of the user's; images, if there are any."""
    table, of, labels = data.table, data.description, data.labels
    if data.of_images:
        return ImageExamples(table, data.images(), encoder, of, labels, data.folder)
    return TextExamples(table, data.texts(), encoder, of, labels)


def _argument(network: Network) -> str:
    """What the model takes; models of one's own have no tokenizer beside them."""
    if isinstance(network, OwnNetwork) and not hasattr(network.module, "config"):
        raise SourceError(
            f"{network.function} gives no encoder, and its module is none of "
            "transformers, so nobody knows how data become its inputs; let it give a "
            "pair of the network and a function from texts or images to a batch"
        )
    return inputs(network.module, network.output_map.info.name)
