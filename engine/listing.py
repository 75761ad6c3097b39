"""Which tokens of an answer are listed with their log-probabilities: those of its text.

Their bytes, joined, are the answer's text. So the token that ends an answer is set aside, what a stop string cuts off
is not listed, and a token that is cut in the middle is listed with the bytes that are left of it. One thing is listed
though the text stops before it: a character of which ``max_tokens`` left a part only.
"""

from __future__ import annotations

import codecs
from dataclasses import replace

from engine.base import FinishReason, TokenLogprob
from engine.vocabulary import Vocabulary


class Listing:
    """The listed tokens of one answer, given out as the text that they are part of is."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._held: list[tuple[TokenLogprob, int, bool]] = []
        """Tokens that are not given out yet, each with the length of the text at its end, in characters, and whether it
        ends inside of one more."""
        self._length = 0
        self._given = 0
        """Characters of the text at the end of the last token that was given out."""
        self._text = ""
        """The text behind that."""

    def push(self, token: TokenLogprob) -> None:
        """The answer's next token, in its text or not yet."""
        if not self._begun and not self._vocabulary.is_special(token.token_id):
            self._begun = True
            token = _with_bytes(token, self._vocabulary.bytes_of(token.token_id, True))
        self._length += len(self._decoder.decode(token.bytes))
        self._held.append((token, self._length, bool(self._decoder.getstate()[0])))

    def show(self, text: str) -> tuple[TokenLogprob, ...]:
        """Take in the answer's next text; returns the tokens that are in the text now."""
        self._text += text
        shown = self._given + len(self._text)
        n = 0
        for i, (_, end, inside) in enumerate(self._held):
            if end > shown:
                break
            if not inside:  # a character may be cut off: its tokens are kept together
                n = i + 1
        return self._give(n)

    def _give(self, n: int) -> tuple[TokenLogprob, ...]:
        given, self._held = self._held[:n], self._held[n:]
        if given:
            end = given[-1][1]
            self._text, self._given = self._text[end - self._given :], end
        return tuple(token for token, _, _ in given)

    def end(self, reason: FinishReason) -> tuple[TokenLogprob, ...]:
        """Give, when no more text comes, all others where the answer was broken off, else what of them is in the
        text."""
        return self._cut() if reason == "stop" else self._give(len(self._held))

    def _cut(self) -> tuple[TokenLogprob, ...]:
        raw = b"".join(token.bytes for token, _, _ in self._held)
        fitting = (n for n in range(len(raw) + 1) if raw[:n].decode(errors="replace") == self._text)
        left = max(fitting, default=len(raw))
        kept = []
        for token, _, _ in self._held:
            part = token.bytes[:left]
            left -= len(part)
            if part:
                kept.append(_with_bytes(token, part))
        self._held.clear()
        return tuple(kept)


def _with_bytes(token: TokenLogprob, own: bytes) -> TokenLogprob:
    return token if own == token.bytes else replace(token, bytes=own, text=own.decode(errors="replace"))
