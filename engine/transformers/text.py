"""Tokens to text as they come, with stop strings."""

from __future__ import annotations

import codecs
from typing import Any

from engine.vocabulary import vocabulary_of


class TextStream:
    """Incremental text of one choice. Text that could begin a stop string is held back until it is decided, and what
    may become a character until it has; bytes that are no text are U+FFFD."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]) -> None:
        self._vocabulary = vocabulary_of(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Return text that is safe to show after this token; may be empty. Sets ``stopped`` at a stop string, whose
        text is not shown."""
        if not self._vocabulary.is_special(token_id):
            self._held += self._decoder.decode(self._vocabulary.bytes_of(token_id, not self._begun))
            self._begun = True
        cuts = [at for text in self._stop if (at := self._held.find(text)) >= 0]
        if cuts:
            self.stopped = True
            shown, self._held = self._held[: min(cuts)], ""
            return shown
        keep = max((self._overlap(text) for text in self._stop), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def _overlap(self, stop: str) -> int:
        """Return the length of the longest end of the held text that begins ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)

    def flush(self) -> str:
        """Return what was held back, when no more tokens come."""
        shown, self._held = self._held, ""
        return shown
