"""Removing, with memories, the parts of their messages that nothing else is from: no less, and no more."""

from __future__ import annotations

from collections.abc import Sequence

from memory.language.assertion import pieces_in
from memory.language.sentences import joined
from memory.language.words import words_of
from memory.storage.base import Transaction


def leave_out(tx: Transaction, numbers: Sequence[int]) -> list[int]:
    """Return, before these memories go, the numbers of the messages that go with them. Those are what no other memory
    is from, and all of a conversation that no memory will be left of. From a message that another memory is from, too,
    the sentences are taken that only those that go have."""
    gone = set(numbers)
    going: set[int] = set()
    for message in tx.sources.messages_of(numbers):
        texts = tx.sources.memories_of(message)
        kept = [set(words_of(text)) for number, text in texts if number not in gone]
        if kept:
            _cut(tx, message, [set(words_of(text)) for number, text in texts if number in gone], kept)
        else:
            going.add(message)
    return sorted(going | tx.sources.emptied(going, gone))


def _cut(tx: Transaction, message: int, gone: Sequence[set[str]], kept: Sequence[set[str]]) -> None:
    """Take the sentences out of a message whose words a memory of ``gone`` has, and none of ``kept``."""
    sentences = pieces_in(tx.messages.texts([message])[message])
    words = [set(words_of(sentence)) for sentence in sentences]
    left = [
        sentence
        for sentence, said in zip(sentences, words, strict=True)
        if not any(said <= other for other in gone) or any(said <= other for other in kept)
    ]
    if len(left) < len(sentences):
        tx.messages.set_text(message, joined(left))
