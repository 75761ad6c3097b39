"""What is said without being so: hypotheses, fiction, jokes, wishes, open plans, and what others are said to think.

A hypothesis or a joke that announces itself is no fact at all. A wish, an open condition or a plan is kept as what it
is: something that was said; it fills no slot and ends nothing.
"""

from __future__ import annotations

import re

from memory.language.scripts import any_of

_START = (
    r"(?:(?:ok|okay|so|and|but|well|now|hey|also|then|just|please|pls|alright|oh|um|hmm|lol|btw|haha+|"
    r"эх|ах|ну|ay|ah|ach|tja|also)\b[\s,:]*|[唉哎啊哈]+[，,]?)*"
)

# Openers of fiction: all that follows in the message is part of it.
_FICTION = re.compile(
    _START
    + any_of(
        r"""
        let['’]?s (?:all )?(?:pretend|imagine|play|role|do (?:an? |some )?(?:improv|role|scene)|make believe|
        + act out|write a story)\b
        (?:can|could|shall) we (?:pretend|play|role|do an? (?:improv|role))\b
        (?:just )?(?:pretend|imagine|picture this|picture yourself|envision|visuali[sz]e)\b(?! that!)
        (?:scenario|thought experiment|role[- ]?play|what-if|fictional|fiction|story|plot idea|improv|
        + simulation|hypothetical(?:ly)?)\s*[:;,—-]
        for (?:the|my|a|an|our|this|some) (?:\w+ )?(?:role[- ]?play|novel|story|short story|script|screenplay|
        + game|d&d|dnd|campaign|poem|play|sketch|exercise|worksheet|homework|essay|improv|scene|fan ?fiction|
        + song|thriller|movie|film|demo|test|mock-?up|example)\b
        für (?:mein\w*|die|den|das|eine?n?|unser\w*) (?:\w+ )?(?:kurzgeschichte|roman|geschichte|spiel|
        + drehbuch|rollenspiel|theaterstück|krimi|gedicht)
        pour (?:mon|ma|le|la|un|une|notre) (?:roman|histoire|nouvelle|jeu|scénario|pièce|conte|poème)
        para (?:mi|la|el|una?|nuestra) (?:novela|cuento|historia|juego|guion|guión|obra|poema|relato)
        para (?:o |a )?(?:meu|minha|o|a|um|uma) (?:romance|conto|história|jogo|roteiro|peça|poema)
        для (?:моего|моей|нашего|нашей|одного|одной)? ?(?:романа|рассказа|игры|сценария|пьесы|сказки|
        + повести)
        (?:给|为|在)?(?:我的?)?(?:小说|剧本|故事|游戏)(?:里|中|的?主角|的?开头|人物|[:：])
        (?:小説|物語|脚本|ゲーム|劇)(?:の(?:主人公|設定|中)|で(?:は)?、|[:：])
        (?:소설|이야기|게임|대본)(?: ?속|의 주인공|에서|:)
        (?:في|من أجل|لأجل) (?:قصتي|روايتي|القصة|الرواية|اللعبة|مسرحية)
        in (?:the|this|my|a|an|our) (?:\w+ )?(?:role[- ]?play|novel|story|game|play|sketch|campaign|
        + alternate universe|parallel universe|parallel world|other universe|fantasy|movie|simulation|scenario|
        + scene)\b(?=[^.?!]{0,40}\b(?:i|my|we|our)\b)
        in (?:another|some other|a parallel|an alternate) (?:life|world|universe|reality)\b
        (?:act|behave|respond|answer|talk|speak) (?:as|like) (?:a|an|the|if|though|my)\b
        (?:you are|you're|you will be|you'll be|be) (?:now )?(?:a|an|the|my) (?:\w+ ){0,2}(?:pirate|assistant|
        + teacher|tutor|coach|hiring manager|interviewer|king|queen|expert|doctor|wizard|detective|
        + dungeon master|character|robot|chef|guide|narrator|editor|bot|translator|advisor|poet|lawyer|
        + shopkeeper|waiter|dragon|knight|villain)\b
        play (?:a|an|the|my)\b(?! (?:guitar|piano|lot))
        (?:i['’]?m |im )?(?:just |only )?(?:kidding|joking)\s*(?:[:;,—-]|but\b)|(?:es|era) broma\b
        je (?:blague|plaisante|rigole)\b|(?:nur )?spaß\b|(?:estou |tô )?brincando\b|шучу\b|шутка\b|أمزح
        (?:我)?(?:跟你)?开(?:个)?玩笑(?:的|啦)?[，,。:：]
        (?:as a )?(?:joke|prank)\s*[:;—-]|joke (?:of the day|time)
        april fools?(?:['’]? ?day)?['’]?s?\s*[:;,!—-]
        (?:here['’]?s|this is) (?:a|my) (?:joke|riddle|made[- ]up|fictional|fake)\b
        (?:wei(?:ß|ss)t du was|witz)\s*:|stell dir (?:mal )?vor|stellen wir uns vor|tun wir (?:mal )?so
        lass uns (?:mal )?(?:spielen|so tun)|wir spielen|rollenspiel|spiel(?:e)? (?:einen?|den|die)\b
        imagin(?:e|ons|ez) |faisons (?:comme si|semblant)|jouons |on joue |jeu de rôle|joue le rôle|fais comme si
        blague\s*:
        imag[ií]n(?:a|ate|emos|e)\b|hagamos (?:como|de cuenta)|juguemos|vamos a jugar|juego de rol|haz de cuenta
        act[úu]a como|broma\s*:|finge|finjamos
        imagin(?:a|e|emos)\b|vamos (?:fingir|brincar|imaginar|jogar)|faz(?:e)? de conta|finge|finja|brincadeira\s*:
        (?:давай(?:те)?|будем) (?:сыгра|поигра|игра|представ|притвор|сдела\w+ вид|вообраз)
        представь(?:те)?(?: себе)?|вообрази|ролевая игра|сыграй|шутка\s*:|сделаем вид
        (?:دعنا|دعونا|هيا|لنلعب|لن) ?(?:نتظاهر|نلعب|نتخيل)|لنلعب|لنتخيل|تخيل|تخيلي|تظاهر|مزحة\s*:|العب دور
        (?:我们)?(?:来)?(?:玩个?)?角色扮演|(?:我们|咱们)来(?:玩|演|假装)|想象一下
        (?:请)?(?:你)?(?:来)?扮演|假装|开个?玩笑
        (?:ロールプレイ|ごっこ)|(?:.{0,20})?(?:ふりをして|ごっこを|になりきって|役を演じて)
        想像して(?:みて)?|冗談(?:だけど|ですが|です)|空想
        역할극|역할 ?놀이|상상해|(?:.{0,20})?(?:인 척|척 ?(?:해|하자|하고))|농담
        """
    ),
    re.IGNORECASE,
)
# Openers of a supposition: what follows in the sentence hangs on it.
_SUPPOSED = re.compile(
    _START
    + any_of(
        r"""
        (?:let['’]?s|lets|let us) (?:say|assume|suppose)\b
        suppos(?:e|ing)\b|assum(?:e|ing)\b|presum(?:e|ing)\b|say (?:i|we|my|our|you|that|someone)\b|what if\b
        in theory\b
        hypothetically|theoretically|in a hypothetical\b|(?:one|some) day,? (?:when|if)\b
        when i['’]?m (?:rich|old|a millionaire|famous|retired)\b
        had (?:i|we|he|she|they|it|my|our|the) \w+(?: \w+)? \w+ed\b
        had (?:i|we|he|she|they|it|my \w+|our \w+) (?:been|had|known|gone|done|got|gotten|taken|made|come|seen)\b
        were (?:i|we|he|she|they|it) to\b|in case i\b(?=.*\bwould\b)|in my (?:dreams?|nightmares?)\b
        as (?:a|an) (?:test|example|joke|exercise|hypothetical)\b
        for example,? (?:if|say|suppose)\b|for the sake of (?:the )?argument
        (?:mal )?angenommen|nehmen wir (?:mal )?an|gesetzt den fall|was wäre,? wenn
        wenn (?:ich|wir|er|sie|es|man|mein\w*) (?:[\wäöüß]+ ){0,6}?(?:hätte|wäre|würde|könnte|müsste|wohnte|
        + lebte|arbeitete|verdiente|dürfte)\w*
        hätte ich|wäre ich|in einem traum|eines tages,? wenn
        (?:suppos(?:e|ons|ez)|admettons|mettons|disons) (?:que|qu['’])|et si
        (?:et )?si (?:j['’]|je |nous |on |tu |mon |ma |
        + mes )(?:[\wàâçéèêëîïôûùüÿœ'’]+ ){0,2}?[\wàâçéèêëîïôûùœ]+(?:ais|ait|ions|aient)\b
        par exemple,? si
        (?:supong(?:amos|o)|supón(?:gase)?|digamos|pongamos|asumamos) (?:que)?
        (?:y |qué pasa(?:ría)? )?si (?:yo |nosotros |mi \w+ |me |no |tú |él |ella )*\w+(?:ara|iera|yera|era|
        + ase|iese|áramos|iéramos|aran|ieran)\b
        si (?:\w+ ){1,4}?\w+, .*\b\w+ría[ns]?\b|si fuera\b|si tuviera
        (?:suponh(?:a|amos)|digamos|vamos (?:supor|dizer)) (?:que)?
        (?:e )?se (?:eu |nós |a gente |meu \w+ |minha \w+ |me |não )*\w+(?:asse|esse|isse|osse|ássemos|êssemos)\b
        предположим|допустим|скажем,|представим|если бы|а если\b|будь я|во сне
        لنفترض|افترض|لنقل|ماذا لو|لو (?:كنت|كان|كانت|كنا|أن|أنني|عندي|لدي)
        (?:如果|假如|假设|假使|要是|倘若|万一)(?=.{0,40}(?:会|就|怎么|多少|吗|呢|该|能|[?？]|
        + 的话))
        假如|假设|比方说|譬如说
        もし(?:も)?(?!かし)|仮に|例えば.*(?:とした|だった)ら
        만약|만일|가령|가정(?:해|하자)|예를 들어.*라면
        """
    ),
    re.IGNORECASE,
)
_IF = re.compile(
    _START + r"(?:even |only )?if\b(?! (?:i (?:remember|recall|understood)|i['’]?m not mistaken|you ask me|"
    r"memory serves|it helps|that helps|anything))",
    re.IGNORECASE,
)
_UNREAL = re.compile(
    r"\bif (?:i|we|he|she|they|it|my \w+|our \w+|you|somebody|someone) (?:\w+ )?(?:had|were|was|lived|worked|"
    r"owned|could|would|earned|got|"
    r"went|moved|won|quit|knew|bought|sold|\w{3,}ed)\b|\bif i was\b|\bwould have \w+\b.*\bif\b",
    re.IGNORECASE,
)
_WOULD = re.compile(r"\b(?:would|wouldn['’]t|could|might)\b|\b\w+['’]d\b|\bid\b", re.IGNORECASE)

# What is said, but not of how things stand: wishes, plans that hang on something, what is only thought of.
_WISH = re.compile(
    r"(?:"
    + _START
    + any_of(
        r"""
        (?:i|we|he|she|they) (?:really |just |so |often |sometimes |still |do )*(?:wish|wished|hope|hoped|
        + dream of|dream about|fantasi[sz]e|long)\b
        (?:last night )?i (?:dreamed|dreamt|had a (?:dream|nightmare))\b|ich habe geträumt|j['’]ai rêvé|soñé
        sonhei|мне (?:при)?снилось|حلمت|我?梦见|夢を見|꿈을 꿨|if only\b|hopefully\b|fingers crossed\b|maybe\b|perhaps\b
        possibly\b|i['’]?d (?:really |so |much |just )*(?:love|like|rather|give|move|kill)\b
        (?:i|we) would(?:n['’]t)? (?:really |so |much |just |never )*(?:love|like|rather|give|be|have|move|
        + buy|become)\b
        (?:i['’]?m |i am |we['’]?re |we are |he['’]?s |she['’]?s |they['’]?re |still |been |i['’]ve been |
        + we['’]ve been |just )*(?:thinking|dreaming|toying|wondering|considering|contemplating|debating|
        + undecided|deciding|planning|hoping|tempted|unsure|not sure|inclined|on the fence)\b
        (?:i|we|he|she|they|it) (?:\w+ )?may (?!\d)(?!the\b)
        (?:i|we|he|she|they|it|my \w+|our \w+|\w+) (?:\w+ )?(?:might|almost|nearly)\b
        (?:i|we|he|she|they|it|you|my \w+|our \w+) (?:\w+ )?(?:could(?! (?:only|finally|not|hear|see))|would)\b
        (?:almost|nearly) \w+ed\b|(?:almost|nearly) (?:quit|sold|left|bought|broke|lost|gave|got)\b
        (?:i|we) (?:don['’]t|do not|dont|never|did not|didn['’]t) (?:really )?(?:think|believe|say|said|claim)\b
        i (?:doubt|deny)\b|(?:i['’]?m |i am )?not saying\b|i never said\b
        (?:it['’]?s|it is|it['’]?s just|that['’]?s|it isn['’]t|that is) (?:not true|untrue|false|a lie|a myth|
        + not the case|not|a rumou?r) that\b
        (?:it|that) (?:isn['’]?t|is not|wasn['’]?t|was not) (?:\w+ )?(?:true|right|correct|accurate|the case|so) that\b
        (?:i|we) (?:want|wanna|plan|intend|mean|aim|would like|'d like) to\b
        (?:i|we) (?:used to|wanted to) (?:think|believe|dream)\b|one day (?:i|we)\b|some ?day (?:i|we)\b
        (?:ich|wir) (?:wünsch\w*|hoff\w*|möcht\w*|würde\w*|hätte\w* gern\w*|überleg\w*|träum\w*|wär\w*|
        + könnte\w*|denke darüber|will|wollen)\b
        hoffentlich\b|vielleicht\b|am liebsten (?:würde|hätte|wäre)\b
        wenn (?:ich|wir|es|er|sie)\b.*\b(?:dann|werde|würde|ziehe|kaufe)|wenn ich doch|fast (?:hätte|wäre)
        (?:j['’]|je |nous |on )(?:aimerai[st]|souhait\w*|espèr\w*|voudrai[st]|rêve|pense à|envisage|hésite|
        + aimerions|voudrions|pourrais|serais|réfléchis)
        si seulement|peut-être|pourvu que|si (?:j['’]|je |nous |on )
        ojal[áa]|(?:me|nos) (?:gustaría|encantaría)|quisiera|espero|quizás?|tal vez|a lo mejor
        (?:estoy|estamos) pensando en|pienso en|sueño con|quiero|queremos|si (?:me|consigo|tengo|puedo|todo|no)\b
        tomara|quem me dera|(?:eu )?(?:gostaria|adoraria|queria|espero|sonho em|quero|pretendo)|talvez|quem sabe
        (?:estou|estamos) pensando em|se (?:eu|der|conseguir|tudo)\b
        (?:я |мы )?(?:бы )?(?:очень )?(?:хотел\w*|хочу|надеюсь|надеемся|мечтаю|думаю (?:о|об|над)|подумываю|
        + собираюсь)
        жаль|вот бы|возможно|может быть|может,|если\b|пожалуй|чуть не
        (?:أتمنى|اتمنى|ليت|ليتني|يا ليت|آمل|أرجو|ربما|أفكر|أود|أريد أن|إذا|لعل)
        (?:我|我们|咱们)?(?:真|好|很|多么)?(?:希望|但愿|想要|真想|想着|在想|考虑|
        + 在考虑|打算|也许|可能|差点|恨不得|要是)
        也许|或许|可能|但愿|如果|要是
        """
    )
    + r")",
    re.IGNORECASE,
)
_WISH_END = re.compile(
    r"(?:就好了|就好啦|该多好)[啊呀。！!.~]*$|(?:たら|れば|と)(?:いい|良い|よい|"
    r"よかった)(?:のに|な|なあ|なぁ|んだけど|ですね?|と思)?[^。]{0,6}[。！!]*$|(?:たい|"
    r"ほしい|欲しい)(?:なあ?|なぁ|です(?:ね)?|と思(?:って|い)[^。]{0,8})?[。！!]*$"
    r"|かもしれ(?:ない|ません)|(?:考え|検討し|迷っ)て(?:い|る|いる)|だろう|"
    r"でしょう[。]?$|좋겠(?:다|어|어요|네|네요|습니다)[.!]*$|좋을 ?텐데|싶(?:다|어|"
    r"어요|습니다|네요)[.!]*$|(?:바라|바랍니다)|지도 ?(?:몰라|모르)|고민 ?중|생각 ?중"
    r"|\b(?:would|['’]d|could|might)\b.*\bif\b|\bi hope\b[.!]*$|\b(?:бы)\b.{0,30}$",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"(?:^|[\s,.;:!?—(-])(?:(?:haha|lol|nah|no|nein|non|na)[\s,!]*)*(?:(?:i['’]?m |i was |im )?(?:just |only |"
    r"totally )?(?:kidding|joking|messing with you)"
    r"|j/?k|/s|/j|gotcha|april fools?!?|psych|(?:nur |kleiner )?(?:spaß|scherz)|je (?:rigole|plaisante)|"
    r"(?:es )?broma|(?:estou )?brincando|(?:это )?шутка|шучу|أمزح|(?:我)?开玩笑(?:的|啦)?|"
    r"骗你的|逗你的|(?:なんて|な(?:ー|〜)んて)(?:ね)?|冗談(?:だよ|です)?|농담(?:이야|이에요|"
    r"입니다)?)[\s.!)😂🤣😜😉😅haلlo]*$",
    re.IGNORECASE,
)
_THOUGHT_BY = re.compile(
    _START + r"(?P<who>(?:(?:my|our|the|his|her|a|some|everyone|everybody|people|they|he|she|"
    r"[A-Z]\w+)\b ?)(?:[\w'’-]+ ){0,4}?)"
    r"(?:always |still |also |seems to |keeps? )*(?:thinks?|thought|claims?|claimed|believes?|believed|"
    r"reckons?|reckoned|assumes?|assumed|says?|said|"
    r"insists?|insisted|is convinced|swears?|saying|telling|tells?|told (?:me|everyone|"
    r"people)) (?:that )?(?:i|we|i['’]m|my|our)\b",
    re.IGNORECASE,
)
_KNOWS = re.compile(
    r"\b(?:doctor|doc|gp|dentist|vet|nurse|surgeon|therapist|lab|hospital|clinic|midwife|optician|specialist|"
    r"physio\w*|coach|trainer|boss|manager|landlord|landlady"
    r"|hr|teacher|professor|mechanic|lawyer|accountant|school|bank|insurance|office|letter|test|results?|"
    r"agency|airline|company|paediatrician)\b",
    re.IGNORECASE,
)
_SARCASM = re.compile(
    r"\bi (?:just|really|absolutely|simply|so|totally) (?:love|adore|enjoy) (?:it when|when|how|waiting|"
    r"being (?:ignored|yelled|stuck|on hold)|getting|"
    r"sitting in|standing in|queu\w*|paying|spending hours|losing|cleaning up|having to)\b",
    re.IGNORECASE,
)


def opens_fiction(sentence: str) -> bool:
    """Tell if a sentence opens fiction, role play or a joke that goes on after it."""
    return _FICTION.match(sentence) is not None


def is_supposed(sentence: str) -> bool:
    """Tell if a sentence only supposes: "if I had a boat, I'd ...", "assume that we buy it"."""
    if _SUPPOSED.match(sentence) is not None:
        return True
    return (
        _IF.match(sentence) is not None and _UNREAL.search(sentence) is not None and _WOULD.search(sentence) is not None
    )


def is_taken_back(sentence: str) -> bool:
    """Tell if a sentence ends in "just kidding": it, or what was said before it, is a joke."""
    return _TAKEN_BACK.search(sentence) is not None


def is_open(sentence: str) -> bool:
    """Tell if a sentence says a wish, an open condition, a plan, a denial or what others think of one: nothing that
    would end or change what is known."""
    if _WISH.match(sentence) or _WISH_END.search(sentence) or _IF.match(sentence) or _SARCASM.search(sentence):
        return True
    thought = _THOUGHT_BY.match(sentence)
    return thought is not None and _KNOWS.search(thought["who"]) is None
