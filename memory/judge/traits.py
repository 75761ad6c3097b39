"""What can be told of one statement by its words: subject, numbers, names, cues."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from memory.judge.cues import CUES, ENGLISH, FOREIGN, STOP, people_in
from memory.language.names import names_in
from memory.language.states import state_of

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*", re.UNICODE)
_RUN = re.compile(r"[぀-ヿ㐀-鿿가-힯]+")
_NUMBER = re.compile(r"(?<![\w.])([$£€¥]?)\s?(\d+(?:[.,:]\d+)*)\s?([a-zA-Z%°€$£]{1,12}|[぀-ヿ㐀-鿿가-힯]{1,2})?")
_CODE = re.compile(r"\b(?=\w*\d)(?=\w*[a-zA-Z])\w{2,}\b|\b[\w.+-]+@[\w.-]+|\bhttps?://\S+", re.IGNORECASE)
_COUNTS = re.compile(
    r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|thousand"
    r"|first|second|third|fourth|fifth|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|deux|trois|quatre|cinq|sept|huit"
    r"|neuf|dix|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|dois|três|quatro|sete|oito|nove|dez|два|две|три"
    r"|четыре|пять|шесть|семь|восемь|девять|десять)\b|[一二三四五六七八九十两]+(?=[个位岁年点号度件只条口本台])"
)
_DAYS = (
    "monday|tuesday|wednesday|thursday|friday|saturday|sunday|montag|dienstag|mittwoch|donnerstag|freitag|samstag"
    "|sonntag|lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche|lunes|martes|miércoles|jueves|viernes|sábado|domingo"
    "|segunda|terça|quarta|quinta|sexta|понедельник|вторник|сред[ау]|четверг|пятниц[ау]|суббот[ау]|воскресенье"
)
_WEEKDAY = re.compile(
    rf"\b(?:{_DAYS})s?\b|(?:周|星期|礼拜)[一二三四五六日天]|[月火水木金土日]曜|[월화수목금토일]요일"
    "|الاثنين|الثلاثاء|الأربعاء|الخميس|الجمعة|السبت|الأحد"
)
_MONTH = re.compile(
    r"\b(?:jan(?:uary|uar|vier|eiro)?|ene(?:ro)?|feb(?:ruary|ruar)?|février|febrero|fevereiro|mar(?:ch|s|zo|ço)?|märz"
    r"|apr(?:il)?|avril|abril|may|mai|mayo|maio|june?|juni|juin|junio|junho|july?|juli|juillet|julio|julho|aug(?:ust)?"
    r"|août|agosto|sep(?:t|tember|tembre|tiembre)?|setembro|oct(?:ober|obre|ubre)?|oktober|outubro|nov(?:ember|embre"
    r"|iembre|embro)?|dec(?:ember)?|dezember|décembre|diciembre|dezembro|январ\w|феврал\w|март\w?|апрел\w|ма[йя]|июн\w"
    r"|июл\w|август\w?|сентябр\w|октябр\w|ноябр\w|декабр\w)\b|\d{1,2}\s?[月월]"
)
_CLOCK = re.compile(
    r"\b\d{1,2}:\d\d\b|\b\d{1,2}(?:[.:]\d\d)? ?(?:am|pm|a\.m|p\.m|uhr|h\d*|o'clock)\b|\d{1,2}[点時시]|\bat \d{1,2}\b"
)
_FIRST = re.compile(
    r"^\W*(?:(?:so|and|well|ok|yes|no|btw|oh|also|but|fyi|update|news|actually|sorry|hey)\W+)*"
    r"(?:i|i['’]\w+|im|ive|we|we['’]\w+|ich|wir|je|j['’]|nous|yo|nosotros|eu|nós|я|мы|أنا)\b"
    r"|^\W*(?:我|俺|私|僕|저는|나는|내가|저|나)"
)
_MY = r"my|our|mein\w*|unser\w*|mon|ma|mes|notre|nos|mis?|nuestr\w+|meus?|minhas?|noss\w+|мо[йяи]"
_MINE = re.compile(rf"\b(?:{_MY}|мое|наш\w*) ([^\W\d_]+)")
_OWN = re.compile(rf"\W*(?:{_MY})\b")
_NAMED = re.compile(
    r"([A-Z][\w-]+)(?: [A-Z][\w-]+)?(?:['’]s \w| (?:lives?|works?|is|has|had|was|moved|got|quit|left|likes|loves|hates"
    r"|just|now|no longer|doesn['’]t|wohnt|arbeitet|ist|hat|habite|travaille|est|vive|trabaja|es|mora|trabalha)\b)"
)
_NO_NAMES = frozenset("it this that there here what who she he they we the today tomorrow yesterday everyone".split())
_PAST = re.compile(
    r"\b(?:was|were|had|did|went|got|bought|met|saw|made|took|came|gave|found|began|ran|ate|won|broke|learned|learnt"
    r"|studied|\w{3,}ed|war|hatte|habe|était|fui|era|foi|был\w?|\w+л[аи]?)\b|[了过]|した|ました|였|았|었"
)
_PRESENT = re.compile(
    r"\b(?:am|is|are|i['’]m|have|has|live|work|drive|like|love|hate|use|own|take|play|study|drink|eat|smoke|speak|go"
    r"|always|every|never|bin|ist|sind|wohne|arbeite|heißt|mag|suis|est|vis|habite|travaille|soy|es|vivo|trabajo|tengo"
    r"|sou|é|moro|trabalho|tenho)\b|[是在有住叫喜]|です|ます|ている|이에요|예요|있어요|해요"
)
_RESOLVED = re.compile(r" \((?:week of )?(?:(?:19|20)\d\d(?:-\d\d){0,2}|[^\W\d_]+ (?:19|20)\d\d)\)")
_SUFFIX = re.compile(r"(?:ings?|ed|ers?|es|s|ly|ment|ions?|'s|’s)$")


@dataclass(frozen=True)
class Traits:
    """One statement's traits. ``stems`` are its telling words (bigrams in scripts without spaces), ``numbers`` pairs of
    value and unit, ``cues`` names of ``memory.judge.cues.CUES``; ``letters`` are all of its letters,
    sorted; ``subject`` is whom it begins with: "" for the speaker, a name, or None; ``slot`` is what the sentence says
    the state of, and ``shape`` the word before its value and whether that is a name, a number or words."""

    tokens: tuple[str, ...]
    stems: frozenset[str]
    numbers: frozenset[tuple[str, str]]
    counts: frozenset[str]
    codes: frozenset[str]
    weekdays: frozenset[str]
    months: frozenset[str]
    clocks: frozenset[str]
    names: frozenset[str]
    people: frozenset[str]
    mine: frozenset[str]
    cues: frozenset[str]
    first_person: bool
    past: bool
    present: bool
    letters: str
    spaced: bool
    foreign: bool
    subject: str | None
    slot: str | None
    value: str | None
    ends: bool
    shape: str

    @cached_property
    def starts(self) -> frozenset[str]:
        """The first four letters of the stems that are longer than three."""
        return frozenset(stem[:4] for stem in self.stems if len(stem) > 3)

    @cached_property
    def backwards(self) -> tuple[str, ...]:
        """The tokens, the last one first."""
        return self.tokens[::-1]

    @cached_property
    def cue_flags(self) -> tuple[bool, ...]:
        """For each of ``CUES``, in their order: true if the statement has it."""
        return tuple(name in self.cues for name in CUES)


def stem(word: str) -> str:
    """Return a word without its ending, roughly: for comparing, never for showing."""
    short = _SUFFIX.sub("", word) if len(word) > 4 and word.isascii() else word
    return short[:7] if len(short) > 3 else word


@lru_cache(maxsize=4096)
def traits_of(text: str) -> Traits:
    """Return the traits of a statement, without the name of who said it. Dates that were resolved, in brackets, do not
    count."""
    text = _RESOLVED.sub("", text)
    state = state_of(text) if len(text) < 300 else None
    low = text.lower().replace("’", "'")
    first_person = _FIRST.search(low) is not None
    runs = _RUN.findall(low)
    spaced = 2 * sum(map(len, runs)) < len(low)
    latin = tuple(_TOKEN.findall(_RUN.sub(" ", low)))
    bigrams = [run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))]
    return Traits(
        tokens=(*latin, *bigrams),
        stems=frozenset([*(stem(w) for w in latin if w not in STOP and not w.isdigit()), *bigrams]),
        numbers=frozenset((value, (sign or unit or "").strip()) for sign, value, unit in _NUMBER.findall(low)),
        counts=frozenset(_COUNTS.findall(low)),
        codes=frozenset(_CODE.findall(low)),
        weekdays=frozenset(day.rstrip("s") for day in _WEEKDAY.findall(low)),
        months=frozenset(month[:3] for month in _MONTH.findall(low)),
        clocks=frozenset(_CLOCK.findall(low)),
        names=frozenset(names_in(text)),
        people=people_in(low),
        mine=frozenset(stem(word) for word in _MINE.findall(low)),
        cues=frozenset(name for name, pattern in CUES.items() if pattern.search(low)),
        first_person=first_person,
        past=_PAST.search(low) is not None,
        present=_PRESENT.search(low) is not None,
        letters="".join(sorted(character for character in low if character.isalnum())),
        spaced=spaced,
        foreign=_is_foreign(low, latin),
        subject="" if first_person or _OWN.match(low) else _named(text),
        slot=None if state is None else f"{(state.subject or '').lower()}|{state.slot}",
        value=None if state is None else state.value,
        ends=state is not None and state.ends,
        shape="" if state is None else _shape(text, state.value),
    )


def _named(text: str) -> str | None:
    """Return the name that a statement begins with."""
    match = _NAMED.match(text)
    return match[1].lower() if match and match[1].lower() not in _NO_NAMES else None


def _shape(text: str, value: str) -> str:
    """Return the shape of a state's value where it stands: what may take its place has the same one."""
    at = text.lower().find(value)
    if not value or at < 0:
        return ""
    before = " ".join(text[:at].lower().split()[-1:])
    first = text[at]
    return f"{before} {'number' if first.isdigit() else 'name' if first.isupper() else 'words'}"


def _is_foreign(low: str, latin: tuple[str, ...]) -> bool:
    """Tell if a text is not English, by its letters and its commonest words."""
    letters = sum(character.isalpha() for character in low)
    beyond = sum(character.isalpha() and not character.isascii() for character in low)
    if beyond > 0.2 * letters:
        return True
    words = set(latin)
    return len(words & FOREIGN) > len(words & ENGLISH)
