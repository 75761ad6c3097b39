"""Tokens as bytes, and which of them are listed: joined, they are the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from engine.base import TokenLogprob
from engine.listing import Listing
from engine.transformers.text import TextStream
from engine.vocabulary import Vocabulary
from tests.tiny import tiny_tokenizer

WORDS = ["▁Hello", "▁world", "▁", "Hello", "é", "END", "xEND", "a", "b", "E", "N", "D", "▁END▁b"]


def sentencepiece_tokenizer() -> Any:
    """Pieces of text, and one for each byte, as SentencePiece models have them."""
    pieces = [*WORDS, *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken("<s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


def metaspace_tokenizer() -> Any:
    backend = Tokenizer(BPE(vocab={piece: i for i, piece in enumerate(WORDS)}, merges=[]))
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bytes": tiny_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "metaspace": metaspace_tokenizer,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_token_has_its_own_bytes(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    vocabulary = Vocabulary(tokenizer)

    def of(piece: str) -> bytes:
        return vocabulary.bytes_of(tokenizer.convert_tokens_to_ids(piece))

    if kind == "bytes":
        assert b"".join(vocabulary.bytes_of(i) for i in tokenizer.encode("é🦊 a\n")) == "é🦊 a\n".encode()
        assert vocabulary.text_of(tokenizer.encode("é")[0]) == "\ufffd"
        assert sorted(vocabulary.bytes_of(i) for i in range(256)) == [bytes([byte]) for byte in range(256)]
        assert vocabulary.bytes_of(257) == b""
        assert vocabulary.text_of(257) == "<|im_end|>"
        assert vocabulary.bytes_of(10**6) == b""
        return
    assert of("▁world") == b" world"
    assert of("é") == "é".encode()
    assert of("▁END▁b") == b" END b"
    if kind == "sentencepiece":
        assert of("<0xF0>") == b"\xf0"
        assert of("<0x0A>") == b"\n"
        assert of("<s>") == b""


class Answer:
    """What a stream of tokens gives, step by step, as the engine does it."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = ()) -> None:
        self.vocabulary = Vocabulary(tokenizer)
        self.text = TextStream(tokenizer, stop)
        self.listing = Listing(self.vocabulary)
        self.shown = ""
        self.listed: list[TokenLogprob] = []

    def run(self, token_ids: list[int]) -> Answer:
        for token_id in token_ids:
            if self.text.stopped:
                break
            self.listing.push(TokenLogprob(token_id, "", -1.0, self.vocabulary.bytes_of(token_id)))
            self._show(self.text.push(token_id))
        self._show(self.text.flush())
        self.listed += self.listing.end("stop" if self.text.stopped else "length")
        return self

    def _show(self, text: str) -> None:
        self.shown += text
        self.listed += self.listing.show(text)

    @property
    def joined(self) -> bytes:
        return b"".join(token.bytes for token in self.listed)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_the_tokens_bytes_are_the_text(text: str) -> None:
    tokenizer = tiny_tokenizer()
    answer = Answer(tokenizer).run(tokenizer.encode(text, add_special_tokens=False))
    assert answer.joined == answer.shown.encode()


@given(st.lists(st.integers(0, 269), max_size=20), st.sampled_from(["sentencepiece", "bytes"]))
def test_tokens_at_random_are_the_text_too(ids: list[int], kind: str) -> None:
    """Bytes that are no text are shown as U+FFFD; what may become a character at the end is not shown, but listed."""
    tokenizer = TOKENIZERS[kind]()
    ids = [i for i in ids if i < len(tokenizer)]
    answer = Answer(tokenizer).run(ids)
    assert len(answer.listed) == len(ids)
    whole = answer.joined.decode(errors="replace")
    assert whole in (answer.shown, answer.shown + "\ufffd")


@given(
    st.lists(st.sampled_from(["▁Hello", "▁world", "é", "END", "xEND", "a", "E", "N", "D", "▁END▁b", "🦊"]), max_size=9),
    st.sampled_from([("END",), ("END", "o w"), ("🦊",), ("é", "NE"), ("Hello",)]),
)
def test_what_a_stop_string_cuts_off_is_not_listed(pieces: list[str], stop: tuple[str, ...]) -> None:
    tokenizer = sentencepiece_tokenizer()
    names = [name for piece in pieces for name in _bytes_or_piece(piece)]
    answer = Answer(tokenizer, stop).run([tokenizer.convert_tokens_to_ids(name) for name in names])
    assert answer.joined == answer.shown.encode()
    whole = "".join(pieces).replace("▁", " ")
    whole = whole[1:] if whole.startswith(" ") else whole
    cuts = [at for text in stop if (at := whole.find(text)) >= 0]
    assert answer.text.stopped == bool(cuts)
    assert answer.shown.startswith(whole[: min(cuts)]) if cuts else answer.shown == whole


def _bytes_or_piece(piece: str) -> list[str]:
    return [piece] if piece in WORDS else [f"<0x{byte:02X}>" for byte in piece.encode()]


def test_a_token_that_is_cut_keeps_the_rest_of_its_bytes() -> None:
    tokenizer = sentencepiece_tokenizer()
    answer = Answer(tokenizer, ("END",)).run(tokenizer.convert_tokens_to_ids(["a", "xEND"]))
    assert [(token.bytes, token.text) for token in answer.listed] == [(b"a", ""), (b"x", "x")]


def test_a_character_that_may_begin_a_stop_string_is_held_as_a_whole() -> None:
    """Its first bytes are no part of the text when it is cut off."""
    tokenizer = tiny_tokenizer()
    answer = Answer(tokenizer, ("🦊x",))
    for token_id in tokenizer.encode("a🦊"):
        answer.listing.push(TokenLogprob(token_id, "", -1.0, answer.vocabulary.bytes_of(token_id)))
        answer._show(answer.text.push(token_id))
    assert answer.joined == b"a"
    answer.run(tokenizer.encode("x"))
    assert answer.joined == answer.shown.encode() == b"a"
