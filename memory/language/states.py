"""Sentences that say how things stand: where somebody lives, what they do, like or are called.

A sentence of this kind fills a *slot* of its subject. What fills the same slot later takes its place: "I moved to Lima"
ends "I live in Oslo". The patterns are English; what they miss is kept as a plain fact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memory.types import MemoryKind

# He, she and they could be anybody: left as facts.
_NOBODY = "(?!(?:He|She|They|It|You|We|This|That|Who|What|And|But|So)\\b)"
_SAYS = rf"(?:I|[Ww]e|(?P<who>{_NOBODY}[A-Z][a-z]+(?: [A-Z][a-z]+)?))(?:['’]ve)?"
_BE = r"(?:'m|’m| am|'re|’re| are| is|'s|’s)"
_ADVERB = (
    r"(?: (?:now|currently|still|just|recently|finally|actually|really|also|always|usually|have|has|had|'ve|’ve))*"
)
_PLACE = r"(?P<value>(?:(?:Dr|Mrs?|Ms|St|Mt|Ft|[A-Z])\. )*[A-Z][\w'’-]*(?:,? (?:(?:de|la|of|the) )*[A-Z][\w'’-]*)*)"
# A dot within a word, or behind a title or an initial, is part of the value: ann.lee@x.example, Dr. Lee, J. Lee.
_DOT = r"\.(?=[^\s\"”’')])|(?:(?<=\bDr)|(?<=\bMr)|(?<=\bMrs)|(?<=\bMs)|(?<=\bProf)|(?<=\bSt)|(?<=\b[A-Z]))\.(?= [A-Z])"
_REST = rf"(?P<value>(?:[^.,;!?()]|{_DOT}){{2,60}})"
_TOPIC = r"(?P<topic>[a-z][a-z ]{1,30}?)"
_LIKING = {"like": 1, "love": 1, "enjoy": 1, "adore": 1, "prefer": 1, "hate": -1, "dislike": -1, "loathe": -1}


@dataclass(frozen=True)
class State:
    """A statement of how things stand: ``slot`` of ``subject`` (None: the speaker) is now ``value``."""

    kind: MemoryKind
    slot: str
    value: str
    subject: str | None = None
    ends: bool = False
    """True where the sentence only says that something no longer holds."""


@dataclass(frozen=True)
class _Pattern:
    regex: re.Pattern[str]
    kind: MemoryKind
    slot: str
    ends: bool = False


def _pattern(expression: str, kind: MemoryKind, slot: str, *, ends: bool = False) -> _Pattern:
    return _Pattern(re.compile(rf"(?:^|[\s,;—-])(?:{expression})"), kind, slot, ends)


_MY = r"(?:[Mm]y|[Oo]ur|(?P<who>[A-Z][a-z]+)['’]s)"
_OURS = (
    "phone number|number|email|email address|address|boss|manager|doctor|dentist|landlord|gym|school|university|bank|"
    "car|phone|laptop|team|husband|wife|partner|girlfriend|boyfriend|dog|cat|pet|salary|rent|goal|deadline|budget|"
    "password|wifi password|flight|hotel|blood type|shoe size|size|weight|height|time zone|timezone"
)
_PATTERNS = (
    _pattern(
        rf"{_SAYS}{_ADVERB} (?:don['’]t|doesn['’]t|no longer|do not|does not) live in {_PLACE}",
        "state",
        "home",
        ends=True,
    ),
    _pattern(rf"{_SAYS}{_ADVERB} lives? in {_PLACE}", "state", "home"),
    _pattern(rf"{_SAYS}(?:{_BE})?{_ADVERB} (?:living|based|settled) in {_PLACE}", "state", "home"),
    _pattern(
        rf"{_SAYS}{_ADVERB} (?:moved|relocated)(?: back)?(?: over)?(?: from [A-Z]\w+)? to {_PLACE}", "state", "home"
    ),
    _pattern(
        rf"{_SAYS}{_ADVERB} (?:quit|left|lost) (?:my|his|her|their) job(?: (?:at|as) {_REST})?",
        "state",
        "job",
        ends=True,
    ),
    _pattern(rf"{_SAYS}(?:{_BE})?{_ADVERB} (?:works?|working) (?:as|for|at) {_REST}", "state", "job"),
    _pattern(
        rf"{_SAYS}{_ADVERB} (?:got|started|have|took) (?:a|my) (?:new )?job (?:as|at|with) {_REST}", "state", "job"
    ),
    _pattern(rf"{_MY} (?:new )?job is {_REST}", "state", "job"),
    _pattern(rf"{_MY} (?:full |first )?name(?: is|['’]s) {_PLACE}", "profile", "name"),
    _pattern(rf"{_SAYS}{_BE} (?P<value>\d{{1,3}})(?: years? old)?(?=[.,!]|$)", "profile", "age"),
    _pattern(rf"{_MY} birthday(?: is|['’]s)(?: on)? {_REST}", "profile", "birthday"),
    _pattern(
        rf"{_SAYS}(?:{_BE}|{_ADVERB} got){_ADVERB} (?P<value>married|single|engaged|divorced|widowed)"
        r"(?![\w-]| in | with | to my )",
        "state",
        "relation",
    ),
    _pattern(
        rf"{_SAYS}(?:{_BE}|{_ADVERB} (?:became|turned|went)){_ADVERB} (?:a )?"
        r"(?P<value>vegan|vegetarian|pescatarian|gluten[- ]free)",
        "preference",
        "diet",
    ),
    _pattern(rf"{_MY} favou?rite {_TOPIC}(?: is|['’]s| are) {_REST}", "preference", "favourite"),
    _pattern(
        rf"{_MY} (?:new )?(?P<topic>{_OURS})(?: is called| is named| is now|'s name is| is|['’]s) {_REST}",
        "state",
        "own",
    ),
    _pattern(
        rf"{_SAYS}{_ADVERB} (?P<not>don['’]t |doesn['’]t |do not |does not |no longer )?(?:really |still )?"
        rf"(?P<verb>likes?|loves?|enjoys?|adores?|prefers?|hates?|dislikes?|loathes?|can['’]t stand) {_REST}",
        "preference",
        "liking",
    ),
)
_TOPIC_END = re.compile(r"\b(?:because|when|but|and|so|since|that|more than|over|instead|any ?more|now)\b")
_PRONOUN = re.compile(
    r"(?:it|that|this|these|those|them|him|her|you|both|all|everything)"
    r"(?: (?:ones?|all|too|here|there|again|so much|very much|a lot))*"
)
_IMPLICIT = re.compile(r"\b(?:I|we) (?:usually|always|often|tend to|rarely|never|normally)\b", re.IGNORECASE)
_EVENT = re.compile(
    r"\b(?:went|had|met|visited|bought|started|finished|won|lost|got|saw|made|took|attended|joined|signed|moved|was|were|"
    r"did|came|gave|found|began|ran|\w{3,}ed)\b",
    re.IGNORECASE,
)


def state_of(sentence: str) -> State | None:
    """Return the slot that a sentence fills, if any."""
    for pattern in _PATTERNS:
        match = pattern.regex.search(sentence)
        if match is None or sentence.rstrip().endswith("?"):
            continue
        groups = match.groupdict()
        value = (groups.get("value") or "").strip().lower()
        slot = pattern.slot
        if groups.get("topic"):
            slot = f"{slot}:{groups['topic'].strip().lower()}"
        if pattern.slot == "liking":
            liking = _liking(groups, value)
            if liking is not None:
                return liking
            continue
        return State(pattern.kind, slot, value, groups.get("who"), pattern.ends)
    return None


def _liking(groups: dict[str, str | None], value: str) -> State | None:
    """Return a liking; None where a pronoun names what is liked, which is something else each time."""
    verb = (groups["verb"] or "").rstrip("s") if not (groups["verb"] or "").startswith("can") else "hate"
    sign = _LIKING.get(verb, 1) * (-1 if groups.get("not") else 1)
    topic = re.sub(r"^(?:to |the |a |an |my |eating |drinking )+", "", value)
    # "I like when meetings are short": the clause is what is liked.
    topic = _TOPIC_END.split(topic)[0].strip() or topic
    if _PRONOUN.fullmatch(topic):
        return None
    return State("preference", f"liking:{topic}", "likes" if sign > 0 else "dislikes", groups.get("who"))


def kind_of(sentence: str, dated: bool) -> tuple[MemoryKind, bool]:
    """Return the kind of a sentence that fills no slot, and whether it is an implicit preference."""
    if _IMPLICIT.search(sentence):
        return "preference", True
    return ("event" if dated and _EVENT.search(sentence) else "fact"), False
