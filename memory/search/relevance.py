"""Whether a result has to do with the question at all, for whoever puts results into a prompt unasked.

A result is relevant that is much like the question (a cosine far above what unrelated texts have by chance), or that
shares a telling word with it and is a little like it, or that names a date the question asks for, and with those what
was said right beside them. Nothing is relevant to a greeting. A score does not say so: it tells which result is best.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from memory.language.words import telling_words, words_of
from memory.search.scored import VECTOR
from memory.search.sharing import shared_words
from memory.types import Hit

# So many standard deviations above chance, a cosine says by itself that two texts have to do with each other; and with
# a word that both have. Numbers are like all numbers, dates and amounts.
ALONE, ALONE_WITH_NUMBERS, WITH_WORD = 3.0, 5.0, 0.8


@dataclass(frozen=True)
class Chance:
    """The cosines of a question with memories that have nothing to do with it: their mean and standard deviation."""

    mean: float
    deviation: float

    def above(self, cosine: float) -> float:
        """Return how many standard deviations a cosine lies above the mean."""
        return (cosine - self.mean) / self.deviation


# Measured on questions about something else (general knowledge, tasks) with personal facts.
BUNDLED = Chance(0.08, 0.07)
HASHED = Chance(0.06, 0.09)

# Words of which greetings, thanks and the like are made.
_PHATIC = frozenset(
    "a an the hello hi hey hiya howdy yo greetings morning afternoon evening night good day bye goodbye cya "
    "later see ya you thanks thank thx ty cheers much lot many so very welcome ok okay k kk cool nice great "
    "awesome fine sure yes yeah yep yup no nope alright right lol haha hahaha wow oh hm hmm well there "
    "everyone all again how are is it going doing today things what whats s up sup please sorry np problem "
    "worries got perfect wonderful amazing lovely hallo moin servus guten morgen tag abend danke bitte "
    "tschüss wie geht es dir ja nein gut bonjour salut coucou merci bonsoir au revoir ça va oui non bien hola "
    "buenos buenas días dias tardes noches gracias adiós adios qué que tal sí si olá ola bom boa dia tarde "
    "noite obrigado obrigada tchau tudo bem ciao grazie привет здравствуйте спасибо пока да нет как дела "
    "хорошо 你好 您好 谢谢 再见 好的 嗨 早上好 晚上好 こんにちは こんばんは おはよう ありがとう さようなら "
    "はい 안녕하세요 안녕 감사합니다 고마워 네 مرحبا شكرا السلام عليكم اهلا أهلا نعم لا".split()
)
# One or two digits are in many texts by chance.
# One letter of a script with an alphabet is the rest of "what's".
_TELLING = re.compile(r"[^\W\d_]{2}|[^\W\d_\u0000-\u052f]|\d{3}")
_NUMBER = re.compile(r"\d")
# Words that ask for something to be done; they say nothing of what it is about.
_REQUESTS = frozenset(
    "tell write give show explain make create list help draft compose summarize summarise translate calculate compute "
    "solve convert define describe generate fix code say ask answer question please want need know think let get use "
    "find look like good best new way time times word words thing things someone something one two three first more "
    "less many much".split()
)


def phatic(query: str) -> bool:
    """Tell if a query is only a greeting, thanks or the like, or has no word at all."""
    return all(word in _PHATIC for word in words_of(query))


def relevant(query: str, hits: Sequence[Hit], chance: Chance) -> list[Hit]:
    """Return those of the hits that have to do with a query."""
    words = [word for word in telling_words(query) if word not in _REQUESTS and _TELLING.search(word)]
    alone = ALONE_WITH_NUMBERS if _NUMBER.search(query) else ALONE
    found = {hit.memory.id for hit in hits if _relevant(hit, words, chance, alone)}
    return [hit for hit in hits if found and (hit.memory.id in found or "near" in hit.parts)]


def _relevant(hit: Hit, words: Sequence[str], chance: Chance, alone: float) -> bool:
    dated = hit.memory.event_until is not None and "time" in hit.parts
    if dated or "former" in hit.parts:
        return True
    above = chance.above(hit.parts.get("vector", 0.0) / VECTOR)
    return above >= alone or (above >= WITH_WORD and bool(shared_words(words, hit.memory.text)))


def chance_of(embedder: str) -> Chance:
    """Return what cosines an embedder gives unrelated texts, by its name. One that is not known is taken to be like the
    bundled one."""
    return HASHED if embedder.startswith("hash-") else BUNDLED
