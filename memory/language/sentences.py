"""Sentences of a text."""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"(?<=[.!?…])[\"”)]?\s+|(?<=[。！？])\s*|\n+")


def sentences_in(text: str) -> list[str]:
    """Return the sentences of a text, without white space around them."""
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]
