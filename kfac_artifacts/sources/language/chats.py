"""Conversations, written by the tokenizer's own template; replies are predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from jinja2.exceptions import TemplateError
from torch import Tensor

from kfac_artifacts.artifact import Json
from kfac_artifacts.errors import SourceError, first_line
from kfac_artifacts.sources.language.continuations import CONTINUATION, PAIR
from kfac_artifacts.sources.language.spans import Spans, encode_spans
from kfac_artifacts.sources.texts import TextEncoder

Chat: TypeAlias = Sequence[Mapping[str, Any]]
ASSISTANT = "assistant"
ROLES = {"human": "user", "gpt": ASSISTANT}
"""Roles under other names, in conversations of ``from`` and ``value``."""


@dataclass(frozen=True)
class ChatEncoder:
    """A tokenizer with a template for conversations.

    Attributes:
        texts: Tokenizer and length.
        id: What to call the model in errors.
        columns: 1 for conversations, 2 for conversations and how they go on.
    """

    texts: TextEncoder
    id: str
    columns: int = 1

    def __post_init__(self) -> None:
        if self.texts.tokenizer.chat_template is None:
            raise SourceError(
                f"the tokenizer of {self.id} has no template for conversations; give "
                "prompts and answers in two columns instead (--text-column twice)"
            )
        if self.texts.prompt:
            raise SourceError("a prompt goes before texts, not before conversations")

    def __call__(self, rows: Sequence[tuple[Chat, ...]]) -> dict[str, Tensor]:
        """Encode conversations; what the assistant says is predicted.

        Of two in a row the second goes on with the first, which is not predicted.

        Args:
            rows: One conversation each: messages with ``role`` and ``content``, or
                with ``from`` (human, gpt) and ``value``.

        Returns:
            The model's keyword arguments, with ``predicted``.

        Raises:
            SourceError: If the template cannot write one, or nothing is predicted.
        """
        chats = [[_message(m) for part in row for m in part] for row in rows]
        texts = [self._written(chat) for chat in chats]
        given = [len(row[0]) if len(row) > 1 else 0 for row in rows]
        spans = [*map(self._replies, chats, texts, given)]
        return encode_spans(self.texts, texts, spans, framed=False)

    @property
    def configuration(self) -> dict[str, Json]:
        """How a conversation becomes tokens, as recorded in artifacts."""
        pair: dict[str, Json] = {PAIR: CONTINUATION} if self.columns > 1 else {}
        return self.texts.configuration | pair | {"chat": ASSISTANT}

    def _written(self, chat: Chat, *, reply: bool = False) -> str:
        messages = [{k: str(v) for k, v in message.items()} for message in chat]
        try:
            text: str = self.texts.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=reply
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise SourceError(
                f"the template of {self.id} cannot write a conversation: "
                f"{first_line(error)}"
            ) from error
        return text

    def _replies(self, chat: Chat, text: str, given: int) -> Spans:
        """Where the assistant speaks: from its beginning to the end of its content."""
        found = []
        for number, message in enumerate(chat):
            if message["role"] != ASSISTANT or number < given:
                continue
            before = self._written(chat[:number], reply=True) if number else ""
            said = str(message["content"]).strip()
            place = text.find(said, len(before))
            if not text.startswith(before) or place < 0:
                raise SourceError(
                    f"the template of {self.id} does not write message {number + 1} of "
                    "a conversation as it is behind those before it, so nobody knows "
                    "where it begins; give prompts and answers in two columns instead "
                    "(--text-column twice)"
                )
            found.append((len(before) or place, place + len(said)))
        return found


def _message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message as templates know it."""
    if isinstance(message.get("role"), str) and isinstance(message.get("content"), str):
        return message
    role = message["from"]
    return {"role": ROLES.get(role, role), "content": message["value"]}
