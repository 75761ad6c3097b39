"""What people say to keep a conversation going: greetings, thanks, reactions. With nothing else, it tells nothing."""

from __future__ import annotations

import re

from memory.language.scripts import is_wide, joined

_MAX_TOKENS = 14
_MAX_PHRASE = 6
_MAX_WIDE_TOKENS = 40
_MAX_WIDE_PHRASE = 12

_ENGLISH = joined(
    """
    hey|hi|hello|hiya|heya|howdy|yo|greetings|hey there|hi there|hello there|good morning|morning|good afternoon
    good evening|evening|good night|night|nighty night|gn|gm|sweet dreams|sleep well|welcome|welcome back
    bye|goodbye|bye bye|cya|see you|see ya|see you soon|see you later|see you tomorrow|later|talk later|talk soon
    talk to you later|ttyl|take care|brb|be right back|gtg|gotta go|i have to go|cheers|cheerio|ciao|im back|i'm back
    until next time|catch you later|speak soon|have fun|enjoy|good luck|best of luck|fingers crossed|congrats
    congratulations|well done|good job|great job|nice job|nice work|good work|great work|bravo|kudos|well played
    thanks|thank you|thx|tx|ty|tysm|tyvm|thank u|thanks so much|thanks a lot|thanks a million|thanks a bunch|thank god
    many thanks|much appreciated|i appreciate it|i appreciate that|appreciated|appreciate it|thanks again|so much
    very much|a lot|a million|a bunch|a ton|again|in advance|for your help|for the help|for that|for explaining
    for this|for everything|for your time|for letting me know|for the info|for the tip|for the tips|for asking
    you're a lifesaver|youre a lifesaver|you are a lifesaver|you're the best|you are the best|you rock|lifesaver
    you're awesome|you are awesome|you're amazing|you are amazing|you're great|you are great|you're a star|you legend
    bless you|you're so kind|that's kind of you|so kind of you|how kind of you|you're welcome|youre welcome
    you are welcome|you're very welcome|no problem|np|no prob|no worries|not a problem|my pleasure|don't mention it
    anytime|any time|of course|sure|sure thing|for sure|certainly|gladly|by all means|go ahead|please do|please
    yes please|no thanks|no thank you|not now|maybe later|not yet|not really|i guess|i guess so|i suppose|i think so
    i don't think so|i hope so|i hope not|let's hope|hopefully|we'll see|we will see|who knows|idk|dunno|i don't know
    i dont know|i have no idea|no idea|not sure|i'm not sure|im not sure
    ok|okay|okey|okey dokey|k|kk|okie|alright|all right|right|right then|fine|fine by me|good|great|perfect|excellent
    awesome|amazing|cool|nice|sweet|neat|lovely|wonderful|fantastic|brilliant|super|superb|terrific|fabulous|splendid
    beautiful|gorgeous|incredible|impressive|interesting|fascinating|hilarious|funny|wild|crazy|insane|legend|epic
    yes|yeah|yea|yep|yup|yah|ya|aye|no|nope|nah|nay|indeed|exactly|absolutely|definitely|totally|true|so true|precisely
    correct|agreed|same|same here|me too|me neither|you too|likewise|ditto|this|fair|fair enough|makes sense
    that makes sense|it makes sense|now|that makes total sense|understood|got it|gotcha|i got it|i get it|i see|noted
    roger|roger that|copy that|will do|done|ready|deal|sounds good|sounds great|sounds perfect|sounds lovely
    sounds like a plan|sounds fun|that works|works for me|works|it works|it worked|that worked|all good|all set
    looks good|looks great|lgtm|that's it|that's all|that is all|thats it|thats all|that's enough|nothing else
    perfectly|worked perfectly|worked like a charm|never mind|nevermind|nvm|forget it|found it|i found it|solved it
    i solved it|fixed it|i fixed it|figured it out|i figured it out|my bad|my mistake|sorry|so sorry|i'm sorry|im sorry
    oops|whoops|oopsie|apologies|excuse me|pardon|no offence|moving on|just a sec|one sec|one second|one moment
    just a moment
    hold on|wait|hang on|give me a minute|give me a sec|let me think|let me see|let me check|hmm|hm|hmmm|um|uh|er|erm
    ah|aha|ahh|oh|ooh|oooh|ohh|eh|huh|mhm|uh huh|mm|mmm|meh|ugh|ughh|argh|gah|ew|yuck|yikes|ouch|phew|whew|wow|woah
    whoa|wowza|yay|yippee|hooray|hurray|woohoo|woo|hallelujah|finally|omg|oh my|oh my god|oh my gosh|oh god|gosh|jeez
    geez|damn|dang|wtf|holy cow|holy moly|oh no|oh well|oh dear|oh man|oh boy|oh wow|boy|man|dude|bro|mate|buddy|friend
    folks|guys|everyone|everybody|all|my friend|dear|there|lol|lmao|rofl|lmfao|xd|haha|hehe|lolz|lulz|no way|no kidding
    you're kidding|you don't say|seriously|really|for real|fr|ikr|i know|i know right|right on|i bet|i agree
    i totally agree|i understand|believe me|tell me about it|story of my life|such is life|it is what it is|fair point
    good point|good question|good idea|great idea|good to know|good for you|nice one|nice to meet you|nice try
    pleased to meet you|nice to see you|good to see you|long time no see|love it|i love it|i like it|loved it|love that
    i love that|love this|i love this|that's great|that helps|that helped|this helps|that helps a lot|it helped
    helpful|very helpful|really helpful|so helpful|super helpful|useful|very useful|whatever|anyway|anyways|so|well
    very|then|too|just|also|quite|pretty|totally|so far|though|tho|as always|as usual|once more|let's go|lets go
    let's do it|let's do this|let's start|let's begin|here we go|there we go|bring it on|go on|carry on|continue
    next|back|again please|one more|more|more please|another one|happy friday|tgif|happy monday|happy weekend
    happy new year|merry christmas|happy christmas|happy holidays|happy easter|happy birthday|happy thanksgiving
    cheers mate|ta|nothing|nothing much|not much|same old|so so|i'm good|im good|i'm fine|im fine|i'm ok|im ok|i'm okay
    i'm great|doing well|i'm doing well|doing great|and you|what's up|whats up|sup|wassup|how are you|how are you doing
    how are you today|how's it going|hows it going|how do you do|how have you been|what's new|are you there|you there
    today|as ever|hope you're well|hope you are well|i hope you're well|hope all is well|hope you're doing well|best
    regards|kind regards|best regards|best wishes|sincerely|yours|xoxo|xx|xxx|testing|test|ping|pong|asap|plz|pls
    best day ever|worst day ever|best ever|first|long story|ah well|that's life|c'est la vie|asdf|stop|quit it|bingo
    voila|ta da|tada|hurrah|amen|respect|pls help|help|help me|please help|sir|madam|ma'am|chat|assistant|bot|a bit
    what|who|why|when|where|how|how so|why not|so what|what now|now what|and|but|or|if you say so|my goodness|goodness
    """
)
_EUROPEAN = joined(
    """
    hallo|guten tag|guten morgen|morgen|guten abend|gute nacht|moin|moin moin|servus|grüezi|tschüss|tschüs|ciao
    auf wiedersehen|bis bald|bis später|bis dann|bis morgen|mach's gut|machs gut|danke|danke schön|dankeschön|danke dir
    danke sehr|vielen dank|vielen lieben dank|tausend dank|besten dank|herzlichen dank|merci|bitte|bitte schön|gern
    gerne|gern geschehen|kein problem|keine ursache|okay|alles klar|klar|na klar|verstanden|verstehe|ich verstehe|ja
    nein|nee|jo|jep|doch|genau|stimmt|richtig|super|toll|prima|perfekt|klasse|cool|wunderbar|schön|sehr schön|sehr gut
    gut|ach so|achso|aha|ach|oh|na ja|naja|echt|wirklich|krass|wahnsinn|wie geht's|wie gehts|wie geht es dir
    wie geht es ihnen|alles gut|passt|passt schon|mir auch|ebenso|gleichfalls|schönen tag|schönen tag noch
    schönes wochenende
    schönen abend|frohe weihnachten|alles gute|viel glück|gesundheit|entschuldigung|sorry|tut mir leid
    macht nichts|egal|weiter|hilfe|das war sehr hilfreich|sehr hilfreich|hilfreich|das hilft mir|das hilft|für die hilfe
    für deine hilfe|für ihre hilfe|dir|euch|noch|auch|so|na|dann|du bist super|du bist die beste|du bist der beste
    bonjour|bonsoir|salut|coucou|bonne nuit|bonne journée|bonne soirée|au revoir|à bientôt|à plus|à plus tard|à demain
    à tout à l'heure|merci|merci beaucoup|merci bien|mille mercis|un grand merci|merci infiniment|de rien
    je vous en prie
    je t'en prie|pas de problème|pas de souci|pas de soucis|d'accord|dac|ok|oui|non|ouais|bien sûr|parfait|super|génial
    excellent|très bien|bien|bon|c'est bon|c'est noté|noté|compris|j'ai compris|je vois|je comprends|exactement
    tout à fait
    voilà|ça marche|ça va|ça va bien|et toi|et vous|comment ça va|comment vas-tu|comment allez-vous|quoi de neuf|ah|oh
    ah bon|tiens|waouh|wow|mdr|ptdr|lol|haha|désolé|désolée|pardon|excusez-moi|bravo|félicitations|bonne chance
    bon courage|bon appétit|joyeux noël|bonne année|c'est gentil|c'est super|c'est parfait|c'est très utile|très utile
    pour ton aide|pour votre aide|pour l'aide|allez|alors|enfin|dommage|tant pis|tant mieux|moi aussi|à toi aussi
    hola|buenas|buenos días|buenas tardes|buenas noches|adiós|adios|chao|chau|hasta luego|hasta mañana|hasta pronto
    nos vemos|gracias|crack|tío|máquina|guapa|guapo|muchas gracias|mil gracias|muchísimas gracias|por todo
    por tu ayuda|por la ayuda|por su ayuda
    de nada|no hay de qué|no hay problema|sin problema|vale|venga|bueno|sí|si|no|claro|claro que sí|por supuesto
    perfecto|genial|estupendo|excelente|muy bien|bien|entendido|entiendo|ya veo|de acuerdo|exacto|exactamente|así es
    qué bien|qué bueno|qué guay|guay|qué tal|cómo estás|como estas|cómo está|todo bien|y tú|jaja|jajaja|ay|uf|uy|vaya
    madre mía|lo siento|perdón|perdona|disculpa|felicidades|enhorabuena|buena suerte|feliz navidad|feliz año nuevo
    igualmente|yo también|me alegro|eres el mejor|eres la mejor|muy útil|muy amable|listo|ya|ya está|dale|ok|órale
    olá|oi|bom dia|boa tarde|boa noite|tchau|até logo|até mais|até amanhã|até breve|adeus|obrigado|obrigada
    muito obrigado|muito obrigada|valeu|falou|demais|cara|mano|brigado|brigada|de nada|imagina|sem problema
    sem problemas|tudo bem|tudo bom
    tudo certo|sim|não|claro|com certeza|perfeito|ótimo|otimo|excelente|muito bem|muito bom|bom|beleza|blz|legal
    que legal
    que bom|entendi|entendido|compreendo|compreendi|certo|exato|exatamente|isso|isso mesmo|pois é|pois|kkk|kkkk
    rsrs|haha
    nossa|uau|poxa|puxa|desculpa|desculpe|foi mal|parabéns|boa sorte|feliz natal|feliz ano novo|igualmente|eu também
    como vai|e você|e tu|tá bom|está bem|ok|muito útil|pela ajuda|por tudo|mesmo
    привет|приветик|здравствуй|здравствуйте|добрый день|доброе утро|добрый вечер|доброй ночи|спокойной ночи|пока
    до свидания|до встречи|до завтра|увидимся|спасибо|большое спасибо|спасибо большое|огромное спасибо|благодарю|спс
    пожалуйста|не за что|ок|окей|хорошо|ладно|да|нет|ага|угу|понятно|понял|поняла|ясно|точно|именно|верно|правильно
    конечно|отлично|супер|класс|круто|здорово|прекрасно|замечательно|ого|ух ты|вау|ой|ах|эх|ну|ну да|ну ладно|ха|хаха
    ахаха|лол|извини|извините|прости|простите|ничего|ничего страшного|как дела|как ты|как поживаешь|всё хорошо
    все хорошо
    нормально|и тебе|и вам|поздравляю|удачи|с новым годом|с днём рождения|я тоже|согласен|согласна|договорились
    за помощь
    вам|тебе|очень|очень полезно|ты лучший|ты лучшая|очень помогло|всем
    مرحبا|مرحباً|أهلا|أهلاً|أهلا وسهلا|السلام عليكم|وعليكم السلام|صباح الخير|صباح النور|مساء الخير|مساء النور
    تصبح على خير|تصبحين على خير|مع السلامة|إلى اللقاء|وداعا|وداعاً|شكرا|شكراً|شكرا جزيلا|شكراً جزيلاً|شكرا لك|شكراً لك
    ألف شكر|جزيلا|جزيلاً|لك|عفوا|عفواً|على الرحب والسعة|نعم|لا|أجل|حسنا|حسناً|تمام|طيب|ممتاز|رائع|جميل|جيد|جيد جدا|صحيح
    بالضبط|بالتأكيد|طبعا|طبعاً|فهمت|مفهوم|أوكي|اوكي|ماشي|هههه|ههههه|آسف|آسفة|كيف حالك|كيف الحال|بخير|الحمد لله
    إن شاء الله
    ما شاء الله|مبروك|بالتوفيق|على المساعدة|على مساعدتك|يا صديقي|جدا|جداً|والله|يلا|ما الأخبار
    안녕|안녕하세요|안녕하십니까|안녕히 가세요|안녕히 계세요|좋은 아침|좋은 아침이에요|좋은 아침입니다|잘 자
    잘 자요|안녕히 주무세요
    감사합니다|고마워|고마워요|고맙습니다|정말|너무|진짜|정말로|감사|감사해요|땡큐|천만에요|별말씀을요|네|예|응
    아니|아니요|아니오|좋아
    좋아요|좋습니다|그래|그래요|그렇구나|그렇군요|알겠어|알겠어요|알겠습니다|알았어|알았어요|오케이|오키|맞아
    맞아요|맞습니다|물론
    물론이죠|완벽해요|대박|헐|와|우와|오|아|아하|음|미안|미안해|미안해요|죄송합니다|괜찮아|괜찮아요|수고하세요
    수고하셨습니다|수고했어
    잘 지내|잘 지내세요|잘 지냈어|내일 봐|내일 봐요|나중에 봐|나중에 봐요|또 봐요|축하해|축하해요|축하합니다|화이팅
    파이팅|도움이 됐어요
    도움이 되었어요|많이|큰|도와줘서|도와주셔서|최고|최고예요|최고야|반가워|반갑습니다|반가워요|잘 부탁드립니다
    잘 부탁해요|오늘도|굿|넵|넹|ㅇㅋ
    """
)
_EAST_ASIAN = joined(
    """
    你好|您好|大家好|哈喽|嗨|嘿|早|早上好|早安|上午好|中午好|下午好|晚上好|晚安|再见|拜拜|拜|回头见|明天见|下次见
    一会儿见|回见
    谢谢|谢谢你|谢谢您|多谢|感谢|非常感谢|十分感谢|太感谢了|谢了|谢谢啦|谢谢大家|谢|谢谢你的帮助|感谢你的帮助
    不客气|不用谢|没关系|没事|没事的
    没问题|好|好的|好呀|好啊|好吧|好嘞|好滴|好哒|行|行吧|可以|可以的|可以了|嗯|嗯嗯|哦|哦哦|噢|啊|呃|唉|哎|哎呀|哇
    哇塞|哇哦|天哪|天啊|我的天
    是|是的|是啊|对|对的|对啊|对对|没错|不|不是|不用|不用了|不要|没有|当然|当然可以|明白|明白了|知道了|我知道了
    懂了|我懂了|了解|了解了|收到
    原来如此|这样啊|有道理|说得对|同意|太好了|太棒了|真棒|很棒|棒|厉害|牛|真的|真的吗|不错|很好|非常好|完美|有意思
    有趣|笑死|笑死我了|哈|呵|嘿嘿|嘻
    啦|呢|吧|呀|哟|喔|吗|了|你|您|加油|辛苦了|辛苦|恭喜|恭喜恭喜|新年快乐|生日快乐|圣诞快乐|周末愉快|对不起|抱歉
    不好意思|最近怎么样|最近好吗
    你好吗|你怎么样|吃了吗|在吗|你在吗|我也是|一样|帮大忙了|很有帮助|有帮助|学到了|先这样|就这样|继续|下一个
    再来一个|酷|赞|绝了|真好|无语|我去|好久不见
    非常|太|很|真|哎哟|帮助|你的帮助|您的帮助
    こんにちは|こんばんは|おはよう|おはようございます|おはよー|おやすみ|おやすみなさい|さようなら|またね|また明日
    またあした|じゃあね|じゃね|じゃあ|では
    ではまた|バイバイ|ただいま|おかえり|おかえりなさい|いってきます|ありがとう|ありがとうございます
    ありがとうございました|どうもありがとう|どうもありがとうございます
    どうも|感謝します|感謝|助かります|助かりました|助かった|どういたしまして|いえいえ|いいえ|いや|はい|うん|ええ
    ううん|そう|そうです|そうですね|そうだね|そっか
    そうか|そうなんだ|そうなんですね|なるほど|なるほどね|わかった|わかりました|分かった|分かりました|了解|了解です
    了解しました|承知しました|オッケー|オーケー
    大丈夫|大丈夫です|問題ない|問題ありません|いいね|いいですね|すごい|すごいね|すごいですね|素晴らしい|最高
    最高です|完璧|完璧です|やった|やったー|えっ|え|あ
    おお|おー|へえ|へー|ふーん|まじ|マジ|まじで|本当|本当に|ほんと|笑|草|確かに|たしかに|もちろん|もちろんです
    お願いします|お願い|よろしく|よろしくお願いします
    よろしくお願いいたします|どうぞよろしくお願いします|今日もよろしくお願いします|今日もよろしく|今日も|すみません
    ごめん|ごめんなさい|ごめんね|申し訳ありません|おめでとう
    おめでとうございます|あけましておめでとうございます|頑張って|がんばって|頑張ります|お疲れ|お疲れ様|お疲れさま
    お疲れ様です|お疲れ様でした|お疲れさまです|久しぶり
    お久しぶりです|元気|元気です|元気ですか|お元気ですか|調子はどう|はじめまして|初めまして|ね|よ|さん|な|とても
    とても助かりました|勉強になりました|参考になりました
    いただきます|ごちそうさま|ごちそうさまでした|失礼します|さようならー
    """
)
_PHRASES = frozenset({*_ENGLISH, *_EUROPEAN, *_EAST_ASIAN})
_MAY_BE_NAMED = frozenset(
    "hi hey hello thanks thx morning bye cheers hallo danke salut bonjour merci hola gracias oi olá".split()
)

_LAUGH = re.compile(
    r"(?:[ab]?w?a*(?:ha|he|hi|ho|ja|je|ji|rs|xa|хе|ха|хи){2,}[hja]*|lo+l+(?:ol)*|l+m+f?a+o+|x+d+|k{3,}|"
    r"w{3,}|[哈呵嘿嘻]+|[笑草]+|"
    r"[ㅋㅎㅠㅜ]+|ه{3,}|h+m+|y+e+s+|y+a+y+|o+h+|a+h+|w+o+w+|n+o+|u+g+h+|5{3,}|m+|z{3,})"
)
_OPEN = re.compile(
    r"(?:thanks|thank you|thx|ty)(?: (?:so much|a lot|again|very much))? for (?:the|your|all|that|this|being|"
    r"helping|explaining"
    r"|listening|everything)\b(?: (?!i\b|we\b|my\b)[\w'’-]+){0,6}"
    r"|what an? (?:\w+ ){0,2}(?:day|week|night|morning|relief|surprise|shame|mess|joke|story|idea|coincidence|"
    r"year|pity|life)"
    r"|how (?:nice|cool|sweet|lovely|funny|awesome|exciting|wonderful|great|sad|weird|interesting|annoying|"
    r"rude|cute|fun)"
    r"|(?:(?:that|this)(?:['’]s| is| was| sounds| looks| seems)|it (?:sounds|looks|seems|works)|thats|sounds|"
    r"looks) (?:(?:so|such|really|very|just|quite|pretty|too"
    r"|a|an|absolutely|totally|super|truly|all) )*(?:great|good|nice|cool|awesome|amazing|lovely|wonderful|"
    r"perfect|fantastic|"
    r"brilliant|hilarious|funny|interesting|fascinating|helpful|useful|sweet|kind|crazy|wild|insane|true|"
    r"right|fine|ok|okay|fair|"
    r"impressive|beautiful|incredible|excellent|exciting|fun|neat|sad|terrible|awful|inspiring|thoughtful|"
    r"adorable|cute|clever"
    r"|delicious|super|relief|point|question|idea|news|plan|correct|better)"
    r"(?: (?:idea|point|question|news|plan|advice|answer|thing|job|one|now|then|to (?:hear|know|see)|thanks|"
    r"thank you|for me|of you"
    r"|everyone|all|tip|explanation|suggestion|work))*"
    r"|(?:have|enjoy|wish(?:ing)? you) (?:an?|your|the) (?:\w+ ){0,2}(?:day|weekend|evening|night|week|one|"
    r"time|trip|holiday|meal)"
    r"|happy \w+(?: (?:everyone|all|folks|to you|guys))?|(?:so )?(?:glad|happy|good|great|nice|sorry|"
    r"sad) to (?:hear|see|know|help)"
    r"(?: (?:that|it|this))?|(?:you )?(?:are|were|have been) (?:very |so |really |a )*(?:helpful|kind|great|"
    r"awesome|big help|help)"
    r"|schöne[ns]? \w+(?: noch)?(?: euch| dir| ihnen)?|(?:ich )?(?:freut|freue) mich|(?:un|uma?|"
    r"ein(?:en)?) (?:schönen|schönes|bon|bonne|buen|bom|boa) \w+|que tengas (?:un )?buen\w* \w+"
)
_PARTS = re.compile(r"[,;:.!?…~\n—–。，、！？；：·()（）،؛؟«»\"“”]+|\s-+\s|\s+$|^\s+")
_WORD = re.compile(r"[\w'’-]+")
# Whom it is said to: "Wow, John!".
_NAME = re.compile(r"[A-ZÀ-ÞА-Я][\w'-]+")


def is_small_talk(sentence: str) -> bool:
    """Tell if a sentence is made of greetings, thanks, reactions and the like only."""
    parts = [part for part in _PARTS.split(sentence.replace("’", "'")) if part.strip()]
    small = [_is_small_part(part) for part in parts]
    return all(small) or (
        any(small) and all(s or _NAME.fullmatch(part.strip()) for s, part in zip(small, parts, strict=True))
    )


def _is_small_part(part: str) -> bool:
    words = _WORD.findall(part.lower())
    if not words:
        return True  # an emoji, a smiley
    if any(is_wide(word) for word in words):
        return _is_small_wide("".join(words))
    if len(words) <= _MAX_TOKENS and _covered([_one_word(word) for word in words], _MAX_PHRASE, " "):
        return True
    if _OPEN.fullmatch(" ".join(words)):
        return True
    return _names_somebody(part, words)


def _names_somebody(part: str, words: list[str]) -> bool:
    """Tell if a part is a greeting or thanks with a name: "hi Anna", "thanks Tom"."""
    original = _WORD.findall(part)
    named = len(words) in (2, 3) and words[0] in _MAY_BE_NAMED
    return named and all(word[:1].isupper() for word in original[1:])


def _one_word(word: str) -> str:
    """Return a word as the lists have it: a laugh as "haha", "niiiice" as "nice"."""
    short = re.sub(r"(\w)\1{2,}", r"\1", word)
    if word in _PHRASES or not _LAUGH.fullmatch(word) or short in _PHRASES:
        return word if word in _PHRASES else short
    return "haha"


def _is_small_wide(text: str) -> bool:
    text = re.sub(r"[哈呵嘿嘻]{2,}|[wWｗ]{2,}|[ー〜～]+", "哈", text)
    return len(text) <= _MAX_WIDE_TOKENS and _covered([*text], _MAX_WIDE_PHRASE, "")


def _covered(tokens: list[str], longest: int, between: str) -> bool:
    """Tell if tokens are phrases of the lists, one behind the other."""
    reached = [True] + [False] * len(tokens)
    for end in range(1, len(tokens) + 1):
        reached[end] = any(
            reached[begin] and (between.join(tokens[begin:end]) in _PHRASES or _is_laugh(tokens[begin:end]))
            for begin in range(max(0, end - longest), end)
        )
    return reached[-1]


def _is_laugh(tokens: list[str]) -> bool:
    return len(tokens) == 1 and tokens[0] in ("haha", "哈")
