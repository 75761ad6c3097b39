"""Tokens as bytes: what each adds to a text."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# An ordinary piece to stand around another one: decoders treat a text's first and last piece in ways of their own.
_OTHER = "a"


class Vocabulary:
    """The tokens of one fast tokenizer. Pieces are bytes in disguise (byte-level BPE), or text with pieces for single
    bytes (SentencePiece's byte fallback); which of them, the tokenizer's decoder is asked."""

    def __init__(self, tokenizer: Any) -> None:
        backend = tokenizer.backend_tokenizer
        self._piece_of = backend.id_to_token
        self._decoder = backend.decoder
        self._special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self._byte_level = self._decoded("Ġ") == " "
        self._has_bytes = not self._byte_level and self._decoded("<0x41>") == "A"
        self.bytes_of = cache(self._bytes_of)

    def _decoded(self, *pieces: str) -> str:
        text: str = " ".join(pieces) if self._decoder is None else self._decoder.decode(list(pieces))
        return text

    def is_special(self, token_id: int) -> bool:
        """Tell if the token is left out of text."""
        return token_id in self._special

    def text_of(self, token_id: int) -> str:
        """The token's bytes as text, U+FFFD for what is none by itself; a special token's name."""
        if token_id in self._special:
            return str(self._piece_of(token_id))
        return self.bytes_of(token_id).decode(errors="replace")

    def _bytes_of(self, token_id: int, first: bool = False) -> bytes:
        """Give what the token adds to a text; ``first``: at its beginning, where some decoders drop a space."""
        piece: str | None = self._piece_of(token_id)
        if piece is None or token_id in self._special:
            return b""
        if self._byte_level:
            table = _bytes_of_characters()
            return bytes(table[c] for c in piece) if table.keys() >= set(piece) else piece.encode()
        byte = _BYTE_PIECE.fullmatch(piece) if self._has_bytes else None
        if byte is not None:
            return bytes.fromhex(byte[1])
        after = self._decoded(_OTHER, _OTHER).removeprefix(_OTHER)
        text = self._decoded(piece, _OTHER) if first else self._decoded(_OTHER, piece, _OTHER).removeprefix(_OTHER)
        return text.removesuffix(after).encode()


@lru_cache(maxsize=8)
def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The tokenizer's vocabulary, made once."""
    return Vocabulary(tokenizer)


@cache
def _bytes_of_characters() -> dict[str, int]:
    """The byte that each character of byte-level BPE stands for: itself where it can be seen; the others are numbered
    from U+0100 on, in order."""
    alphabet = sorted(ByteLevel.alphabet())
    seen = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = sorted(set(range(256)) - set(seen.values()))
    return seen | dict(zip(alphabet[len(seen) :], others, strict=True))
