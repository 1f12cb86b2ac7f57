"""Texts that share rows, so that little of a batch is padding; none sees another.

Positions begin anew with every text of a row. Models of ``transformers`` find from them
where texts end, and let none attend to another; that yours does is tried, on one row.
"""

import hashlib
import json
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from kfac_artifacts.artifact import DataInfo, Json, NamedConfig
from kfac_artifacts.capture import require_same
from kfac_artifacts.errors import CoverageError, SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.progress import Progress, silent
from kfac_artifacts.sources.distribution_maps import POSITIONS
from kfac_artifacts.sources.examples import TextExamples
from kfac_artifacts.sources.language.chats import ChatEncoder
from kfac_artifacts.sources.language.continuations import ContinuationEncoder
from kfac_artifacts.sources.tables.table import count

PACKED = "packed"
AT_ONCE = 512
"""Texts that are encoded together to see how long they are."""


@dataclass(frozen=True, eq=False)
class PackedExamples(TextExamples):
    """Rows of texts, each an example of its own.

    Attributes:
        packs: The numbers of the texts of every row, in their order there.
    """

    packs: tuple[tuple[int, ...], ...] = ()

    @override
    def __len__(self) -> int:
        return len(self.packs)

    @override
    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Encode some rows, padded on the right to the longest."""
        packs = [self.packs[i] for i in indices]
        texts = super().batch([text for pack in packs for text in pack])
        return _side_by_side(texts, [len(pack) for pack in packs])

    @override
    def info(self, indices: Sequence[int]) -> DataInfo:
        """Describe the dataset; examples are rows, and a line of the hash is of one."""
        digest = hashlib.sha256()
        for index in indices:
            row = [index, *self.texts(self.packs[index])]
            digest.update(f"{json.dumps(row)}\n".encode())
        columns: list[Json] = list(self.columns)
        how = {"columns": columns, **self.encoder.configuration, PACKED: True}
        return self._info(digest.hexdigest(), len(indices), NamedConfig("text", how))

    def parts(self, index: int) -> list[str]:
        """Tell of which texts a row is made."""
        return [json.dumps(text) for text in self.texts(self.packs[index])]

    @override
    def account(self, used: int | None = None) -> str:
        """Say what was read, in how many rows it is, and how many of them are used."""
        classes = len(set(self.known_labels.indices))
        said = self.rows.account(
            self.used_columns, self.known_labels.column, None, classes
        )
        of_them = "" if used is None else f", of which {used} are used"
        return f"{said}; packed into {count(len(self), 'row')}{of_them}"


def pack_texts(
    examples: TextExamples, network: Network, *, progress: Progress = silent
) -> PackedExamples:
    """Put several texts into a row, of as many tokens as a text may have at most.

    Args:
        examples: Texts, prompts with continuations, or conversations.
        network: A language model, with an output map of its head.
        progress: Shows how many texts have been counted.

    Returns:
        The rows.

    Raises:
        SourceError: If the model does not predict the next token, lets the texts of a
            row see one another, or all texts fit into one row.
    """
    encoder = examples.encoder
    if not isinstance(encoder, ContinuationEncoder | ChatEncoder):
        raise SourceError(
            "texts are packed (--pack) for models that predict the next token, with "
            f"the output map lm-fisher; {network.id} is a "
            f"{type(network.module).__name__}, used with {network.output_map.info.name}"
        )
    lengths: list[int] = []
    with progress("counting tokens", len(examples)) as advance:
        for start in range(0, len(examples), AT_ONCE):
            some = range(start, min(start + AT_ONCE, len(examples)))
            lengths += examples.batch(some)["attention_mask"].sum(1).tolist()
            advance(len(some))
    room = encoder.texts.max_length
    packs = packed(lengths, room)
    if len(packs) < 2:
        raise SourceError(
            f"all {len(lengths)} texts fit into one row of {room} tokens, and at least "
            "two rows are needed; give a smaller --max-length, or leave out --pack"
        )
    own = {each.name: getattr(examples, each.name) for each in fields(TextExamples)}
    rows = PackedExamples(**own, packs=packs)
    shared = next((n for n, pack in enumerate(packs) if len(pack) > 1), None)
    if shared is not None and network.device.type != "meta":
        _require_apart(network, rows, shared)
    return rows


def packed(lengths: Sequence[int], room: int) -> tuple[tuple[int, ...], ...]:
    """Pack by best-fit decreasing (``output_maps.md``, 2.1).

    Args:
        lengths: Tokens of every text, at most ``room``.
        room: Tokens of a row.

    Returns:
        The numbers of the texts of every row.
    """
    packs: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # what each has left, and its number; sorted
    for text in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        at = bisect_left(open_rows, (lengths[text], 0))
        left, row = open_rows.pop(at) if at < len(open_rows) else (room, len(packs))
        if row == len(packs):
            packs.append([])
        packs[row].append(text)
        if left > lengths[text]:
            insort(open_rows, (left - lengths[text], row))
    return tuple(map(tuple, packs))


def _side_by_side(texts: dict[str, Tensor], counts: Sequence[int]) -> dict[str, Tensor]:
    """Join texts to rows of so many; padding is a text of its own, which none sees."""
    lengths = texts["attention_mask"].sum(1).tolist()
    places = [torch.arange(length) for length in lengths]
    pieces = {
        name: [row[:length] for row, length in zip(values, lengths, strict=True)]
        for name, values in texts.items()
    } | {POSITIONS: places}
    rows = {
        name: [torch.cat(row) for row in _split(found, counts)]
        for name, found in pieces.items()
    }
    batch = {
        name: pad_sequence(found, batch_first=True) for name, found in rows.items()
    }
    longest = batch[POSITIONS].shape[1]
    for place, row in zip(batch[POSITIONS], rows[POSITIONS], strict=True):
        place[len(row) :] = torch.arange(longest - len(row))
    return batch


def _split(values: list[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    left = iter(values)
    return [[next(left) for _ in range(count)] for count in counts]


def _require_apart(network: Network, rows: PackedExamples, index: int) -> None:
    """Check that what is predicted of a text is the same without its neighbours."""
    texts = TextExamples.batch(rows, rows.packs[index])
    with torch.no_grad():
        together = _distributions(network, rows.batch([index]))
        alone = _distributions(network, texts)
    try:
        require_same(network.output_map, alone.flatten(), together.flatten(), "a row")
    except CoverageError as error:
        raise SourceError(
            f"{network.id} lets the texts of a row see one another, as a model of "
            f"class {type(network.module).__name__} does that does not tell them "
            "apart by their positions; leave out --pack"
        ) from error


def _distributions(network: Network, batch: dict[str, Tensor]) -> Tensor:
    """``√p`` of one predicted token after another, without how f weighs them."""
    tokens = network(batch).view(-1, network.output_map.classes)
    tokens = tokens[tokens.any(1)]
    return tokens / tokens.norm(dim=1, keepdim=True)
