"""Questions and requests to the assistant, known by their words, and what is told beside them."""

from __future__ import annotations

import re

from memory.language.scripts import any_of, is_wide

_POLITE = (
    r"(?:(?:ok|okay|so|and|but|well|now|hey|hi|hello|also|then|just|please|pls|plz|alright|oh|um|hmm|quick|"
    r"kindly|right|yo|cool|great"
    r"|thanks|sure|yes|no|actually|anyway|chat|bitte|mal|und|also|bon|alors|et|por favor|bueno|y|e|а|"
    r"и|ну|пожалуйста|请|麻烦|麻烦你)\b[\s,:!.]*|(?:请|麻烦你?|那|好的?[，,]?))*"
)
_I = r"(?:i|you|he|she|it|we|they|there|this|that|u|ya|anyone|anybody|someone|somebody|everyone)"
_SUBJECT = rf"(?:{_I}|these|those|my|your|our|his|her|their|its|the|an?|any|some|all)"
_ASKS = re.compile(
    _POLITE
    + any_of(
        rf"""
        (?:what|whats|who|whos|whose|whom|where|wheres|when|whens|why|how|hows|which)(?:['’]?s|['’]re|['’]d|
        + ['’]ll)? (?:exactly |else |on earth |the hell |the heck |\w+ly )?(?:is|are|was|were|do|does|did|can|
        + could|should|would|will|shall|have|has|had|am|may|might|isn['’]t|aren['’]t|don['’]t|doesn['’]t|
        + didn['’]t|won['’]t|can['’]t) (?={_SUBJECT}\b|[\w'’]+)(?!.{{0,60}}[,;] (?:i|we|my) )
        (?:what|who|where|when|how)['’]?s (?=\w)(?!up\b)(?!.{{0,60}}, (?:i|we) )
        (?:what|how)['’]re\b|(?:what|how) about\b|how (?:come|to)\b
        how (?:much|many|long|far|often|old|big|tall|likely|do|fast|late|early|deep|hot|cold|well|good|bad|
        + hard|easy|expensive|safe) (?:\w+ ){{0,3}}(?:is|are|was|were|do|does|did|can|could|should|would|will|
        + have|has|to|in|of|for|costs?)\b
        what (?:kind|sort|type|time|day|year|colou?r|size|number|language|country|age|if|else|next|happens?|
        + happened|makes?|causes?|to|does|should|would|are|is)\b(?!.{{0,60}}, (?:i|we) )
        what (?!(?:i|we|you|he|she|they|it|my|our|\w+ed)\b)(?:\w+ ){{1,2}}(?:do|does|did|can|could|should|
        + would|will)\b(?!.*[,;] (?:i|we|my) )
        why (?:not|is|are|do|does|did|would|should|can|the|my|does|isn|am|have|has|was|were|\w+ing)\b
        whats\b(?! (?:up|app))|wheres\b|hows\b|whos\b
        who (?:is|are|was|were|sings?|sang|wrote|won|invented|made|directed|painted|discovered|built|owns?|
        + played|said|plays|does|do|did|can|could|will|would|should|has|have|lives?|works?|knows?|called|
        + came)\b(?!.*, (?:i|we|my) )
        which (?!reminds|means?|meant|is (?:why|what|how|a|the|my|great|fine|nice|good)|was (?:a|the|my)|are|
        + i\b|we\b|my\b|would)(?:\w+ ){{1,4}}(?:is|are|was|were|do|does|did|can|could|should|would|will|has|have|
        + fits?|works?|costs?|goes|go|suits?)\b
        (?:is|are|isn['’]t|aren['’]t|can|could|can['’]t|couldn['’]t|would|wouldn['’]t|should|shouldn['’]t|
        + shall|does|doesn['’]t|do|don['’]t) (?:{_I}|these|those) (?!up\b)
        (?:is|are|isn['’]t|aren['’]t|can|could|should|would|does|will) (?:my|your|our|his|her|their|its|the|
        + an?|any|some|all) \w+
        (?:was|were|did|didn['’]t|has|have|had|haven['’]t|hasn['’]t|am|will|won['’]t|may|might) {_I} (?!and\b)
        (?:can|could|would|will) (?:u|you|ya)\b|would you mind
        do you (?:know|think|have|remember|mind|want|recommend|like)\b
        (?:any|got any) (?:idea|ideas|tips?|advice|suggestions?|thoughts|recommendations?|recs|chance|clue|
        + news|good)\b
        (?:i (?:was )?(?:just )?wonder(?:ing)?|i['’]?m (?:just )?wondering|just wondering|wondering|
        + just curious|curious) (?:if|whether|what|how|why|when|who|where|which|about)\b
        is it (?:\w+ )|is there\b|are there\b|was there\b
        (?:i['’]?d|i would) (?:like|love) to (?:know|ask|hear)\b|i (?:need|want|wanted|have) to (?:know|ask)\b
        i have a (?:quick )?question\b|(?:quick |another |one )?question\b(?: for you)?\s*[:,-]|let me ask\b
        ask(?:ing)? for a friend
        what do you\b|difference between\b|thoughts on\b|opinions? on\b|better\s*:|tl;?dr\b|eli5\b
        was (?:ist|sind|war|bedeutet|heißt|kostet|kann|soll|sollte|macht|machen|muss|passiert|hältst|meinst)\b
        wie (?:ist|sind|viele?|lange|oft|kann|könnte|soll|sollte|geht|funktioniert|macht|mache|sagt|sage|heißt|
        + weit|hoch|alt|groß|spät|teuer|komme|bekomme|schreibt|schreibe)\b
        wo (?:ist|sind|kann|liegt|finde|gibt|wohne|bekomme)\b|wer (?:ist|war|hat|kann|sind)\b
        wann (?:ist|war|kommt|beginnt|fährt|muss|soll|habe|hat)\b|warum (?!nicht\b)\w+|wieso \w+|weshalb \w+
        welche[rsnm]? (?:\w+ ){{1,3}}(?:ist|sind|hat|haben|kann|soll|passt|war)\b
        (?:kannst|könntest|könnten|würdest|weißt|kennst|magst|hast) (?:du|sie)\b|gibt es\b
        ist (?:es|das|mein|meine)\b|soll ich\b|darf ich\b|kann (?:ich|man|mir)\b
        (?:qu['’]est-ce|est-ce que|est-ce qu['’]|qu['’]en|combien (?:de|coûte)|comment (?:faire|puis|on|est|je|
        + dit|ça marche|tu|vous|fonctionne|s['’])|pourquoi\b|où (?:est|sont|se|puis|habit)|quand (?:est|est-ce)|
        + quel(?:le)?s? (?:est|sont|heure|temps|âge)|qui (?:est|a|sont)\b|peux-tu|pouvez-vous|pourrais-tu|
        + pourriez-vous|sais-tu|savez-vous|connais-tu|y a-t-il|puis-je|dois-je|c['’]est quoi|tu (?:peux|pourrais|
        + sais|connais))\b
        (?:qué|que) (?:es|son|significa|pasa|hago|puedo|debo|tal|hora|opinas|piensas|me recomiendas)\b
        (?:cuál|cuáles|cuánto|cuánta|cuántos|cuántas|dónde|cuándo|quién|quiénes|por qué)\b
        cómo (?:se|puedo|es|está|hago|me|funciona|te)\b
        (?:puedes|podrías|puede|me puedes|me podrías|sabes|conoces|tienes) (?:\w+)|hay (?:algún|alguna|algo)\b
        (?:o que|que) (?:é|são|significa|faço|posso|devo|horas)\b|qual (?:é|era|o|a|foi)\b|quais (?:são|os|as)\b
        quant[oa]s?\b|onde (?:é|fica|posso|está|eu)\b|quando (?:é|foi|começa)\b|quem (?:é|foi|são)\b|por que\b
        como (?:se|posso|é|faço|está|funciona|faz)\b
        (?:você|vc|tu) (?:pode|poderia|sabe|conhece|consegue|podes|sabes)\b|(?:pode|poderia|consegue|podes) me\b
        (?!.*, )когда (?:будет|можно|нужно|лучше|стоит|начинается|день)\b
        (?!.*, )(?:что|кто|где|почему|зачем|сколько|какой|какая|какое|какие|куда|откуда|чей|как) (?:такое|это|
        + есть|мне|я|ты|вы|можно|нужно|будет|был|была|сейчас|лучше|стоит|значит|делать|зовут|правильно|по|
        + сказать|называется|находится|у)\b
        (?:можешь|можете|мог бы|не мог|не могли|сможешь|знаешь|знаете|помнишь|помните|подскажи|подскажите|
        + есть ли|можно ли|правда ли|стоит ли)\b
        (?:هل|ما هو|ما هي|ما هذا|ماذا|من هو|من هي|أين|متى|لماذا|كيف (?!حالك)|كم|أي |ما (?:اسم|معنى|لون|عمر|
        + سبب)|هل يمكنك|ممكن (?:تشرح|تقول|تساعد|تخبر))
        (?:你能|你可以|能不能|可不可以|能否|可以(?:帮|告诉|给)|你(?:还)?(?:记得|
        + 知道|觉得|认为)|怎么(?!样都)|怎样|如何|为什么|为何|什么是|什么时候|哪里|哪儿|
        + 哪个|哪些|哪一|谁(?:是|能|会|知道|说|写)|多少|几点|几个|有没有|是不是|请问|
        + 想问(?:一下)?|问一下|会不会|该不该|要不要)
        (?:なぜ|どうして|どうやって|どのように|どこ(?:で|に|が)|いつ(?:から|まで|が|
        + に)|誰が|何が|何を|どれ|どの|どんな|教えて)
        """
    ),
    re.IGNORECASE,
)
_ASKS_AT_END = re.compile(
    r"(?:[?？؟](?:[\s!.)\"'”»]|[^\w\s])*$)|(?:吗|嗎|么|呢|不|"
    r"[了过]没有|[了过]没)[。！!～~\s]*$|(?:是什么|怎么办|怎么样|在哪里|在哪儿|多少钱|几点了|是谁|什么意思)[。\s]*$"
    r"|(?:です|ます|ました|でした|ません|でしょう|だろう|もの|の)か[。．\s]*$|(?:のかな|かな|かしら)[。\s]*$"
    r"|(?:(?<=[가-힣])나요|까요|습니까|ㅂ니까|입니까|인가요|는가|을까|ㄹ까|할까|될까|어때|뭐야|뭐지|뭔가요|는지 알려)"
    r"[.\s]*$"
)
_HAS_MARK = re.compile(r"[?？؟](?:[\s!.)\"'”»]|[^\w\s])*$")
_THING = (
    r"(?:me|us|this|these|that|those|it|them|my|our|your|the|an?|some|all|any|following|below|above|\d+|"
    r"two|three|four|five|ten|one|every)\b"
)
_WORK_ON = (
    r"translate|proof-?read|summari[sz]e|sum up|rephrase|paraphrase|reword|rewrite|simplify|shorten|condense|"
    r"alphabeti[sz]e|spell-?check|transcribe|"
    r"refactor|debug|de-?duplicate|halve|analy[sz]e|classify|extract|reformat|fact-?check|grammar-?check|"
    r"tidy up|clean up|annotate|decode|encode|tokeni[sz]e"
)
_WORK_ON_THING = (
    r"fix|correct|edit|improve|polish|sort|order|rank|group|count|explain|describe|complete|fill|finish|"
    r"continue|format|"
    r"turn|make|reply to|respond to|answer|check|review|remove|delete the|replace|merge|split|solve|calculate|"
    r"compute|work out|add up|total|parse|"
    r"expand|adapt|arrange|organi[sz]e|label|judge|critique|comment on|look at|decipher|interpret|evaluate"
)
_MAKE = (
    r"write|draft|compose|generate|create|invent|draw|sketch|design|build|code|implement|program|come up with|"
    r"make up|prepare|produce|brainstorm|"
    r"suggest|recommend|propose|list|name|show|tell|give|find|search|look up|google|help|teach|quiz|convince|"
    r"walk|guide|"
    r"define|compare|plan|outline|rhyme|roast|choose|guess|repeat|sing|play|simulate"
)
_MAKE_THING = (
    rf"(?:{_THING}|up|how|what|why|when|where|who|which|whether|if|for|about|out|in|to|with|good|more|better|"
    rf"possible|synonyms?|ideas?|examples?|names?|"
    r"code|poems?|tips|alternatives|facts|jokes?|questions?|captions?|lyrics|after me|open|next|similar|cheap|"
    r"nearby|something|somebody|someone|everything|doctor)\b"
)
_COPULA = r"(?!\w* ?\b(?:is|are|was|were|has|had)\b)"
_REQUESTS = re.compile(
    _POLITE
    + any_of(
        rf"""
        (?:{_WORK_ON})\b(?! (?:is|are|was|were)\b)
        (?:{_WORK_ON_THING}) (?:to |into |in |by |up |for |with |on |as |out |from |through )?(?:{_THING}|
        + grammar|spelling|typos|errors|mistakes|alphabetically|chronologically|whether|if|how|why|what|steps?)
        (?:convert|double|scale|triple|halve) (?:{_THING}|\d)
        (?:put|read|cut|use|change|rate|grade|pick|run|test|get) (?:this|these|those|the following|me)\b
        remind me (?:what|how|when|where|who|why)\b
        (?:{_MAKE}) {_COPULA}{_MAKE_THING}
        (?:pull up|bring up|look up|fetch|display|print(?: out)?|export) (?:{_THING}|[\w-]+['’]s)\b
        let['’]?s (?:move (?:on|to the)|go (?:on|back)|get (?:started|going|back)|continue|change the (?:topic|
        + subject)|talk about|discuss|focus on|start with)\b
        next (?:topic|question)\b|(?:can|could|shall) we (?:talk|discuss|move on)\b
        (?:write|draft|compose|generate|create|translate|summari[sz]e|solve|explain|describe|define|compare|
        + calculate|compute|convert|suggest|recommend)\b(?! (?:is|are|was|were|in|on|at|with|every|
        + for a living)\b) [\w"“'‘(]
        repeat after me|say it again|say (?:this|that|it) (?:in|as|to)\b|(?:can|could|would|will) (?:you|u|ya)\b
        i (?:need|want|would like|['’]d like) (?:you|u) to\b|i['’]d like you to\b|i['’]?d appreciate if you\b
        (?:(?:an?|some|any|one|quick|easy|good|best|short|more|few|cheap|healthy) )*(?=[^,]*\b(?:please|pls|
        + plz)\b|(?:\S+ ){2, 6}\S+$)(?:recipes?|ideas?|tips|synonyms?|antonyms?|translation|summary|jokes?|poem|
        + haiku|limerick|suggestions?|gift ideas|alternatives?|regex|formula|caption|captions|captions|slogan|
        + slogans|baby names|words) (?:for|of|about|on|to|in|that|with|from|like)\b(?![^,]*\b(?:is|are|was|were|
        + has|had|have|takes?|needs?)\b)
        (?:help|homework|maths?|math|physics|chemistry|word|algebra|geometry|grammar|exam|quiz|trivia|riddle|
        + brain ?teaser|exercise|school)(?: me)?(?: with)?(?: my)?(?: \w+){{0,3}} ?(?:homework|problem|question|
        + puzzle|exercise|task|worksheet|quiz|riddle)?\b(?=[^.!?]{{0,40}}[:\n])(?=.*(?:homework|problem|question|
        + puzzle|exercise|task|worksheet|quiz|riddle))
        (?:solve|answer|read|do|try) (?:this|the following|these)\b
        (?:dummy|sample|example|test|placeholder|fake) (?:data|text|input|values?)\b
        (?:musterdaten|beispieldaten|testdaten|mathe\w*|hausaufgabe\w*|textaufgabe|matheaufgabe|aufgabe|
        + übung|exercice|problème de|devoirs|données (?:d['’]exemple|de test|fictives)|ejercicio|
        + problema de|deberes|tarea|datos (?:de ejemplo|de prueba|ficticios)|exercício|dever de casa|
        + dados (?:de exemplo|de teste|fictícios)|задача|задание|домашк\w*|домашнее задание|
        + тестовые данные)\b(?=[^.!?]{{0,50}}[:：\n])
        (?:测试数据|示例数据|数学题|应用题|作业|题目|练习题|サンプルデータ|ダミーデータ|宿題|算数|数学の問題|次の問題|
        + 수학 ?문제|숙제|예시 데이터|더미 데이터|مسألة|
        + واجب|بيانات (?:تجريبية|وهمية))(?=[^。.!?]{{0,30}}[:：\n])
        lorem ipsum|the following\b|below (?:is|are)\b
        here(?:['’]?s| is| are)(?: \w+){{0,4}} (?:text|code|error|log|logs|email|mail|letter|recipe|
        + message|list|output|stack ?trace|article|paragraph|essay|poem|transcript|query|script|snippet|
        + draft|data|table|file|json|config)\b
        (?:schreib|übersetz|fass|korrigier|erklär|zeig|gib|mach|sortier|berechn|rechn|hilf|sag|nenn|erstell|
        + formulier|kürz|liste|such|find|vergleich|wandl|halbier|verdoppl|verbesser|beschreib|erzähl|ergänz|ordn|
        + prüf|lies|entwirf|verfass|zähl)(?:e|st|t|en|en sie)?\b (?!\w*(?:ich|wir)\b)(?:mir|uns|das|den|die|
        + dies\w*|ein\w*|mal|bitte|folgend\w*|auf|ins|nach|meine?\w*|alle|zusammen|zwei|drei|fünf|zehn|\d+|
        + eine?r? ?|weiter|um|[:"„“])
        (?:traduis|traduisez|traduire|écris|écrivez|corrige|corrigez|résume|résumez|explique|expliquez|montre|
        + donne|donnez|dis|fais|calcule|trie|convertis|aide|reformule|propose|rédige|raconte|cherche|trouve|
        + classe|complète|vérifie|décris|compare|liste|lis)(?:-moi|-nous|-le|-la)?\b (?=.)(?!.*\bj['’])
        (?:tradu(?:ce|zca|cir|cime|ceme|céme)|tradúce(?:me|lo|la)?|traduc[ií](?:me)?|escr[ií]be(?:me)?|escriba|
        + corrige|corríge(?:me)?|resume|resúme(?:me)?|explica|explíca(?:me)?|muéstra(?:me)?|dame|dime|haz(?:me)?|
        + calcula|ordena|convierte|ayúda(?:me|nos)|reescribe|redacta|cuénta(?:me)|busca|completa|revisa|compara|
        + enumera|genera|crea|propón|recomiénda(?:me)?|pon|pasa)\b (?=.)
        (?:traduz|traduza|escreve|escreva|corrig[ea]|corrija|resum[ea]|expli(?:ca|que)|mostr[ae]|me mostr[ae]|
        + me dá|me dê|dá-me|dê-me|diz-me|me diga|me diz|faz|faça|calcul[ae]|orden[ae]|convert[ae]|ajuda-me|
        + me ajud[ae]|reescrev[ae]|redij[ae]|cont[ae] (?:uma|um)|list[ae]|gere|cri[ae]|suger[ei]|recomend[ae]|
        + complet[ae]|revis[ae]) (?=.)(?!.*\beu\b)
        (?:переведи|напиши|исправь|перескажи|сократи|объясни|покажи|дай|скажи|расскажи|сделай|посчитай|
        + отсортируй|помоги|придумай|проверь|составь|найди|назови|перечисли|опиши|сравни|прочитай|перепиши|
        + закончи|продолжи|реши|подскажи|посоветуй|вычисли|преобразуй|сгенерируй|создай)(?:те)?\b
        (?:ترجم|ترجمي|اكتب|اكتبي|صحح|لخص|لخّص|اشرح|أرني|ارني|اعطني|أعطني|قل لي|أخبرني|احسب|رتب|رتّب|ساعدني|
        + حوّل|حول هذا|أعد صياغة|صف|عدد|اقترح|أكمل|حل|جد|ابحث|ممكن ت\w+)(?=[\s:،])
        (?:你)?(?:能|可以)?(?:请)?(?:帮(?:我|忙|我们)|替我|给我(?:讲|写|推荐|列|说|看|
        + 一|翻|解|介绍)|翻译|(?:把|将).{{0,40}}(?:翻译|译成|改写|改成|总结|排序|转换|润色|
        + 概括|缩短|减半|分类)|写(?:一|个|篇|首|封|段)|总结|概括|解释(?:一下)?|告诉我|改写|润色|
        + 修改(?:一下)?(?:这|以下|下面)|推荐(?:一|几|个|些|下)|计算|排序|列出|生成|续写|校对|纠正|
        + 检查(?:一下)?(?:这|以下|下面)|讲(?:一|个)|说说|介绍(?:一下)?|分析(?:一下)?(?:这|
        + 以下|下面)|解(?:这道|一下)|求解|数一下|以下是|下面是)
        """
    ),
    re.IGNORECASE,
)
_REQUESTS_AT_END = re.compile(
    r"(?:(?:翻訳|英訳|和訳|要約|訳|書い|教え|直し|英語にし|日本語にし|中国語にし|フランス語にし|"
    r"敬語にし|丁寧にし|作っ|添削(?:し)?|計算|作っ|並べ替え|説明|まとめ|考え|探し|見せ|変換|"
    r"半分に|校正|リスト(?:アップ)?|修正|続きを書い|読ん|分析|比較|提案|紹介|"
    r"手伝っ)(?:し)?(?:て|で)(?:ください|下さい|くれ(?:る|ますか|ませんか)?|ほしい|"
    r"欲しい|もらえ(?:る|ますか|ませんか)?|いただけ(?:ますか|ませんか)|みて|ちょうだい|よ|"
    r"ね)?(?:[。！!?？：:、\s]|$))"
    r"|(?:を)?(?:翻訳|英訳|和訳|要約|添削|校正|計算)(?:を)?(?:お願い(?:します)?|して)"
    r"|(?:번역|요약|설명|정리|수정|교정|계산|작성|추천|비교|분석|검토|변환|정렬)\s?(?:을|"
    r"를|좀)?\s?(?:해|부탁)\s?(?:줘|주세요|주실래요|줄래|줄 수|봐|드려요|드립니다|해요|"
    r"해)?|(?:써|알려|말해|고쳐|만들어|보여|찾아|바꿔|도와|가르쳐|지어)\s?(?:줘|주세요|"
    r"주실|줄래|줄 수|주시)"
    r"|(?:翻译一下|总结一下|解释一下|改一下|润色一下|翻成\w+|译成\w+|排个序|算一下)[。！!？?\s]*$"
    r"|,? (?:translate|fix|correct|summari[sz]e|explain|proof-?read|rewrite|sort) (?:this|it|that|these|"
    r"please|pls|plz)[\s.!]*$"
)
_STANDING = re.compile(
    r"\b(?:from (?:now|here|today|this point|tomorrow|next \w+) on|from (?:now|today|here)\b|always|never|"
    r"whenever|every time|each time|any time i|in (?:the )?future|by default|as a rule|going forward"
    r"|when(?:ever)? (?:i|you|we) (?:ask|talk|send|say|write|answer|reply|explain|use|give|speak|mention|"
    r"paste)|with me\b|to me (?:in|like|as)|no more|don['’]t (?:use|call|say|ever|apologi[sz]e|give|write|"
    r"answer|start|add|end)|do not (?:use|call|give|write)|your (?:answers|replies|responses)"
    r"|(?:call|address) me|my pronouns|any ?more\b|stop (?:using|calling|asking|adding|saying|being)|"
    r"at all times|all (?:my |your |future )?(?:answers|replies|code|examples|prices|dates)|(?:explain|"
    r"describe|write) (?:things|everything|stuff|my texts|my e?mails)|(?:talk|speak|reply|"
    r"answer)\b.{0,40} on (?:weekdays|weekends|week ?ends|\w+days)|unless i|remember (?:that|this|:)|"
    r"keep in mind|note (?:that|:)|for the record|permanently|until further notice"
    r"|switch to|(?:answer|reply|respond|talk|speak|write|quote|give|use|show|explain|format|keep|"
    r"cite)\b (?!an? |this |the |these |me an? )(?:\w+ ){0,3}(?:in|with|under|to|as|"
    r"like)\b (?:\w+ ){0,2}(?:english|german|french|spanish|chinese|japanese|euros?|dollars?|pounds|celsius|"
    r"fahrenheit|metric|kilomet\w+|miles|km|markdown|bullet\w*|emojis?|spelling)\b"
    r"|(?:use|prefer) (?:british|american|metric|imperial|celsius|fahrenheit|kilomet\w+|miles|formal|informal|"
    r"simple|plain)|(?:ab jetzt|ab sofort|in zukunft|künftig|immer|nie|jedes mal|grundsätzlich|nenn(?:e|"
    r"en sie)? mich|duz\w*|siez\w*)|désormais|dorénavant|toujours|jamais|à l['’]avenir|à partir de maintenant|"
    r"appelle-moi|tutoie|vouvoie"
    r"|a partir de ahora|de ahora en adelante|siempre|nunca|ll[áa]ma(?:me|nos)|tut[ée]ame|a partir de agora|"
    r"de agora em diante|sempre|chama-me|me cham[ae]|отныне|с этого момента|всегда|никогда|впредь|в будущем|"
    r"с сегодняшнего|зови меня|называй меня|обращайся)\b"
    r"|من الآن فصاعد|من الآن|دائما|دائماً|أبدا|نادني|ناديني|"
    r"以后|从现在(?:起|开始)|从今(?:天|往|以)|今后|每次|总是|一律|永远|一直用|叫我|称呼我|"
    r"回答(?:的)?时|回复(?:的)?时|これから|今後|いつも|常に|毎回|と呼んで|って呼んで|섭씨로|"
    r"화씨로|킬로로|앞으로|항상|언제나|매번|이제부터|지금부터|라고 불러",
    re.IGNORECASE,
)
_ONCE = re.compile(
    r"\b(?:just (?:this|for) (?:once|now|one|today)|(?:just )?this (?:once|time|one answer)|only (?:this|"
    r"for this|for the next)|for (?:this|the next|my next) (?:one|answer|message|question|reply|time)|"
    r"in the next (?:message|answer|reply)"
    r"|one-off|for this one \w+|(?:diese|dieses) eine|nur (?:dieses|diese|diesmal|jetzt)|diesmal|"
    r"ausnahmsweise|juste? cette fois|cette fois|solo esta vez|esta vez|só desta vez|desta vez|"
    r"только (?:сейчас|в этот раз|один раз)|в этот раз)\b|"
    r"(?:只|就)?这(?:一)?次|今回だけ|今だけ|이번만|이번에만|هذه المرة",
    re.IGNORECASE,
)
# What asks to be kept is told, however it begins.
_TO_KEEP = re.compile(
    _POLITE + r"(?:remember|note|make a note|keep in mind|bear in mind|don['’]t forget|do not forget|be aware|fyi|"
    r"for your information|for the record|update|correction|save|know that|"
    r"merk dir|denk daran|zur info|notier\w*|retiens|note que|n['’]oublie pas|rappelle-toi|pour info|recuerda|"
    r"ten en cuenta|apunta|anota|no olvides|lembra|lembre|anota|anote|não esqueça|запомни|учти|имей в виду|"
    r"تذكر|لا تنس|记住|记一下|请记住|别忘了|注意|備忘|覚えて(?:おいて)?|メモ|기억해|메모)\b(?! (?:when|what|"
    r"where|who|how|if|whether)\b)",
    re.IGNORECASE,
)
_TOLD_ASKED = re.compile(
    _POLITE + r"(?:(?:did|have|haven['’]t|didn['’]t|had) (?:i|we) (?:ever |already |not |never )*(?:tell|told|mention|"
    r"mentioned|say|said)(?: (?:to )?(?:you|u))?(?: yet| already| before)?"
    r"|(?:do|did) (?:you|u) (?:already |still |even )*(?:know|remember|recall|hear|realise|realize)|(?:you|"
    r"u) (?:know|remember|realise|realize)|guess what[,:!]?|know what[,:!]?)"
    r"(?: that|,)? (?P<told>(?!(?:when|what|where|who|how|if|whether|why|which|any|about|of|the (?:name|"
    r"answer|way|time|difference|capital|meaning))\b)[\w'’]+ [\w'’]+.*?)[\s?？!.]*$",
    re.IGNORECASE,
)
_BREAK = re.compile(
    r"\s*(?:[,;]|\s[-–—]+\s|\s\(|(?<=[a-z])\s*:\s)\s*(?:so |and |but |then |also |can |now )?|\s+(?=(?:so|"
    r"and|but) (?:what|how|where|which|who|can|could|should|is|are|do|does|would|will|write|give|tell|"
    r"make|find|suggest|recommend)\b)|[，、；](?:那么?|所以|请|但)?|、",
)
_TELLS_HEAD = re.compile(
    r"(?:(?:and|but|so|well|ok|okay|hi|hey|hello|also|btw|since|because|as|given(?: that)?|now that|"
    r"seeing that|considering(?: that)?|although|even though|both|by the way|please|thanks|my question is|fyi|"
    r"weil|da|jetzt wo|puisque|comme|como|ya que|já que|поскольку|так как)\b[,:]? )*"
    r"(?:thinking|considering|planning|moving|moved|got|bought|just|sold|quit|started|starting|having|been|"
    r"went|going|turned|lost|broke|finished|had|born|living|working|currently|recently|still|left|booked|met|"
    r"woke|signed|joined|adopted|feeling|pregnant|new to|i|i['’]m|i['’]ve|im|ive|we|we['’]re|we['’]ve|my|our|"
    r"he|she|they|it|it['’]s|there['’]s|there (?:is|are)|the|this|that|these|those|[A-Z][\w'’]+|both|all|one|"
    r"some|every\w*|someone|somebody|ich|wir|mein\w*|unser\w*|j['’]\w+|je|nous|mon|ma|mes|notre|nos|yo|tengo|"
    r"soy|estoy|vivo|mi|mis|trabajo|nuestr\w+|somos|eu|tenho|sou|estou|moro|meu|minha|я|у меня|мне|мы|у нас|"
    r"мой|моя|мои|меня|أنا|لدي|عندي|أعيش|أعمل)\b"
    r"|[\u3400-\u9fff]{3,}|.*[ぁ-ん]{3,}|[가-힣]+(?:는|은|이|가|를|을|에) ",
)
_WORD = re.compile(r"[\w'’]+")
_SAYS_WHAT = re.compile(
    r"\b(?:that says?|saying|which says?|says?|to say|titled|called|named|with the (?:title|words|text)|about|"
    r"in which|where)\b",
    re.IGNORECASE,
)
_I_TELL = re.compile(
    r"(?:(?:and|but|since|because|as|btw|by the way|note that|fyi|i mean|also) )*(?:i|i['’]m|i['’]ve|i['’]ll|"
    r"im|ive|we|we['’]re|we['’]ve|we['’]ll|my|our)\b(?! (?:need|want|would|['’]d|wonder|mean|think|guess)\b)",
    re.IGNORECASE,
)
# How clauses begin that ask, where a question mark says that something is asked.
_MAY_ASK = re.compile(
    r"(?:¿|(?:what|which|who|whose|where|when|why|how|can|could|should|would|will|is|are|am|was|do|does|did|"
    r"has|have|may|any|anything|was|wie|wo|wer|wann|darf|kann|soll|ist|sind|gibt|welche\w*|passt|reicht|"
    r"est-ce|puis-je|peut-on|je peux|dois-je|est-il|c['’]est|que|quel\w*|comment|combien|pourquoi|où|qué|"
    r"cuál\w*|cómo|dónde|puedo|debo|será|es|hay|posso|pode|devo|dá|qual|como|onde|é|é possível|"
    r"можно|мне|что|как|какой|какая|какие|какое|стоит|нужно|где|когда|почему|هل|ما|ماذا|كيف|أي|أين)\b)",
    re.IGNORECASE,
)
_TAG = re.compile(
    r",? (?:you know|y['’]know|ya know|know what i mean|can you (?:believe|imagine)(?: (?:it|that))?|weißt du|"
    r"tu sais|sabes|sabe|знаешь|понимаешь)[?？؟!]+\s*$",
    re.IGNORECASE,
)
_ORDERS = re.compile(
    r"\b(?:give|use|answer|write|make|be|reply|speak|explain|keep|tell|show|antwort\w*|schreib\w*|"
    r"bitte|réponds|écris|responde|escribe|escreve|ответь|напиши)\b|回答|写|用|答え|書い|대답|답변|써|أجب|اكتب",
    re.IGNORECASE,
)
_FROM_NOW = re.compile(
    r"\b(?:from (?:now|here|today|tomorrow)|in (?:the )?future|going forward|by default|ab (?:jetzt|"
    r"sofort|heute)|künftig|in zukunft|désormais|dorénavant|à partir de|a partir de|"
    r"de ahora en adelante|de agora em diante|отныне|впредь|с этого момента|с сегодняшнего)\b|以后|从现在|"
    r"今后|これから|今後|앞으로|이제부터|من الآن",
    re.IGNORECASE,
)
_MARKED = re.compile(r"[?？؟]")


def is_kept_by_request(sentence: str) -> bool:
    """Tell if a sentence asks to be remembered, or says how to answer from now on."""
    if _TO_KEEP.match(sentence):
        return True
    if is_request(sentence):
        sentence = sentence.split(": ")[0]
    return _STANDING.search(sentence) is not None and _ONCE.search(sentence) is None and not _MARKED.search(sentence)


def holds_from_now(sentence: str) -> bool:
    """Tell if a sentence says that something is to hold from now on."""
    return _FROM_NOW.search(sentence) is not None or _TO_KEEP.match(sentence) is not None


def is_question(sentence: str) -> bool:
    """Tell if a sentence asks something, with or without a question mark."""
    return _ASKS_AT_END.search(sentence) is not None or _ASKS.match(sentence) is not None


def is_request(sentence: str) -> bool:
    """Tell if a sentence asks the assistant to do something."""
    if _REQUESTS.match(sentence) is not None or _REQUESTS_AT_END.search(sentence) is not None:
        return True
    return _ONCE.search(sentence) is not None and _ORDERS.search(sentence) is not None and not _I_TELL.match(sentence)


def told_while_asking(sentence: str) -> str:
    """Return what a question or request tells besides: "I'm allergic to nuts" of "I'm allergic to nuts, is this safe?".
    Nothing where it only asks."""
    sentence, tags = _TAG.subn("", sentence)
    if tags and not is_question_start(sentence) and not is_request(sentence):
        return sentence.strip()
    told = _TOLD_ASKED.match(sentence)
    if told is not None:
        return told["told"].strip()
    return _told_before(sentence) or _told_after(sentence)


def _told_before(sentence: str) -> str:
    """Return the clauses before the first one that asks."""
    marked = _HAS_MARK.search(sentence) is not None
    last = None
    for match in _BREAK.finditer(sentence):
        last, rest = match, sentence[match.end() :]
        if rest and (is_question_start(rest) or is_request(rest) or (marked and _MAY_ASK.match(rest))):
            return _head(sentence, match)
    asks = is_wide(sentence) and is_question(sentence) and not is_request(sentence)
    return _head(sentence, last) if last is not None and asks else ""


def _head(sentence: str, match: re.Match[str]) -> str:
    """Return what stands before a question, if it is a statement."""
    head = sentence[: match.start()].strip(" ,;:-–—")
    return head if _tells(head) else ""


def _told_after(sentence: str) -> str:
    """Return what follows a request or question that quotes nothing: "... please, I work nights"."""
    for match in _BREAK.finditer(sentence):
        head, rest = sentence[: match.start()], sentence[match.end() :].strip()
        if _SAYS_WHAT.search(head) or ":" in sentence[: match.end()]:
            return ""
        if _I_TELL.match(rest) and len(_WORD.findall(rest)) > 2:
            return "" if _HAS_MARK.search(rest) else rest
    return ""


def is_question_start(clause: str) -> bool:
    """Tell if a clause asks by its words."""
    return _ASKS.match(clause) is not None


def _tells(head: str) -> bool:
    if is_request(head) or is_question_start(head) or not (is_wide(head) or len(_WORD.findall(head)) > 1):
        return False
    return _TELLS_HEAD.match(head) is not None or _TELLS_HEAD.match(head.lower()) is not None
