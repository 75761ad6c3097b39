"""Secrets in texts: keys, tokens, card and account numbers, passwords and PINs.

Known forms are recognised anywhere, numbers by their check digits, and other random-looking words only beside a word
such as "token". Phone and order numbers, versions, hashes of commits and UUIDs are none.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

MASK = "[secret]"

_FORMS = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)"
    r"|\bsk-(?:proj-|live-|test-|ant-|or-|svcacct-)?[A-Za-z0-9_-]{16,}"
    r"|\b[spr]k_(?:live|test)_[A-Za-z0-9]{10,}|\bwhsec_[A-Za-z0-9+/=]{16,}|\bshp(?:at|ca|pa|ss)_[A-Fa-f0-9]{24,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bgl(?:pat|dt|rt|soat)-[\w-]{18,}|\bATATT3[\w=-]{20,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bxox[abeprs]-[\w-]{10,}|\bxapp-\d-[\w-]{10,}|\bAIza[\w-]{30,}|"
    r"\bya29\.[\w-]{20,}"
    r"|\bhf_[A-Za-z0-9]{20,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-AgE[\w-]{20,}|\bSG\.[\w-]{16,}\.[\w-]{16,}|"
    r"\bdop_v1_[a-f0-9]{32,}"
    r"|\blin_api_\w{20,}|\bgsk_[A-Za-z0-9]{20,}|\br8_[A-Za-z0-9]{20,}|\bAGE-SECRET-KEY-1[A-Z0-9]{40,}|"
    r"\bEAA[A-Za-z0-9]{40,}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
    r"|(?<=://)[^\s/@:]{1,64}:[^\s/@]{3,128}(?=@[\w.-]+)",
    re.DOTALL,
)
_FORM_HINT = re.compile(
    r"-----BEGIN|[spr]k[-_]|whsec|shp|gh[pousr]_|pat[_-]|gl\w{2,4}-|ATATT|A[KS]IA|x(?:ox|app)|AIza|ya29|hf_|"
    r"npm_|pypi-"
    r"|SG\.|dop_|lin_|gsk_|r8_|AGE-|EAA|eyJ|://"
)
_NAMED = re.compile(
    r"(?i)(?<![A-Za-z])(?:(?:api|access|secret|private|auth|bearer|client|license|licence|encryption|"
    r"signing|session|refresh|"
    r"deploy|webhook)[ _-]?)?(?:keys?|tokens?|secrets?|credentials?|bearer|schlüssel|jeton|clé|clave|chave|"
    r"ключ|токен)"
    r"(?![A-Za-z])|密钥|令牌|秘钥|トークン|キー|키|토큰|مفتاح|رمز"
)
_RANDOM = re.compile(r"(?<![\w/+.-])[A-Za-z0-9_+/.~-]{16,}={0,2}(?![\w/+])")
_NEAR_CHARS = 40
_UUID = re.compile(r"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX = re.compile(r"(?i)[0-9a-f]+")
_ASSIGNED = re.compile(
    r"\s*(?:is|are|ist|lautet|est|es|é|=|:|：|->|=>|是|为|は|는|은|هو)?\s*[\"'`“«]?\s*$", re.IGNORECASE
)
_OTHER_IDS = re.compile(
    r"(?i)commit|sha\d*|hash|uuid|guid|revision|checksum|digest|public key|pub(?:lic)?[ _-]key|fingerprint|"
    r"version|order|url"
)
_MIN_ENTROPY = 3.0  # bits a character

_DIGITS = re.compile(r"(?<![\w+.,-])\d(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
_CARD_FORMS = re.compile(
    r"4\d{12}|4\d{15}|4\d{18}|5[1-5]\d{14}|2(?:2[2-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|220[0-4]\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
)
_CARD_WORDS = re.compile(
    r"(?i)card|visa|master|amex|credit|debit|karte|carte|tarjeta|cart[ãa]o|карт|卡|カード|카드|بطاقة"
)
_OTHER_NUMBERS = re.compile(
    r"(?i)order|tracking|track|invoice|imei|isbn|serial|parcel|shipment|sendung|bestell|rechnung|commande|"
    r"pedido|заказ|订单|注文|주문|"
    r"ticket|case|reference|\bref\b|barcode|ean"
)
_CVV = re.compile(
    r"(?i)\b(?:cvv2?|cvc2?|card security code|security code on the card)\b\s*(?:number|code)?\s*(?:is|:|"
    r"=)?\s*(\d{3,4})\b"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,4})?(?![A-Za-z0-9])")

_PASSWORD = re.compile(
    r"(?i)(?<![\w-])(?:pass ?words?|passwd|pass ?codes?|pass ?phrases?|pwd|pw|pswd|passwort|kennwort|"
    r"passphrase|mots? de passe|mdp|"
    r"contraseñas?|contrasenas?|senhas?|palavra-passe|парол[ьяи])(?!\w)"
    r"(?: (?:for|to|of|on|at|für|zum|von|pour|de|du|del|des|do|da|para|от|к|для) (?:[\w.@'’/-]+ ?){1,5}?)?"
    r"\s*(?P<by>is now|is still|is|are|was|ist jetzt|ist|lautet:?|war|est|es ahora|es|é|[:=：]|->|=>|"
    r"[—–-](?= )|это)\s*"
    r"(?P<value>\"[^\"\n]{3,80}\"|“[^”\n]{3,80}”|'[^'\n]{3,80}'|`[^`\n]{3,80}`|«[^»\n]{3,80}»|[^\s\"“”«»]{3,80})"
)
_PASSWORD_ELSEWHERE = re.compile(
    r"(?:密码|密碼|口令|パスワード|暗証番号|비밀번호|비번|암호|كلمة (?:السر|المرور|مرور)|الرقم السري)"
    r"(?:现在|現在|이제)?\s*(?:是|为|為|：|:|=|は|는|은|가|이|هي|"
    r"هو)?\s*[\"“「『]?(?P<value>[A-Za-z0-9!-/:-@\[-`{-~]{3,80})"
)
_PIN = re.compile(
    r"(?i)(?<![\w-])(?:pin(?:[ -]?(?:code|number|nummer))?|geheimzahl|geheimnummer|code (?:pin|secret)|"
    r"clave|código pin|пин(?:-?код)?)(?!\w)"
    r"(?: (?:for|to|of|für|zum|von|pour|de|para|от|для) (?:[\w'’-]+ ?){1,5}?)?"
    r"\s*(?:is now|is|ist|lautet|est|es|é|[:=：]|->|[—–-](?= )|это)?\s*(?P<value>\d{4}|\d{4,5}|\d{7,8}|"
    r"(?<!code )(?<!code is )\d{6})(?![\w.,-]*\d)"
)
_PHRASE = re.compile(
    r"(?i)\b(?:seed|recovery|mnemonic|backup|secret) (?:phrase|words)\b[^\n:]{0,30}?(?:is|are|:|"
    r"=)\s*(?P<value>(?:[a-z]{3,8}[ ,]+){11,23}[a-z]{3,8})"
)
_PASSWORD_HINT = re.compile(
    r"(?i)pass|pwd|pw|pswd|kennwort|mdp|contrase|senha|парол|пин|pin|geheim|code|clave|phrase|密|口令|パス|"
    r"暗証|비|암호|السر|مرور|words"
)
# What is said of a password instead of what it is.
_NO_VALUES = frozenset(
    """
a an the not no my your his her our their wrong incorrect right correct expired expiring secure insecure weak
strong long short too very so required needed needing necessary optional invalid valid missing empty set reset
changed stored saved lost forgotten old new same safe secret hidden known unknown on in at under behind written
inside somewhere always never still only just being been going getting that this what which something anything
everything nothing hard easy difficult simple impossible broken stolen leaked compromised encrypted hashed ok
okay fine good bad better here there below above like longer shorter case about enough annoying confidential
protected managed manager something's it falsch richtig abgelaufen sicher unsicher zu nicht kein sehr schwach
stark lang kurz im auf unter weg noch schon geändert vergessen dasselbe das die der trop pas très expiré faux
faible court dans sur toujours la le les un une incorrecta correcta muy demasiado segura débil el una en
incorreta correta muito forte fraca o uma um não na неверный правильный слишком очень не на в под тот resets
works doesn't isn't must should may might will can has have contains and or but if when because to for from with
sure certainly probably maybe case-sensitive alphanumeric numeric unique different similar identical visible
invisible
""".split()
)


# What opens a place, or a network, for whoever is there.
_PLACES = re.compile(
    r"(?i)\b(?:wi-?fi|wlan|guest network|hotspot|doors?|front gate|gate|garage|entrance|building|lobby|lockers?|"
    r"padlocks?|"
    r"key ?box|lock ?box|intercom|(?:bike|bicycle|door|gym|suitcase|luggage|combination|pad)[ -]?locks?|mailbox|"
    r"\w*tür|tor|hauseingang|spind|schließfach|\w*schloss|gäste-?netz|porte|portail|immeuble|casier|digicode|cadenas|"
    r"antivol|puerta|del portal|edificio|taquilla|candado|portão|porta|prédio|cacifo|armário|cadeado|домофон\w*|"
    r"подъезд\w*|двер\w*|шкафчик\w*|замк\w*|вай-?фа[йяюе]\w*)(?!\w)"
    r"|门禁|大门|房门|楼门|单元门|储物柜|无线网|ドア|玄関|ロッカー|自転車|ワイファイ|현관|출입문|사물함|자전거|와이파이|باب|مبنى|"
    r"خزانة|واي ?فاي"
)
_ACCOUNTS = re.compile(
    r"(?i)\b(?:accounts?|bank\w*|cards?|\w*e-?mail|mail|log-?in|admin\w*|server|database|db|app|apps|(?:web)?site|phone|"
    r"laptop|sim|\w*konto|karte|compte|carte|cuenta|tarjeta|conta|cartão|счёт\w*|счет\w*|карт\w*)(?!\w)"
    r"|账户|账号|银行|アカウント|銀行|계정|은행|حساب|بنك"
)
_CLAUSE_END = re.compile(
    r"[.;!?,\n。；！？，、](?=\s|$)|[。；！？，、]|\s(?:and|but|und|aber|et|mais|y|pero|e|и|но)\s", re.IGNORECASE
)
_PLACE_CHARS = 60


def spans_of(text: str) -> list[tuple[int, int]]:
    """Return where secrets stand in a text: begin and end, in order, without overlaps."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(_found(text)):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def masked(text: str) -> str:
    """Return a text with ``MASK`` in the place of each secret."""
    parts: list[str] = []
    at = 0
    for begin, end in spans_of(text):
        parts += [text[at:begin], MASK]
        at = end
    return "".join(parts) + text[at:] if parts else text


def _found(text: str) -> Iterator[tuple[int, int]]:
    if _FORM_HINT.search(text):
        yield from (match.span() for match in _FORMS.finditer(text))
    yield from _random_words(text)
    yield from (match.span() for match in _DIGITS.finditer(text) if _is_card(match, text))
    yield from (match.span() for match in _IBAN.finditer(text) if _is_iban(match.group()))
    if _PASSWORD_HINT.search(text):
        for match in _PASSWORD.finditer(text):
            span = _password(match)
            if span is not None and not _opens_a_place(text, match.start(), span[1]):
                yield span
        for pattern in (_PASSWORD_ELSEWHERE, _PIN):
            for match in pattern.finditer(text):
                if not _opens_a_place(text, match.start(), match.end("value")):
                    yield match.span("value")
        yield from (match.span("value") for match in _PHRASE.finditer(text))
    yield from (match.span(1) for match in _CVV.finditer(text))


def _opens_a_place(text: str, begin: int, end: int) -> bool:
    """Tell if the clause around a secret says that it opens a place or a network, and not an account."""
    before = _CLAUSE_END.split(text[max(0, begin - _PLACE_CHARS) : begin])[-1]
    after = _CLAUSE_END.split(text[end : end + _PLACE_CHARS])[0]
    clause = f"{before}{text[begin:end]}{after}"
    return _PLACES.search(clause) is not None and _ACCOUNTS.search(clause) is None


def _password(match: re.Match[str]) -> tuple[int, int] | None:
    """Return where the value of a password stands; None where something is only said of it."""
    begin, end = match.span("value")
    value = match["value"]
    if value[0] in "\"“'`«":
        return begin, end
    plain = value.rstrip(".,;!?)")
    if plain.lower().replace("’", "'") in _NO_VALUES or len(plain) < 3 or plain == MASK:
        return None
    if plain.isalpha() and plain.islower() and match["by"] not in (":", "=", "："):
        # A plain word is a password only where nothing goes on: "my password is swordfish".
        after = match.string[begin + len(plain) :].lstrip(" ")
        if after and after[0] not in ".,;!?)\n":
            return None
    # What ends a sentence is not of it, unless there is more of that.
    ending = value[len(plain) :]
    return begin, end if len(ending) > 1 else begin + len(plain)


def _random_words(text: str) -> Iterator[tuple[int, int]]:
    """Find random-looking words beside one that says that they are secret."""
    named = [match.span() for match in _NAMED.finditer(text)]
    for match in _RANDOM.finditer(text) if named else ():
        for begin, end in named:
            between = text[end : match.start()] if end <= match.start() else text[match.end() : begin]
            if (
                len(between) > _NEAR_CHARS
                or "\n\n" in between
                or _OTHER_IDS.search(text[max(0, begin - 20) : end] + between)
            ):
                continue
            assigned = end <= match.start() and _ASSIGNED.fullmatch(between) is not None
            if _is_random(match.group(), assigned=assigned):
                if not _opens_a_place(text, min(begin, match.start()), max(end, match.end())):
                    yield match.span()
                break


def _is_random(word: str, *, assigned: bool) -> bool:
    """Tell if a word looks as if it was drawn at random. Hashes and UUIDs do, too: only what is named a secret counts
    of them."""
    if _UUID.fullmatch(word) or (_HEX.fullmatch(word) and len(word) in (32, 40, 64)):
        return assigned
    if word.count("/") > 2 or word.count(".") > 2 or re.fullmatch(r"[\d.-]+", word):
        return False
    letters, digits = sum(c.isalpha() for c in word), sum(c.isdigit() for c in word)
    if letters < 4 or digits < 2:
        return False
    # Words joined by hyphens have their digits in few places: "release-notes-2024-final".
    changes = sum(a.isdigit() != b.isdigit() for a, b in pairwise(word) if a.isalnum() and b.isalnum())
    return changes >= 3 and _entropy(word) >= _MIN_ENTROPY


def _entropy(word: str) -> float:
    n = len(word)
    return -sum(k / n * math.log2(k / n) for k in Counter(word).values())


def _is_card(match: re.Match[str], text: str) -> bool:
    """Tell if digits are a card's number: of a known issuer, with the right check digit, and of no other name."""
    written = match.group()
    digits = re.sub(r"\D", "", written)
    if not _CARD_FORMS.fullmatch(digits) or not _luhn(digits):
        return False
    if _CARD_WORDS.search(text):
        return True
    groups = [len(part) for part in re.split(r"[ -]", written)]
    before = text[max(0, match.start() - 40) : match.start()]
    return len(digits) > 13 and groups in ([4, 4, 4, 4], [4, 6, 5], [len(digits)]) and not _OTHER_NUMBERS.search(before)


def _luhn(digits: str) -> bool:
    total = 0
    for i, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + i % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _is_iban(written: str) -> bool:
    code = written.replace(" ", "").upper()
    if not 15 <= len(code) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1
