"""Wishes that something be forgotten: "delete my phone number", "forget everything about Maria".

What is asked for at the beginning of a sentence counts; who forgot something, or wants something deleted elsewhere,
asks for nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memory.language.words import words_of

_MAX_CHARS = 300
_HINT = re.compile(
    r"(?i)forget|delet|remov|eras|wipe|purge|clear|lösch|loesch|vergiss|vergess|entfern|oubli|supprim|"
    r"efface|olvid|borr|elimin|"
    r"esque|apag|exclua|remova|забуд|удали|сотри|忘|删|刪|清除|消して|削除|지워|삭제|잊|احذف|امسح|انس"
)
_ASK = (
    r"(?:(?:please|pls|plz|hey|hi|ok|okay|so|and|also|now|just|then|actually|thanks|(?:can|could|would|"
    r"will) (?:you|u)|i want you to|"
    r"i need you to|i(?:['’]d| would) like you to|you (?:should|must|can)|bitte|kannst du|könntest du|"
    r"s['’]il te pla[iî]t|peux-tu|"
    r"tu peux|pouvez-vous|por favor|puedes|você pode|pode|пожалуйста|можешь)[\s,!.:]+)*"
)
_TAIL = (
    r"(?:[\s,]+(?:please|pls|right (?:now|away)|now|again|too|as well|completely|entirely|permanently|"
    r"for good|forever|thanks|"
    r"thank you|bitte|sofort|wieder|s['’]il te pla[iî]t|por favor|пожалуйста|from (?:your|the) (?:memory|"
    r"memories|records|notes|"
    r"database|storage|mind)|aus deinem (?:gedächtnis|speicher)|de (?:ta|votre) mémoire|de tu memoria|da sua memória|"
    r"из (?:своей )?памяти))*[\s.!?…。！]*"
)
_EN = r"(?:forget|delete|remove|erase|wipe|purge|clear)"
_DE, _DE_END = r"(?:lösche?n?|loesche?n?|vergiss|vergessen|entferne?n?)(?: sie)?", r"(?:löschen|vergessen|entfernen)"
_FR = r"(?:oublie[sz]?|oublier|supprime[rsz]?|efface[rsz]?)"
_ES = r"(?:olvida|olvide|olvidar|borra|borre|borrar|elimina|elimine|eliminar)"
_PT = r"(?:esqueça|esquece|esquecer|apague|apaga|apagar|delete|deletar|exclua|excluir|remova|elimine)"
_RU = r"(?:забудь|удали|сотри|удалить|забыть)(?:те)?"
_KNOW = (
    r"(?: (?:that )?(?:you|u)(?: (?:know|have|remember|saved|stored|noted|learned|learnt|got)|['’]ve (?:saved|stored|"
    r"noted|learned|learnt|got))(?: (?:saved|stored|noted))?)"
)
_ABOUT = r"(?:about|on|regarding|concerning|related to|to do with|that mentions?|mentioning|of)"
_WHAT = r"(?P<what>\S(?:(?!(?<!Dr)(?<!Mr)(?<!Mrs)(?<!Ms)[.!?…]\s).){0,80}?)"
_EVERYTHING = tuple(
    re.compile(rf"{_ASK}{expression}{_TAIL}", re.IGNORECASE)
    for expression in (
        rf"{_EN} (?:everything|anything|all|whatever|what){_KNOW}? {_ABOUT} {_WHAT}",
        rf"{_EN} (?:all|every|any)(?: of)?(?: (?:my|the|your))? (?:memor(?:y|ies)|notes?|facts?|"
        rf"info(?:rmation)?|data|details?|"
        rf"entr(?:y|ies)|things?){_KNOW}? {_ABOUT} {_WHAT}",
        rf"{_DE} (?:bitte )?(?:alles|was du),? ?(?:was du )?(?:über|von|zu) {_WHAT}(?: (?:weißt|weisst|"
        rf"gespeichert hast|gemerkt hast))?",
        rf"(?:alles|was du),? ?(?:was du )?(?:über|von|zu) {_WHAT}(?: (?:weißt|gespeichert hast))?,? {_DE_END}",
        rf"{_FR} (?:tout ce que (?:tu sais|vous savez)|tout ce qui concerne|tout|ce que (?:tu sais|vous savez)) ?"
        rf"(?:sur|de|concernant|à propos de|au sujet de)? {_WHAT}",
        rf"{_ES} (?:todo lo que sabes|lo que sabes|todo lo relacionado|todo) (?:sobre|de|acerca de|con) {_WHAT}",
        rf"{_PT} (?:tudo (?:o )?que (?:você )?sabe|o que (?:você )?sabe|tudo) (?:sobre|de|da|do|"
        rf"a respeito de) {_WHAT}",
        rf"{_RU} (?:вс[её])(?:,? что (?:ты )?(?:знаешь|помнишь))? (?:о|об|обо|про) {_WHAT}",
        r"(?:请|麻烦你?|帮我)*(?:忘记|忘掉|删除|删掉|清除|忘了)(?:所有|一切|全部)?(?:关于|"
        r"有关)(?P<what>.{1,20}?)(?:的(?:一切|所有|全部|事情?|信息|内容|记忆|东西)+)?",
        r"(?P<what>.{1,20}?)に(?:ついて|関する)(?:の)?(?:こと|情報|記憶|話)?(?:は|を)?(?:すべて|全部|"
        r"全て)?(?:を)?(?:忘れて|削除して|消して)(?:ください|下さい|ほしい|ね)*",
        r"(?P<what>.{1,20}?)에 ?(?:대한|대해|관한) ?(?:모든|기억|정보|것|거|건|내용| )*(?:을|를|"
        r"은)? ?(?:전부|다|모두)? ?(?:지워|삭제해|잊어)(?:버려)? ?(?:줘|주세요|요)?",
        r"(?:احذف|امسح|انسَ?) (?:كل ما تعرفه|كل ما تعرف|كل شيء|ما تعرفه) عن (?P<what>.{1,30}?)",
    )
)
_ONE = tuple(
    re.compile(rf"{_ASK}{expression}{_TAIL}", re.IGNORECASE)
    for expression in (
        rf"(?P<verb>{_EN}) (?:about )?(?P<whose>my|our|(?-i:[A-Z])\w+['’]s|my \w+['’]s) {_WHAT}",
        rf"{_DE} (?:bitte )?(?P<whose>meine?[nrs]?|unsere?[nrs]?) {_WHAT}",
        rf"(?P<whose>meine?[nrs]?|unsere?[nrs]?) {_WHAT} {_DE_END}",
        rf"{_FR} (?P<whose>mon|ma|mes|notre|nos) {_WHAT}",
        rf"{_ES} (?P<whose>mis?|nuestr[oa]s?) {_WHAT}",
        rf"{_PT} (?P<whose>(?:o |a |os |as )?(?:meus?|minhas?|noss[oa]s?)) {_WHAT}",
        rf"{_RU} (?P<whose>мо[йяюеи]|моё|наш\w*) {_WHAT}",
        r"(?:请|麻烦你?|帮我|你)*(?:忘记|忘掉|删除|删掉|清除|忘了)(?:一下)?(?P<whose>我的|"
        r"我们的)(?P<what>.{1,20}?)吧?",
        r"(?:请|帮我)*把(?P<whose>我的|我们的)(?P<what>.{1,20}?)(?:删掉|删除|忘掉|忘了|清除)吧?",
        r"(?P<whose>私の|僕の|俺の|わたしの)(?P<what>.{1,20}?)(?:を|は)?(?:削除して|消して|"
        r"忘れて)(?:ください|下さい|ほしい|ね)*",
        r"(?P<whose>내|제|나의|저의) (?P<what>.{1,20}?)(?:를|을|은|는)? ?(?:좀 )?(?:지워|삭제해|"
        r"잊어)(?:버려)? ?(?:줘|주세요|요)?",
        r"(?:احذف|امسح|انسَ?) (?P<what>(?:رقم )?\w+ي)(?P<whose>)",
    )
)
_WHERE = re.compile(
    rf"{_ASK}{_EN} (?P<what>where (?:i|we) live|my whereabouts|how old i am|"
    rf"when i was born){_TAIL}",
    re.IGNORECASE,
)
_THAT = re.compile(
    rf"{_ASK}forget (?:about )?(?:the (?:fact|memory) )?that (?P<what>(?:i|we|my|our|he|she|"
    rf"they|(?-i:[A-Z])\w+)(?:['’]\w+)? \w.*?)[\s.!]*",
    re.IGNORECASE,
)
# Something is to be deleted elsewhere: from a text, a device, a service.
_ELSEWHERE = re.compile(
    r"(?i)\b(?:from|in|on|off|at|out of|aus|von|im|de la liste|del|da lista|из|в) (?!your\b|the memory\b|"
    r"memory\b|deinem\b|ta\b|tu\b|sua\b)\w+"
)
_NOTHING = re.compile(
    r"(?i)(?:it|this|that|these|those|them|things?|what i said|last (?:message|one|"
    r"sentence)|previous \w+)"
)
_EVERYBODY = re.compile(
    r"(?i)(?:me|us|myself|ourselves|mich|uns|moi|nous|mí|mi|nosotros|mim|nós|мне|нас|我|"
    r"我们|私|僕|나|저|ني)"
)
_ARTICLE = re.compile(
    r"(?i)^(?:(?:my|our|the|a|an|meine?[nrsm]?|unsere?[nrsm]?|die|der|das|den|dem|mon|ma|mes|notre|le|la|les|mis?|el|los|"
    r"las|o|os|as|meus?|minhas?|мо\w{1,3}|내|제) |l['’]|我的|我们的|私の|僕の)(?=\S)"
)


@dataclass(frozen=True)
class _Concept:
    """A thing that people have one of: the words for it, and how a text without them tells it."""

    words: re.Pattern[str]
    told: re.Pattern[str]


def _concept(names: str, told: str) -> _Concept:
    return _Concept(re.compile(rf"(?i){names}"), re.compile(rf"(?i){told}"))


_LIVE = (
    r"\b(?:i|we)(?:['’]m|['’]re| am| are)? (?:now )?(?:live|living|moved|based)\b|\bwohnen?\b|\bhabite\b|"
    r"\bvivo\b|\bmoro\b|живу|住在|に住んで|살아|살고|أسكن|أعيش"
)
_CONCEPTS: tuple[_Concept, ...] = (
    _concept(
        r"\b(?:(?:tele)?phone|mobile|cell|handy|telefon|móvil|celular|portable|tel)(?:[- ]?(?:number|no\.?|"
        r"nr|nummer))?\b|telefonnummer|handynummer"
        r"|\bnumber\b|numéro(?: de (?:téléphone|portable|tel))?|número(?: de (?:teléfono|telefone|móvil|"
        r"celular))?|teléfono|telefone"
        r"|номер(?: телефона)?|телефон\w*|电话(?:号码)?|手机(?:号码?)?|電話(?:番号)?|携帯番号|전화 ?번호|"
        r"휴대폰 번호|번호|رقم (?:هاتف|جوال)\w*|هاتف\w*",
        r"(?<!\d)\+?\d[\d ()/.-]{6,}\d(?!\d)",
    ),
    _concept(
        r"\b(?:home |postal |street |mailing )?address\b|where (?:i|we) live|whereabouts|adresse|anschrift|"
        r"dirección|direccion|endereço|\bадрес\w*|"
        r"地址|住址|住所|주소|عنوان\w*",
        _LIVE,
    ),
    _concept(
        r"e-?mails?(?: address(?:es)?)?\b|mailadresse|courriel|correo(?: electrónico)?|почт\w+|邮箱|"
        r"邮件地址|メール(?:アドレス)?|이메일|بريد\w*",
        r"[\w.+-]+@[\w-]+\.\w+",
    ),
    _concept(
        r"\bbirth ?(?:day|date)\b|date of birth|when i was born|geburtstag|geburtsdatum|anniversaire|"
        r"date de naissance|cumpleaños|aniversário|"
        r"день рождения|生日|誕生日|생일|عيد ميلاد\w*",
        r"\bborn (?:on|in)\b|geboren|nacido|nacida|"
        r"nascid[oa]|née? le|родил\w+|出生|生まれ|태어",
    ),
    _concept(
        r"\bage\b|how old i am|\balter\b|\bâge\b|\bedad\b|\bidade\b|возраст\w*|年龄|年齢|나이|"
        r"عمري",
        r"\b\d{1,3} years old\b|\bjahre alt\b",
    ),
    _concept(
        r"pass ?words?|passcodes?|\bpins?\b|passw[oö]rt\w*|kennwort\w*|mots? de passe|contraseñas?|"
        r"senhas?|парол\w+|密码|パスワード|비밀번호|كلمة (?:السر|المرور)",
        r"\[secret\]",
    ),
    _concept(
        r"(?:credit|bank|debit) cards?(?: (?:number|details))?|card number|kreditkarte\w*|"
        r"carte bancaire|tarjeta\w*|cartão\w*|карт\w+|银行卡|信用卡|クレジットカード|카드",
        r"\bcard\b",
    ),
    _concept(
        r"bank (?:account|details)(?: number)?|account number|iban|kontonummer|bankverbindung|"
        r"cuenta bancaria|conta bancária|银行账号|口座番号|계좌",
        r"\biban\b",
    ),
    _concept(
        r"\bsalary\b|\bincome\b|\bwages?\b|gehalt|lohn|salaire|sueldo|salario|salário|зарплат\w+|工资|"
        r"薪水|给料|年収|월급|연봉|راتب\w*",
        r"\bi (?:earn|make) [\d$€£]",
    ),
    _concept(
        r"\bjob\b|\bemployer\b|\bworkplace\b|where i work|arbeitgeber|\bemploi\b|\btrabajo\b|"
        r"\btrabalho\b|работ\w+|工作|仕事|직장|عملي",
        r"\bi work (?:at|for|as|in)\b|\barbeite\b|\btrabajo en\b|"
        r"\btravaille\b",
    ),
    _concept(r"\bweight\b|gewicht|\bpoids\b|\bpeso\b|\bвес\b|体重|몸무게|وزني", r"\bi weigh\b|\bkg\b"),
    _concept(
        r"medical (?:history|records?|data|information)|diagnos[ei]s|illness(?:es)?|health (?:data|"
        r"information|condition)|krankheit\w*|病历|病史",
        r"\bdiagnosed\b|\bsuffer from\b",
    ),
)
_OTHERS = re.compile(
    r"(?i)(?:\w['’]s|\b(?:his|her|their|sein|seine|ihre?|son|sa|leur|su|dele|dela|его|её|"
    r"их)) (?:\w+ ){0,2}$|(?:[^我们]|^[^我])的$|(?<!私)(?<!僕)の$"
)
_SMALL = frozenset("my our the a an of from to and or in on at your this that is are about for".split())


@dataclass(frozen=True)
class Removal:
    """A wish to forget. ``what`` is to be forgotten: a thing (``whose``: "my", "Maria's"), with ``everything`` all that
    mentions somebody or something, with ``states`` what a clause says."""

    what: str
    whose: str = ""
    everything: bool = False
    states: bool = False

    @property
    def of_all(self) -> bool:
        """True where everything about the one who asks is meant."""
        return self.everything and _EVERYBODY.fullmatch(self.what) is not None

    def names(self, text: str) -> bool:
        """Tell if a text is about what is to be forgotten."""
        if self.everything:
            return _mentions(text, _ARTICLE.sub("", self.what))
        return not self.states and (self.says(text) or self.tells(text))

    def says(self, text: str) -> bool:
        """Tell if a text names the thing, as that of the one whose it is."""
        concept = _concept_of(self.what)
        if concept is None:
            wanted = {_stem(word) for word in words_of(self.what)} - _SMALL
            return (
                bool(wanted) and wanted <= {_stem(word) for word in words_of(text)} and self._is_theirs(text, len(text))
            )
        return any(self._is_theirs(text, match.start()) for match in concept.words.finditer(text))

    def tells(self, text: str) -> bool:
        """Tell if a text tells the thing without naming it: a number that is a phone's, where somebody lives."""
        concept = _concept_of(self.what)
        if concept is None or any(other.words.search(text) for other in _CONCEPTS if other is not concept):
            return False
        match = concept.told.search(text)
        return match is not None and self._is_theirs(text, match.start())

    def closest(self, texts: list[str]) -> list[int]:
        """Return the indices of the texts that what else is said of the thing fits: "my work phone"."""
        concept = _concept_of(self.what)
        rest = self.what if concept is None else concept.words.sub(" ", self.what)
        more = {_stem(word) for word in words_of(rest)} - _SMALL
        fitting = [i for i, text in enumerate(texts) if more and more <= {_stem(word) for word in words_of(text)}]
        return fitting or list(range(len(texts)))

    def value_in(self, text: str) -> str:
        """Return what two texts have in common that tell the same of the thing: its digits, or an address of mail."""
        mail = re.search(r"[\w.+-]+@[\w-]+\.\w+", text)
        return mail.group().lower() if mail else "".join(re.findall(r"\d", text)) or " ".join(words_of(text))

    def _is_theirs(self, text: str, at: int) -> bool:
        owner = self.whose.lower().replace("’", "'")
        if owner.endswith("'s"):
            return (
                re.search(rf"(?i)(?<!\w){re.escape(owner.removesuffix(chr(39) + 's').removeprefix('my '))}(?!\w)", text)
                is not None
            )
        return _OTHERS.search(text[:at]) is None


def removal_of(sentence: str) -> Removal | None:
    """Return what a sentence asks to be forgotten; None where it asks for nothing of the kind."""
    text = sentence.strip()
    if len(text) > _MAX_CHARS or not _HINT.search(text):
        return None
    for pattern in _EVERYTHING:
        match = pattern.fullmatch(text)
        if match is not None:
            what = match["what"].strip(" ,.!?\"'“”")
            if not what or _NOTHING.fullmatch(what) or _ELSEWHERE.search(what):
                return None
            return Removal(what, everything=True)
    where = _WHERE.fullmatch(text)
    if where is not None:
        return Removal(where["what"], "my")
    for pattern in _ONE:
        match = pattern.fullmatch(text)
        if match is not None:
            return _one(match, text)
    that = _THAT.fullmatch(text)
    return None if that is None else Removal(that["what"], states=True)


def _one(match: re.Match[str], text: str) -> Removal | None:
    what = match["what"].strip(" ,.!?\"'“”")
    named = re.search(
        r"(?i)from (?:your|the) (?:memory|memories|records|notes)|gedächtnis|mémoire|memoria|"
        r"memória|памяти",
        text,
    )
    if _ELSEWHERE.search(what) or not (named or _concept_of(what) is not None):
        return None
    return Removal(what, match["whose"] or "my")


def without_removals(text: str, sentences: list[str]) -> tuple[str, list[Removal]]:
    """Return a text, given with its sentences, without those that ask to forget something, and what they ask for."""
    if not _HINT.search(text):
        return text, []
    found = [(sentence, removal_of(sentence)) for sentence in sentences]
    removals = [removal for _, removal in found if removal is not None]
    return (text, []) if not removals else (" ".join(s for s, removal in found if removal is None), removals)


def _concept_of(what: str) -> _Concept | None:
    return next((concept for concept in _CONCEPTS if concept.words.search(what)), None)


def _mentions(text: str, what: str) -> bool:
    """Tell if a text names somebody or something; of words that touch others in their script, any place counts."""
    if re.search(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0600-\u06ff]", what):
        return what in text
    return re.search(rf"(?i)(?<!\w){_bent(what)}(?!\w)", text) is not None


def _bent(what: str) -> str:
    """Return an expression for a name in its cases: Russian nouns change their ends."""
    if re.fullmatch(r"[а-яё]{4,}", what.lower()):
        return re.escape(what[:-1]) + r"\w{0,3}"
    return re.escape(what) + r"(?:['’]?s)?"


def _stem(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word
