"""Words of standing instructions: how people ask, in ten languages, to be answered in some way from now on.

Each list is one regular expression over a folded text. Words of languages with spaces stand alone; those of
Chinese, Japanese, Korean and Arabic may touch others.
"""

from __future__ import annotations

import re

_ACCENTS = str.maketrans("áàâãäéèêëíìîïóòôõöúùûüñç’", "aaaaaeeeeiiiiooooouuuunc'")


def folded(text: str) -> str:
    """Return a text in lower case, without the accents of Latin letters, which are often left out."""
    return text.lower().translate(_ACCENTS)


def words(expression: str) -> str:
    """Return an expression that is met by whole words only."""
    return rf"(?<!\w)(?:{expression})(?!\w)"


def compiled(*parts: str) -> re.Pattern[str]:
    """Compile alternatives, for folded texts; line ends in them are dropped."""
    return re.compile("|".join(part.replace("\n", "").translate(_ACCENTS) for part in parts))


# What leads to a request and says nothing of it.
LEADS = compiled(
    r"""(?:(?:ok(?:ay)?|hey|hi|hello|so|and|also|but|oh|well|actually|right|btw|by the way|again|note|ps|fyi|
reminder|no(?=[,;.])|
yes|yeah|sorry|thanks|alright|then|listen|new rule|important|just|kindly|please|pls|plz|maybe|
(?:one|quick|small|another) (?:more |last )?(?:thing|request|note|rule)|(?:could|can|would|will) (?:you|u)|
i(?:['’]d| would) (?:really |much )?(?:like|love|prefer|appreciate)(?: it)?(?: if)?(?: for)? (?:you|u)(?: to|['’]d|
 would| could)?|i (?:want|need|expect|prefer) (?:you|u) to|you (?:should|must|need to|have to|are to)|
make sure (?:to|that you|you)|be sure to|remember to|remember that you should|try to|let['’]s|do me a favou?r and|
bitte|kannst du|könntest du|können sie|könnten sie|würdest du|und|aber|also|übrigens|hallo|ach|
ich (?:möchte|will|hätte gern),? dass du|s['’]il te pla[iî]t|s['’]il vous pla[iî]t|stp|svp|peux-tu|tu peux|
pouvez-vous|pourrais-tu|pourriez-vous|et|mais|alors|j['’]aimerais que tu|je veux que tu|por favor|porfa|mejor|
finalement|en fait|ach|na verdade|puedes|podrías|podés|
quiero que|prefiero que|me gustaría que|y|pero|oye|hola|você pode|pode|poderia|podes|quero que|prefiro que|
gostaria que|
e|mas|oi|olá|пожалуйста|можешь|можете|мог бы ты|и|а|но|да|слушай|привет|من فضلك|رجاء|رجاءً|هل يمكنك|لو سمحت)
(?![\w'’])[\s,:;.!–—-]*)+"""
)
# It holds for later answers, too.
LASTING = compiled(
    words(
        r"""from now on(?:wards?)?|from today|from (?:here|today) on(?: out)?|starting (?:now|today)|
going forward|moving forward|
henceforth|in (?:the )?future|every time|each time|whenever|when (?:i|you|we)(?!['’]re (?:back|done))|by default|
as a rule|any ?more|any longer|at all times|permanently|ever again|until (?:i say|i tell you|further notice)|ever|
(?:in|for|with) all(?: (?:of )?(?:my|your|the))?|(?:in|for|with) (?:my|your) (?:code|answers?|replies|
responses?|emails?|
texts|messages|posts|scripts|projects|commits?|comments|recipes|drafts)|always|never|every (?:answer|reply|response|
message|single)|each (?:answer|reply|response|message)|
when (?:answering|replying|writing|talking|speaking|coding|explaining|responding|giving|showing|discussing)"""
    ),
    words(
        r"""immer|nie|niemals|nie wieder|jedes mal|grundsätzlich|stets|nur noch|nicht mehr|künftig|zukünftig|
in zukunft|ab (?:jetzt|sofort|heute)|von (?:nun|jetzt) an|kein(?:e|en)? .{1,40} mehr|wenn (?:ich|du|wir)|
in (?:meinem|deinen|allen) \w+|standardmäßig"""
    ),
    words(
        r"""toujours|jamais|désormais|dorénavant|à l['’]avenir|à partir de maintenant|(?:ne |n['’]|plus ).{1,40} plus|
plus (?:d['’]|de )\w+|à chaque fois|par défaut|systématiquement|quand (?:je|tu|vous)|dans (?:mon code|tes réponses)"""
    ),
    words(
        r"""siempre|nunca|jamás|de ahora en (?:adelante|más)|a partir de (?:ahora|hoy)|desde ahora|
en (?:el )?futuro|cada vez|
por defecto|ya no|no .{1,40} más|cuando (?:yo|te|me)|en (?:mi código|tus respuestas|todas)"""
    ),
    words(
        r"""sempre|de agora em diante|daqui (?:em|para a?|pra) (?:diante|frente)|a partir de agora|no futuro|toda vez|
por padrão|não .{1,40} mais|quando (?:eu|você)|em (?:todas|todos)|nas (?:tuas|suas) respostas"""
    ),
    words(
        r"""всегда|никогда|отныне|впредь|с этого момента|с сегодняшнего дня|в будущем|каждый раз|больше не|
по умолчанию|теперь|во всех|когда я|в (?:моём|моем) коде"""
    ),
    r"""以后|今后|往后|从现在(?:开始|起)|从今(?:以后|往后|天起)|永远|一直|总是|始终|每次|一律|不要再|别再|再也|默认|
(?:回答|回复|答复|说话|写代码|写文章|聊天|解释)(?:问题)?(?:的时候|时)|都(?:要)?用|以後|今後|從現在(?:開始|起)|
總是|每次都|一律""",
    r"""これから|今後|以降|いつも|常に|必ず|毎回|絶対に?|二度と|もう.{0,20}(?:しないで|やめて|使わないで|いらない)|
(?:返信|返事|回答|答え|説明|文章|返答|コード)(?:は|には|では|をする時|するとき)|(?:時|とき|際)(?:は|には)""",
    r"""앞으로|이제부터|지금부터|항상|언제나|늘 |매번|절대|더 ?이상|다시는|
(?:답변|대답|답장|설명|코드)(?:은|는|할 때)""",
    r"""دائما|دائمًا|من الآن|من الان|ابتداء من|أبدا|أبدًا|ابدا|بعد الآن|بعد الان|كل مرة|في المستقبل|مستقبلا""",
)
# It is for one answer, or for a text that is at hand.
ONCE = compiled(
    words(
        r"""(?:just |only )?this (?:once|one|time|text|email|e-mail|mail|letter|message|answer|question|
sentence|paragraph|
essay|document|article|code|function|list|table|recipe|for me|into|in|to|as)|just (?:once|now)|one (?:answer|time)|
for (?:once|now|today|this|that|a moment|the moment|the next|a minute|tonight)|(?<!from )today|tonight|
(?:answer|translate|write|
explain|say|read|put|rewrite|reply to|format|do|give me|tell me|show me|summari[sz]e|describe) (?:this|that|
these|those|it|
him|her|them)|
(?:it|that) (?:to|into) (?:\w+)$|(?:the|that|these|those) (?:following|above|below|text|letter|e-?mail|essay|
last|next|
article|story|poem|paragraph|contract|speech)|(?:translate|proofread|rewrite|paraphrase|correct|fix|debug|draft|
compose) .*"""
    ),
    words(
        r"""nur (?:dieses|diese|diesen|dies|das) (?:eine |eine[ns]? )?(?:mal|antwort|frage)?|dieses mal|diesmal|
ausnahmsweise|heute|(?:das|dies|diesen|diese|dieses) (?:hier|text|mail|brief|satz|frage|code|antwort)|
(?:übersetz|korrigier)\w* .*|einmal (?:kurz|bitte)"""
    ),
    words(
        r"""(?:juste )?cette (?:fois|question|réponse|phrase)(?:-ci)?|pour une fois|aujourd['’]hui|ce (?:texte|
mail|message|
courriel|code)|cette (?:lettre|page)|(?:traduis|traduisez|corrige|corrigez) .*|ça en \w+"""
    ),
    words(
        r"""(?:solo |sólo )?(?:por )?esta (?:vez|pregunta|respuesta|carta|frase)|por una vez|hoy|este (?:texto|
correo|mensaje|
código)|(?:traduce|tradúceme|corrige|corrígeme) .*|esto en \w+"""
    ),
    words(
        r"""(?:só )?(?:por )?(?:desta|dessa|esta|essa) (?:vez|pergunta|resposta|carta|frase)|hoje|(?:este|
esse) (?:texto|email|
código)|(?:traduz|traduza|corrija|corrige) .*|isso em \w+|isto em \w+"""
    ),
    words(
        r"""(?:только )?(?:в )?этот раз|один раз|сегодня|(?:этот|это|эту) (?:текст|письмо|вопрос|ответ|код|
фразу)|на этот раз|
(?:переведи|переведите|исправь|исправьте) .*"""
    ),
    r"""这次|这一次|这回|今天|这(?:句|段|个|封|篇|道|条)|这里|翻译|改写|润色|就这|(?:帮|给|替|幫|給)我(?:写|寫)一?(?:封|首|篇|份|段|个|個)|這次|這(?:句|段|個|封|篇)|翻譯""",
    r"""今回|今日|この(?:文|文章|質問|メール|手紙|一回|コード|回答)|これを|一度だけ|今だけ|翻訳|訳して|直して""",
    r"""이번|오늘|이 (?:문장|글|질문|메일|편지|코드|답변)|한 ?번만|이것|이거|번역|고쳐""",
    r"""هذه المرة|هذا (?:النص|السؤال|البريد)|هذه (?:الرسالة|الجملة|الإجابة)|اليوم|ترجم|مرة واحدة""",
)
# Somebody else said so, or it is only thought of.
REPORTED = compiled(
    words(
        r"""(?:said|says|say|told|tells|tell|asked|asks|wrote|writes|insist(?:s|ed)|yell(?:s|ed)|taught|
preach(?:es|ed)|
remind(?:s|ed)|motto|slogan|lyrics?|quot(?:e|es|ed|ing)|proverb|sign|poster|imagine|suppose|pretend|if (?:i|you|we|he|
she|they)|hypothetically|someone|somebody)"""
    ),
    words(r"sagte|sagt|meinte|meint|schrieb|schreibt|hat gesagt|stell dir vor|angenommen|als ob|sagen immer"),
    words(r"a dit|disait|dit toujours|m['’]a dit|a écrit|imagine|imaginons|supposons"),
    words(r"dijo|decía|dice|me dijo|escribió|imagina|supón|supongamos"),
    words(r"disse|dizia|diz|escreveu|imagina|imagine|suponha"),
    words(r"сказал\w*|говорил\w*|говорит|написал\w*|представь|допустим"),
    r"他说|她说|老师说|老板说|妈妈说|爸爸说|说过|告诉我|假设|如果我|想象|老師說|他說|她說",
    r"と言われ|と言って|って言って|と書いて|もし|仮に|って言われ",
    r"라고 (?:했|말|하)|만약|가정",
    r"قال|قالت|يقول|تقول|تخيل|افترض|لو كنت",
)
# Doing of the one who answers, at the beginning of what is asked.
_ACTS_EN = r"""answer|reply|respond|write|speak|talk|communicate|explain|format|style|spell|use|call me|call my|
address me|
refer to|include|add|append|put|list|cite|quote|mention|ask|remind|suggest|recommend|offer|assume|treat me|
start|begin|end|
finish|sign|greet|convert|give(?! up| in| away)|tell|show|keep|make|be|stay|indent|name|omit|skip|leave out|
avoid|stop|quit|swear|curse|
repeat|apologi[sz]e|summari[sz]e|check|wrap|comment|prefer|stick to|switch to|drop|limit|round|sort|spoil|say|refuse|
guess|invent|make up|comply|pretend|sugar-?coat|lecture|judge|praise|flatter|joke|refer|hyphenate|capitali[sz]e|
abbreviate|
measure|calculate|express|state|provide|present|structure|go with|go easy|speak to|type|do|set|stop being|translate"""
ACTS = compiled(
    words(_ACTS_EN),
    words(
        r"""antworte[nt]?|schreib(?:e|en|t)?|sprich|sprechen|rede|reden|nutze?|nutzen|benutze?n?|verwende?n?|
gib|geben|
nenn(?:e|en)?|sag(?:e|en)?|duz(?:e|en)?|siez(?:e|en)?|halte?|fass|formatiere?n?|erkläre?n?|erinnere?n?|frage?|hör auf|
lass|vermeide?n?|keine?n?|zeige?n?|formuliere?n?|rechne?n?|mach(?:e|en)?|bleib|sei|spar dir|verzichte?n?"""
    ),
    words(
        r"""réponds?|répondez|répondre|répondes|écris|écrivez|écrire|parle|parlez|parles|parler|utilise[rsz]?|
emploie[sz]?|
appelle-moi|appelez-moi|m['’]appell?er?|tutoie[sz]?(?:-moi)?|vouvoie[sz]?(?:-moi)?|garde[sz]?|donne[sz]?(?:-moi)?|
explique[sz]?|évite[sz]?|arrête[sz]?|cesse[sz]?|mets|mettez|mentionne[sz]?|rappelle[sz]?(?:-moi)?|
sois|soyez|fais|plus|pas|ajoute[sz]?|indique[sz]?|tutoyer|vouvoyer|termine[sz]?|commence[sz]?"""
    ),
    words(
        r"""respond(?:e|a|as|eme)|respóndeme|contest[ae]s?|contéstame|escrib[ea]s?|escríbeme|habl(?:a|e|es)|
háblame|us[ae]s?|
utili(?:za|ce|ces)|llám(?:ame|eme)|dime|tutéame|trát(?:ame|eme)|expli(?:ca|que|ques)|explícame|evit[ae]s?|dej[ae] de|
pong?as?|mantén|d[aé]me|pon|recuérdame|menciones?|sea|seas|hagas|incluy[ae]s?|nada de|sin|termines?"""
    ),
    words(
        r"""respond[ae]s?|respond(?:e|a)-me|escrev[ae]s?|fal[ae]s?|us[ae]s?|utili[zs]es?|utilize|
(?:me )?cham[ae](?:-me)?|
(?:me )?trat[ae](?:-me)?|expli(?:ca|que)|evit[ae]|par[ae] de|mencion[ae]|coloque|mantenha|mantém|lembre-me|seja|
inclua|ponha|nada de|sem"""
    ),
    words(
        r"""отвечай(?:те)?|отвечать|пиши(?:те)?|писать|говори(?:те)?|говорить|используй(?:те)?|использовать|
называй(?:те)?|зови(?:те)?|обращайся|обращайтесь|обращаться|объясняй(?:те)?|избегай(?:те)?|перестань(?:те)?|
ставь(?:те)?|упоминай(?:те)?|указывай(?:те)?|считай(?:те)?|добавляй(?:те)?|напоминай(?:те)?|давай(?:те)?|будь|
без|предлагай(?:те)?|спрашивай(?:те)?|хватит"""
    ),
    r"""回答|回复|答复|回覆|说|讲|說|写|寫|用|使用|叫我|称呼|稱呼|称我|不要|别|別|保持|给我|給我|列出|提醒|注明|标注|解释""",
    r"""お願い|ください|して(?:ね|よ|ほしい|欲しい)|使って|使わないで|答えて|話して|書いて|呼んで|返して|やめて|
しないで|にして|頼む|
教えて|(?:で|も|て)(?:いい|OK|大丈夫)|入れて|つけて|ないで""",
    r"""해 ?(?:줘|주세요|주십시오)|(?:줘|주세요|주십시오)|불러|써(?:요)?|쓰지 ?(?:마|말)|하지 ?(?:마|말)|대답해|
답해|말해|알려 ?(?:줘|주세요)|부탁|사용해|마세요|돼|
괜찮아|말아""",
    r"""أجب|اجب|أجبني|جاوب|رد علي|ردّ|رد ب|اكتب|تكلم|تحدث|استخدم|استعمل|نادني|ناديني|سمني|سمّني|لا تستخدم|لا تكتب|
لا تستعمل|اجعل|خاطبني|تجنب|توقف عن|اشرح|يمكنك""",
)
# Adverbs and negations that may stand before the doing.
BEFORE_ACT = compiled(
    words(
        r"""always|never|don['’]?t(?: you)?(?: ever| dare)?|dont(?: ever)?|do not(?: ever)?|no longer|not|only|
ever|rather|
from now on(?:wards?)?|from here on(?: out)?|starting (?:now|today)|going forward|moving forward|henceforth|
in (?:the )?future|as a rule|by default|(?:for|in|with|when|whenever|every time|each time)(?: [\w'’-]+){1,8}?,?"""
    )
)
# An end of an earlier instruction.
WITHDRAWN = compiled(
    words(
        r"""(?:you|u)(?: can| may|['’]re allowed to| are allowed to| don['’]?t (?:have|need) to| do not (?:have|
need) to| needn['’]t) .*(?:again|any ?more|any longer|now|if you (?:like|want)|after all)|(?:you|u) (?:can|may) (?:stop|
go back to|
drop|forget|ignore|switch)|(?:it['’]s |its |is )?(?:ok|okay|fine|alright|all right) to \w+.*|no need (?:to|for) .*|
feel free to .*|(?:forget|drop|scrap|ignore|lift|cancel|undo|never ?mind)(?: about)?(?: the| my| that| your|
 what i said about)? .*(?:thing|rule|instructions?|request|stuff|business|from now on|restriction|limit|ban|requirement|
preference)|
(?:go|switch|change) back to .*|back to .{1,40}|(?:stop|quit) (?:answering|replying|responding|using|calling|writing|
speaking|talking|adding|converting|formatting) .*|(?:you )?no longer (?:have|need) to .*"""
    ),
    words(
        r"""du (?:darfst|kannst|musst) .*(?:wieder|nicht mehr|jetzt)|(?:sie )?(?:dürfen|können|
müssen) .*(?:wieder|nicht mehr)|
vergiss (?:das|die|den) mit .*|brauchst .* nicht mehr .*"""
    ),
    words(
        r"""tu peux (?:de nouveau|à nouveau|arrêter|re\w+) .*|tu peux .*(?:à nouveau|de nouveau|maintenant)|
oublie (?:l['’]histoire|
la|le|les|ce|cette) .*|plus besoin (?:de|d['’]) ?.*|tu n['’]es plus obligée? .*"""
    ),
    words(
        r"""(?:ya )?puedes .*(?:otra vez|de nuevo|ya)|ya (?:puedes|no hace falta|no tienes que|no es necesario) .*|
puedes (?:volver a|dejar de) .*|olvida (?:lo de|la|el|eso de) .*"""
    ),
    words(
        r"""(?:já )?(?:você )?pode .*(?:de novo|novamente|outra vez)|pode (?:voltar a|parar de) .*|
(?:já )?não precisa(?:s)? (?:mais )?.*|
esquece? (?:aquilo|a regra|aquela|essa) .*"""
    ),
    words(
        r"""(?:можешь|можно|можете) (?:снова|опять|больше не|уже) .*|(?:можешь|можно|можете) .*(?:снова|опять)|
больше не (?:надо|нужно) .*|забудь (?:про|о) (?:правило|просьбу|то).*"""
    ),
    r"可以(?:再|重新|继续|又)?.{0,12}(?:了|啦)$|不用再.{1,20}|不必再.{1,20}|不需要再.{1,20}|又可以.{1,20}|"
    r"取消.{0,10}(?:规定|要求|规则)",
    r".{0,20}(?:でいい|で大丈夫|ても(?:いい|大丈夫)|でOK|なくていい|なくて大丈夫)(?:よ|です|ですよ|から|"
    r"ね)?|.{1,20}に戻して.*",
    r".{0,20}(?:해도|써도|안 해도|않아도|사용해도) ?(?:돼|됩니다|괜찮아|괜찮습니다|좋아)(?:요)?|"
    r".{1,20}(?:돌아가|필요 ?없어).*",
    r"يمكنك .{1,40}(?:مجددا|مجددًا|مرة أخرى|من جديد)|لا داعي .{1,40}(?:بعد الآن)?|انس(?:َ)? (?:موضوع|قاعدة) .*",
)
# A name or form of address that somebody wants.
NAMING = compiled(
    words(r"call me|address me as|refer to me as|to be called|being called|you called me"),
    words(
        r"nenn(?:e|en sie)? mich|sprich mich mit .{1,30} an|du kannst mich .{1,30} nennen|"
        r"(?:ab jetzt|bitte) .{1,30} nennen"
    ),
    words(r"appelle-moi|appelez-moi|(?:m['’])?appeler"),
    words(r"llám(?:ame|eme)|llamarme"),
    words(
        r"cham[ae] de|(?:me )?cham[ae]-me(?: de)?|me cham[ae](?: de)?|(?:me )?chamar de|(?:podes )?chamar-me(?: de)?"
    ),
    words(r"зови(?:те)? меня|называй(?:те)? меня|(?:звать|называть) меня"),
    r"叫我|称呼我|喊我|稱呼我|称我为",
    r"(?:って|と)呼んで",
    r"(?:이?라고|으로) ?불러",
    r"نادني|ناديني|سمني|سمّني",
)
# The first letters of words without which no sentence of a language with spaces is an instruction.
BEGINNINGS = frozenset(
    folded(
        "answ repl resp writ spea talk comm expl form styl spel use call addr refe incl add appe put list "
        "cite quot ment ask remi sugg "
        "reco offe assu trea star begi end fini sign gree conv give tell show keep make be stay inde name "
        "omit skip leav avoi stop quit "
        "swea curs repe apol summ chec wrap pref stic swit drop limi roun sort spoi say refu gues inve comp "
        "suga lect judg prai flat "
        "joke hyph capi abbr meas calc expr stat prov pres stru go type do set tran no only plea pls your "
        "can may ok okay fine forg "
        "scra igno canc undo neve back feel drop lift dont don using i'd rather when answers hate "
        "antw schr spri spre rede nutz benu verw gib gebe nenn sag sage duz duze siez halt fass erkl erin "
        "frag hör lass verm kein zeig "
        "rech mach blei sei spar verz bitt darf kann musst verg brau "
        "répo écri parl util empl appe tuto vouv gard donn évit arrê cess mett mets rapp sois soye fais "
        "plus pas ajou indi term comm "
        "peux oubl cont cons escr habl háblame hábl usa uses uso llám dime tuté trát evit deja deje pong "
        "pon mant dame reco sé sea "
        "nada sin pued olvi cham fala fale para pare colo dê lemb seja pode prec esqu sem resp "
        "отве пиши писа гово испо назы зови обра объя избе пере став упом указ счит доба напо дава будь без "
        "пред спра хват можн може "
        "забу надо нужн exam unit metr temp"
    ).split()
)
# No name, though it stands behind "call me".
NO_NAMES = frozenset(
    "a an the back later when if at on in about tomorrow today tonight now asap anytime any crazy old "
    "stupid weird lazy paranoid "
    "cynical naive biased after before once first again up out for to by maybe sometime soon this next "
    "every regarding with from "
    "instead please monday tuesday wednesday thursday friday saturday sunday january february march april "
    "may june july august "
    "september october november december morning afternoon evening noon mon tue wed thu fri sat sun tues "
    "thurs over collect "
    "whenever whatever anything names dramatic selfish silly mad nuts boring picky spoiled out there "
    "because and or but so that "
    "im i'm i as it is sentimental superstitious greedy petty rude insane dumb ignorant cheap skeptical "
    "sceptical pessimistic"
    " un une ein eine mañana morgen demain amanhã später wenn cuando quando quand si se como завтра когда "
    "позже если".split()
)
