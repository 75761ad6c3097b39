"""What standing instructions are about: the newest of a topic and scope takes the place of those before."""

from __future__ import annotations

import re

from memory.language.instruction_words import NAMING, compiled, words

_LANGUAGES = (
    words(
        r"""english|german|french|spanish|portuguese|russian|arabic|chinese|mandarin|cantonese|japanese|korean|
italian|
dutch|polish|turkish|hindi|ukrainian|swedish|norwegian|danish|finnish|greek|hebrew|czech|vietnamese|thai|catalan|
welsh|irish|hungarian|romanian|persian|farsi|indonesian|swahili|latin|my (?:own )?language|the same language|
bilingual"""
    ),
    words(
        r"""(?:hoch|schweizer|schwyzer)?deutsch|englisch\w*|französisch\w*|spanisch\w*|portugiesisch\w*|
russisch\w*|arabisch\w*|
chinesisch\w*|japanisch\w*|koreanisch\w*|italienisch\w*|türkisch\w*|polnisch\w*|niederländisch\w*|ukrainisch\w*"""
    ),
    words(
        r"anglais|allemand|français|espagnol|portugais|russe|arabe|chinois|japonais|coréen|italien|"
        r"néerlandais|turc|breton"
    ),
    words(
        r"inglés|alemán|francés|español|castellano|portugués|ruso|árabe|chino|japonés|coreano|italiano|"
        r"catalán|gallego"
    ),
    words(r"inglês|alemão|francês|espanhol|português|russo|árabe|chinês|japonês|coreano|italiano"),
    words(
        r"""(?:по-)?(?:английск|немецк|французск|испанск|португальск|русск|арабск|китайск|японск|корейск|
итальянск|украинск)
\w*"""
    ),
    r"(?:简体|繁体|繁體|簡體|正體)(?:中文|字)?|中文|汉语|普通话|粤语|英文|英语|英語|日语|日文|日語|韩语|"
    r"韓語|法语|法語|德语|德語|西班牙语|俄语|"
    r"葡萄牙语|阿拉伯语|意大利语",
    r"日本語|英語|中国語|韓国語|フランス語|ドイツ語|スペイン語|ロシア語|ポルトガル語|アラビア語|イタリア語|"
    r"関西弁|標準語",
    r"한국어|한국말|영어|일본어|중국어|프랑스어|불어|독일어|독어|스페인어|러시아어|포르투갈어|아랍어|우리말",
    r"العربية|بالعربي|الإنجليزية|الانجليزية|بالإنجليزي|الفرنسية|الألمانية|الإسبانية|البرتغالية|الروسية|"
    r"الصينية|اليابانية|"
    r"الكورية|الفصحى|العامية|التركية",
)
LANGUAGE = compiled(*_LANGUAGES)
_VARIETY = compiled(
    words(
        r"(?:british|american|uk|u\.?s\.?|us|australian|canadian|irish|oxford|indian|simplified|traditional|"
        r"brazilian|"
        r"european|mexican|swiss)[- ](?:english|spelling|chinese|portuguese|spanish|german)"
    ),
    r"简体|繁体|繁體|簡體",
)
_TOPICS: dict[str, re.Pattern[str]] = {
    "spelling": compiled(
        words(
            r"""(?:british|american|uk|us|australian|canadian|oxford) (?:english|spellings?)|spell(?:ings?)?|
rechtschreibung|
orthographe|ortografía|ortografia|oxford commas?"""
        ),
        r"орфографи\w+|スペル|綴り|맞춤법|拼写",
    ),
    "pronouns": compiled(words(r"pronouns?|they[/ ]them|she[/ ]her|he[/ ]him|pronomen|pronoms|pronombres")),
    "formality": compiled(
        words(
            r"""(?:in)?formal(?:ly|ity)?|casual(?:ly)?|polite(?:ly)?|colloquial|slang|professional(?:ly)?|friendly|
(?:siez|duz)\w*|per (?:du|sie)|(?:mit|das|beim) (?:du|sie)|förmlich\w*|locker\w*|höflich\w*|tutoie\w*|tutoyer|
tutoiement|
vouvoie\w*|vouvoyer|vouvoiement|soutenu|familier|tutéame|tutear\w*|tuteo|de (?:tú|usted|vos)|tratas?\w* de \w+|
trát\w+ de \w+|por (?:tu|você)|o senhor|a senhora"""
        ),
        r"на ты|на вы|формальн\w+|официальн\w+|敬語|タメ口|ため口|丁寧語|です・?ます|くだけた|フランク|"
        r"존댓말|반말|존대|높임말|격식|"
        r"正式|口语|随意|用您|用你|رسمي\w*|عامي\w*",
    ),
    "humour": compiled(
        words(
            r"jok(?:es?|ing)|humou?r(?:ous)?|funny|puns?|sarcas\w+|witz\w*|humor\w*|blagues?|bromas?|chistes?|piadas?"
        ),
        r"шут\w+|юмор\w*|笑话|玩笑|幽默|冗談|ジョーク|농담|유머|نكت|مزاح",
    ),
    "praise": compiled(
        words(
            r"""prais\w+|flatter\w*|compliment\w*|great question|good question|apolog\w+|sorry|sycophan\w+|cheer\w*|
encourag\w+|lob\w*|entschuldig\w+|compliments?|excuses?|t['’]excuser|halagos?|disculp\w+|elogi\w+|desculp\w+|
positiv\w*|honest\w*|blunt\w*|sugar-?coat\w*"""
        ),
        r"извин\w+|хвал\w+|комплимент\w*|夸|恭维|道歉|褒め|謝ら|謝罪|칭찬|사과|اعتذ\w+|مدح",
    ),
    "swearing": compiled(words(r"swear\w*|curs(?:e|es|ing)|profanity|fluch\w*|gros mots|palabrotas|palavrões")),
    "emoji": compiled(
        words(r"emojis?|emoticons?|smileys?|smilies|émojis?|émoticônes?|emoticonos?"),
        r"смайл\w*|эмодзи|表情|絵文字|顔文字|이모지|이모티콘|إيموجي|ايموجي|رموز تعبيرية|الرموز التعبيرية|🙂|😀",
    ),
    "length": compiled(
        words(
            r"""short(?:er|ly)?|brief(?:er|ly)?|concise(?:ly)?|terse|long(?:er)?|length(?:y)?|detail(?:ed|s)?|verbose|
succinct|(?:\w+ )?(?:words|sentences|lines|paragraphs?)|one-liners?|tl;?dr|in depth|elaborate|wordy|ramble|rambling|
kurz\w*|knapp\w*|ausführlich\w*|sätze|court\w*|brefs?|brèves?|brièvement|concis\w*|détaill\w+|phrases|longu\w+|
cort[ao]s?|breves?|brevemente|concis[ao]s?|detallad[ao]s?|larg[ao]s|frases|curt[ao]s?|resumid[ao]s?|
detalhad[ao]s?|long[ao]s?"""
        ),
        r"кратк\w+|коротк\w+|короче|подробн\w+|лаконичн\w+|简短|简洁|简练|精简|详细|长篇|一句话|字以内|短く|"
        r"簡潔|手短|詳しく|長く|文字以内|"
        r"짧게|짧은|간결|간단히|자세히|자세하게|길게|مختصر\w*|قصير\w*|مفصل\w*|بإيجاز|طويل\w*|باختصار",
    ),
    "bullets": compiled(
        words(
            r"""bullets?(?: points?)?|bulleted|lists?|prose|numbered|stichpunkt\w*|aufzählung\w*|listen?|
fließtext|puces|listes?|
viñetas|listas?|tópicos|marcadores"""
        ),
        r"списк\w+|пункт\w+|列表|分点|条列|要点|箇条書き|目录|글머리|목록|نقاط|قائمة",
    ),
    "tables": compiled(words(r"tables?|tabellen?|tableaux?|tablas?|tabelas?"), r"таблиц\w+|表格|표로|جدول"),
    "markdown": compiled(
        words(
            r"markdown|headings?|headers?|bold|italics?|plain text|überschriften|latex|"
            r"code blocks?"
        ),
        r"マークダウン",
    ),
    "clock": compiled(
        words(
            r"24[- ]?h(?:ours?|rs?)?|12[- ]?h(?:ours?)?|am/pm|a\.m\.|p\.m\.|24[- ]stunden\w*|24 heures|"
            r"24 horas|military time"
        ),
        r"24小时|24時間|24시간|24-часов\w+",
    ),
    "date format": compiled(
        words(
            r"yyyy-mm-dd|dd[/.-]mm(?:[/.-]yy(?:yy)?)?|mm[/.-]dd(?:[/.-]yy(?:yy)?)?|iso 8601|date format|"
            r"week starts?|iso dates?|dates"
        )
    ),
    "currency": compiled(
        words(r"euros?|dollars?|pounds sterling|usd|eur|gbp|chf|yen|rubles?|currency|francs?|pesos|reais|währung"),
        r"欧元|美元|人民币|円で|달러|원화|рубл\w+|доллар\w*|евро|يورو|دولار",
    ),
    "temperature": compiled(
        words(r"celsius|fahrenheit|centigrade|kelvin"),
        r"摄氏|华氏|攝氏|華氏|摂氏|섭씨|화씨|цельси\w+|фаренгейт\w*|مئوية|فهرنهايت",
    ),
    "distance": compiled(
        words(
            r"""kilomet(?:er|re)s?|km|miles?|met(?:er|re)s|feet|inch(?:es)?|cm|kilometern?|meilen|kilomètres?|
milles|kilómetros|
millas|quilômetros|quilómetros|milhas"""
        ),
        r"километр\w*|мил(?:и|ях|ями)|公里|千米|英里|キロメートル|キロで|マイル|킬로미터|마일|كيلومتر\w*|ميل",
    ),
    "weight": compiled(
        words(
            r"grams?|kilo(?:gram)?s?|kg|ounces?|oz|pounds|lbs?|stone|gramm|grammes|gramos|gramas|cups|"
            r"millilit(?:er|re)s?|ml"
        ),
        r"грамм\w*|克|公斤|グラム|그램|킬로그램|غرام|جرام",
    ),
    "units": compiled(
        words(r"metric|imperial|units?|si units|metrisch\w*|einheiten|métriques?|métric[ao]s?|unidades|unités"),
        r"метрическ\w+|公制|英制|単位|メートル法|미터법|단위|المتري\w*|وحدات",
    ),
    "indentation": compiled(words(r"tabs?|spaces|indent\w*|einrück\w*"), r"缩进|インデント|들여쓰기|отступ\w*"),
    "package manager": compiled(words(r"npm|yarn|pnpm|bun|pip|poetry|uv|conda|pipenv|maven|gradle|homebrew|brew|apt")),
    "programming language": compiled(
        r"(?<![\w-])(?:python|typescript|javascript|java|rust|golang|(?:in )go(?= |$)|kotlin|swift|c\+\+|c#|"
        r"ruby|php|scala|haskell|perl|lua|"
        r"julia|elixir|dart|clojure)(?![\w+#])"
    ),
    "type hints": compiled(words(r"type (?:hints?|annotations?)|typed|any type")),
    "comments": compiled(
        words(r"comments?|docstrings?|kommentare?|commentaires|comentarios|comentários"),
        r"注释|コメント|주석|комментари\w+",
    ),
    "tests": compiled(words(r"tests?|pytest|unittest|jest|vitest")),
    "naming": compiled(words(r"snake[_ ]?case|camel ?case|variable names?|kebab[- ]case|pascal ?case|naming")),
    "semicolons": compiled(words(r"semicolons?|single quotes|double quotes|trailing commas?")),
    "sources": compiled(
        words(r"cite|sources?|citations?|references?|links?|quellen?|liens|fuentes|fontes|footnotes?"),
        r"来源|出处|出典|출처|источник\w*|مصادر",
    ),
    "questions": compiled(
        words(
            r"ask(?:ing)? me|(?:follow-?up|clarifying) questions?|questions?|fragen?|rückfragen|"
            r"poser des questions|preguntes|perguntes"
        ),
        r"反问|追问|提问|質問し|질문하|задавай|спрашивай",
    ),
    "disclaimers": compiled(
        words(r"disclaimers?|caveats?|warnings?|as an ai|lectur\w+|moraliz\w+|hinweise|avertissements|advertencias")
    ),
    "greeting": compiled(words(r"greet\w*|say hello|salutations?|sign[- ]?offs?|sign|begrüß\w*|saluda\w*|closing")),
    "level": compiled(
        words(
            r"beginner|novice|expert|jargon|technical terms|layman\w*|simple (?:words|language|terms)|"
            r"plain language|like i['’]?m|fachbegriff\w*|einfach\w*|mots simples|palabras sencillas"
        ),
        r"专业术语|术语|通俗|専門用語|わかりやすく|전문 ?용어|쉽게",
    ),
}
_CODE_TOPICS = frozenset({"comments", "tests", "naming", "semicolons", "type hints", "indentation"})
_SCOPES: dict[str, re.Pattern[str]] = {
    "weather": compiled(
        words(r"weather|forecasts?|wetter\w*|météo|clima|tiempo|tempo"), r"天气|天氣|天気|날씨|погод\w+|طقس"
    ),
    "cooking": compiled(
        words(
            r"bak(?:e|ing)|cook(?:ing)?|recipes?|oven|kochen|backen|rezepte?n?|cuisine|recettes?|cocina|"
            r"recetas?|receitas?"
        ),
        r"食谱|菜谱|做菜|烘焙|レシピ|料理|레시피|요리|рецепт\w*|طبخ|وصفات",
    ),
    "code": compiled(
        words(r"code|coding|scripts?|functions?|programs?|programming|commits?|variables?|código|quellcode"),
        r"代码|程式|コード|코드|код\w*|الكود|برمج\w*",
    ),
    "mail": compiled(
        words(r"e-?mails?|letters?|mails?|courriels?|correos?|briefe?n?"),
        r"邮件|郵件|メール|이메일|메일|письм\w+|بريد|رسائل",
    ),
    "work": compiled(
        words(
            r"at work|for work|colleagues?|boss|clients?|customers?|bei der arbeit|au travail|en el trabajo|"
            r"no trabalho"
        )
    ),
    "school": compiled(words(r"homework|school|essays?|class|hausaufgaben|schule|devoirs|deberes|colegio|escola")),
    "sport": compiled(words(r"running|runs|hik(?:e|es|ing)|cycling|workouts?|rides?|swims?|training|laufen|wandern")),
    "travel": compiled(words(r"travel\w*|trips?|flights?|reisen?|voyages?|viajes?|viagens")),
    "children": compiled(words(r"kids?|child(?:ren)?|daughter|son|bedtime|kinder|enfants|niños|crianças")),
    "titles": compiled(words(r"titles?|headings?|subject lines?|überschriften|titres|títulos")),
    "jokes": compiled(words(r"riddles?|poems?|stories|limericks?")),
}
# An instruction with one of these is about all scopes of its topic.
EVERYWHERE = compiled(
    words(
        r"everything|everywhere|anywhere|in all cases|for all (?:units|topics)|überall|alles|partout|tout|"
        r"en todo|em tudo|todo"
    ),
    r"全部|一切|すべて|全て|全部|모두|모든|везде|всё|كل شيء",
)
# Scopes in which a programming topic stands anyhow.
_OWN_SCOPE = {"code": {"programming language", "package manager", *_CODE_TOPICS}}


def topics_of(text: str) -> frozenset[str]:
    """Return what an instruction, in lower case, is about; nothing where that is not known."""
    if NAMING.search(text):
        return frozenset({"address"})
    found = {topic for topic, pattern in _TOPICS.items() if pattern.search(text)}
    if "spelling" not in found and LANGUAGE.search(text):
        found.add("language")
    if _VARIETY.search(text) and "spell" not in text:
        found |= {"language", "variety"}
        found.discard("spelling")
    if "language" in found and found & _CODE_TOPICS:  # comments in English
        found -= _CODE_TOPICS
        found.add("comments language")
        found.discard("language")
    if found & {"distance", "temperature", "weight"}:
        found.discard("units")
    return frozenset(found)


def scope_of(text: str, topics: frozenset[str]) -> str:
    """Return the field that an instruction, in lower case, is confined to; empty where it is confined to none."""
    if "address" in topics:
        return (
            "work"
            if re.search(r"(?<!\w)(?:at work|in the office|bei der arbeit|au travail|en el trabajo)(?!\w)", text)
            else ""
        )
    for scope, pattern in _SCOPES.items():
        if pattern.search(text):
            return "" if topics and topics <= _OWN_SCOPE.get(scope, set()) else scope
    return ""


def covers(new: frozenset[str], old: frozenset[str]) -> bool:
    """Tell if nothing of an older instruction is left beside a newer one, by their topics. Which English is meant is a
    part of the language, and of the spelling too."""
    reached = set(new)
    if "language" in new:
        reached.add("variety")
    if "spelling" in new and "variety" in old:
        reached |= {"language", "variety"}
    if "variety" in new:
        reached.add("spelling")
    if "units" in new:
        reached |= {"distance", "temperature", "weight"}
    return bool(old) and old <= reached
