"""Answers: a short one is understood by the question before it; an assistant's are kept where they are news."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memory.language import asking
from memory.language.scripts import is_wide
from memory.language.sentences import sentences_in
from memory.language.small_talk import is_small_talk
from memory.language.words import length_in_words, telling_words
from memory.types import Message

_MAX_QUESTION_CHARS = 160
_MAX_QUESTIONS = 2
_MAX_REPLY_WORDS = 8
_MAX_FOREIGN_WORDS = 4
_YES_OR_NO = re.compile(
    r"(?:yes|yeah|yep|yup|no|nope|nah|never|always|sometimes|often|rarely|not (?:yet|really|any ?more|at all)|"
    r"i (?:am|do|have|did|was|can|will)(?:n['’]t| not)?|i['’]m not|"
    r"(?:he|she|it|they|we) (?:is|are|do|does|have|has|did|was|were|can)(?:n['’]t| not)?|correct|right|indeed|"
    r"of course|ja|nein|doch|nie|immer|oui|non|jamais|toujours|sí|si|no|nunca|siempre|sim|não|да|нет|никогда|"
    r"всегда"
    r"|はい|いいえ|うん|ううん|是的?|不是|对|没有|有|네|예|아니요|아뇨|نعم|لا)(?:[\s,.!、。，！]+|$)",
    re.IGNORECASE,
)
_OF_ONESELF = re.compile(
    r"\b(?:are|do|have|did|were|can|will) you\b|\byour\b|\b(?:bist|hast|magst|wohnst|isst|trinkst|fährst|"
    r"spielst|kannst|arbeitest) du\b|\bdein\w*\b|\b(?:es-tu|as-tu|êtes-vous|avez-vous|tu as|tu es|"
    r"vous avez)\b|\b(?:tienes|eres|estás|te gusta|vives|comes|bebes|trabajas|has)\b"
    r"|\b(?:você (?:tem|é|está|gosta|mora|come)|tens|és)\b|\b(?:у тебя|ты|вы|у вас)\b|你|您|あなた|ですか|"
    r"ますか|세요|나요|(?:هل )(?:أنت|لديك|عندك|تحب)",
    re.IGNORECASE,
)
_OFFER = re.compile(
    r"\b(?:would you (?:like|prefer|want)|shall i|should i|can i|may i|could i|do you want (?:me|to)|want me|"
    r"do you need|anything else|need (?:help|anything)|can you (?:tell|share|provide|give)|soll ich|"
    r"möchtest du|veux-tu que|voulez-vous que|quieres que|¿te gustaría|quer que|хотите|хочешь,? чтобы"
    r"|does that|is that (?:ok|okay|right|correct)|sound(?:s)? good|how (?:are|about)|"
    r"what about|ready)\b|需要我|要我|要不要我|しましょうか|할까요|드릴까요|هل تريد",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"\b(?:i|we|he|she|they|my|our|i['’]?m|i['’]ve|it['’]s|it is|there)\b.*\b(?:am|is|are|was|were|have|has|"
    r"had|do|did|like|love|hate|live|work|go|went|got|think|need|want|\w+ed|\w+s)\b|\bi['’]?(?:m|ve|d|ll)\b",
    re.IGNORECASE,
)
_FORMULA = re.compile(
    r"(?:let me know|feel free|i can\b|i could\b|i['’]?m (?:here|happy|glad|sorry|just|an?|able|not able|"
    r"unable)|i['’]d (?:be|recommend)|happy to|glad to|i hope|hope (?:this|that|you)|here (?:is|are)|"
    r"here['’]s|sure\b|of course|certainly|"
    r"great question|good question|if you (?:['’]d|would|want|need|have|like|share|tell)|if you['’]d|"
    r"don['’]t hesitate|please (?:let|provide|share|tell|note)|i (?:understand|see|apologi[sz]e|will|['’]ll|"
    r"have noted|noted|don['’]t|do not|cannot|can['’]t|remember)|i['’]ll|got it|noted|understood|"
    r"as an ai|thank you for|you['’]re welcome|enjoy\b|good luck|take care|congrat|that sounds|sounds|feel|"
    r"would you|remember that|just let|"
    r"gerne|natürlich|klar|lass mich|ich (?:kann|helfe|bin)|bien sûr|n['’]hésite|je (?:peux|"
    r"suis)|claro|por supuesto|puedo|avísame|posso|estou aqui|конечно|я могу|дайте знать|当然|好的|"
    r"我可以|如果你|希望|もちろん|はい|お手伝い|何か|물론|도와|بالطبع|يمكنني)",
    re.IGNORECASE,
)
_TO_YOU = re.compile(
    r"\b(?:you|your|you['’]re|you['’]ve|yours|dein\w*|du|ihr\w*|votre|vos|ton|ta|tes|tu|vous|tus?|usted|"
    r"seu|sua|você|ты|твой|твоя|вы|ваш\w*)\b|[你您]|あなた|당신|أنت",
    re.IGNORECASE,
)
_NEW_THING = re.compile(r"\d[\d.,:/-]*|https?://\S+|www\.\S+|(?<=[\w,;:'’)-] )[A-ZÀ-ÖØ-ÞА-Я][\w'’-]+")


def question_before(messages: Sequence[Message], index: int, before: Sequence[Message]) -> str:
    """Return the question that somebody else asked just before a message, with the one before it where there are two;
    or nothing."""
    asked_by = messages[index - 1] if index else before[-1] if before else None
    if asked_by is None or asked_by.role not in ("user", "assistant") or asked_by.speaker == messages[index].speaker:
        return ""
    asked: list[str] = []
    for sentence in sentences_in(asked_by.text)[: -1 - _MAX_QUESTIONS : -1]:
        if not _may_be_answered(sentence) or len(sentence) + sum(map(len, asked)) > _MAX_QUESTION_CHARS:
            break
        asked.insert(0, sentence)
    return " ".join(asked)


def _may_be_answered(sentence: str) -> bool:
    return asking.is_question(sentence) and not asking.is_request(sentence) and not _OFFER.search(sentence)


def is_answer(sentence: str, question: str) -> bool:
    """Tell if a sentence is understood only by the question before it: "Yes, peanuts.", "In May"."""
    if asking.is_question(sentence) or asking.is_request(sentence):
        return False
    told = _YES_OR_NO.match(sentence)
    rest = sentence if told is None else sentence[told.end() :].strip(" .,!")
    if not rest or _YES_OR_NO.fullmatch(rest):
        return _OF_ONESELF.search(question) is not None
    return not is_small_talk(rest) and _is_fragment(rest)


def answered(sentence: str, question: str) -> str:
    """Return an answer with the question's words."""
    return f"Asked “{question}”: {sentence}"


def _is_fragment(text: str) -> bool:
    latin = text.isascii()
    longest = _MAX_REPLY_WORDS if latin else _MAX_FOREIGN_WORDS
    return length_in_words(text) <= longest and _CLAUSE.search(text) is None and len(sentences_in(text)) == 1


def is_news(sentence: str, known: set[str]) -> bool:
    """Tell if an assistant's sentence says something that the user has not: a number, a name, a link; no question,
    offer or formula. ``known`` are the words of the messages before."""
    if is_small_talk(sentence) or _FORMULA.match(sentence) or asking.is_question(sentence):
        return False
    words = set(telling_words(sentence))
    if is_wide(sentence) or not re.search(r"[A-Za-z]", sentence):
        return _TO_YOU.search(sentence) is None and not words <= known
    return any(not set(telling_words(thing)) <= known for thing in _NEW_THING.findall(sentence))
