"""Finding the dates that a text names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from memory.language.dates import clauses
from memory.language.dates.calendar import Stretch, day_of, local_time, shown, whole
from memory.language.dates.resolving import Found, digits, resolve
from memory.language.dates.roles import bound_of, has_before, role_of
from memory.language.dates.types import Direction, Span
from memory.language.dates.words import ARABIC, CHINESE, ENGLISH, JAPANESE, KOREAN, SPACED, UNSPACED, Words
from memory.language.dates.words.base import NOTHING

_WORD = re.compile(r"[^\W\d_]+")
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
DATE_BEHIND = re.compile(
    r"\s?\((?:week of \d{4}-\d\d-\d\d|\d{4}-\d\d-\d\d|(?:[A-Z][a-z]+ (?:\d{4} )?(?:to [A-Z][a-z]+ )?)?\d{4})\)"
)
"""What ``with_dates`` puts behind a date."""
# "In" tells how long something takes too.
_DURING = ("in", "within", "en", "em")
_CLEARLY = 2
# Parts with which a date is the same whether it is past or to come.
_PLAIN = frozenset({"near", "year", "n", "length"})
_TELLING = frozenset({"near", "weekday", "month", "unit", "length", "season", "feast"})
_DIGIT = re.compile(r"\d")
_FAR_EAST = re.compile(r"[぀-ヿ㐀-鿿가-힣]")
_KANA, _HANGUL = re.compile(r"[぀-ヿ]"), re.compile(r"[가-힣]")
_ARABIC = re.compile(r"[؀-ۿ]")
# ISO 8601, the same with slashes or points; then day, month and year, or where the language puts it first, the month.
_YEAR_FIRST = re.compile(r"(?<![\w./-])(?P<year>\d{4})(?P<by>[-/.])(?P<mm>\d{1,2})(?P=by)(?P<day>\d{1,2})(?![\w/-])")
_YEAR_LAST = re.compile(
    r"(?<![\w./-])(?P<a>\d{1,2})(?P<by>[-/.])(?P<b>\d{1,2})(?P=by)(?P<year>\d{4}|(?<=\d\d[./]\d\d[./])\d\d)(?![\w/-])"
)
_PLACEHOLDER = re.compile(r"(?<!P)<(\w+)>")
_LOOKING_BEHIND = re.compile(r"(\(\?<[!=][^()]*\))")
_EDGE, _END = r"(?<![\w/@#])(?<!\d[.,:])", r"(?![\w/@])"
_NUMBERS = {"day": r"\d{1,2}", "mm": r"\d{1,2}", "year": r"\d{4}"}
_NUMERALS = {
    "day": "[一二三四五六七八九十]{1,3}",
    "mm": "十?[一二三四五六七八九十]",
    "year": "[一二][〇零一二三四五六七八九]{3}",
}


@dataclass(frozen=True)
class Template:
    """A compiled template, and the tables of words of which the text must have one for it to match."""

    pattern: re.Pattern[str]
    needs: frozenset[str]


@dataclass(frozen=True)
class _Language:
    """A language whose dates a text may name, and the tables of words that it has a word of."""

    words: Words
    tables: frozenset[str]


def spans_in(text: str, at: float, utc_offset: int = 0) -> list[Span]:
    """Return the dates that a text names, in order. Relative ones are resolved against ``at`` (Unix seconds) on a clock
    that is ``utc_offset`` seconds ahead of UTC."""
    has_digit = _DIGIT.search(text) is not None
    languages = _languages(text, has_digit)
    if not languages and not has_digit:
        return []
    base = local_time(at, utc_offset)
    taken: list[Span] = []
    for match, words in _matches(text, languages, has_digit):
        if any(s.position < match.end() and match.start() < s.position + len(s.words) for s in taken):
            continue
        stretch = _resolved(text, match, words, base)
        if stretch is not None:
            taken.append(_span(text, match, words, stretch, base))
    return sorted(taken, key=lambda span: span.position)


def with_dates(text: str, at: float, utc_offset: int = 0, spans: Sequence[Span] | None = None) -> str:
    """Return the text with the date behind each relative one: ``I met Sam yesterday (2023-05-07)``. One that has its
    date already keeps it. ``spans``: its dates, where they are known."""
    parts, last = [], 0
    for span in spans_in(text, at, utc_offset) if spans is None else spans:
        end = span.position + len(span.words)
        if span.absolute or DATE_BEHIND.match(text, end):
            continue
        parts += [text[last:end], f" ({shown(span.start, span.unit, utc_offset)})"]
        last = end
    return "".join([*parts, text[last:]])


def _span(text: str, match: re.Match[str], words: Words, stretch: Stretch, base: datetime) -> Span:
    bound = bound_of(words, text, match)
    return Span(
        stretch.start.timestamp(),
        stretch.end.timestamp(),
        match.start(),
        match.group(),
        stretch.unit,
        role_of(words, text, match, stretch, base, bound),
        bound,
        bool(match.groupdict().get("year")),
    )


def _matches(text: str, languages: list[_Language], has_digit: bool) -> Iterator[tuple[re.Match[str], Words]]:
    """Yield what may be dates, the surest first: in digits, then by the templates of each language."""
    if has_digit:
        words = languages[0].words if languages else ENGLISH
        for pattern in (_YEAR_FIRST, _YEAR_LAST):
            yield from ((match, words) for match in pattern.finditer(text))
    for language in languages:
        for template in templates_of(language.words.code):
            if template.needs & language.tables if template.needs else has_digit or not language.words.spaced:
                yield from ((match, language.words) for match in template.pattern.finditer(text))


def _resolved(text: str, match: re.Match[str], words: Words, base: datetime) -> Stretch | None:
    """Return the stretch that is meant, or None where it is none, as 31 June, or where a weekday is that of a habit."""
    parts = {name: digits(part).lower() for name, part in match.groupdict().items() if part is not None}
    if "by" in parts:
        return _numeric(parts, words, base)
    direction: Direction = None
    if not parts.keys() & _PLAIN:  # the words alone do not tell
        said = clauses.around(text, match.start(), match.end())
        if "weekday" in parts and "step" not in parts and clauses.has(words.habit, words, said):
            return None
        # "In March 1960" in other words, whose year is not to be guessed: "in 1960, in March".
        if parts.keys() == {"month"} and _YEAR.search(said):
            return None
        direction = _direction(words, text, match, said)
    elif (
        parts.get("ahead") in _DURING
        and clauses.direction(words, clauses.around(text, match.start(), match.end())) == "past"
    ):
        return None  # how long it took: "I learned it in two weeks"
    try:
        return resolve(Found(parts, base, direction, words))
    except (OverflowError, ValueError):
        return None


def _direction(words: Words, text: str, match: re.Match[str], said: str) -> Direction:
    """Return whether a date is past or to come, by the words before it and those of its clause."""
    if has_before(words.towards, words, text[: match.start()]):
        return "future"
    if bound_of(words, text, match) != "since":
        return clauses.direction(words, said)
    lead = text[: match.start()] + match.group().split()[0]
    return "past" if has_before(words.already, words, lead) else None


def _numeric(parts: dict[str, str], words: Words, base: datetime) -> Stretch | None:
    """Return a day that is written in digits only."""
    year = int(parts["year"]) + (2000 if len(parts["year"]) == 2 else 0)
    if "a" in parts:
        pair = (int(parts["a"]), int(parts["b"]))
        month_first = parts["by"] == "/" and words.month_first
        orders = [pair, pair[::-1]] if month_first else [pair[::-1], pair]
    else:
        orders = [(int(parts["mm"]), int(parts["day"]))]
    for month, day in orders if 1900 <= year < 2100 else ():
        try:
            return whole(day_of(base, year, month, day), "day")
        except ValueError:  # not in this order
            continue
    return None


@dataclass(frozen=True)
class _Index:
    """By word, the languages (numbers in ``SPACED``) whose dates may have it, with the table that it is in; those whose
    dates may have it beside a number; and those that it is common in."""

    words: dict[str, tuple[tuple[int, str], ...]]
    with_digit: dict[str, tuple[int, ...]]
    common: dict[str, tuple[int, ...]]


@lru_cache(maxsize=1)
def _index() -> _Index:
    telling: dict[str, set[tuple[int, str]]] = {}
    with_digit: dict[str, set[int]] = {}
    common: dict[str, set[int]] = {}
    for i, words in enumerate(SPACED):
        if words is ARABIC:
            continue
        for name, keys in _tables(words):
            for key in keys if name in _TELLING else ():
                telling.setdefault(_WORD.findall(key)[-1], set()).add((i, name))
        for word in words.triggers:
            with_digit.setdefault(word, set()).add(i)
        for word in words.common | words.triggers:
            common.setdefault(word, set()).add(i)
    return _Index(
        {word: tuple(sorted(found)) for word, found in telling.items()},
        {word: tuple(sorted(found)) for word, found in with_digit.items()},
        {word: tuple(sorted(found)) for word, found in common.items()},
    )


def _languages(text: str, has_digit: bool) -> list[_Language]:
    """Return the languages whose dates the text may name, the one that it is most likely in first."""
    by_script = _far_eastern(text) if _FAR_EAST.search(text) else []
    by_script += [ARABIC] if _ARABIC.search(text) else []
    return [_Language(words, _tables_in(text, words)) for words in by_script] + _by_words(text, has_digit)


def _by_words(text: str, has_digit: bool) -> list[_Language]:
    """Return languages that put spaces between words and share their script with others."""
    index = _index()
    words = _WORD.findall(text.lower())
    told = [(word, i, table) for word in words for i, table in index.words.get(word, ())]
    beside = {i for word in words for i in index.with_digit.get(word, ())} if has_digit else set()
    if not told and not beside:
        return []
    scores = _scores(words, index)
    least = max(scores) / _CLEARLY if max(scores) >= 1 else 0.0
    found: dict[int, set[str]] = {i: set() for i in beside if scores[i] > least or not least}
    for word, i, table in told:
        # It may be a common word of the language that the text is rather in, as "hier" in German.
        others = index.common.get(word, ())
        if i in others or not any(scores[j] > scores[i] for j in others):
            found.setdefault(i, set()).add(table)
    order = sorted(found, key=lambda i: -(scores[i] + (1 if found[i] else 0)))
    return [_Language(SPACED[i], frozenset(found[i])) for i in order]


def _tables_in(text: str, words: Words) -> frozenset[str]:
    return frozenset(name for name, pattern in _table_patterns(words.code) if pattern.search(text))


@lru_cache(maxsize=len(SPACED) + len(UNSPACED))
def _table_patterns(code: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((name, re.compile(_any(keys))) for name, keys in _tables(_words_of(code)) if name in _TELLING)


def _words_of(code: str) -> Words:
    return next(words for words in (*SPACED, *UNSPACED) if words.code == code)


def _scores(words: list[str], index: _Index) -> list[float]:
    """Return how much speaks for each of the languages in ``SPACED``."""
    scores = [0.0] * len(SPACED)
    for word in words:
        told = index.common.get(word, ())
        for i in told:
            scores[i] += (1 if len(word) > 1 else 0.5) / len(told)
    letters = set().union(*words)
    return [score + len(letters.intersection(SPACED[i].letters)) / 2 for i, score in enumerate(scores)]


def _far_eastern(text: str) -> list[Words]:
    if _HANGUL.search(text):
        return [KOREAN]
    return [JAPANESE] if _KANA.search(text) else [CHINESE, JAPANESE]


@lru_cache(maxsize=len(SPACED) + len(UNSPACED))
def templates_of(code: str) -> tuple[Template, ...]:
    """Return a language's templates with its words in the places of the names."""
    words = _words_of(code)
    tables = {name: _any(table) for name, table in _tables(words)}
    tables["n"] = _any([r"\d{1,3}", *words.numbers], escape=False) + (
        "" if words.spaced else "|[一二两兩三四五六七八九十]{1,3}"
    )
    tables |= _NUMBERS if words.spaced else {name: f"{_NUMBERS[name]}|{_NUMERALS[name]}" for name in _NUMBERS}
    named = {name: f"(?P<{name}>{pattern})" for name, pattern in tables.items()}
    named["dayname"] = f"(?P<dayname>{tables['weekday']})"
    start, end = (_EDGE + f"{words.prefixes}", _END) if words.spaced else (r"(?<!\d)", r"(?!\d)")
    patterns = [_PLACEHOLDER.sub(lambda m: named[m[1]], _spaced(template)) for template in words.templates]
    compiled = (re.compile(f"{start}(?:{pattern}){end}", re.IGNORECASE) for pattern in patterns)
    return tuple(Template(pattern, _TELLING.intersection(pattern.groupindex)) for pattern in compiled)


def _spaced(template: str) -> str:
    """Return a template in which a blank is white space; in what looks behind, which has a fixed width, just one."""
    return "".join(
        part.replace(" ?", r"\s?").replace(" ", r"\s" if part.startswith("(?<") else r"\s+")
        for part in _LOOKING_BEHIND.split(template)
    )


def _tables(words: Words) -> Iterator[tuple[str, Iterable[str]]]:
    yield "month", words.months
    yield "weekday", words.weekdays
    yield "near", words.near
    yield "unit", words.units
    yield "step", words.steps
    yield "season", words.seasons
    yield "feast", words.feasts
    yield "length", words.lengths


def _any(keys: Iterable[str], *, escape: bool = True) -> str:
    """Return a pattern for any of the words, the longest first."""
    ordered = sorted(keys, key=len, reverse=True)
    plain = (re.escape(key) if escape else key for key in ordered)
    return "|".join(key.replace(r"\ ", r"\s+").replace(" ", r"\s+") for key in plain) or NOTHING
