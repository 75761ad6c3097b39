"""Cutting text into sentences: abbreviations, initials, dates, addresses and code are left whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memory.language.letters import UNSPACED

# A stop and what closes behind it, where white space follows; full-width and Arabic stops need none, nor do ! and ?
# between characters of a script without spaces.
_STOP = re.compile(
    r"[.!?…]+[\"”’')\]»]*(?=\s)"
    r"|[。｡！？；؟۔।]+[!?！？]*[\"”’'）」』】》]*"
    rf"|(?<=[{UNSPACED}])[!?]+(?=[{UNSPACED}])"
    rf"|(?<=[{UNSPACED}])．(?!\d)"
)
_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[^\n]*\n(?:.*?\n)??[ \t]*\1[ \t]*$|^[ \t]*(?:```|~~~).*\Z", re.MULTILINE | re.DOTALL
)
_LIST_ITEM = re.compile(r"\s*(?:[-*•–·]|\d{1,3}[.)、]|[a-z]\))\s")
_NEXT = re.compile(r"\s+[\"“„«'‘¿¡(\[]*([\w’']*)(\.?)")
_LOOK_BACK = 80
_DOTTED = re.compile(r"(?:[^\W\d_]{1,2}\.-?)+[^\W\d_]{1,2}")
_ORDINAL = re.compile(r"\d{1,2}")
_ROMAN = re.compile(r"[IVX]{1,5}")
_OPENING, _CLOSING = "「『“（《【", "」』”）》】"

# Behind these a name or the rest of the phrase follows, whatever it looks like.
_TITLES = frozenset(
    "Dr Mr Mrs Ms Mx Prof Rev Hon Fr Capt Lt Col Gen Sgt Gov Sen Rep Pres Mt Ft Mme Mlle MM Mgr Sr Sra Srta Sres "
    "Dra Dña Dª Dn D.ª D.a Profa Profª Eng Exmo Exma Hr Hrn Frl Dipl Ing Mag Hl St Ste Sta".split()
)
_INSIDE = frozenset(
    "dr mr mrs ms prof med vs cf e.g eg i.e ie viz ca approx resp incl excl inkl exkl bzw vgl evtl ggf z.b d.h u.a "
    "sog bspw gem zzgl abzgl p.ex p.ej c.-à-d env núm av avda avd bd dpto depto dept ud uds ул пр просп пер им т.е "
    "напр проф акад обл корп см рис д-р г-н г-жа د م أ".split()
)
# A number follows, or they are words.
_NUMBERED = frozenset(
    "no nos nr n° nº p pp pg fig vol ch art abs kap sec str s д кв стр ст рис ص jan feb mar apr jun jul aug sep "
    "sept oct nov dec okt dez mai janv févr avr juil déc ene abr ago dic set out min max tel tél ext apt rm".split()
)
# They may end a sentence: it goes on unless the next word is one that sentences begin with.
_LAST = frozenset(
    "inc ltd co corp bros llc plc jr sr esq st ave rd blvd ln hwy str dept est mio mrd std jh jhd ltda cia cía "
    "hnos".split()
)
# What follows them with a capital is a new sentence.
_AND_SO_ON = frozenset("etc usw u.s.w ecc т.д т.п др проч al руб тыс млн млрд г гг вв мин".split())
_ARTICLES_BEFORE_ORDINALS = frozenset(
    "am im der die das den dem des vom zum zur bis ab seit ins jeden jeder jedes unser unsere unseren mein meine "
    "meinen sein seine ihr ihre ein eine einen einem".split()
)
_MONTHS_AFTER_ORDINALS = frozenset(
    "januar jänner februar märz april mai juni juli august september oktober november dezember mars stock etage "
    "klasse semester".split()
)
_STARTERS = frozenset(
    "i i'm i've i'll i'd we we're he he's she she's it it's they you my our his her their its the this that these "
    "those there a an and but so or then now also after before when if what why how who where please thanks ok yes "
    "no not ich wir er sie es du ihr mein meine unser unsere die der das ein eine und aber dann danach jetzt heute "
    "morgen seit je j' j'ai nous il elle ils elles tu vous mon ma mes notre le la les un une et mais puis "
    "maintenant c'est yo él ella nosotros ellos mi mis nuestro el los una y pero luego ahora eu nós ele ela meu "
    "minha o os uma e mas depois "
    "agora я мы он она они вы ты мой моя наш и но а потом теперь это في أنا هو هي نحن".split()
)
_STARTERS_IN_LOWER_CASE = frozenset(
    "i i'm i've i'll i'd we we're he he's she she's it it's they my our ich wir er sie mein meine je j'ai nous il "
    "elle mon ma yo mi eu я мы он она они мой".split()
)


def sentences_in(text: str) -> list[str]:
    """Return the sentences of a text, without white space around them. A line ends one, too; a block of code is one
    part, with its lines."""
    parts: list[str] = []
    begin = 0
    if "```" in text or "~~~" in text:
        for block in _FENCE.finditer(text):
            parts += _of_prose(text[begin : block.start()])
            parts.append(block.group().strip("\n"))
            begin = block.end()
    return [*parts, *_of_prose(text[begin:])]


def is_code(part: str) -> bool:
    """Tell if a part is a block of code."""
    return part.lstrip().startswith(("```", "~~~"))


def joined(parts: Sequence[str]) -> str:
    """Join sentences to a text: items of lists and code on lines of their own, scripts without spaces without any."""
    text = ""
    for part in parts:
        if not text:
            text = part
        elif is_code(part) or text.endswith(("```", "~~~")) or _LIST_ITEM.match(part):
            text += f"\n{part}"
        else:
            text += part if text[-1] in "。！？；｡」』）" else f" {part}"
    return text


def ends_of(line: str) -> Iterator[int]:
    """Return where the sentences of a line end, without the end of the line itself."""
    begin = 0
    for stop in _STOP.finditer(line):
        if _ends(line, begin, stop):
            begin = stop.end()
            yield begin


def _of_prose(text: str) -> list[str]:
    found: list[str] = []
    for line in text.split("\n"):
        begin = 0
        for end in ends_of(line):
            found.append(line[begin:end].strip())
            begin = end
        found.append(line[begin:].strip())
    return [part for part in found if part]


def _ends(line: str, begin: int, stop: re.Match[str]) -> bool:
    mark = stop.group()
    if mark[0] in "。｡！？；．":
        return not _in_brackets(line[begin : stop.end()], line[stop.end() : stop.end() + 1])
    if mark.startswith(("...", "…")) or mark[-1] not in ".!?":  # dots in the middle, a quote within a sentence
        after = _NEXT.match(line, stop.end())
        return after is None or not after.group(1)[:1].islower()
    if mark[0] != "." or len(mark.rstrip("\"”’')]»")) > 1:
        return True
    return not _goes_on(line, begin, stop)


def _in_brackets(sentence: str, following: str) -> bool:
    """Tell if a stop stands in brackets or quotes, which the sentence around them goes on behind."""
    if sentence[-1] in _CLOSING:
        opening = sentence.rfind(_OPENING[_CLOSING.index(sentence[-1])])
        return following in ("と", "っ") or (opening > 0 and sentence[opening - 1] not in "：:")
    return any(sentence.count(a) > sentence.count(b) for a, b in zip(_OPENING, _CLOSING, strict=True))


def _goes_on(line: str, begin: int, stop: re.Match[str]) -> bool:
    """Tell if the dot belongs to its word, and the sentence goes on behind it."""
    before = line[max(begin, stop.start() - _LOOK_BACK) : stop.start()]
    head = before.split()
    if not head:
        return True
    after = _NEXT.match(line, stop.end())
    if after is None or (not after.group(1) and stop.group() == "."):
        return False
    return _Dot(
        word=head[-1].lstrip("\"“„«'‘(¿¡["),
        previous=head[-2] if len(head) > 1 else "" if begin == 0 else ".",
        following=after.group(1),
        dotted=bool(after.group(2)),
    ).is_inside()


@dataclass(frozen=True)
class _Dot:
    """A dot with the word that it stands behind, the one before that, and the one that follows."""

    word: str
    previous: str
    following: str
    dotted: bool
    """True if a dot is behind the following word, too."""

    @property
    def starts(self) -> bool:
        """True if sentences begin with the following word."""
        lower = self.following.lower().replace("’", "'")
        return lower in (_STARTERS if self.following[:1].isupper() else _STARTERS_IN_LOWER_CASE)

    def is_inside(self) -> bool:
        """Tell if the sentence goes on."""
        lower, capital = self.word.lower(), self.following[:1].isupper()
        if self.word in _TITLES and capital:
            return not (lower in _LAST and self.starts)
        if lower in _INSIDE:
            return not (self.starts and not capital)
        if self._is_part() or self._is_city():
            return True
        if (lower in _NUMBERED or lower.endswith("str")) and self.following[:1].isdigit():
            return True
        if lower in _AND_SO_ON:
            return not capital
        if len(self.word) == 1 and self.word.isalpha():
            return self._is_initial()
        if lower in _LAST or _DOTTED.fullmatch(self.word):
            return not self.starts
        return self._is_ordinal()

    def _is_part(self) -> bool:
        """Tell if it is a part of an abbreviation: ``z. B.``, ``p. ex.``."""
        if self._after_initial() and self.word.isalpha() and len(self.word) <= 2 and self.previous[0].islower():
            return not self.starts
        return self.dotted and len(self.word) == 1 and self.word.islower() and len(self.following) <= 2

    def _after_initial(self) -> bool:
        return len(self.previous) == 2 and self.previous[0].isalpha() and self.previous[1] == "."

    def _is_city(self) -> bool:
        """Tell if the Russian letter stands for a city (``г. Казань``), no year (``2019 г.``), or for a house."""
        return self.word in ("г", "д") and not self.previous[-1:].isdigit()

    def _is_initial(self) -> bool:
        """Tell if a letter is that of a name, ``J. R. Smith``, or of a unit."""
        if self.word.islower():
            return self.previous[-1:].isdigit() and self.following[:1].islower() and not self.starts
        return not self.starts and (self._after_initial() or self.following[:1].isupper())

    def _is_ordinal(self) -> bool:
        """Tell if a number counts: ``am 3. Juni``, ``im 2. Stock``, ``Heinrich VIII. von England``, ``1. Milk``."""
        if _ROMAN.fullmatch(self.word):
            return self.following[:1].islower() and not self.starts
        if not _ORDINAL.fullmatch(self.word):
            return False
        if not self.previous or self.following.lower() in _MONTHS_AFTER_ORDINALS:
            return True
        return self.previous.lower() in _ARTICLES_BEFORE_ORDINALS and not self.starts
