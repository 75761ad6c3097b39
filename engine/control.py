"""Control tokens, and texts that hold their names.

A tokenizer takes the name of a control token (``<|im_end|>``) for the token wherever it stands. What people say is text
all the same: the chat template is given digits in the place of such names, and when its text is tokenised they are put
back as text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer

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
        added = tokenizer.added_tokens_decoder
        self.ids = {token.content: id for id, token in added.items() if _is_control(token)}
        self.pattern = any_of(self.ids)
        self._longest = max(map(len, self.ids), default=0)
        self._all = "\n".join(self.ids)
        self._firsts = {name[0] for name in self.ids}
        self._lasts = {name[-1] for name in self.ids}
        self._beginnings = {name[:i] for name in self.ids for i in range(1, len(name))}
        self._ends = {name[i:] for name in self.ids for i in range(1, len(name))}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalized = any(token.normalized for token in added.values() if token.content in self.ids)
        self._normalizer = backend.normalizer if backend is not None and normalized else None
        self.normalizes = self._normalizer is not None
        copy = None if backend is None else _Copy(backend, added, self.ids)
        self._copy = copy if copy is not None and copy.usable else None

    def harmless(self, text: str) -> bool:
        """Say quickly that a text has nothing of a name; False may be wrong."""
        for char in self._firsts:
            if char in text:
                return False
        head = text.lstrip()[: self._longest]
        for char in self._lasts:
            if char in head:
                return False
        return len(text) >= self._longest or text.strip() not in self._all or not head

    def named_in(self, text: str) -> bool:
        """Say whether a text, tokenised by itself, holds a control token."""
        return bool(self.pattern.search(text)) or self.named_when_normalized(text)

    def named_when_normalized(self, text: str) -> bool:
        """Say whether a control token's name shows in a text when the tokenizer has normalised it, and only then."""
        if self._normalizer is None or self.pattern.search(text):
            return False
        return bool(self.pattern.search(self._normalizer.normalize_str(text)))

    def may_begin_in(self, text: str) -> bool:
        """Say whether a text holds a character that a control token's name begins with."""
        return any(char in text for char in self._firsts)

    def parts_in(self, text: str, *, within: bool = True) -> list[tuple[int, int]]:
        """Places in a text (begin and end, in characters) that are names, or that a template's text beside them could
        make one: the text's end that begins a name, its beginning that ends one, or (``within``) all of a text that
        is a part of one."""
        body = text.strip()
        head = body[: self._longest]
        if within and head and len(body) < self._longest and body in self._all:
            begin = text.index(body)
            return [(begin, begin + len(body))]
        parts: list[tuple[int, int]] = []
        for char in self._lasts:
            if char in head:
                parts += self._end_of_name(head, text.index(body))
                break
        for char in self._firsts:
            if char in text:
                parts += [match.span() for match in self.pattern.finditer(text)]
                tail = body[-self._longest :]
                parts += self._beginning_of_name(tail, text.index(body) + len(body)) if char in tail else []
        return _apart(parts) if parts else parts

    def _end_of_name(self, head: str, begin: int) -> list[tuple[int, int]]:
        sizes = [i for i in range(1, len(head) + 1) if head[:i] in self._ends]
        return [(begin, begin + sizes[-1])] if sizes else []

    def _beginning_of_name(self, tail: str, end: int) -> list[tuple[int, int]]:
        starts = [i for i in range(len(tail)) if tail[i] in self._firsts and tail[i:] in self._beginnings]
        return [(end - len(tail) + starts[0], end)] if starts else []

    def encode(self, runs: Sequence[Run]) -> tuple[int, ...]:
        """The token ids of a text, where what is said makes no control token."""
        if not any(run.said for run in runs):
            return self._plain("".join(run.text for run in runs))
        if self._copy is None:  # then names that are said are broken up by a space
            return tuple(id for run in runs for id in self._plain(self._spaced(run.text) if run.said else run.text))
        ids = self._copy.encode("".join(self._renamed(self._copy, run) for run in runs))
        if ids is None:
            gap = self._copy.nothing
            ids = self._copy.encode(gap.join(self._renamed(self._copy, run, gap) for run in runs))
            assert ids is not None, "a single character is no control token's name"
        return ids

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _spaced(self, text: str) -> str:
        return self.pattern.sub(lambda name: f"{name[0][0]} {name[0][1:]}", text)

    def _renamed(self, copy: _Copy, run: Run, gap: str = "") -> str:
        """A part as the copy is to read it: the template's control tokens by their names there, with a ``gap`` between
        the characters of names that are said."""
        if not run.said:
            return self.pattern.sub(lambda name: copy.names[name[0]], run.text)
        return self.pattern.sub(lambda name: gap.join(name[0]), run.text) if gap else run.text


class _Copy:
    """A tokenizer that shares another one's model. There control tokens go by names that nobody can guess, and
    ``nothing`` is one that leaves no token but keeps apart what is beside it."""

    def __init__(self, backend: Any, added: Mapping[int, AddedToken], control: Mapping[str, int]) -> None:
        secret = "".join(chr(_PRIVATE_PLANE + secrets.randbelow(0xFFF0)) for _ in range(8))
        self.names = {name: f"{secret}{chr(_PRIVATE_PLANE + i)}" for i, name in enumerate(control)}
        self.nothing = f"{secret}{chr(_PRIVATE_PLANE + len(control))}"
        self._tokenizer = Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._tokenizer.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._tokenizer.pre_tokenizer = backend.pre_tokenizer
        tokens = {id: self._renamed(token) if token.content in control else token for id, token in added.items()}
        self._tokenizer.add_tokens([*tokens.values(), AddedToken(self.nothing, normalized=False)])
        # Those that the model does not know have other ids here.
        self._ids = {self._tokenizer.token_to_id(token.content): id for id, token in tokens.items()}
        self._nothing = self._tokenizer.token_to_id(self.nothing)
        self._control = frozenset(control.values()) - self._ids.keys()
        new = [self._tokenizer.token_to_id(name) for name in (*self.names.values(), self.nothing)]
        self.usable = all(backend.model.id_to_token(id) is None for id in new)

    def _renamed(self, token: AddedToken) -> AddedToken:
        return AddedToken(self.names[token.content], lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)

    def encode(self, text: str) -> tuple[int, ...] | None:
        """Token ids, in the other tokenizer's numbers; None where its model found a control token's own name: some find
        words of their vocabulary in any text."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self._control.isdisjoint(ids):
            return None
        return tuple(self._ids.get(id, id) for id in ids if id != self._nothing)


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


def _is_control(token: AddedToken) -> bool:
    """Words, runs of white space and single characters that were added to a vocabulary are text."""
    seen = [char for char in token.content if not char.isspace() and char not in _SPACE_MARKS]
    return len(seen) > 1 and (token.special or not all(char.isalnum() for char in seen))


def _apart(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places in order, overlapping ones as one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(parts):
        if joined and begin < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined
