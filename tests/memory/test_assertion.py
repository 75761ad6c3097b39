"""What of a message is remembered: what its sender asserts, not what is asked, supposed or pasted; in ten languages."""

from __future__ import annotations

import time

import pytest

from engine.prompt import CLOSING, HEADING
from memory import LocalExtractor, new_message
from memory.language.assertion import pieces_in, statements_in
from memory.language.extract import Unit
from memory.language.material import RECALLED_CLOSING, RECALLED_HEADING
from memory.language.small_talk import is_small_talk

NOTHING = [
    "pull up jonas's calendar",
    "Please look up the last invoice",
    # questions, with and without a mark
    "what are the opening hours of the town archive",
    "where did i leave off in the course",
    "how much water does a cactus need",
    "whats a good name for a tortoise",
    "is it normal that the engine ticks when cold",
    "can i freeze cooked rice",
    "do you remember which seat I booked",
    "does anyone still use fax machines",
    "who painted the ceiling of that chapel",
    "which bus goes to the harbour",
    "I wonder if tomatoes grow in the shade.",
    "any idea why my printer blinks",
    "just curious what a fathom is",
    "Was kostet ein Ticket nach Graz",
    "wie lange kocht man Linsen",
    "Kannst du mir sagen, wann der Markt öffnet?",
    "Pourquoi le ciel est bleu",
    "est-ce que le musée ouvre le lundi",
    "¿Cuánto cuesta un taxi al aeropuerto?",
    "cómo se dice lluvia en alemán",
    "Quanto tempo leva para assar um frango?",
    "qual é a capital da Austrália",
    "Сколько лет Эрмитажу?",
    "как правильно варить гречку",
    "ما هي عاصمة كندا؟",
    "كيف أطبخ الأرز",
    "附近有什么好吃的吗",
    "为什么月亮会变红",
    "请问邮局几点关门",
    "東京タワーの高さはどのくらいですか",
    "なぜ空は青いの?",
    "부산까지 얼마나 걸리나요?",
    # requests
    "Show me the unpaid invoices of Matilda",
    "tell me something about the Hanseatic League",
    "write a limerick about a lazy postman",
    "Please summarise the plot of Faust in two sentences.",
    "give me three ideas for a rainy afternoon",
    "explain photosynthesis like I'm five",
    "recommend a podcast about ships",
    "could you check whether 391 is a prime number",
    "i need you to sort these by price",
    "make me a packing list for the alps",
    "ok now shorten it to fifty words",
    "let's talk about something else",
    "synonyms for tired please",
    "Schreib mir ein Gedicht über den Herbst.",
    "fass das bitte in drei Sätzen zusammen",
    "Écris une lettre de motivation pour un stage.",
    "donne-moi une recette de crêpes",
    "Escríbeme un poema sobre el mar",
    "dame cinco nombres para un gato",
    "Escreve um e-mail ao senhorio",
    "me dá uma ideia de presente",
    "Напиши стихотворение про кота",
    "помоги составить резюме",
    "اكتب قصيدة عن البحر",
    "帮我写一封道歉信",
    "给我推荐一部电影",
    "この文章を要約してください",
    "自己紹介文を書いて",
    "이 문장을 번역해 줘",
    "저녁 메뉴 추천해 주세요",
    # texts handed over
    "Translate into Dutch: I keep four goats and my wife is a smith.",
    'proofread this please: "We was very happy with you\'re service."',
    "Can you turn this into bullet points: Our shop opens at nine, we close at six, on Sundays we rest.",
    "Rewrite the following in a friendlier tone:\n\nI am not coming to your party. I hate clowns.",
    "Dear Sir or Madam, I bought a toaster and it exploded.\n\nmake this mail sound less angry",
    "summarise this\n\nThe council met on Tuesday. I am the mayor, said Mr Pole. Roads will be mended.",
    "Word problem: Ivan has 12 pears and eats 3 a day. How long do they last?",
    "Use these as sample data: name Joe Bloggs, city Nowhere, phone 555 0100",
    "Übersetze ins Englische: Ich habe drei Söhne und wohne in Ulm.",
    "Matheaufgabe: Peter hat 7 Hasen und verkauft 2.",
    "Traduis en anglais : J'ai deux chiens et je vis à Nantes.",
    "Corrige esta frase: Yo tengo hambre mucho y vivo en Lugo.",
    "Traduza para o inglês: Eu tenho três filhas.",
    "Переведи на английский: У меня две сестры.",
    "ترجم إلى الإنجليزية: عندي ثلاثة أولاد",
    "翻译成法语：我家有三只羊",
    "次の文を英訳してください：私は消防士です。",
    '번역해줘: "나는 소방관이고 딸이 둘이야"',
    # suppositions, fiction, jokes
    "If I had a farm I'd keep llamas.",
    "if we were rich we would travel by train all year",
    "Imagine I was born in 1850 as a sailor's son.",
    "Let's pretend I'm the queen and you are my spy.",
    "Suppose we rent the hall for 900 a day.",
    "For a role play: my name is Grumwald and I own a tavern.",
    "just kidding, I live on the moon",
    "I married a pineapple last night lol jk",
    "Stell dir vor, ich wäre Astronaut.",
    "Wenn ich ein Boot hätte, würde ich nach Malta segeln.",
    "Imaginons que je gagne au loto.",
    "Si j'avais un jardin, je planterais des figuiers.",
    "Supongamos que vivo en Marte.",
    "Si tuviera un barco, viviría en él.",
    "Vamos fingir que sou um rei.",
    "Se eu tivesse um cavalo, andava todos os dias.",
    "Представь, что я капитан корабля.",
    "Если бы у меня была яхта, я бы уехал.",
    "تخيل أنني طيار",
    "لو كان عندي مزرعة لزرعت الزيتون",
    "假设我是宇航员，住在火星上。",
    "我们来玩角色扮演：我是皇帝。",
    "もし私が鳥だったら、毎日海まで飛びます。",
    "만약 내가 왕이라면 매일 쉬겠다.",
    # what others said
    'A stranger on the train said: "I never pay for my tickets, I hide in the toilet."',
    "The poster reads „Ich war hier und ich komme nie wieder“.",
    # talk
    "Good evening!",
    "thank you sooo much 🙏🙏",
    "haha ok",
    "Perfect, thanks a lot, see you tomorrow!",
    "hmm, interesting",
    "Guten Morgen!",
    "vielen Dank, das war sehr hilfreich",
    "Merci beaucoup, bonne soirée !",
    "¡Hola! ¿Qué tal?",
    "muchas gracias, hasta luego",
    "Obrigada, tudo bem!",
    "Спасибо большое, до завтра!",
    "شكرا لك، مع السلامة",
    "谢谢你，晚安",
    "好的，没问题",
    "ありがとうございます、助かりました!",
    "안녕하세요! 감사합니다",
    "👍👍",
    "😂",
    # machines
    'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\n    run()\nValueError: bad dose',
    "2025-02-01 10:00:03,120 INFO worker-2 started\n2025-02-01 10:00:04,001 ERROR worker-2 I am out of memory",
    "npm ERR! code E404\nnpm ERR! 404 Not Found - GET https://registry.example/left-pad2",
    "```python\nname = 'Zoe'\nprint(name)\n```",
    "why does this fail?\n\nfor (int i = 0; i < n; i++) {\n    total += price[i];\n}",
    "$ git push origin main\nremote: Permission denied\nfatal: unable to access",
    '{"user": "kim", "age": 41}',
    "SELECT name FROM pets WHERE owner = 'Kim';",
    "bash: flac2mp3: command not found",
]

KEPT = [
    # (message, what must be remembered)
    ("I'm allergic to peanuts, is this curry safe for me?", "I'm allergic to peanuts"),
    ("Did I tell you that I moved to Lima last week?", "I moved to Lima last week"),
    ("did i mention my sister is a pilot", "my sister is a pilot"),
    ("I work nights as a nurse, write me a meal plan", "I work nights as a nurse"),
    ("Since I'm coeliac, which beers can I drink?", "I'm coeliac"),
    ("We have twins and a dog, what car would fit us?", "We have twins and a dog"),
    ("write me a training plan please, I broke my toe in March", "I broke my toe in March"),
    ("Help me plan a holiday: we are four, and I don't fly", "I don't fly"),
    ("Thanks! By the way, I changed jobs: I'm at the harbour office now.", "I'm at the harbour office now"),
    ("Ich vertrage keine Milch, was kann ich backen?", "Ich vertrage keine Milch"),
    ("Je suis diabétique, est-ce que je peux manger des dattes ?", "Je suis diabétique"),
    ("Tengo dos gatos, ¿qué planta es segura para ellos?", "Tengo dos gatos"),
    ("Sou alérgico a camarão, posso comer isto?", "Sou alérgico a camarão"),
    ("У меня аллергия на орехи, можно мне этот торт?", "У меня аллергия на орехи"),
    ("我对花生过敏，这道菜我能吃吗？", "我对花生过敏"),
    ("Nice is my home town.", "Nice is my home town"),
    ("Cool Runnings is my favourite film.", "Cool Runnings"),
    ("Great-aunt Olga left me her piano.", "piano"),
    ("When I was a kid, we lived in Oran.", "Oran"),
    ("What I love most about my job is the silence.", "silence"),
    ("Where I live it snows until May.", "snows"),
    ("Which reminds me, I have to renew my passport.", "passport"),
    ("List price of our van was 31,000.", "31,000"),
    ("Show starts at eight on Friday.", "eight"),
    ("Check engine light is on in my Golf.", "Golf"),
    ("Plan B is to sleep in the car.", "sleep in the car"),
    ("Sort code of my account is 12-34-56.", "12-34-56"),
    ("Had my appendix out in 2009.", "appendix"),
    ("Did my driving test on Monday, passed!", "driving test"),
    ("Was in Turin all week.", "Turin"),
    ("Will is my flatmate.", "flatmate"),
    ("Read Dune in two days.", "Dune"),
    ("Put the spare key under the blue pot.", "spare key"),
    ("If I remember correctly, we met in 2009.", "2009"),
    ("Remember that I park on level 3.", "level 3"),
    ("please note: the alarm code is 5521", "5521"),
    ("Answer me in Danish from now on.", "Danish"),
    ("Always show prices in pounds.", "pounds"),
    ("Antworte ab jetzt bitte auf Plattdeutsch.", "Plattdeutsch"),
    ("以后请用繁体中文回答我。", "繁体"),
    ("これからは短く答えてください。", "短く"),
    ("Responde siempre en gallego.", "gallego"),
    ('My daughter said "mama" today!', "mama"),
    ("The doctor says I'm no longer anaemic.", "anaemic"),
    ("Bart has five kids, imagine.", "five kids"),
    ('My favourite line is "The world is charged with the grandeur of God".', "grandeur of God"),
    ("Ich wohne seit Mai in Kiel.", "Kiel"),
    ("Was ich gar nicht mag, ist Koriander.", "Koriander"),
    ("Como carne dos veces por semana.", "carne"),
    ("Quand j'étais petite, on habitait à Dakar.", "Dakar"),
    ("Quem mora comigo é a minha avó.", "avó"),
    ("Когда я был маленьким, мы жили в Омске.", "Омске"),
    ("我住在成都，养了一只猫。", "成都"),
    ("什么都吃，就是不吃香菜。", "香菜"),
    ("妹は看護師で、神戸に住んでいます。", "神戸"),
    ("저는 대전에 살고 고양이를 키워요.", "대전"),
    ("أعيش في مراكش وأعمل خبازا.", "مراكش"),
    ("The error budget of our team is 43 minutes a month.", "43 minutes"),
    ("we use python 3.12 at work, everything runs in docker", "3.12"),
    ("From Monday on I work from the Leeds office.", "Leeds"),
    ("I got a parking fine: 60 pounds.", "60 pounds"),
    ("No, that's wrong, my train leaves at 6:10.", "6:10"),
    ("Two things: I sold the boat and I bought a kayak.", "kayak"),
    ("My address: 4 Mill Lane, Ely.", "4 Mill Lane"),
    ("sorry, I meant Thursday, not Friday", "Thursday"),
]

MARKED = [
    "I wish we had a bigger kitchen.",
    "If I get the job in Zurich I'll move there in May.",
    "I'm thinking of selling the motorbike.",
    "Maybe I'll quit the choir.",
    "I might move to Cork.",
    "We almost sold the cottage.",
    "I want to learn to weld one day.",
    "It is not true that I live in Paris.",
    "It isn't really true that I hate dogs.",
    "I simply adore queueing for three hours.",
    "I never said I love opera.",
    "I don't think I like sushi.",
    "My brother thinks I hate jazz.",
    "I just love waiting two hours on the phone.",
    "Ich überlege, den Hund abzugeben.",
    "J'aimerais vivre à la mer.",
    "Ojalá tuviéramos un patio.",
    "Talvez eu mude de emprego.",
    "Может быть, мы переедем в Казань.",
    "أتمنى أن أعيش قرب البحر",
    "我希望能住在海边。",
    "海の近くに住めたらいいのに。",
    "바다 근처에 살면 좋겠어요.",
]

PLAIN = [
    "I sold the motorbike.",
    "We moved to Cork in May.",
    "I'm no longer vegetarian.",
    "Could only get seats in the back row.",
    "The doctor says I have asthma.",
    "I'd never been to Rome before.",
    "Ich bin umgezogen, jetzt wohne ich in Jena.",
    "我搬到上海了。",
]


def units(text: str, *before: tuple[str, str]) -> list[Unit]:
    """Extract a user's message that stands behind others: (role, text)."""
    earlier = [new_message(said, role, 1000.0 + i) for i, (role, said) in enumerate(before)]
    return LocalExtractor().extract([new_message(text, "user", 2000.0)], earlier)


def texts(text: str, *before: tuple[str, str]) -> list[str]:
    return [unit.text.removeprefix("User: ") for unit in units(text, *before)]


@pytest.mark.parametrize("text", NOTHING)
def test_what_is_not_asserted_is_not_remembered(text: str) -> None:
    assert texts(text) == []


@pytest.mark.parametrize(("text", "part"), KEPT)
def test_what_is_asserted_is_remembered(text: str, part: str) -> None:
    assert any(part in kept for kept in texts(text))


@pytest.mark.parametrize("text", MARKED)
def test_wishes_plans_and_denials_are_marked_and_fill_no_slot(text: str) -> None:
    (unit,) = units(text)
    assert (unit.asserted, unit.state, unit.metadata["asserted"]) == (False, None, False)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_so_carries_no_mark(text: str) -> None:
    assert all(unit.asserted and "asserted" not in unit.metadata for unit in units(text))
    assert units(text)


def test_a_joke_is_taken_back_with_what_was_said_before_it() -> None:
    assert texts("We bought a castle. Just kidding!") == []
    assert texts("I have a cat. We bought a castle. jk 😂") == ["I have a cat."]


def test_fiction_goes_on_to_the_end_of_the_message_or_until_it_is_left() -> None:
    assert texts("Let's do a role play. I'm a baker in Nuremberg. I have nine children.") == []
    kept = texts("Pretend you are a ghost. I live in your castle. By the way, my real name is Odile.")
    assert kept == ["By the way, my real name is Odile."]


def test_lines_of_keys_and_values_are_a_statement_each() -> None:
    assert texts("About me:\n- Name: Anna Berg\n- City: Oslo\n- Allergies: peanuts") == [
        "Name: Anna Berg",
        "City: Oslo",
        "Allergies: peanuts",
    ]


def test_full_statements_of_a_sentence_are_apart() -> None:
    assert texts("I live in Oslo and I work at Equinor.") == ["I live in Oslo", "I work at Equinor."]
    assert texts("I sold the car; my son has a bike.") == ["I sold the car", "my son has a bike."]
    assert texts("Ich wohne in Bern und ich arbeite bei der Bahn.") == [
        "Ich wohne in Bern",
        "ich arbeite bei der Bahn.",
    ]
    assert texts("I have a dog and it barks.") == ["I have a dog and it barks."]
    assert texts("We went to Crete and I got sunburnt.") == ["We went to Crete and I got sunburnt."]


@pytest.mark.parametrize(
    "text",
    [
        "My dog is called Rex. He is afraid of thunder.",
        "I started rock climbing to get over my fear of heights. I like it. I quit it last spring.",
        "We own a caravan. That thing leaks.",
        "There's a café round the corner. I go there every morning. It closes at four.",
        "Ich habe einen Papagei. Er kann pfeifen.",
        "J'ai une cousine à Metz. Elle est boulangère.",
        "Tengo un hermano. Él vive en Vigo.",
        "У меня есть брат. Он живёт в Туле.",
        "我有一只乌龟。它叫慢慢。",
        "犬を飼っています。雷がとても苦手です。",
        "언니가 있어요. 그녀는 의사예요.",
    ],
)
def test_what_leans_on_the_sentence_before_stays_with_it(text: str) -> None:
    assert len(texts(text)) == 1


def test_a_topic_that_is_called_up_stands_with_what_is_said_of_it() -> None:
    assert texts("That trip to Lisbon I mentioned? We had to cancel it, sadly.") == [
        "That trip to Lisbon I mentioned? We had to cancel it, sadly."
    ]


@pytest.mark.parametrize(
    ("question", "answer", "kept"),
    [
        ("Are you allergic to anything?", "Yes, peanuts.", "Asked “Are you allergic to anything?”: Yes, peanuts."),
        ("Sure! Which city do you live in?", "Gdansk", "Asked “Which city do you live in?”: Gdansk"),
        ("Are you vegetarian?", "No.", "Asked “Are you vegetarian?”: No."),
        ("Hast du Haustiere?", "Ja, zwei Hamster.", "Asked “Hast du Haustiere?”: Ja, zwei Hamster."),
        ("你住在哪里？", "杭州", "Asked “你住在哪里？”: 杭州"),
    ],
)
def test_an_answer_is_kept_with_the_question(question: str, answer: str, kept: str) -> None:
    assert texts(answer, ("user", "Hi!"), ("assistant", question)) == [kept]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Would you like me to write it?", "Yes please, go ahead."),
        ("Shall I book it?", "ok"),
        ("Do you need anything else?", "No, thanks!"),
        ("Is that right?", "thanks, perfect"),
    ],
)
def test_an_answer_to_an_offer_tells_nothing(question: str, answer: str) -> None:
    assert texts(answer, ("assistant", question)) == []


def test_a_full_sentence_needs_no_question() -> None:
    assert texts("I moved to Turku.", ("assistant", "Where do you live?")) == ["I moved to Turku."]


def test_of_an_assistant_only_what_is_new_is_kept() -> None:
    said = [
        new_message("I live in Oslo and my dog is called Rex.", "user", 1.0),
        new_message(
            "Great! Since you live in Oslo, you could walk more. Your dog Rex needs exercise. "
            "The ferry to Nesodden takes 23 minutes. Would you like a timetable? Let me know if I can do more.",
            "assistant",
            2.0,
        ),
    ]
    kept = [unit.text for unit in LocalExtractor().extract(said) if unit.author == "Assistant"]
    assert kept == ["Assistant: The ferry to Nesodden takes 23 minutes."]


def test_the_servers_own_memories_are_not_remembered_again() -> None:
    assert (f"{RECALLED_HEADING}\n", RECALLED_CLOSING) == (HEADING, CLOSING)
    block = f"{HEADING}- User: I live in Oslo.\n- User: I have a labrador\n  called Otto.\n{CLOSING}"
    assert texts(f"{block}\n\nWho is Otto?") == []
    assert texts(f"{block} I bought a kennel for Otto.") == ["I bought a kennel for Otto."]
    assert texts(f"I bought a kennel.\n\n{block}") == ["I bought a kennel."]


def test_a_question_with_logs_or_code_tells_nothing() -> None:
    log = "\n".join(f"2024-05-15 10:00:{i:02d},000 ERROR worker-{i} Task pay[{i}] raised: refused" for i in range(40))
    assert texts(f"What is wrong here?\n{log}") == []
    code = "def load(path):\n    with open(path) as f:\n        data = json.load(f)\n    return data\n"
    assert texts(f"why is this slow?\n```python\n{code}```") == []
    assert texts(f"My script runs on the NAS every night.\n\n{code}") == ["My script runs on the NAS every night."]


@pytest.mark.parametrize("fence", ["```", "~~~~"])
def test_code_is_kept_whole_where_that_is_asked(fence: str) -> None:
    code = f"{fence}sh\n# back up, and again today\nif true; then\n    rsync -a ~/x .\nfi\n{fence}"
    assert texts(f"Remember this script:\n\n{code}\nMy cat is called Miso.") == [
        f"Remember this script:\n{code}",
        "My cat is called Miso.",
    ]
    assert texts(f"Note this:\n{code}\nIt runs on the NAS.") == [f"Note this:\n{code}\nIt runs on the NAS."]
    assert texts(f"Explain this script:\n{code}") == []
    assert texts("Remember this: \ue0010\ue001") == ["Remember this: \ue0010\ue001"]


def test_pieces_are_what_may_be_remembered_alone() -> None:
    assert pieces_in("I live in Oslo and I work at Equinor. Bye!") == ["I live in Oslo", "I work at Equinor.", "Bye!"]
    assert pieces_in("I'm vegan, what can I eat?") == ["I'm vegan", ", what can I eat?"]


def test_long_texts_are_read_in_time() -> None:
    begin = time.perf_counter()
    for text in (
        "a.a." * 25_000,
        "would if " * 11_000,
        "- a: " * 20_000,
        '"' * 99_999,
        "ok " * 33_000,
        "<pre>" * 20_000,
    ):
        statements_in(text)
    assert time.perf_counter() - begin < 10


def test_small_talk_is_all_of_a_sentence_or_none() -> None:
    assert is_small_talk("Wow, John, that's great!")
    assert not is_small_talk("Wow, John, I moved to Lima!")
