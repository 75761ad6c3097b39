"""Words of a text: which there are, which of them tell something, and when two texts have the same.

Chinese and Japanese write no spaces, and Korean puts particles behind its words: there, pairs of neighbouring
characters stand for words.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from memory.language.letters import HAN, HANGUL, KANA, UNSPACED

_MAX_TERMS = 64
# Characters of Chinese or Japanese that say as much as a word of English (measured on translations: 1.5 to 1.9).
_CHARACTERS_A_WORD = 1.7
_WORD = re.compile(r"\w+")
_RUN = re.compile(f"[{UNSPACED}]+|[{HANGUL}]+")
_CHARACTER = re.compile(f"[{UNSPACED}]")
_STOP_WORDS = frozenset(
    "a about am an and are as at be been being but by can could did do does for from had has have he her hers him "
    "his how i if in into is it its me mine my of on or our ours she should so than that the their theirs them then "
    "there these they this those to up us was we were what when where which who whom whose why will with would you "
    "your yours".split()
) | frozenset(
    # None of them is a word or a name of English, too: texts of a cube may be of several languages.
    "ich mich mir mein meine meinen meiner dich dir dein deine wir uns unser unsere ihr ihre ist sind und oder der das "
    "dem ein eine einen einem einer vom zum zur von für auf wie wer welche welcher welches "
    "je moi ma nous notre vous votre elle ils les une du et ou où est sont suis avec dans qui que quel quelle "
    "quels quelles quand combien mis tú tus nosotros nuestro nuestra él ella ellos una soy está por para qué cuál "
    "cuándo dónde quién cómo cuánto "
    "eu meu minha meus minhas você seu sua nós ele ela eles uma é são sou qual quando onde quem "
    "я мне меня мой моя мое моё мои мы нас наш ты тебя твой он она они его её их и или в во на с со у к о по из за для "
    "от это что кто где когда как какой какая какие сколько ли "
    "أنا نحن أنت هو هي هم في من على إلى عن مع هل ما ماذا متى أين كيف كم هذا هذه التي الذي و".split()
)
# What a question in a script without spaces is made of, beside the words that it asks for.
_CHINESE = re.compile(
    "为什么|為什麼|是什么|是什麼|什么时候|什麼時候|什么|什麼|怎么样|怎麼樣|怎么|怎麼|哪里|哪裡|哪儿|哪天|"
    "哪个|哪個|哪些|哪|多少|多久|多大|几点|幾點|几号|幾號|有没有|有沒有|是不是|请问|請問|告诉|告訴|"
    "记得|記得|一下|现在|現在|自己|可以|会不会|[的了是在我你您他她它们們吗嗎呢吧啊呀嘛和与與跟也都很就还還]|"
    "[有没沒不把被给給让讓对對个個这這那叫谁誰几幾]"
)
_JAPANESE = re.compile(
    "でしょうか|でしょう|でしたか|でした|ですか|です|ましたか|ました|ますか|ます|ません|ください|教えて|ている|ていた|てい|"
    "てる|という|って|どこ|なに|いつ|だれ|どんな|どの|どう|いくら|いくつ|わたし|あなた|こと|もの|から|まで|私|僕|俺|何|誰|"
    rf"(?<=[{HAN}\u30a1-\u30ff])[のはがをにでともへやか](?![\u3041-\u3096])"
)
_JAPANESE_LEADING = re.compile(r"(?<![\u3041-\u3096])[のはがをにでともへや](?=[^\u3041-\u3096])")
_KOREAN = frozenset(
    "나 나는 난 내 내가 저 저는 전 제 제가 우리 너 네 뭐 뭐야 뭐지 뭐예요 뭐였지 무엇 무슨 어디 어디서 어디야 어디에 "
    "언제 누구 누가 어떤 어떻게 얼마 얼마야 몇 왜 있어 있어요 있나요 있지 해 해요 하나요 인가요 인지 그 이 저의 "
    "나의 것 수 좀".split()
)
_KOREAN_PARTICLE = re.compile(
    "(?<=..)(?:에서는|에서|에게|한테|까지|부터|이랑|으로|이에요|이야|예요|입니다|인가요|이|가|에|의|와|과|도|만|로|랑|요|야)$"
    "|(?<=.)(?:은|는|을|를)$"
)
_ARABIC = re.compile(r"[\u0621-\u064a\u0640\u064b-\u0652\u0670]+")
_ARABIC_MARKS = re.compile(r"[\u0640\u064b-\u0652\u0670]")
_ARABIC_PREFIX = re.compile(r"^(?:[وفبك]?ال|لل)(?=\w{3})")
_FOLDED = {"أ": "ا", "إ": "ا", "آ": "ا", "ى": "ي", "ة": "ه"}
_FOLDED |= {"ß": "ss", "ё": "е", "Ё": "Е", "ø": "o", "Ø": "O", "æ": "ae", "œ": "oe", "ł": "l", "Ł": "L", "đ": "d"}
_FOLDING = str.maketrans(_FOLDED)
_SPECIAL = re.compile(rf"[{UNSPACED}{HANGUL}\u0621-\u0652{''.join(_FOLDED)}\uff10-\uff5a]")

# Digests tell apart what signs tell apart: $5 and €5, 5 and -5, C and C++.
_SAID = re.compile(r"\w+(?:[+#]+(?!\w))?|[$€£¥₩₽₹%‰°]|(?<![\w)])[-−](?=\d)|[<>≤≥](?=\s?\d)")
_TOKEN = re.compile(
    rf"[{UNSPACED}{HANGUL}]|(?:(?![{UNSPACED}{HANGUL}])\w)+(?:[+#]+(?!\w))?|{_SAID.pattern.partition('|')[2]}"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CONTRACTED = [
    (re.compile(pattern), full)
    for pattern, full in (
        (r"[’`´]", "'"),
        (r"\be-mail", "email"),
        (r"\b(?:can'?t|cannot)\b", "can not"),
        (r"\bwon't\b", "will not"),
        (r"\b(do|does|did|is|are|was|were|has|have|had|would|could|should|must|need)n'?t\b", r"\1 not"),
        (r"\bim\b|\bi'm\b", "i am"),
        (r"'re\b", " are"),
        (r"\bive\b|\bi've\b", "i have"),
        (r"'ve\b", " have"),
        (r"'ll\b", " will"),
        (r"\b(it|that|he|she|what|who|there|here|where)'s\b", r"\1 is"),
        (r"(?<=\w)'(?=\w)", ""),
    )
]
_FILLERS = frozenset(
    "a an the really just actually basically honestly btw anyway well so please oh ah um uh er hm hmm haha hahaha lol "
    "hey hi hello ok okay yeah yep".split()
)
_FILLER_CHARACTERS = re.compile(r"[啊呀哦喔嗯呵]+|哈{2,}|[ㅋㅎㅠㅜ]+|(?<=[\u3041-\u3096])(?:よね|よ|ね)(?=[^\w]|$)")
_SPELLINGS = [
    (re.compile(pattern), common)
    for pattern, common in (
        (r"^(col|fav|hon|neighb|behavi|flav|hum|lab|rum|harb|vap|arm|od|vig)our", r"\1or"),
        (r"^(\w{4,})is(e[ds]?|ing|ations?)$", r"\1iz\2"),
        (r"^(\w{3,}l)ys(e[ds]?|ing)$", r"\1yz\2"),
        (r"^(cent|theat|met|lit|fib|kilomet|centimet)re(s?)$", r"\1er\2"),
        (r"^(trave|cance|labe|mode|fue|counse|signa)ll(ed|ing|er|ers)$", r"\1l\2"),
        (r"^grey", "gray"),
        (r"^programme(s?)$", r"program\1"),
        (r"^(licen|defen|offen)ce$", r"\1se"),
    )
]
# What one of them can be in at all.
_MAY_VARY = re.compile("our|is[ei]|isation|ys[ei]|res?$|ll(?:ed|ing|er)|grey|programme|ence$")
_DIGITS = {word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}


def words_of(text: str) -> list[str]:
    """Return lower-case words in order, each once; of scripts without spaces, pairs of characters."""
    text = text.lower()
    if not _RUN.search(text):
        return list(dict.fromkeys(_WORD.findall(text)))
    return list(dict.fromkeys(_WORD.findall(_RUN.sub(lambda run: f" {' '.join(_pairs(run.group()))} ", text))))


def telling_words(query: str) -> list[str]:
    """Return the words of a query that are worth searching for, as they stand in a ``searchable`` text. A character of
    a script without spaces that stands alone is the beginning of such a word (``begins_words``)."""
    text = query.lower()
    if _SPECIAL.search(text):
        text = _without_question(unicodedata.normalize("NFKC", text))
    words = (word for word in _WORD.findall(text) if word not in _STOP_WORDS)
    found = dict.fromkeys(part for word in words for part in _searched(word))
    return list(found)[:_MAX_TERMS]


def searchable(text: str) -> str:
    """Return the text that full-text search keeps of a text. In scripts without spaces, each character begins a word of
    two, the last of a run one of its own: so pairs are found, and a character alone as the beginning of a word.
    Letters are folded that the index would keep apart. All other text stays as it is."""
    if not _SPECIAL.search(text):
        return text
    text = unicodedata.normalize("NFKC", text)
    text = _RUN.sub(lambda run: f" {' '.join([*_pairs(run.group()), run.group()[-1]])} ", text)
    return _ARABIC.sub(lambda word: _arabic_stem(word.group()), text).translate(_FOLDING)


def begins_words(word: str) -> bool:
    """Tell if a word of ``telling_words`` is only the beginning of words of a ``searchable`` text."""
    return len(word) == 1 and _RUN.fullmatch(word) is not None


def length_in_words(text: str) -> float:
    """Return how long a text is in words; in scripts without spaces, by its characters."""
    n_characters = len(_CHARACTER.findall(text))
    if not n_characters:
        return len(text.split())
    return n_characters / _CHARACTERS_A_WORD + len(_CHARACTER.sub(" ", text).split())


def digest_of(text: str) -> str:
    """Hash a text's words: what differs in case, spaces and punctuation only has the same."""
    return hashlib.blake2b(" ".join(_SAID.findall(text.lower())).encode(), digest_size=16).hexdigest()


def alike(a: str, b: str) -> bool:
    """Tell if two texts say the same in the same words. They may differ in case, punctuation, spacing, articles,
    fillers, contractions and spelling; one other word, and they say different things, however long they are."""
    return _said(a) == _said(b)


def _said(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", _FILLER_CHARACTERS.sub(" ", text)).casefold()
    text = _THOUSANDS.sub("", text)
    for pattern, full in _CONTRACTED:
        text = pattern.sub(full, text)
    return [_spelled(word) for word in _TOKEN.findall(text) if word not in _FILLERS]


def _spelled(word: str) -> str:
    """Return the one spelling that stands for all of a word's."""
    if _MAY_VARY.search(word):
        for pattern, common in _SPELLINGS:
            word = pattern.sub(common, word)
    return _DIGITS.get(word, word)


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def _without_question(text: str) -> str:
    """Return a question without what marks it as one in scripts without spaces."""
    if re.search(f"[{KANA}]", text):
        return _JAPANESE_LEADING.sub(" ", _JAPANESE.sub(" ", text))
    return _CHINESE.sub(" ", text)


def _searched(word: str) -> Iterable[str]:
    """Return the words to be searched for instead of one."""
    if not _SPECIAL.search(word):
        return [word]
    if _ARABIC.fullmatch(word):
        return [_arabic_stem(word).translate(_FOLDING)]
    parts: list[str] = []
    for part in re.findall(rf"[{UNSPACED}]+|[{HANGUL}]+|[^{UNSPACED}{HANGUL}]+", word):
        if not _RUN.fullmatch(part):
            parts.append(part.translate(_FOLDING))
        elif part not in _KOREAN:
            parts += _pairs(_KOREAN_PARTICLE.sub("", part))
    return parts


def _arabic_stem(word: str) -> str:
    return _ARABIC_PREFIX.sub("", _ARABIC_MARKS.sub("", word))
