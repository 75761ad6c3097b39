"""Paragraphs to chunks of a size that is found and read well, cut where sentences end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from memory.language.parsing import Block
from memory.language.sentences import ends_of

CHUNK_WORDS = 120
# A section of fewer words shares its chunk with the next one.
_SMALL_SECTION = 40
_MAX_SENTENCE = 160
_MAX_WORD_CHARS = 200
_LINE = re.compile(r"[^\n]*\n+|[^\n]+")
_SPACE = re.compile(r"[^\S\n]*\n*")
# In scripts without spaces each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True)
class Chunk:
    """A memory to be: its text, which begins with its heading, that heading, and its page where there are pages."""

    text: str
    heading: str
    page: int | None


def count_words(text: str) -> int:
    """Count the words of a text: at least one, if anything can be seen of it."""
    return sum(1 + len(word) // _MAX_WORD_CHARS for word in _WORD.findall(text)) or int(bool(text.strip()))


def sentences(text: str) -> list[str]:
    """Cut a text after each sentence and line; joined, the parts are the text again."""
    found: list[str] = []
    for line in _LINE.findall(text):
        begin = 0
        for end in ends_of(line):
            match = _SPACE.match(line, end)
            behind = end if match is None else match.end()
            found.append(line[begin:behind])
            begin = behind
        found.append(line[begin:])
    return [piece for piece in found if piece]


def _pieces(text: str) -> Iterator[str]:
    """Return sentences, the longest cut between words."""
    for sentence in sentences(text):
        if count_words(sentence) <= _MAX_SENTENCE:
            yield sentence
            continue
        piece, n = "", 0
        for word in re.findall(rf"\S{{1,{_MAX_WORD_CHARS}}}\s*", sentence):
            if n + count_words(word) > CHUNK_WORDS and piece:
                yield piece
                piece, n = "", 0
            piece, n = piece + word, n + count_words(word)
        if piece:
            yield piece


@dataclass
class _Draft:
    heading: str = ""
    page: int | None = None
    text: str = ""
    words: int = 0
    last_heading: str = ""
    done: list[Chunk] = field(default_factory=list)

    def end(self) -> None:
        if self.words:
            self.done.append(Chunk(self.text.strip(), self.heading, self.page))
        self.text, self.words = "", 0

    def begin(self, block: Block) -> None:
        """Begin a paragraph."""
        if self.words >= _SMALL_SECTION and block.heading != self.last_heading:
            self.end()
        self.text = self.text.rstrip() + "\n\n" if self.text else ""
        if self.words and block.heading != self.last_heading:
            self.text += f"{block.heading}\n\n"
        self.last_heading = block.heading

    def add(self, piece: str, block: Block) -> None:
        words = count_words(piece)
        if self.words and self.words + words / 2 > CHUNK_WORDS:  # ending here is nearer to the size that is wanted
            self.end()
        if not self.words:
            self.heading, self.page = block.heading, block.page
            self.text = f"{block.heading}\n\n" if block.heading else ""
        self.text += piece
        self.words += words


def chunks_of(blocks: Iterable[Block]) -> list[Chunk]:
    """Return chunks of about ``CHUNK_WORDS`` words. None has text from two sections, unless the first is small."""
    draft = _Draft()
    for block in blocks:
        draft.begin(block)
        for piece in _pieces(block.text):
            draft.add(piece, block)
    draft.end()
    return draft.done
