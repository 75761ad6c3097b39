"""Clauses: where a sentence holds two full statements, and which sentences lean on the one before."""

from __future__ import annotations

import re

from memory.language.scripts import any_of

_I = r"(?:i|i['’]m|i['’]ve|i['’]ll|i['’]d|im|ive|we|we['’]re|we['’]ve|my|our)"
_CUT = re.compile(
    rf"\s*;\s+(?=\w)|,? +and(?= {_I} (?!\w+$))|(?<=\w) +und(?= (?:ich|wir|mein\w*) )|"
    rf"(?<=\w) +et(?= (?:je |j['’]|nous |mon |ma ))"
    r"|(?<=\w),? +y(?= (?:yo|mi|mis|trabajo|vivo|tengo|soy) )|(?<=\w),? +e(?= (?:eu|meu|"
    r"minha|trabalho|moro|tenho|sou) )|(?<=\w),? +(?:и|а)(?= (?:я|мы|мой|моя|у меня) )",
    re.IGNORECASE,
)
_FULL = re.compile(
    rf"(?:(?:and|but|so|well|yes|no|ok|actually|also|btw)[, ]+)*(?:{_I}|(?:the|this|that|his|her|their)\b|"
    rf"[A-Z][\w'’]+|ich|wir|mein\w*|je|j['’]\w+|nous|mon|ma|yo|vivo|tengo|soy|trabajo|mi|eu|moro|tenho|sou|"
    rf"trabalho|meu|minha|я|мы|мой|моя|у меня)\b",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[\w'’]+")
_MIN_WORDS = 3
_LEANS = re.compile(
    r"(?:(?:and|but|so|also|then|because|plus|still|though|since then|luckily|sadly|unfortunately|apparently|"
    r"well|yes|yeah|no|und|aber|denn|et|mais|puis|y|pero|e|mas|и|но|а)\b,? )*"
    + any_of(
        r"""
        (?:he|she|it|they|him|her|them|its|his|their|theirs|hers|that|those|these|this|both|neither|
        + each of them|one of them|none of them|all of them|most of them|the (?:first|second|other|latter|
        + former)(?: one)?|there|then|same (?:with|for|goes)|which|who|the (?:bow|screen|other))(?:['’](?:s|re|
        + ll|d|ve))?\b(?!\w)
        (?:its|hes|shes|theyre|thats|itll)\b
        (?:i|we|you)(?:['’](?:m|ve|re|ll|d))? (?:\w+ ){0,3}?(?:it|him|her|them|there|that one|this one|those)(?=\W|$)
        (?:er|es|sie|ihn|ihm|das (?:ist|war|hat|wird|heißt|macht|kostet|war)|dies\w*|dort|dabei|dafür|damit|
        + darum|daran|deshalb|seine?|ihre?|beide|dessen|deren)\b
        (?:il|elle|ils|elles|c['’]est|c['’]était|ça|cela|celui|celle|ce(?:tte)? \w+|ces|là-bas|leurs?|ses?|sa|son|lui)\b
        (?:él|ella|ellos|ellas|eso|esto|ese|esa|este|esta|aquel\w*|allí|ahí|su|sus|lo|la|le|les|
        + ambos)\b (?!\w+ (?:de|es) )
        (?:ele|ela|eles|elas|isso|isto|esse|essa|este|esta|aquel\w|lá|ali|seu|sua|dele|dela|ambos)\b
        (?:он|она|оно|они|его|её|ее|их|это|эта|этот|эти|там|тот|та|те|оба|обе)\b
        (?:هو|هي|هم|هن|هذا|هذه|ذلك|تلك|هناك|كلاهما)\s
        (?:他们?|她们?|它们?|是(?!的)|这|那|其|两个都|都(?=是|在|很)|为了|因为|所以|而且|还|也)
        (?:彼女?(?:ら|たち)?|それ|これ|あれ|その|この|あの|そこ|ここ|あそこ|どちらも|両方)
        (?:그(?:는|녀|것|게|건|들|곳|분|래서|런데)?|이것|저것|이건|그건|거기|둘 다)(?= |[가-힣])
        """
    ),
    re.IGNORECASE,
)


# How something stands now, or what has just changed: what may be retired alone.
_DURABLE = re.compile(
    r"(?:(?:and|but|so|well|yes|no|ok|actually|also|btw|by the way|fyi|now|currently|these days|update)[,:]? )*"
    + any_of(
        r"""
        (?:i|we)(?: (?:now|just|finally|also|still|currently|have|recently|both|always|usually|no longer|
        + don['’]t|do not|never))* (?:live|work|drive|own|use|rent|study|teach|take|drink|eat|speak|moved|quit|
        + stopped|sold|switched|bought|left|cancell?ed|changed|pay|commute|collect|wear|sleep|run)\b
        (?:i|we)(?:['’]ve got| have| ['’]ve)(?: (?:now|just|also|still|only))* (?:an?|no|one|two|three|four|
        + five|\d+|new) (?!lot|great|good|bit|few|blast|really|amazing|chance|time)
        (?:i|we)(?:['’]m| am|['’]re| are)(?: (?:now|also|still|currently|an?))* (?:allergic|vegan|vegetarian|
        + married|single|divorced|engaged|pregnant|from|based|living|working|studying|retired|unemployed|
        + self-employed|left-handed|diabetic|on \w+ (?:mg|pills)|\d+|nurse|teacher|student|engineer|doctor|
        + driver|baker|lawyer)\b
        im (?:allergic|vegan|vegetarian|from|\d+)\b
        (?:my|our)(?: \w+){1,3} (?:is|are|has|have|lives?|works?|starts?|costs?|drives?|called|was moved|moved)\b
        [A-Z][a-z]+ (?:lives|works|moved to|drives|is (?:an?|my|\d+|married|allergic))\b
        ich (?:\w+ )?(?:wohne|arbeite|habe|bin|fahre|esse|trinke|spiele|lerne)\b
        (?:mein|unser)e? \w+ (?:ist|heißt|hat|wohnt|arbeitet)\b|wir (?:wohnen|haben|sind|fahren)\b
        (?:j['’]habite|j['’]ai|je (?:suis|travaille|vis|conduis|joue|fais|prends|bois|mange))\b
        (?:mon|ma|mes|notre) \w+ (?:est|s['’]appelle|a|habite|travaille)\b|nous (?:habitons|avons|sommes)\b
        (?:yo )?(?:vivo|trabajo|tengo|soy|estoy|uso|tomo|como|juego|estudio)\b
        (?:mi|nuestr[oa]) \w+ (?:es|está|se llama|tiene|vive|trabaja)\b|(?:vivimos|tenemos|somos)\b
        (?:eu )?(?:moro|trabalho|tenho|sou|estou|uso|tomo|jogo|estudo)\b
        (?:o |a )?(?:meu|minha|nosso|nossa) \w+ (?:é|está|se chama|tem|mora|trabalha)\b|(?:moramos|temos|somos)\b
        (?:я |мы |у меня |у нас |мой |моя |меня )|(?:أنا |لدي |عندي |أعيش |أعمل |اسمي )
        [\u3040-\u9fff\uac00-\ud7af]
        """
    ),
    re.IGNORECASE,
)
_TOPIC_LESS = re.compile(r"(?=[^は]*[ぁ-ん])(?!.*(?:は|(?<![とでて])も(?![うの])|って|私|僕|俺|うち))")


def is_durable(clause: str) -> bool:
    """Tell if a clause says how something stands, or that it changed, rather than what happened once."""
    return _DURABLE.match(clause) is not None


def clauses_in(sentence: str) -> list[str]:
    """Cut a sentence between full statements: "I live in Oslo", "I work at Equinor". What leans on the clause before
    stays with it."""
    found, begin = [], 0
    for match in _CUT.finditer(sentence):
        head, rest = sentence[begin : match.start()], sentence[match.end() :].lstrip()
        if _is_full(head) and _is_full(rest) and not leans_on_before(rest):
            found.append(head.strip(" ,;"))
            begin = match.end()
    return [*found, sentence[begin:].strip()]


def leans_on_before(sentence: str) -> bool:
    """Tell if a sentence begins with a pronoun or the like, so that what it is about stands before it."""
    return _LEANS.match(sentence) is not None or _TOPIC_LESS.match(sentence) is not None


def _is_full(clause: str) -> bool:
    return len(_WORDS.findall(clause)) >= _MIN_WORDS and _FULL.match(clause.strip()) is not None
