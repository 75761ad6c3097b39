"""Words that tell what a statement does to older ones, in ten languages.

They stand in ``words.json``. Each cue is a list of regular expressions over a lower-case text: what is new, what has
ended, what is put right, what is only added, and what is not certain. Scripts without spaces, and Arabic, whose words
carry prefixes, are matched anywhere in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WORDS: dict[str, Any] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
_NO_SPACES = re.compile("[぀-ヿ㐀-鿿가-힣]")
_NEVER = "(?!)"

STOP, ENGLISH, FOREIGN, VERBS = (frozenset(_WORDS[name]) for name in ("stop", "english", "foreign", "verbs"))
"""Words that tell nothing, and the commonest ones of English and of the other languages in Latin letters; verbs
and pronouns that what is said of a subject begins with."""


def _compiled(words: Sequence[str], anywhere: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join([rf"(?<!\w)(?:{'|'.join(words) or _NEVER})(?!\w)", *anywhere]))


CUES: dict[str, re.Pattern[str]] = {
    name: _compiled(cue["words"], cue["anywhere"]) for name, cue in _WORDS["cues"].items()
}
"""The cues by name, to be searched in a lower-case text."""

_PEOPLE = {name: _compiled(words, ()) for name, words in _WORDS["people"].items()}
_PEOPLE_ANYWHERE = {
    name: re.compile("|".join(word for word in words if _NO_SPACES.search(word)) or _NEVER)
    for name, words in _WORDS["people"].items()
}


def people_in(text: str) -> frozenset[str]:
    """Return what the people in a lower-case text are to the speaker: ``sister``, ``boss``."""
    patterns = _PEOPLE_ANYWHERE if _NO_SPACES.search(text) else _PEOPLE
    return frozenset(name for name, pattern in patterns.items() if pattern.search(text))
