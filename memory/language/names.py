"""Names in texts: memories that mention the same one are neighbours."""

from __future__ import annotations

import re
from itertools import pairwise

from memory.language.dates import DAYS, MONTHS
from memory.language.words import words_of

_MAX_NAMES = 16
_NAME = re.compile(r"[A-Z][\w'’&-]*(?:\s+(?:(?:of|the|de|la|van|von|and)\s+)?[A-Z][\w'’&-]*)*")
_QUOTED = re.compile(r"[\"“]([^\"”]{2,60})[\"”]")
_NO_NAMES = frozenset(
    "i i'm i've i'd i'll a an the and but or so if it it's its he she they we you your my his her our their this that "
    "these those there here what when where who why how which yes no not oh ok okay hi hey hello wow thanks thank yeah "
    "is are was were do does did have has had can could will would should may might let let's just well also "
    "some any all one on in at to from for with by of as up out after before then now today yesterday tomorrow user "
    "assistant please great good nice cool sorry glad really very sure maybe last next every since".split()
) | {*DAYS, *MONTHS}


def names_in(text: str) -> list[str]:
    """Return names in a text, lower-case, each once: runs of capitalised words, and what stands in quotes."""
    found: dict[str, None] = {}
    for match in _NAME.finditer(text):
        words = match.group().split()
        while words and words[0].lower() in _NO_NAMES:  # a sentence begins with a capital too
            words = words[1:]
        name = " ".join(words).strip("'’-&").lower()
        name = name.removesuffix("'s").removesuffix("’s")
        if len(name) > 1 and name not in _NO_NAMES:
            found[name] = None
    found.update(dict.fromkeys(match.group(1).strip().lower() for match in _QUOTED.finditer(text)))
    return list(found)[:_MAX_NAMES]


def names_asked(query: str) -> list[str]:
    """Return what a query may name, in whatever case: its names, words, and pairs of words."""
    words = words_of(query)
    return sorted({*names_in(query), *words, *(f"{a} {b}" for a, b in pairwise(words))})
