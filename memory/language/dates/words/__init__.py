"""How languages speak of time: one module of words and templates for each."""

from __future__ import annotations

from memory.language.dates.words.arabic import ARABIC
from memory.language.dates.words.base import Words
from memory.language.dates.words.chinese import CHINESE
from memory.language.dates.words.english import ENGLISH
from memory.language.dates.words.french import FRENCH
from memory.language.dates.words.german import GERMAN
from memory.language.dates.words.japanese import JAPANESE
from memory.language.dates.words.korean import KOREAN
from memory.language.dates.words.portuguese import PORTUGUESE
from memory.language.dates.words.russian import RUSSIAN
from memory.language.dates.words.spanish import SPANISH

SPACED: tuple[Words, ...] = (ENGLISH, GERMAN, FRENCH, SPANISH, PORTUGUESE, RUSSIAN, ARABIC)
"""Languages that put spaces between words."""
UNSPACED: tuple[Words, ...] = (CHINESE, JAPANESE, KOREAN)
"""Languages that do not, or that hang particles on them."""

__all__ = ["ARABIC", "CHINESE", "ENGLISH", "JAPANESE", "KOREAN", "SPACED", "UNSPACED", "Words"]
