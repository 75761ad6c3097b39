"""Dates in Portuguese."""

from __future__ import annotations

from memory.language.dates.words.base import Words, forms

_LEAD = "(?:em|desde|até|ate|antes de|depois de|de|para|pra|no fim de|no começo de|durante)"
_PART = "(?:de manhã|à tarde|à noite|de tarde|de noite)"
_FEIRA = {"segunda": 0, "terça": 1, "terca": 1, "quarta": 2, "quinta": 3, "sexta": 4}

PORTUGUESE = Words(
    code="pt",
    months=forms(
        {
            "janeiro jan": 1,
            "fevereiro fev": 2,
            "março marco": 3,
            "abril abr": 4,
            "maio": 5,
            "junho jun": 6,
            "julho jul": 7,
            "agosto ago": 8,
            "setembro set": 9,
            "outubro out": 10,
            "novembro nov": 11,
            "dezembro dez": 12,
        }
    ),
    weekdays={
        **_FEIRA,
        **{f"{day}-feira": n for day, n in _FEIRA.items()},
        **{f"{day} feira": n for day, n in _FEIRA.items()},
        "sábado": 5,
        "sabado": 5,
        "domingo": 6,
    },
    near={
        "anteontem": -2,
        "antes de ontem": -2,
        "ontem": -1,
        "ontem à noite": -1,
        "hoje": 0,
        "hoje à noite": 0,
        "esta noite": 0,
        "amanhã": 1,
        "amanha": 1,
        "amanhã de manhã": 1,
        "amanhã à noite": 1,
        "depois de amanhã": 2,
        "depois de amanha": 2,
    },
    units={
        "dia": "day",
        "dias": "day",
        "semana": "week",
        "semanas": "week",
        "mês": "month",
        "mes": "month",
        "meses": "month",
        "ano": "year",
        "anos": "year",
        "fim de semana": "weekend",
        "final de semana": "weekend",
    },
    steps=forms(
        {
            "passado passada anterior último última": -1,
            "este esta esse essa neste nesta nesse nessa": 0,
            "próximo próxima proximo proxima seguinte": 1,
        }
    )
    | {"que vem": 1},
    numbers={
        **forms(
            {"um uma": 1, "dois duas": 2, "três tres": 3, "quatro": 4, "cinco": 5, "seis": 6, "sete": 7, "oito": 8}
        ),
        "nove": 9,
        "dez": 10,
        "onze": 11,
        "doze": 12,
        "uns": 3,
        "umas": 3,
    },
    lengths={"quinze dias": (2, "week"), "meio ano": (6, "month")},
    seasons={"primavera": 1, "verão": 2, "outono": 3, "inverno": 0},
    feasts={
        "natal": "christmas",
        "véspera de natal": "christmas eve",
        "ano novo": "new year",
        "réveillon": "new year's eve",
        "páscoa": "easter",
        "sexta-feira santa": "good friday",
        "carnaval": "carnival",
        "halloween": "halloween",
    },
    templates=(
        r"(?:<dayname>,? (?:dia )?)?<day>[ºo]? de <month>(?: de|,)? <year>",
        r"(?P<late>fim|final) de <month> de <year>",
        r"<month>(?: de)? <year>",
        r"(?:<dayname>,? (?:dia )?)?<day>[ºo]? de <month>(?: <step>)?",
        r"<dayname>,? dia <day>",
        r"<near>",
        r"(?P<ago>há|faz|tem) (?:<n> <unit>|<length>)(?! que)",
        r"(?:<n> <unit>|<length>) (?P<ago>atrás|atras)",
        r"(?P<ahead>daqui a|daqui|dentro de|em) (?:<n> <unit>|<length>)",
        r"<weekday> da (?P<weeks>)semana <step>",
        r"<month> do (?P<yearly>)ano <step>",
        r"<weekday> da (?P<weeks>)<step> semana",
        r"(?:<weekday>|<unit>|<month>) <step>",
        r"(?P<late>fim|final) (?:de|do ano de) <year>",
        r"(?P<late>fim|final) (?:do|da|de) <unit>",
        r"<step> (?:<unit>|<weekday>|<month>)",
        r"<season> (?:de|do ano de) <year>",
        r"<season> <step>",
        r"<season> do (?P<yearly>)ano <step>",
        r"<step> <season>",
        r"(?:no|na|pro|para o|até o|antes do|depois do|desde o|pelo|neste|este) <feast>(?: de <year>)?",
        rf"(?:na|no|pra|pro|para|até|desde|nesta|neste|essa|esta|esse|da|do|à) <weekday>(?: {_PART})?(?! vez|"
        rf" parte| temporada| série)",
        rf"(?<!toda )(?<!cada )(?<!uma )(?=\w+[ -]feira)<weekday>(?: {_PART})?",
        rf"(?:^|(?<=[,;:.!?] ))<weekday>(?: {_PART})? (?=tenho|vou|vamos|tem)",
        rf"{_LEAD} <month>(?!\w)",
        rf"(?:{_LEAD}|no ano de|lá em|no ano) <year>(?!\s*(?:[€$%]|euros?|reais|km|kg|pessoas)|[.,:]\d)",
        r"(?:no |o |pro |para o |até o |até |do )?dia <day>(?! de)(?=\W|$)",
    ),
    letters="ãõçêâ",
    triggers=frozenset("em desde até antes depois de para pra dia no ano durante".split()),
    common=frozenset(
        "o a os as e é um uma de que em não eu meu minha por com para se do da no na nas das pra pro tenho vou "
        "foi quando onde "
        "qual você ele ela nos mais está tá mas como".split()
    ),
    since="desde|a partir|desde o|desde a|a partir de|a partir do",
    already="desde",
    until="até|até o|até a|até o fim de|até o final de",
    before="antes de|antes do|antes da",
    after="depois de|depois do|depois da|após",
    towards="pro|pra|para|para o|para a|pro dia",
    past=(
        r"fui|foi|fomos|foram|tive|teve|tivemos|estive|esteve|fiz|fez|fizemos|vi|viu|veio|vim|era|eram|tinha|tinham|estava|morava|"
        r"trabalhava|(?!sei|lei|rei|hei|farei|serei|terei|irei|\w+[aei]rei)\w{2,}ei|nasci|nasceu|conheci|saí|vivi|comi|morreu|"
        r"(?!vou|sou|estou|dou)\w{2,}(?:ou|aram|eram|iram|ava|avam|ávamos|eu|iu)(?<!meu)(?<!seu)(?<!teu)(?<!museu)"
    ),
    future=(
        r"vou|vai|vamos|vão|tenho|temos|tem|será|serei|é|são|começa|começo|vem|vêm|preciso|quero|viajo|viajamos|\w+[aei](?:rei|rá|remos|rão)|"
        r"vence|marcado|marcada|consulta|chega|saio"
    ),
    present="eu|nós|ela|ele|eles|a gente",
    habit=r"cada|todo|toda|todos|todas|sempre|normalmente|nunca|geralmente",
    changes=(
        r"mudei|mudamos|mudou|comecei|começou|comprei|compramos|vendi|vendemos|larguei|deixei|troquei|trocamos|casei|casamos|separei|"
        r"divorciei|assinei|adotei|adotamos|terminei|acabei|contrataram|demitiram|promovida|promovido|morreu|faleceu|nasceu|abri|abrimos|"
        r"fechei|fechamos|passei|cancelei|saí|parei|virei|entrei|aposentei"
    ),
    lasting=r"morava|morei|moramos|trabalhava|trabalhei|era|estava|tinha|estudava|estudei|jogava|alugava|usava|vivia|vivi",
    over=r"naquela época|na época|antigamente|naquele tempo|lá em|costumava",
    values=(
        r"aniversário|nasci|nascimento|prazo|consulta|voo|reunião|prova|entrevista|casamento|vence|validade|"
        r"data limite|entrega|partida|"
        r"chegada|show|cirurgia|marcad[oa]|defesa|estreia|adiad[oa]|remarcad[oa]"
    ),
    asks_before=(
        r"antes|anteriormente|anterior\w*|antigamente|antig[oa]s?|costumava\w*|no passado|originalmente|"
        r"previamente|não mais"
    ),
    asks_now=r"agora|atualmente|atual|hoje em dia|ainda|no momento",
)
