"""Control tokens, and texts that hold their names.

A tokenizer takes the name of a control token (``<|im_end|>``) for the token wherever it stands. What people say is text
all the same: the chat template is given digits in the place of such names, and when its text is tokenised they are put
back as text.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

log = logging.getLogger(__name__)

# Names of the copy's control tokens: characters of a private plane, in an order that nobody can guess.
_PRIVATE_PLANE = 0xF0000
_SPACE_MARKS = "▁Ġ"  # what some vocabularies write for a space


@dataclass(frozen=True)
class Run:
    """A part of a prompt's text. Names in what is ``said`` are text; where a template wrote them, control tokens."""

    text: str
    said: bool = False


class ControlTokens:
    """The control tokens of a tokenizer (a transformers tokenizer): those it calls special, and every other added one
    that is neither a word nor white space, such as ``<tool_call>``."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = {token.content: (id, token) for id, token in tokenizer.added_tokens_decoder.items()}
        self.ids = {name: id for name, (id, token) in added.items() if _is_control(name, token.special)}
        self.pattern = any_of(self.ids)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalized = any(added[name][1].normalized for name in self.ids)
        self._normalizer = backend.normalizer if backend is not None and normalized else None
        self._longest = max(map(len, self.ids), default=0)
        self._all = "\n".join(self.ids)
        self._beginnings = {name[:i] for name in self.ids for i in range(1, len(name))}
        self._ends = {name[i:] for name in self.ids for i in range(1, len(name))}
        self._first = re.compile("|".join(re.escape(char) for char in {name[0] for name in self.ids}) or r"(?!)")
        self._last = re.compile("|".join(re.escape(char) for char in {name[-1] for name in self.ids}) or r"(?!)")

    def named_when_normalized(self, text: str) -> bool:
        """Say whether a control token's name shows in a text when the tokenizer has normalised it, and only then."""
        if self._normalizer is None or self.pattern.search(text):
            return False
        return bool(self.pattern.search(self._normalizer.normalize_str(text)))

    def named_in(self, text: str) -> bool:
        """Say whether a text, tokenised by itself, holds a control token."""
        return bool(self.pattern.search(text)) or self.named_when_normalized(text)

    def may_begin_in(self, text: str) -> bool:
        """Say whether a text holds a character that a control token's name begins with."""
        return bool(self._first.search(text))

    def parts_in(self, text: str, *, within: bool = True) -> list[tuple[int, int]]:
        """Places in a text (begin and end, in characters) that are names, or that a template's text beside them could
        make one: the text's end that begins a name, its beginning that ends one, or (``within``) all of a text that
        is a part of one."""
        body = text.strip()
        if not body:
            return []
        begin = text.index(body[0])
        end = begin + len(body)
        if within and len(body) < self._longest and body in self._all:
            return [(begin, end)]
        parts = [match.span() for match in self.pattern.finditer(text)]
        head, tail = body[: self._longest], body[-self._longest :]
        if self._last.search(head):
            size = max((i for i in range(1, len(head) + 1) if head[:i] in self._ends), default=0)
            parts.insert(0, (begin, begin + size))
        if self._first.search(tail):
            size = max((i for i in range(1, len(tail) + 1) if tail[-i:] in self._beginnings), default=0)
            parts.append((end - size, end))
        return _apart(parts)

    def encode(self, runs: Sequence[Run]) -> tuple[int, ...]:
        """The token ids of a text, where what is said makes no control token."""
        if not any(run.said for run in runs):
            return self._plain("".join(run.text for run in runs))
        if self._copy is None:
            return tuple(id for run in runs for id in self._plain(self._broken(run.text) if run.said else run.text))
        names, copy = self._copy
        text = "".join(
            run.text if run.said else self.pattern.sub(lambda name: names[name[0]], run.text) for run in runs
        )
        return tuple(copy.encode(text, add_special_tokens=False).ids)

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _broken(self, text: str) -> str:
        return self.pattern.sub(lambda name: name[0][0] + " " + name[0][1:], text)

    @functools.cached_property
    def _copy(self) -> tuple[dict[str, str], Tokenizer] | None:
        """The tokenizer with other names for its control tokens, and those names; None where there cannot be one: then
        names that are said are broken up by a space."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        secret = "".join(chr(_PRIVATE_PLANE + secrets.randbelow(0xFFF0)) for _ in range(8))
        names = {name: f"{secret}{chr(_PRIVATE_PLANE + i)}" for i, name in enumerate(self.ids)}
        copy = Tokenizer.from_str(json.dumps(_renamed(json.loads(backend.to_str()), names)))
        if any(copy.token_to_id(names[name]) != id for name, id in self.ids.items()):
            log.warning("the tokenizer's control tokens cannot be renamed: their names are broken up in messages")
            return None
        return names, copy


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the longest of the words at each place, in time that does not grow with their number."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for char in word:
            node = node.setdefault(char, {})
        node[""] = {}
    return re.compile(_spelled(tree) or r"(?!)")


def _spelled(tree: dict[str, Any]) -> str:
    branches = [re.escape(char) + _spelled(below) for char, below in tree.items() if char]
    if not branches:
        return ""
    if len(branches) == 1 and "" not in tree:
        return branches[0]
    return f"(?:{'|'.join(branches)})" + ("?" if "" in tree else "")


def _is_control(name: str, special: bool) -> bool:
    """Words and runs of white space that were added to a vocabulary are text."""
    seen = [char for char in name if not char.isspace() and char not in _SPACE_MARKS]
    return bool(seen) and (special or not all(char.isalnum() for char in seen))


def _apart(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places in order, none empty, overlapping ones as one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(part for part in parts if part[0] < part[1]):
        if joined and begin < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _renamed(tokenizer: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A tokenizer's description (``tokenizer.json``) with these tokens under other names, so that no text makes them:
    neither as added tokens nor as words of the vocabulary."""
    for token in tokenizer["added_tokens"]:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "normalized": False, "single_word": False}
    model = tokenizer["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(word, word): id for word, id in vocab.items()}
    else:
        model["vocab"] = [[names.get(word, word), *score] for word, *score in vocab]
    if model.get("merges"):
        model["merges"] = [[a, b] for a, b in model["merges"] if names.keys().isdisjoint((a, b, a + b))]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return tokenizer | {"post_processor": None, "truncation": None, "padding": None}
