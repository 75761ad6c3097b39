"""Standing instructions: how somebody wants to be answered or addressed from now on.

A sentence is one if it asks for something that lasts ("from now on", "always", "call me Max") or that is lasting by its
nature ("answer in German", "no emojis"), unless it is about one answer only, about a text at hand, or somebody else's
words. The words are in ``instruction_words`` and ``instruction_topics``, in ten languages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memory.language import instruction_words as said
from memory.language.instruction_topics import EVERYWHERE, LANGUAGE, covers, scope_of, topics_of
from memory.language.instruction_words import compiled, folded, words
from memory.language.words import telling_words

_MAX_CHARS = 300
_MAX_CLAUSES = 8
_OTHER_SCRIPTS = re.compile(r"[\u0600-\u06ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
# What may be taken back without a known topic: doing of the one who answers, and of nobody else.
_TAKEN_BACK = re.compile(
    r"(?:mention|suggest|recommend|call me|remind|ask|answer|reply|joke|bring up|talk about|include|add|"
    r"swear|explain|show)(?!\w)"
)
_WORD = re.compile(r"\w+")
_HAN_RUN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_QUOTED = re.compile(r"^[\"“”„«»「『'‘]|[\"“”„«»「『][^\"”“«»」』]{8,}[\"”“«»」』]")
_CUT = re.compile(
    r"\s*[,;，、；،。]\s*|\s*(?:\.\.+|…)\s*|\s*[–—]\s*|\s+-\s+|:\s+|\s+(?=(?:and|but|so|und|aber|also|et|"
    r"mais|donc|y|pero|e|mas|и|а|но) )"
)
_NOT = r"don['’]?t|dont|do not|no|not|nicht|kein(?:e|en)?|ne|n['’]|pas|plus|não|nao|nunca|не|never"
# What may stand before the doing: that it lasts, that it is not to be done, to whom.
_BEFORE = compiled(
    words(
        rf"""always|never|{_NOT}|ever|only|rather|me|mir|uns|te|se|auf|from now on(?:wards?)?|
from (?:here|today) on(?: out)?|starting (?:now|today)|going forward|moving forward|henceforth|
in (?:the )?future|as a rule|
by default|immer|nie|niemals|nie wieder|grundsätzlich|stets|künftig|zukünftig|in zukunft|ab (?:jetzt|sofort|heute)|
von (?:nun|jetzt) an|toujours|jamais|désormais|dorénavant|à l['’]avenir|à partir de maintenant|siempre|jamás|
de ahora en adelante|a partir de (?:ahora|hoy|agora)|desde ahora|sempre|de agora em diante|daqui (?:em|
para a?) diante|
всегда|никогда|отныне|впредь|с этого момента|теперь|в будущем|больше"""
    )
    + r"|n['’](?=\w)|m['’](?=\w)",
    r"(?:for|in|with|on) (?:[\w'’-]+ ){1,5}?(?=(?:please |always |never |only )*(?:use|write|answer|reply|"
    r"don['’]t|give|stick) )",
)
_MODAL = compiled(
    words(
        r"""(?:kannst|könntest|würdest) du|dass du|(?:können|könnten) sie|peux-tu|tu peux|pourrais-tu|pou(?:vez|
rriez)-vous|que tu|
puedes|podrías|podés|quiero que|prefiero que|(?:você )?pode|podes|poderia|quero que|prefiro que|можешь|можете"""
    )
)
_LAST_VERB = re.compile(
    r"(?<!\w)(?:antworten|schreiben|sprechen|reden|benutzen|nutzen|verwenden|nennen|duzen|siezen|halten)\W*$"
)
_RELATIVE = re.compile(r"(?<!\w)(?:that|which|who|where|whose) .*")
_ME = compiled(words(r"i|we|he|she|they|ich|wir|er|man|je|j['’]|il|elle|nous|yo|él|ella|eu|ele|ela|я|он|она|мы|они"))
_OTHERS_SUBJECT = compiled(
    r"^(?:我(?!想让你|要你|希望你|不想|不要)|他|她|我们|他们|私は|僕は|俺は|彼|彼女|나는|저는|난 |그는|"
    r"그녀는|우리는|أنا |هو |هي |نحن )"
)
# Ways of asking for what is lasting by its nature, where nothing says so.
_NATURE = compiled(
    rf"(?:(?:use|avoid|stop|quit|skip|stick to|switch to|drop|prefer|be|stay|speak|talk|spell|no more|no)|"
    rf"{_NOT} .*?(?:use|be|write|"
    r"add|put|speak|talk|swear|flatter|praise|apologi[sz]e|lecture)|nutze?|benutze?n?|verwende?n?|duz(?:e|"
    r"en)?|siez(?:e|en)?|"
    r"keine?|tutoie[sz]?(?:-moi)?|vouvoie[sz]?(?:-moi)?|utilise[sz]?|évite[sz]?|n['’]utilise[sz]? .*|"
    r"arrête[sz]?|us[ae]s?|utili(?:za|ce)|"
    r"tutéame|trátame|evit[ae]|dej[ae] de|no (?:us|utilic|pong)[ae]s|não us[ae]s?|par[ae] de|nada de|sem|"
    r"(?:не )?используй(?:те)?|без|обращайся|обращайтесь|избегай(?:те)?|перестань(?:те)?)(?!\w)"
)
_BY_NATURE = frozenset(
    "spelling pronouns formality praise swearing emoji clock temperature distance weight units level disclaimers"
    " variety indentation".split()
)
_ONE_THING = re.compile(r"(?<!\w)(?:a|an|one|ein|eine|einen|un|une|una|um|uma|\d+)(?!\w)(?! (?:bit|little))")
# A question or a text follows that is to be answered so.
_TASK = re.compile(r":\s*\S.{6,}")
# An explicit "from now on": what is said beside it need not even have a verb.
_FROM_NOW_ON = compiled(
    words(
        r"""from now on(?:wards?)?|from here on(?: out)?|from today(?: on)?|going forward|moving forward|
henceforth|in future|
ab (?:jetzt|sofort|heute)|von (?:nun|jetzt) an|künftig|in zukunft|désormais|dorénavant|à partir de maintenant|
de ahora en (?:adelante|más)|a partir de (?:ahora|agora)|de agora em diante|daqui (?:em|para a?|pra) (?:diante|
frente)|
отныне|впредь|с этого момента"""
    )
)
_WHOSE = compiled(
    words(
        r"my|our|his|her|their|the|mein\w*|unser\w*|sein\w*|ihre?\w*|mon|ma|mes|notre|mi|mis|su|sus|"
        r"nuestr\w+|meu|minha|nosso|мо\w|наш\w*"
    )
)
_WHEN_I_ASK = re.compile(
    r"(?:when(?:ever)?|every time|each time|any time|anytime) i (?:ask|send|give|show|paste|share|tell|"
    r"mention|say|write|want|request)(?!\w)"
)
_NO_ORDER = re.compile(
    r"(?:i|he|she|it|they|we|my|the|people|everyone|everybody|nobody|you|this|that|there|his|her)(?!\w)"
)
_IN_LANGUAGE = compiled(
    r"(?:(?:answer|reply|respond|speak|talk|write|communicate|chat)|antworte[nt]?|schreibe?n?|sprich|"
    r"réponds?|répondez|écri[st]|écrivez|"
    r"parle[sz]?|respond[ae]s?|respóndeme|respondeme|contést?ame|contest[ae]|escríbeme|escrib[ae]|háblame|"
    r"habl[ae]|responda-me|"
    r"escrev[ae]|fal[ae]|отвечай(?:те)?|пиши(?:те)?|говори(?:те)?)"
    r"(?:[ -](?:to|with|back|me|us|only|mir|uns|bitte|moi|nous|a|conmigo|comigo|мне|со мной|please|always))*"
    r"(?: nur| solo| sólo| só| только)? (?:in|auf|en|em|на|по-)?\s?(?P<language>.{3,40})"
)
_IN_LANGUAGE_ELSEWHERE = compiled(
    r"^(?:请|麻烦|你|拜托|就|請)*(?:用|使用|以)(?P<zh>.{1,8})(?:来|來)?(?:回答|回复|答复|和我|跟我|与我|"
    r"交流|说话|回覆)",
    r"^(?P<ja>.{1,8}語|.{0,4}敬語|タメ口)で(?:答えて|返信して|話して|返事して|お願い|書いて|回答して)",
    r"^(?P<ko>.{1,6}(?:어|말))로 ?(?:대답|답|말|이야기|답변)",
    r"^(?:أجب|اجب|أجبني|رد|تحدث|تكلم|اكتب)(?: علي| معي| لي)? (?P<ar>ب?.{4,20})$",
)
_GENERAL = compiled(
    r"(?:keep|make) (?:all |most )?(?:of )?(?:your |the |all )?(?:answers|replies|responses|explanations|"
    r"messages|summaries)\b.*",
    r"(?:write|format|style|phrase|spell|sign|structure) (?:all )?(?:of )?(?:my|your) (?!code\b)\w+(?: messages)?s?\b"
    r" (?:in|with|like|as|without|using) .*",
    r"(?:all )?(?:of )?your (?:answers?|replies|responses|explanations|messages) (?:should|must|need to|"
    r"have to|shouldn['’]t|"
    r"mustn['’]t|can['’]t) .*",
    r"(?:treat me (?:like|as)|explain (?:things|everything|stuff)|assume (?:that )?i(?:['’]m| am| know| already)) .*",
    r"i (?:prefer|want|need|['’]d rather have) (?:my |your |all )?(?:[\w-]+ ){0,3}(?:answers|replies|"
    r"responses|explanations)\b.*",
    r"i (?:hate|don['’]t like|can['’]t stand|dislike|don['’]t want|love) (?:it )?when you .*",
    r"(?:no (?:more )?|only )?(?:[\w-]+ ){1,3}(?:answers|replies|responses)(?:,? (?:please|pls|only))+\W*",
    r"(?:stop|quit) (?:answering|replying|ending|starting|beginning|using|adding|asking|calling|"
    r"apologi[sz]ing|flattering|"
    r"praising|lecturing|mentioning|suggesting|repeating|reminding|telling me|sugar-?coating|being)\b.*",
    r"(?:don['’]?t|do not) (?:mention|lecture|remind me|ask me|bring up|suggest|repeat|apologi[sz]e)\b.*",
    r"(?:quote|give|show|list|state|express|write|convert)(?: me)? (?:all )?(?:the )?(?:prices|temperatures|"
    r"distances|weights|times|dates|"
    r"amounts|measurements|sizes|heights|lengths|units|quantities) (?:in|as) .*",
    r"use .{1,40} for (?:all )?(?:my |your |the )?(?:code )?(?:examples|snippets|code|scripts|recipes|"
    r"temperatures|distances|weights|dates|"
    r"times|prices|units|everything)(?!\w).*",
    r"no more (?:[\w-]+ )?(?:summaries|emojis|jokes|lists|bullets?(?: points)?|tables|questions|disclaimers|"
    r"apologies|links|exclamation "
    r"(?:marks|points)|headings|small talk|compliments|intros|introductions|recaps|puns|flattery)(?!\w).*",
    r"when(?:ever)? i say .* i mean .*|my pronouns are .*|talk to me (?:like|as if|as though) .*",
    r"(?:du darfst|sie dürfen|sie können|du kannst|wir können|können wir|lass uns|wir sollten) .*(?:duzen|"
    r"siezen|du sagen|sie sagen|"
    r"(?:beim|zum) (?:du|sie)).*|(?:on peut|on pourrait|on va|tu peux|vous pouvez) .*(?:tutoyer|vouvoyer).*|"
    r"on se (?:tutoie|vouvoie).*|"
    r"(?:podemos|puedes|podes) (?:tutear\w*|tratar\w* de (?:tu|usted|vos)).*|(?:pode|"
    r"podes) (?:me )?tratar(?:-me)? por (?:tu|voce).*|"
    r"(?:давай(?:те)?|можно|можешь|можете) (?:уже |лучше )?(?:перейд\w+ )?на (?:ты|вы).*|(?:перейд[её]м|"
    r"переходим) на (?:ты|вы).*",
    r"(?:write|schreibe?|antworte|écri[st]|écrivez|réponds?|escrib[ae]|respond[ae]|escrev[ae]|пиши(?:те)?|"
    r"отвечай(?:те)?) "
    r"(?:mir |moi |me |мне )?(?:without|ohne|sans|sin|sem|без) (?!\w+ (?:on|in|for)(?!\w)).*",
    r"(?:halte?|fass) (?:deine |die )?antworten .*|hör auf .*",
    r"(?:garde|gardez|fais|faites) (?:tes|vos|les|des) réponses .*|arrête[sz]? (?:de|d['’]) ?.*",
    r"(?:mantén|haz|da) (?:tus |las )?respuestas .*|deja de .*",
    r"(?:mantenha|mantém|dê) (?:as |suas |tuas )*respostas .*|para de .*|pare de .*",
    r"(?:отвечай|пиши)(?:те)? (?:мне )?(?:кратко|короче|коротко|подробн\w+|лаконично|проще|вежливо|официально).*",
    r"(?:请|你的)?(?:回答|回复|答复)(?:要|尽量|请|得|需要|必须|时|的时候)+.*|(?:请|麻烦)?(?:不要|别)(?:用|"
    r"使用|加|发).{0,4}(?:表情|英文|术语|表格).*|"
    r"(?:请)?(?:用|使用)(?:公里|公制|英制|摄氏|华氏|敬语|您).*",
    r"(?:返信|返事|回答|答え|説明|返答)(?:は|には|を).*|(?:絵文字|顔文字|敬語|専門用語)(?:は|"
    r"を)?使わないで.*|(?:敬語|タメ口|ため口)で.*",
    r"(?:답변|대답|답장|설명|답)(?:은|는|을).*|(?:이모지|이모티콘)(?:는|을|를)? ?(?:쓰지|사용하지|빼).*|"
    r"(?:존댓말|반말)(?:로|을|를|만)? .*",
    r"(?:لا تستخدم|لا تستعمل) .{0,12}(?:إيموجي|ايموجي|رموز|تعبيرية).*|(?:اجعل|اختصر) (?:إجاباتك|ردودك|أجوبتك).*",
)
_BARE = compiled(
    r"(?:no (?:more )?|only |keine |sin |sem |без |pas d['’])?(?:[\w'’/-]+ ?){1,3}(?:,? ?(?:please|pls|"
    r"thanks|bitte|stp|por favor))?\W*"
)
_NAME = re.compile(
    r"\s*(?:just |by (?:my )?(?:first )?(?:name |nickname )?|de |als |einfach |nur |"
    r"bitte )?[\"“'‘«]?(?P<name>[^\s,.!?;:\"”]+"
    r"(?: (?!instead|please|from|not|and|when|at|in|if|by)[^\s,.!?;:\"”]+){0,2})[\"”'’»]?"
    r"(?:\s*[,.!?;:)(🙂😀]|\s*$|\s+(?:instead|please|from|not|and|it['’]s|rather|when|at|in|if|thanks?|by)\b)"
)
_NO_HAN_NAME = re.compile(r"叫我(?:去|来|來|起|做|把|不|别|別|要|帮|幫|回|吃|一声|一下|的|在|先|再|明天|等)")
_NEGATED = compiled(
    words(
        rf"{_NOT}|without|avoid|stop|quit|skip|drop|ohne|sans|sin|sem|évite[sz]?|evit[ae]|arrête[sz]?|"
        rf"dej[ae] de|par[ae] de|hör auf|без"
    ),
    r"不要|别|別|不用|ないで|やめて|なしで|지 ?마|지 ?말|빼|없이|لا |تجنب|بدون|توقف",
)
_LASTING_NO = compiled(
    words(
        r"never|any ?more|any longer|ever again|from now on|nie|niemals|nicht mehr|nunca|jamais|plus|"
        r"больше|никогда"
    )
)
# Words that tell nothing of what is wanted.
_FILLING = compiled(
    words(
        r"please|always|never|now|from|you|use|using|again|anymore|more|any|call|dont|don|not|can|again|stop|ok|"
        r"okay|just|me|my|your"
    )
)
_SAME_WORDS, _WITHDRAWN_WORDS = 0.5, 0.5
# Only one of these holds at a time; of the other topics, several instructions may stand together.
_SINGLE = frozenset(
    "language variety spelling address pronouns formality emoji length bullets clock currency temperature "
    "distance weight units"
    " indentation humour swearing".split()
) | {"date format", "package manager", "programming language", "comments language"}


@dataclass(frozen=True)
class Instruction:
    """A standing instruction: the topics that it settles (none: not known which), the field that it is confined to
    (empty: none), whether it takes an earlier one back, whether it forbids, and its telling words."""

    topics: frozenset[str]
    scope: str
    withdraws: bool = False
    forbids: bool = False
    everywhere: bool = False
    words: frozenset[str] = frozenset()

    def replaces(self, old: Instruction) -> bool:
        """Tell if an older instruction no longer holds beside this one."""
        if not (self.everywhere or self.scope == old.scope):
            return self.withdraws and not self.scope and bool(self.topics & old.topics) and self._says_of(old)
        if not self.topics or not old.topics:
            return self._says_of(old)
        if not covers(self.topics, old.topics):
            return self.withdraws and bool(self.topics & old.topics) and self._says_of(old)
        return old.topics <= _SINGLE or self.withdraws or self.forbids != old.forbids or self._says_of(old)

    def _says_of(self, old: Instruction) -> bool:
        """Tell if both are about the same, by their words."""
        shared = len(self.words & old.words)
        if self.withdraws:
            return shared >= max(1.0, _WITHDRAWN_WORDS * min(len(self.words), len(old.words)))
        return shared > 0 and shared >= _SAME_WORDS * len(self.words | old.words)


def instruction_of(sentence: str) -> Instruction | None:
    """Return the standing instruction that a sentence gives, changes or takes back; None where it does neither."""
    text = _plainly(sentence)
    if not 4 <= len(text) <= _MAX_CHARS and not _OTHER_SCRIPTS.search(text):
        return None
    if len(text) > _MAX_CHARS or not (_OTHER_SCRIPTS.search(text) or _may_ask(text)) or _QUOTED.search(text):
        return None
    withdrawn = False
    begin = 0
    for cut in [*list(_CUT.finditer(text))[:_MAX_CLAUSES], None]:
        before, rest = text[:begin], text[begin:]
        begin = len(text) if cut is None else cut.end()
        if not rest or said.REPORTED.search(_without_lead(before)):
            continue
        found = _asked(rest, before)
        if found == "given":
            return described(text)
        withdrawn = withdrawn or found == "withdrawn"
    return described(text, withdraws=True) if withdrawn else None


def _plainly(sentence: str) -> str:
    """Return a sentence folded, without words of courtesy that look like others."""
    return re.sub(
        r" ?(?:s'il (?:te|vous) plait|svp|stp|por favor|porfa)(?=\W|"
        r"$)",
        " please",
        folded(sentence.strip()),
    )


def _may_ask(text: str) -> bool:
    return not said.BEGINNINGS.isdisjoint(word[:4] for word in _WORD.findall(text))


def described(sentence: str, *, withdraws: bool = False) -> Instruction:
    """Describe a sentence that is known to be an instruction."""
    text = _plainly(sentence)
    topics = topics_of(text)
    forbids = _NEGATED.search(text) is not None
    if topics == {"address"} and not withdraws and _NEGATED.search(text.rpartition(",")[2]) is not None:
        topics = frozenset()  # "never call me Maxi" is no name
    return Instruction(
        topics, scope_of(text, topics), withdraws, forbids, EVERYWHERE.search(text) is not None, _telling(text)
    )


def _asked(text: str, before: str) -> str:
    """Say what a sentence from some clause on does: "given" (an instruction), "withdrawn" (one), or nothing."""
    lead = said.LEADS.match(text)
    rest = text if lead is None else text[lead.end() :]
    if not rest:
        return ""
    naming = _naming(rest)
    if naming is not None:
        return naming
    if said.ONCE.search(text) and not said.LASTING.match(rest):
        return ""
    if said.REPORTED.search(rest) and not re.match(r"(?:never |always )?(?:tell|remind|quote|cite)|don", rest):
        return ""
    if _withdraws(rest):
        return "withdrawn"
    if rest.endswith("?") and (lead is None or not said.LASTING.search(rest)):
        return ""
    if _GENERAL.fullmatch(rest):
        return "given"
    if _OTHER_SCRIPTS.search(rest):
        return "given" if _lasting_elsewhere(rest) else ""
    return "given" if _lasting(rest, before, lead) or _by_nature(rest) else ""


def _without_lead(text: str) -> str:
    lead = said.LEADS.match(text)
    return text if lead is None else text[lead.end() :]


def _naming(text: str) -> str | None:
    """Say what a clause does about how somebody is called; None where it is not about that."""
    bare = _stripped(text)
    negated = bare != text and _NEGATED.search(text[: len(text) - len(bare)]) is not None
    match = said.NAMING.search(text) if _OTHER_SCRIPTS.search(text) else said.NAMING.match(_without_permission(bare))
    if match is None or _OTHERS_SUBJECT.match(text):
        return None
    if negated:
        first = re.split(_CUT, text)[0]
        ending = re.search(r"(?<!\w)(?:any ?more|any longer|again|nicht mehr|plus|mas|mais|больше)(?!\w)", first)
        return "withdrawn" if ending else "given" if _LASTING_NO.search(first) else ""
    if _OTHER_SCRIPTS.search(text):
        late = "叫我" in text and "叫我" not in text[:12]
        return "" if late or _NO_HAN_NAME.search(text) or text.endswith(("?", "？", "吗")) else "given"
    named = _NAME.match(_without_permission(bare)[match.end() :])
    if named is None:
        german = re.match(r"(?:nenn|sprich|du kannst|ab jetzt|bitte)", bare) and match.group().endswith(
            ("nennen", " an")
        )
        return "given" if german else ""
    first, *others = named["name"].split()
    return (
        "" if first in said.NO_NAMES or any(word in ("at", "on", "about", "when", "if") for word in others) else "given"
    )


def _without_permission(text: str) -> str:
    match = re.match(
        r"(?:(?:you|u) (?:can|may|could|should) (?:just |also )?|feel free to |i(?:['’]d)? (?:like|prefer|"
        r"want|love) (?=to be called|being called))",
        text,
    )
    return text if match is None else text[match.end() :]


def _stripped(text: str) -> str:
    """Return a clause from the doing on: without what says that it lasts, and that it is not to be done."""
    for _ in range(6):
        match = _BEFORE.match(text)
        if match is None:
            lead = said.LEADS.match(text)
            if lead is None or lead.end() == 0:
                return text
            match = lead
        text = text[match.end() :].lstrip(" ,:;")
    return text


def _withdraws(text: str) -> bool:
    if not said.WITHDRAWN.match(text):
        return False
    if topics_of(text) - {"questions", "tests", "comments", "greeting", "length"}:
        return True
    rule = re.search(r"(?<!\w)(?:rule|instruction|requirement|restriction)s?(?!\w)", text)
    again = re.match(
        r"(?:you|u) (?:can|may|don['’]?t (?:have|need) to) (?P<act>.*?)(?:again|any ?more|any longer)", text
    )
    return bool(
        rule
        or (again and _TAKEN_BACK.match(again["act"]))
        or (topics_of(text) and re.search(r"answer|repl|respon", text))
    )


def _lasting(text: str, before: str, lead: re.Match[str] | None) -> bool:
    """Tell if a clause of a language with spaces asks for something that lasts."""
    subordinate = (
        re.match(
            r"(?:when|whenever|for|in|every time|wenn|quand|cuando|quando|когда|"
            r"each time)\s",
            before,
        )
        is not None
    )
    if _WHEN_I_ASK.match(before) and not _NO_ORDER.match(text):
        return True
    if not (said.LASTING.search(_RELATIVE.sub("", text)) or subordinate):
        return False
    rest = _stripped(text)
    act = said.ACTS.match(rest)
    if act is not None:
        return not _ME.match(rest[act.end() :].lstrip())
    if lead is not None and _MODAL.search(lead.group()) and said.ACTS.search(text):
        return True
    if _ME.search(text) or _WHOSE.search(text):
        return False
    bare = _FROM_NOW_ON.search(text) is not None and len(text.split()) <= 12 and bool(topics_of(text) & _SINGLE)
    return bare or _LAST_VERB.search(text) is not None


def _by_nature(text: str) -> bool:
    """Tell if a clause of a language with spaces asks for what nobody wants for one answer only."""
    rest = _stripped(text)
    if _TASK.search(text):
        return False
    match = _IN_LANGUAGE.match(rest)
    if match is not None and LANGUAGE.match(re.sub(r"^(?:in|auf|en|em|на) ", "", _plain_language(match["language"]))):
        return (
            len(match["language"].split()) <= 4
            or re.match(r"(?:answer|reply|\w+ (?:to|with) me)(?!\w)", rest) is not None
        )
    topics = topics_of(text)
    if _ONE_THING.search(" ".join(rest.split()[:4])) and "clock" not in topics:
        return False
    if (_NATURE.match(text) or _NATURE.match(rest)) and topics & _BY_NATURE:
        return "pronouns" in topics or not _ME.search(text)
    if re.match(r"be (?:more |less |very |really |as )?\w+", rest) and topics & {"length", "formality", "praise"}:
        return len(rest.split()) <= 8
    wanted = re.match(r"(?:no|only|keine|sin|sem|без|pas)\b", text) or re.search(
        r"(?:please|pls|bitte|por favor|stp)\W*$", text
    )
    return bool(wanted and topics & _BY_NATURE and _BARE.fullmatch(text))


def _plain_language(text: str) -> str:
    return re.sub(
        r"^(?:plain |simple |british |american |uk |us |proper |good |brazilian |swiss |standard )+", "", text.strip()
    )


def _lasting_elsewhere(text: str) -> bool:
    """Tell if a clause of a language that is not written with spaces, or of Korean or Arabic, is an instruction."""
    if _OTHERS_SUBJECT.match(text) or text.endswith(("吗", "吗？", "呢？", "ですか", "ますか？", "까?", "؟")):
        return False
    if _IN_LANGUAGE_ELSEWHERE.search(text) and LANGUAGE.search(text):
        return True
    natural = len(text) <= 25 and not re.search(r"\d", text) and topics_of(text) & _BY_NATURE
    return bool((said.LASTING.search(text) or natural) and said.ACTS.search(text))


def _telling(text: str) -> frozenset[str]:
    """Return the words that an instruction can be known by; of Chinese, Japanese and Korean, pairs of characters."""
    pairs = {run[i : i + 2] for run in _HAN_RUN.findall(text) for i in range(len(run) - 1)}
    plain = [word for word in telling_words(text) if not _HAN_RUN.fullmatch(word) and not _FILLING.fullmatch(word)]
    return frozenset({_stem(word) for word in plain} | pairs)


def _stem(word: str) -> str:
    return (
        re.sub(
            r"(?:ing|ed|es|"
            r"s)$",
            "",
            word,
        )
        if len(word) > 5
        else word.removesuffix("s")
        if len(word) > 3
        else word
    )
