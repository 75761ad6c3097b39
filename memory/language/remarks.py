"""Remarks on what was remembered: that it is right, wrong, to be forgotten, or how it is instead.

The patterns are English; what they miss is an ordinary statement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from memory.language.removals import Removal, removal_of
from memory.language.states import state_of

RemarkKind = Literal["confirmation", "denial", "removal", "correction", "statement"]

# Nothing that takes many more words than these is only a yes, a no, or a wish to forget.
_SHORT_CHARS = 120
_IS = r"(?:['’]s| is| was|['’]re| are)"
_NOT_SO = (
    rf"(?:that|this|it|you){_IS} (?:not (?:quite |at all )?(?:true|right|correct|so|accurate|what i said)|wrong|false"
    r"|incorrect|untrue|mistaken|no longer true|not true any ?more|outdated)|(?:that|this|it) isn['’]t (?:quite )?"
    r"(?:true|right|correct)|i never said (?:that|this|so)|not (?:quite|really|true|right|correct)"
)
_YES = (
    rf"(?:that|this|it|you){_IS} (?:all |quite |totally |absolutely |exactly |completely |still )?"
    r"(?:right|correct|true|accurate|it)|yes|yeah|yep|yup|right|correct|exactly|indeed|true|absolutely|definitely"
    r"|precisely|spot on|(?:you )?got it"
)
_NO = rf"{_NOT_SO}|nope|nah|no|wrong|incorrect|false|untrue"
_FILLER = "ok|okay|thanks|thank you|please|well|oh|sorry|hmm|actually"
_CONFIRMED = re.compile(rf"(?=.*\b(?:{_YES})\b)(?:(?:{_YES}|{_FILLER})\b[\s,.;:!]*)+", re.IGNORECASE)
_DENIED = re.compile(rf"(?=.*\b(?:{_NO})\b)(?:(?:{_NO}|{_FILLER})\b[\s,.;:!]*)+", re.IGNORECASE)
_ASK = r"(?:please |(?:can|could) you (?:please )?|(?:then )?just )?"
_REMOVED = re.compile(
    rf"{_ASK}(?:(?:forget|delete|remove|erase)(?: about)?(?: (?:that|this|it|them|these|those))?"
    r"(?: (?:one|ones|memory|memories|fact|facts|entry))?|(?:don['’]t|do not) remember (?:that|this|it))"
    r"(?:,? please)?[\s.!?]*",
    re.IGNORECASE,
)
_REMOVED_WHAT = re.compile(
    rf"{_ASK}(?:forget|delete|remove|erase) (?:about )?(?:the (?:fact|memory) )?that (?P<what>\w.*)", re.IGNORECASE
)
# After a bare "no" either the sentence pauses, or somebody or something is said to be so.
_PAUSE = (
    r"(?:\s*[,.;:!—]+\s*|\s+-+\s*|\s+(?=(?:i|we|my|our|it|its|the|he|she|they|that|his|her|their|there|actually)\b))"
)
_FIRM_LEAD = re.compile(rf"(?:{_NO}){_PAUSE}", re.IGNORECASE)
_SOFT_LEAD = re.compile(
    r"(?:(?:well|oh|sorry|hmm|correction|i meant?)\s*[,.;:!—]+\s*|(?:actually|in fact)\b[\s,.;:—]*)", re.IGNORECASE
)
# "Wrong dog, ...": the memory is about another one.
_WRONG_ONE = re.compile(
    r"(?:(?:no|sorry|oh)[\s,.!]+)?(?:(?:that|it)['’]s )?(?:the )?wrong (?P<about>[^\W\d_]+)\s*[,.;:!—]+\s*(?=\w)",
    re.IGNORECASE,
)
_END = re.compile(r"(?<=[.!?…])\s+|\n+")
_WORDS = r"[^,.;:!?()]{1,60}"
_NOT_LAST = re.compile(
    rf"(?P<rest>.+?)(?:\s*[,;—]\s*|\s+-\s+)(?:and )?not (?P<wrong>{_WORDS})[\s.!]*", re.IGNORECASE | re.DOTALL
)
_NOT_FIRST = re.compile(
    rf"(?:(?:it|that){_IS} )?not (?P<wrong>{_WORDS}?)(?:\s*[,;.—]\s*(?:but |it(?:['’]s| is) )?|\s+but )"
    rf"(?:it(?:['’]s| is) )?(?P<value>{_WORDS})[\s.!]*",
    re.IGNORECASE,
)
_IT_IS = re.compile(
    rf"(?:it|that|this|he|she|they|(?:its|his|her|their) name|the (?:right|correct) \w+){_IS}"
    rf"(?: actually| now| called| named| in| at| on)*\s+(?P<value>{_WORDS}?)(?:,? (?:actually|now|though|instead))*"
    r"(?:, (?:but )?(?:at )?(?:the )?same \w+)?[\s.!]*",
    re.IGNORECASE,
)
_ACTUALLY = re.compile(rf"(?:it|that){_IS} {_WORDS}\b(?:actually|instead)\b", re.IGNORECASE)
_BARE = re.compile(r"(?:(?:[A-Z]|\d)[\w'’:.-]*\s*){1,4}")
_PERSONS = re.compile(r"(?:i|we|you|he|she|they|my|our)\b", re.IGNORECASE)
_BEFORE_VALUE = re.compile(r"(?:in|at|on|to|for|from|called|named|a|an|the)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Remark:
    """One thing that is said of what was remembered.

    A correction says a whole ``statement``, or only the ``value`` that something else has ("it's Lima"); ``wrong`` is
    what it has not ("not Oslo"). ``firm`` corrections deny what was remembered, others may tell of a change. Of a
    removal, the statement is what is to be forgotten where a clause says it, ``removal`` where a thing or a name does.
    ``about`` is what was taken for another one ("wrong dog").
    """

    kind: RemarkKind
    statement: str = ""
    value: str | None = None
    wrong: str | None = None
    firm: bool = False
    removal: Removal | None = None
    about: str = ""


def remarks_in(text: str) -> list[Remark]:
    """Return the remarks of a text, in order."""
    text = text.strip()
    if len(text) <= _SHORT_CHARS:
        for kind, pattern in _WHOLE:
            if pattern.fullmatch(text):
                return [Remark(kind)]
    wish = removal_of(text)
    if wish is not None and not wish.states:
        return [Remark("removal", removal=wish)]
    removed = _REMOVED_WHAT.fullmatch(text)
    if removed is not None:
        return [Remark("removal", removed["what"].strip())]
    wrong_one = _WRONG_ONE.match(text)
    rest, firm, soft = _without_leads(text if wrong_one is None else text[wrong_one.end() :])
    firm = firm or wrong_one is not None
    sentences = [part.strip() for part in _END.split(rest) if re.search(r"\w", part)]
    if not sentences:
        return [Remark("denial")] if firm else []
    # A denial is of what comes first; what follows stands for itself.
    first = _wished(sentences[0]) or _said(sentences[0], firm, firm or soft)
    first = first if wrong_one is None else replace(first, about=wrong_one["about"])
    return [first, *(_wished(sentence) or _said(sentence, False, False) for sentence in sentences[1:])]


def _wished(sentence: str) -> Remark | None:
    wish = removal_of(sentence)
    if wish is None:
        return None
    return Remark("removal", wish.what) if wish.states else Remark("removal", removal=wish)


_WHOLE: tuple[tuple[RemarkKind, re.Pattern[str]], ...] = (
    ("confirmation", _CONFIRMED),
    ("denial", _DENIED),
    ("removal", _REMOVED),
)


def _without_leads(text: str) -> tuple[str, bool, bool]:
    """Return the text without "No," and "Actually" before it, and whether there was either."""
    firm = soft = False
    while True:
        match = _FIRM_LEAD.match(text)
        if match is not None:
            firm = True
        else:
            match = _SOFT_LEAD.match(text)
            soft = soft or match is not None
        if match is None or match.end() == 0:
            return text, firm, soft
        text = text[match.end() :]


def _said(sentence: str, firm: bool, led: bool) -> Remark:
    first = _NOT_FIRST.fullmatch(sentence)
    if first is not None:
        said, wrong = first["value"].strip(), _bare(first["wrong"])
        whole = _PERSONS.match(said) is not None
        return Remark("correction", said if whole else "", None if whole else _bare(said), wrong, True)
    last = _NOT_LAST.fullmatch(sentence)
    if last is None and not led and not _ACTUALLY.match(sentence):
        return Remark("statement", sentence)
    denied = None if last is None else _bare(last["wrong"])
    sentence = sentence if last is None else last["rest"].strip()
    value = _value_alone(sentence)
    return Remark(
        "correction", "" if value else sentence, value, denied, firm or denied is not None or value is not None
    )


def _value_alone(sentence: str) -> str | None:
    """Return the value of a sentence that names nothing else: "it's Lima", "Lima"."""
    match = _IT_IS.fullmatch(sentence)
    if match is not None:
        return _bare(match["value"])
    if _BARE.fullmatch(sentence) and not _PERSONS.match(sentence) and state_of(sentence) is None:
        return _bare(sentence)
    return None


def _bare(words: str) -> str:
    """Remove the words that lead to a value, and what ends a sentence."""
    words = words.strip().rstrip(".!").strip()
    match = _BEFORE_VALUE.match(words)
    return words if match is None else words[match.end() :]
