"""Finding the memory that a remark is about, and its corrected text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memory.language.dates import DATE_BEHIND, DAYS, MONTHS, with_dates
from memory.language.remarks import Remark
from memory.language.states import State, state_of
from memory.language.words import telling_words
from memory.types import Memory

# Share of the telling words that a memory and a correction have in common, when nobody says that it is about it.
_ALIKE = 0.5
# Values that are known by their form: one takes the place of another of its form.
_MONTH = "|".join(MONTHS)
_FORMS = tuple(
    re.compile(rf"\b(?:{form})\b", re.IGNORECASE)
    for form in (
        "|".join(DAYS),
        r"\d{1,2}:\d\d(?: ?[ap]m)?|\d{1,2} ?[ap]m|\d{1,2} o['’]clock",
        rf"\d{{1,2}}(?:st|nd|rd|th)?(?: of)? (?:{_MONTH})|(?:{_MONTH}) \d{{1,2}}(?:st|nd|rd|th)?",
        r"\d{4}-\d\d-\d\d",
    )
)


def best_match(remark: Remark, pool: Sequence[Memory], *, given: bool) -> Memory | None:
    """Return the memory that fills the slot, that holds what is said to be wrong, or that has most words in common.
    ``given``: the pool was named by whom the remark is from; then it takes less to match."""
    if remark.about:
        return _only([memory for memory in pool if _holds(memory.said, remark.about) and _shared(memory, remark)])
    if not remark.statement and not remark.wrong and not given:
        return _only([memory for memory in pool if _of_its_form(memory.said, remark.value)])
    state = state_of(remark.statement)
    if state is not None and (same := [memory for memory in pool if _fills(memory, state)]):
        return _with_value(same, (remark.wrong or "").lower())
    if remark.wrong:
        return _closest(remark, [memory for memory in pool if _holds(memory.text, remark.wrong)])
    if given and len(pool) == 1:
        return None if state is not None and pool[0].slot is not None else pool[0]
    return None if state is not None else _closest(remark, pool, 1e-9 if given else _ALIKE)


def _only(memories: Sequence[Memory]) -> Memory | None:
    return memories[0] if len(memories) == 1 else None


def _of_its_form(said: str, value: str | None) -> str | None:
    """Return the only other value of the same form that a text holds: another weekday, time or date."""
    text = DATE_BEHIND.sub("", said)
    for form in _FORMS:
        if value and form.fullmatch(value):
            found = form.findall(text)
            return found[0] if len(found) == 1 and found[0].lower() != value.lower() else None
    return None


def _with_value(memories: Sequence[Memory], value: str) -> Memory:
    """Return the first memory with this value, or the first."""
    return next((memory for memory in memories if memory.value == value), memories[0])


def _closest(remark: Remark, pool: Sequence[Memory], least: float = 0.0) -> Memory | None:
    """Return the memory with the largest share of words in common, if that is at least so large."""
    best = max(pool, key=lambda memory: _shared(memory, remark), default=None)
    return best if best is not None and _shared(best, remark) >= least else None


def _fills(memory: Memory, state: State) -> bool:
    whose, _, slot = (memory.slot or "").partition("|")
    return slot == state.slot and (state.subject is None or state.subject.lower() == whose)


def _shared(memory: Memory, remark: Remark) -> float:
    ours, theirs = set(telling_words(memory.said)), set(telling_words(remark.statement))
    return len(ours & theirs) / max(1, len(ours | theirs))


def _holds(text: str, words: str) -> bool:
    return bool(words) and re.search(_whole(words), text, re.IGNORECASE) is not None


def _whole(words: str) -> str:
    return rf"(?<!\w){re.escape(words)}(?!\w)"


def corrected_text(memory: Memory, remark: Remark, at: float) -> str:
    """Return a memory's text with the right value in the place of the wrong one; else the statement in the place of a
    sentence about the same; else the memory with the correction behind it, so that nothing else that it says is
    lost."""
    said = memory.said
    speaker = memory.text[: len(memory.text) - len(said)]
    wrong = next((words for words in (remark.wrong, memory.value) if words and _holds(said, words)), None)
    wrong = wrong or _of_its_form(said, remark.value)
    value = None if wrong is None else remark.value or _value_of(remark.statement, said, wrong)
    if wrong is not None and value is not None:
        # The date that was put behind the wrong value goes with it.
        replaced = re.sub(rf"(?i:{_whole(wrong)})(?:{DATE_BEHIND.pattern})?", lambda _: value, said)
        return speaker + with_dates(replaced, at)
    statement = with_dates(remark.statement, at)
    if statement and not remark.about and not re.search(r"[.!?]\s+\S", said) and _shared(memory, remark) > 0:
        return speaker + statement[0].upper() + statement[1:]
    return f"{memory.text} (corrected: {statement or remark.value})"


def _value_of(statement: str, said: str, wrong: str) -> str | None:
    """Return what a statement has where the memory has the wrong value: as a state has it, or behind the same words."""
    old, new = state_of(said), state_of(statement)
    if old is not None and new is not None and old.slot == new.slot:
        match = re.search(_whole(new.value), statement, re.IGNORECASE)
        return None if match is None else match.group()
    at = re.search(_whole(wrong), said, re.IGNORECASE)
    lead = said[: at.start()].split() if at is not None else []
    for n in (3, 2, 1):
        if len(lead) < n:
            continue
        match = re.search(rf"{_whole(' '.join(lead[-n:]))}\s+(?P<value>[^.,;!?]+)[\s.!]*$", statement, re.IGNORECASE)
        if match is not None and len(match["value"].split()) <= len(wrong.split()) + 2:
            return match["value"].strip()
    return None
