"""Talk between people: what is said to the listener, or of what was just said, tells nothing that could be outdated.

How something stands is remembered alone (see ``memory.language.extract``); so a memory of several sentences is an
account of what happened, which nothing later undoes.
"""

from __future__ import annotations

import re

from memory.language.sentences import sentences_in

_YOURS = re.compile(r"\b(?:your|yours|ur|dein\w*|euer|eure[mnrs]?|votre|vos|твой|твоя|твои|ваш\w*)\b", re.IGNORECASE)
_YOU = re.compile(
    r"\b(?:you|ya|u|you['’](?:re|ve|ll|d)|du|dich|dir|euch|vous|toi|usted|ты|тебя|вы|вас)\b", re.IGNORECASE
)
_ME = re.compile(
    r"\b(?:i|me|my|mine|we|us|our|i['’]\w+|im|ive|we['’]\w+|ich|mich|mir|wir|uns|mein\w*|unser\w*|je|j['’]|moi|nous|mon"
    r"|ma|mes|notre|nos|yo|mi|mis|nosotros|я|мне|меня|мой|моя|мы|нас|наш\w*)\b",
    re.IGNORECASE,
)
# "I'm so glad you liked it", "I hope you have fun".
_OF_YOU = re.compile(
    r"\b(?:glad|happy|proud|sorry|sure|hope|bet|know|love|like|appreciate|thank|wish|think|see|believe|remember|hear)"
    r"(?: that| how| what| to (?:hear|see|know)(?: that| how)?)? you\b",
    re.IGNORECASE,
)
# An account that comes with the news is left aside by none of the two; a longer one is about itself.
_MOST_SENTENCES = 2


def may_be_outdated(text: str) -> bool:
    """Tell if what was said may be so no longer one day: one sentence, of no listener, and no mere exclamation."""
    exclaims = text.rstrip().endswith(("!", "！")) and _ME.search(text) is None
    return not exclaims and not is_to_listener(text) and len(sentences_in(text)) < 2


def may_outdate(text: str) -> bool:
    """Tell if what is said may end or change something that was said before, as a whole: no long account, and nothing
    about the listener."""
    return not (_YOU.search(text) and not _ME.search(text)) and len(sentences_in(text)) <= _MOST_SENTENCES


def is_to_listener(text: str) -> bool:
    """Tell if a sentence is about the one who listens: "Your garden is lovely", "I'm glad you came"."""
    if _YOURS.search(text):
        return True
    return _YOU.search(text) is not None and (_ME.search(text) is None or _OF_YOU.search(text) is not None)
