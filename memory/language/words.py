"""Words of a text: which there are, which of them tell something, and when two texts have the same."""

from __future__ import annotations

import hashlib
import re

_MAX_TERMS = 64
_STOP_WORDS = frozenset(
    "a about am an and are as at be been being but by can could did do does for from had has have he her hers him "
    "his how i if in into is it its me mine my of on or our ours she should so than that the their theirs them then "
    "there these they this those to up us was we were what when where which who whom whose why will with would you "
    "your yours".split()
)


def words_of(text: str) -> list[str]:
    """Return lower-case words in order, each once."""
    return list(dict.fromkeys(re.findall(r"\w+", text.lower())))


def telling_words(query: str) -> list[str]:
    """Return the words of a query that are worth searching for."""
    return [word for word in words_of(query) if word not in _STOP_WORDS][:_MAX_TERMS]


def digest_of(text: str) -> str:
    """Hash a text's words: what differs in case, spaces and punctuation only has the same."""
    return hashlib.blake2b(" ".join(re.findall(r"\w+", text.lower())).encode(), digest_size=16).hexdigest()


def alike(a: set[str], b: set[str]) -> bool:
    """Tell if two texts say the same: nearly the same words, and the same numbers and negations."""
    differing = a ^ b
    if any(word.isdigit() or word in ("not", "no", "never", "t") for word in differing):
        return False
    return len(a & b) >= 0.9 * len(a | b)
