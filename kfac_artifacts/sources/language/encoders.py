"""Which encoder prepares texts for the head that f is of."""

from typing import TypeAlias

from kfac_artifacts.errors import SourceError
from kfac_artifacts.network import Network
from kfac_artifacts.sources.language.chats import ChatEncoder
from kfac_artifacts.sources.language.continuations import ContinuationEncoder
from kfac_artifacts.sources.language.masking import MaskingEncoder
from kfac_artifacts.sources.language.targets import TargetEncoder
from kfac_artifacts.sources.model_heads import Head, head_of
from kfac_artifacts.sources.texts import TextEncoder

LanguageEncoder: TypeAlias = (
    TextEncoder | ContinuationEncoder | ChatEncoder | MaskingEncoder | TargetEncoder
)


def load_language_encoder(
    network: Network, texts: TextEncoder, *, columns: int, chats: bool
) -> LanguageEncoder:
    """Choose what prepares texts for the head that the f of a network is of.

    Args:
        network: A network whose module was loaded by ``from_pretrained``.
        texts: The encoder of plain texts that came with it.
        columns: From how many columns the texts of an example come: one or two.
        chats: Whether an example is a conversation.

    Returns:
        The encoder.

    Raises:
        SourceError: If the head cannot be given such examples.
    """
    head = head_of(type(network.module).__name__)
    of_language = network.output_map.ragged
    if chats and not (of_language and head is Head.CAUSAL):
        raise SourceError(
            f"conversations are for models that predict the next token, with the "
            f"output map lm-fisher, and {network.id} is used with "
            f"{network.output_map.info.name}"
        )
    if chats:
        return ChatEncoder(texts, network.id, columns)
    if not of_language:
        return texts
    if head is Head.SEQ2SEQ:
        return TargetEncoder.of(network, texts, columns)
    if head is Head.MASKED:
        return MaskingEncoder.of(network, texts)
    return ContinuationEncoder(texts, columns)
