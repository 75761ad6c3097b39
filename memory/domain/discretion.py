"""What becomes of secrets in what is to be remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from memory.errors import InvalidMemory
from memory.language.secrets import MASK, masked
from memory.language.sentences import sentences_in
from memory.types import Message

SecretsPolicy = Literal["keep", "mask", "refuse"]


@dataclass(frozen=True)
class Discretion:
    """The one door that texts pass before they are kept. ``mask`` keeps them with ``[secret]`` in the place of each
    secret; ``refuse`` remembers no sentence that holds one, and keeps messages masked."""

    secrets: SecretsPolicy = "mask"

    def memory(self, text: str) -> str:
        """Return a memory's text as it may be kept. Raises ``InvalidMemory`` where it is refused."""
        if self.secrets == "keep":
            return text
        kept = masked(text)
        if self.secrets == "refuse" and kept != text:
            raise InvalidMemory(
                "The text holds a secret (a key, a card's number, a password), which is not kept.", "text"
            )
        return kept

    def said(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages as they may be kept."""
        return list(messages) if self.secrets == "keep" else [_masked(message) for message in messages]

    def readable(self, messages: Sequence[Message]) -> list[Message]:
        """Return, of messages as they are kept, what memories may be made of."""
        if self.secrets != "refuse":
            return list(messages)
        return [replace(m, text=self.without(m.text)) if MASK in m.text else m for m in messages]

    def without(self, text: str) -> str:
        """Return a text as memories may be made of it: masked, or without the sentences that hold secrets."""
        if self.secrets == "keep":
            return text
        kept = masked(text)
        if self.secrets == "mask" or MASK not in kept:
            return kept
        return " ".join(sentence for sentence in sentences_in(kept) if MASK not in sentence)


def _masked(message: Message) -> Message:
    text = masked(message.text)
    arguments = message.metadata.get("arguments")  # of a tool's call; they become its memory's text
    if isinstance(arguments, str) and masked(arguments) != arguments:
        message = replace(message, metadata={**message.metadata, "arguments": masked(arguments)})
    return message if text == message.text else replace(message, text=text)
