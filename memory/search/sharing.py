"""Words that a question and a text share, in whatever form: ``lives`` and ``living``, ``dog`` and ``dogs``."""

from __future__ import annotations

from collections.abc import Iterable

from memory.language.words import telling_words

_SUFFIXES = ("ing", "ed", "es", "s", "ly", "e")
_LEAST = 3


def shared_words(words: Iterable[str], text: str) -> set[str]:
    """Return those of the words that a text holds too."""
    stems = {_stem(word) for word in telling_words(text)}
    return {word for word in words if _stem(word) in stems}


def _stem(word: str) -> str:
    """Remove a common English ending; both sides of a comparison lose the same, so that it need not be a word."""
    for suffix in _SUFFIXES:
        stem = word.removesuffix(suffix)
        if stem != word and len(stem) >= _LEAST:
            return stem[:-1] if stem[-1] == stem[-2] and len(stem) > _LEAST else stem
    return word
