"""What of a message its sender asserts: not what is asked, supposed, quoted, joked or handed over to be worked on.

Asserted sentences are to be remembered. A wish or an open plan is remembered as said, but marked: it changes nothing
that is known. Everything else stays in the message alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from memory.language import asking, material, supposing
from memory.language.clauses import clauses_in, leans_on_before
from memory.language.sentences import sentences_in
from memory.language.small_talk import is_small_talk

# No sentence that somebody says is longer; what has no end before is not looked into.
_LONGEST = 1000
_LONGEST_LINE = 200
_RESUMES = re.compile(
    r"(?:by the way|btw|anyways?|p\.?\s?s\.?|on another note|in real life|irl|in reality|"
    r"apart from that|unrelated|übrigens|au fait|por cierto|aliás|кстати|对了|顺便|ところで|그런데|"
    r"بالمناسبة)\b[\s,:.]*",
    re.IGNORECASE,
)
_COLON = re.compile(r"[:：](?!\d|//|[-)(D/])\s*")
_DEICTIC = re.compile(
    r"\b(?:this|these|that|it|here|below|above|following|text|mail|email|letter|recipe|list|code|"
    r"error|notes?|message|sentences?|paragraph|dies\w*|das|folgend\w*|ceci|ça|cela|ce|esto|este|esta|"
    r"isto|isso|это|этот|эту)\b|这|以下|下面|上面|これ|以下|この|次の|이것|이거|다음|이 |هذا|هذه|التالي",
    re.IGNORECASE,
)
# Requests whose details are about the one who asks: "help me plan a trip: I have five days".
_ADVICE = re.compile(
    r"\b(?:help me (?:plan|choose|decide|find|with)|plan|suggest|recommend|advise|advice|find me|tips|"
    r"ideas|meal|workout|training|trip|itinerary|gift|present|what should|can i|should i|empfiehl|"
    r"recommande|recomienda|recomenda|посоветуй|推荐|おすすめ|추천)\b",
    re.IGNORECASE,
)
_TEXT_WORK = re.compile(
    r"\b(?:translate|proof-?read|summari[sz]e|rephrase|paraphrase|reword|rewrite|shorten|fix|correct|edit|"
    r"polish|improve|sort|convert|explain|format|debug|refactor|solve|reply|respond|answer|review|check|"
    r"wrong|mean|means|sound|homework|problem|exercise|worksheet|dummy|sample|placeholder|template|"
    r"lyrics|übersetz\w*|korrigier\w*|fass\w*|tradui\w*|corrige\w*|résume\w*|traduce\w*|traduz\w*|"
    r"переведи\w*|исправь\w*)\b|翻译|翻訳|訳し|번역|ترجم|总结|要約|요약|润色|添削",
    re.IGNORECASE,
)
_TOPIC = re.compile(
    r"(?:that|this|the|those|these|my|our|remember (?:that|the|my|our)|you know (?:that|the|my|our)|"
    r"about (?:that|the|my))\b[^,]*\?$",
    re.IGNORECASE,
)
_KEY_AND_VALUE = re.compile(r"\s*(?:[-*•·]|\d+[.)])?\s*(?P<key>[^\W\d_][\w /'’()-]{0,30}?)\s*[:：]\s+(?P<value>\S.*)$")
_HEADING = re.compile(r"[^.!?]{1,60}[:：]\s*$")
_NOT_SAYING = re.compile(r"(?:i['’]?m |i am )?not saying (?:that )?[^,]{3,80}?,? but (?=\w)", re.IGNORECASE)
_EXAMPLE = re.compile(
    r"(?:e\.g\.|for example|example|z\.b\.|beispiel|par exemple|exemple|ejemplo|exemplo|"
    r"пример)\s*[:：]|(?:例|예|例えば|例如|比如|مثال)\s*[:：]",
    re.IGNORECASE,
)
_COMMA = re.compile(r"[,，、;]")
_SPEAKER = re.compile(
    r"\b(?:i|i['’]m|i['’]ve|we|my|me|our|us|ich|wir|mein\w*|mir|mich|unser\w*|je|j['’]|nous|mon|ma|mes|"
    r"yo|mi|mis|me|tengo|soy|somos|eu|meu|minha|tenho|я|мы|мне|мой|моя|у меня)\b|[我咱私僕俺]|うち|저|나는|내|우리|"
    r"أنا|لدي|عندي",
    re.IGNORECASE,
)
_REACTS = re.compile(
    r"i (?:really |still |also |absolutely |just |do )*(?:love|like|hate|enjoy|adore|miss|loved|liked|hated|"
    r"enjoyed) (?:it|them|him|her)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Statement:
    """A sentence to be remembered. ``asserted`` is False for a wish, an open plan, a denial: it is said, and changes
    nothing. One that ``leans`` is about what stands before it. A ``line`` stands for itself."""

    text: str
    asserted: bool = True
    leans: bool = False
    line: bool = False


def statements_in(text: str) -> list[Statement]:
    """Return what the sender of a message tells by it, in order."""
    text, blocks = material.with_code_marked(text, asking.is_kept_by_request)
    told = material.without_machine_text(text)
    marked, quotes = material.with_quotes_marked(told)
    found = _Told()
    for sentence in _own_sentences(marked):
        found.add(sentence)
    statements = found.statements
    if quotes:
        statements = [replace(s, text=material.with_quotes(s.text, quotes)) for s in statements]
    return [_with_code(statement, blocks) for statement in statements] if blocks else statements


def _with_code(statement: Statement, blocks: list[str]) -> Statement:
    text = material.with_code(statement.text, blocks)
    return statement if text == statement.text else replace(statement, text=text, line=True)


def pieces_in(text: str) -> list[str]:
    """Cut a text into the pieces that may be remembered without each other."""
    return [piece for sentence in sentences_in(text) for piece in _pieces(sentence)]


def _pieces(sentence: str) -> list[str]:
    told = asking.told_while_asking(sentence) if asking.is_question(sentence) or asking.is_request(sentence) else ""
    begin = sentence.find(told) if told else 0
    parts = [sentence[:begin], told, sentence[begin + len(told) :]] if told else clauses_in(sentence)
    return [part.strip() for part in parts if part.strip()]


class _Told:
    """Collects the statements of a message, sentence by sentence."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self._topic = ""
        self._last_kept = False

    def add(self, sentence: str) -> None:
        if len(sentence) > _LONGEST:
            self.statements.append(Statement(sentence))
            return
        if supposing.is_taken_back(sentence) and not _tells_more(sentence):
            self.statements = self.statements[:-1] if self._last_kept else self.statements
            self._last_kept = False
            return
        leans = leans_on_before(sentence)
        if self._topic and leans:
            sentence, leans = f"{self._topic} {sentence}", False
        self._topic = sentence if _is_topic(sentence) else ""
        statement = None if self._topic else self._judged(sentence, leans)
        if statement is not None:
            self.statements.append(statement)
        self._last_kept = statement is not None

    def _judged(self, sentence: str, leans: bool) -> Statement | None:
        if self._last_kept and _REACTS.match(sentence):
            return Statement(sentence, leans=True)
        told = judged(sentence)
        return None if told is None else Statement(told.text, told.asserted, leans and self._last_kept, told.line)


def judged(sentence: str) -> Statement | None:
    """Return what a sentence tells, if anything."""
    if len(sentence) > _LONGEST:
        return Statement(sentence)
    pair = _KEY_AND_VALUE.match(sentence)
    line = pair is not None and not asking.is_request(sentence) and not asking.is_question(sentence)
    sentence = _NOT_SAYING.sub("", sentence)
    if _tells_nothing(sentence):
        return None
    if asking.is_kept_by_request(sentence):
        return Statement(sentence, asking.holds_from_now(sentence) or not supposing.is_open(sentence), line=line)
    if asking.is_question(sentence) or asking.is_request(sentence):
        told = asking.told_while_asking(sentence)
        return None if not told or _tells_nothing(told) else Statement(told, not supposing.is_open(told))
    return Statement(sentence, not supposing.is_open(sentence), line=line)


def _tells_nothing(sentence: str) -> bool:
    return (
        is_small_talk(sentence)
        or supposing.opens_fiction(sentence)
        or supposing.is_supposed(sentence)
        or supposing.is_taken_back(sentence)
        or material.is_quotation(sentence)
    )


def _tells_more(sentence: str) -> bool:
    """Tell if a sentence that is taken back is more than the words that take it back."""
    return len(sentence.split()) > 4


def _is_topic(sentence: str) -> bool:
    return _TOPIC.match(sentence) is not None and not asking.is_question_start(sentence)


# -- what is handed over ---------------------------------------------------------------------------------------


def _own_sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a message that are not of a text handed over with a request, or of fiction."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and _works_on_before(lines[-1]):
        return
    handed_over = asked = False
    for number, line in enumerate(lines):
        for sentence in _sentences_of(line, lines[number + 1 :]):
            resumed = _RESUMES.match(sentence)
            if handed_over and resumed is None:
                continue
            if len(sentence) > _LONGEST:
                yield sentence
                continue
            handed_over = False
            if asked and _is_material_for_it(sentence):
                continue
            asked = asking.is_request(sentence) or asking.is_question(sentence)
            own, hands_over = _own_part(sentence)
            if own:
                yield own
            handed_over = hands_over or _opens(sentence)
        if not handed_over and _hands_over_below(line, lines[number + 1 :]):
            handed_over = True


def _sentences_of(line: str, below: list[str]) -> list[str]:
    if len(line) > _LONGEST_LINE:
        return sentences_in(line)
    if _KEY_AND_VALUE.match(line) and not asking.is_request(line):
        return [line.lstrip("-*•· ")]
    if _HEADING.match(line) and below and _KEY_AND_VALUE.match(below[0]) and not asking.is_request(line):
        return []
    return sentences_in(line)


def _own_part(sentence: str) -> tuple[str, bool]:
    """Return what of a sentence is not material behind a request, and whether what follows is material too."""
    colon = _COLON.search(sentence)
    if colon is None or asking.is_kept_by_request(sentence):
        return sentence, False
    head, rest = sentence[: colon.start()], sentence[colon.end() :]
    if not (asking.is_request(sentence) or asking.is_question_start(sentence) or asking.is_request(_last_clause(head))):
        return sentence, False
    if _ADVICE.search(head) and not _TEXT_WORK.search(head):
        return rest, False
    return asking.told_while_asking(head + "?"), True


def _is_material_for_it(sentence: str) -> bool:
    """Tell if a sentence behind a request is what it is about: a quotation, an example, a list without a speaker."""
    if material.QUOTED in sentence or _EXAMPLE.match(sentence):
        return True
    return len(_COMMA.findall(sentence)) > 1 and not _SPEAKER.search(sentence)


def _last_clause(head: str) -> str:
    return re.split(r"[,;] | - ", head)[-1]


def _opens(sentence: str) -> bool:
    return supposing.opens_fiction(sentence) and not asking.is_kept_by_request(sentence)


def _hands_over_below(line: str, below: list[str]) -> bool:
    """Tell if a line asks to do something with the lines below it."""
    if not below or len(line) > _LONGEST or asking.is_kept_by_request(line):
        return False
    last = sentences_in(line)[-1]
    asks = asking.is_request(last) or asking.is_question(last) or asking.is_request(line)
    return asks and _DEICTIC.search(last) is not None and _ADVICE.search(last) is None


def _works_on_before(line: str) -> bool:
    """Tell if a line asks to do something with the lines above it."""
    if len(line) > _LONGEST_LINE:
        return False
    asks = asking.is_request(line) or asking.is_question(line)
    return (
        asks and len(line.split()) <= 14 and _DEICTIC.search(line) is not None and _TEXT_WORK.search(line) is not None
    )
