"""Dates in Spanish."""

from __future__ import annotations

from memory.language.dates.words.base import Words, forms

_LEAD = "(?:en|desde|hasta|antes de|después de|despues de|de|para|a finales de|a principios de|a mediados de|durante)"
_PART = "(?:por la mañana|por la tarde|por la noche|a la noche|a la tarde)"

SPANISH = Words(
    code="es",
    months=forms(
        {
            "enero ene": 1,
            "febrero feb": 2,
            "marzo": 3,
            "abril abr": 4,
            "mayo": 5,
            "junio jun": 6,
            "julio jul": 7,
            "agosto ago": 8,
            "septiembre setiembre sept sep": 9,
            "octubre oct": 10,
            "noviembre nov": 11,
            "diciembre dic": 12,
        }
    ),
    weekdays=forms(
        {"lunes": 0, "martes": 1, "miércoles miercoles": 2, "jueves": 3, "viernes": 4, "sábado sabado": 5, "domingo": 6}
    ),
    near={
        "anteayer": -2,
        "antier": -2,
        "antes de ayer": -2,
        "ayer": -1,
        "anoche": -1,
        "ayer por la tarde": -1,
        "hoy": 0,
        "esta noche": 0,
        "esta mañana": 0,
        "esta tarde": 0,
        "mañana": 1,
        "mañana por la mañana": 1,
        "mañana por la tarde": 1,
        "mañana por la noche": 1,
        "pasado mañana": 2,
        "pasado manana": 2,
        "manana": 1,
    },
    units={
        "día": "day",
        "días": "day",
        "dia": "day",
        "dias": "day",
        "semana": "week",
        "semanas": "week",
        "mes": "month",
        "meses": "month",
        "año": "year",
        "años": "year",
        "fin de semana": "weekend",
        "finde": "weekend",
    },
    steps=forms(
        {
            "pasado pasada anterior último última": -1,
            "este esta estos": 0,
            "próximo próxima proximo proxima siguiente": 1,
        }
    )
    | {"que viene": 1, "que entra": 1},
    numbers={
        **forms(
            {"un una": 1, "dos": 2, "tres": 3, "cuatro": 4, "cinco": 5, "seis": 6, "siete": 7, "ocho": 8, "nueve": 9}
        ),
        "diez": 10,
        "once": 11,
        "doce": 12,
        "un par de": 2,
        "unos": 3,
        "unas": 3,
    },
    lengths={
        "quince días": (2, "week"),
        "quince dias": (2, "week"),
        "medio año": (6, "month"),
        "ocho días": (1, "week"),
    },
    seasons={"primavera": 1, "verano": 2, "otoño": 3, "invierno": 0},
    feasts={
        "navidad": "christmas",
        "navidades": "christmas",
        "nochebuena": "christmas eve",
        "nochevieja": "new year's eve",
        "año nuevo": "new year",
        "semana santa": "good friday",
        "pascua": "easter",
        "domingo de resurrección": "easter",
        "viernes santo": "good friday",
        "san valentín": "valentine",
        "halloween": "halloween",
        "fin de año": "new year's eve",
        "reyes": "epiphany",
        "el día de reyes": "epiphany",
        "todos los santos": "all saints",
        "pentecostés": "pentecost",
    },
    templates=(
        r"(?:<dayname>,? )?<day> de <month>(?: de|,|del)? <year>",
        r"(?P<late>finales|fines) de <month> de <year>",
        r"<month>(?: de| del)? <year>",
        r"(?:<dayname>,? )?<day> de <month>(?: <step>)?",
        r"<dayname>,? <day>(?! de la| horas?|:\d| h(?!\w)| años| euros)",
        r"(?<!esta )(?<!la )(?<!cada )(?<!de )<near>",
        r"(?P<ago>hace) (?:<n> <unit>|<length>)(?! que)",
        r"(?:<n> <unit>|<length>) (?P<ago>atrás|atras)",
        r"(?P<ahead>dentro de|en) (?:<n> <unit>|<length>)",
        r"<weekday> de la semana (?P<weeks>)<step>",
        r"<month> del (?P<yearly>)año <step>",
        r"<weekday> de la (?P<weeks>)<step> semana",
        r"(?:<weekday>|<unit>|<month>) <step>",
        r"(?P<late>finales|fines|final) de <year>",
        r"(?P<late>fin|final|finales|fines) (?:de|del) <unit>",
        r"<step> (?:<unit>|<weekday>|<month>)",
        r"<season> (?:de|del) <year>",
        r"<season> <step>",
        r"<season> del (?P<yearly>)año <step>",
        r"<step> <season>",
        r"(?:en|para|por|hasta|antes de|después de|desde|esta|este) (?:la |el )?<feast>(?: de <year>)?",
        rf"(?<!los )(?<!cada )(?<!un )(?:el|del|al|este) <weekday>(?: {_PART})?",
        rf"(?:^|(?<=[,;:.!?] ))<weekday>(?: {_PART})?(?=,| (?:a las|tengo|voy|vamos)(?!\w))",
        rf"{_LEAD} <month>(?!\w)",
        rf"(?:{_LEAD}|el año|del año|allá por|por) <year>(?!\s*(?:[€$%]|euros?|pesos|km|kg|personas)|[.,:]\d)",
        r"(?:(?:el|al|del|para el|hasta el|desde el|sino el)(?: día)?|día) <day>(?=\s*(?:$|[.,;:!?)]|(?:a las|y|"
        r"por la|tengo|en|para|"
        r"es|me|nos|con|no|viene|voy|del mes)(?!\w)))",
    ),
    letters="ñ¿¡íóúá",
    triggers=frozenset("en desde hasta antes después despues de para el al del día dia durante año por allá".split()),
    common=frozenset(
        "el la los las y es un una de que en no me mi por con para se lo al del yo tengo qué cuándo dónde a te "
        "nos su muy ya "
        "hace dos fue hay más está estoy pero como".split()
    ),
    since="desde|a partir|desde el|a partir de|a partir del",
    already="desde",
    until="hasta|hasta el|hasta finales de|hasta fines de|hasta final de",
    before="antes de|antes del",
    after="después de|después del|despues de|tras",
    towards="al|para el|para|hasta el",
    past=(
        r"fui|fue|fuimos|fueron|tuve|tuvo|tuvimos|estuve|estuvo|estuvimos|hice|hizo|hicimos|vi|vio|vimos|vino|vine|dije|dijo|pude|"
        r"era|eran|éramos|había|habían|tenía|teníamos|vivía|trabajaba|estaba|"
        r"(?!café|además|bebé|porqué|qué)\w{2,}(?<![aei]r)é|(?:compr|mir|tir|retir|entr|cobr|dispar|mejor|prepar|cerr|par|llor)é|"
        r"\w{3,}(?:aron|ieron|aste|iste|aba|aban|ábamos)|\w{3,}ió|(?!\w*ción)\w{2,}[bcdfgjlmnpqrstvxzñ]ó|"
        r"(?:he|ha|has|hemos|han) (?:\w+ )?\w+(?:ado|ido|to|cho)|nací|nació|conocí|salí|viví|comí|murió|"
        r"\w+(?:amos|imos) (?:ayer|anoche)"
    ),
    future=(
        r"voy|vas|va|vamos|van|tengo|tenemos|tiene|hay|será|seré|es|son|empieza|empiezo|viene|vienen|debo|quiero|queda|quedo|salgo|"
        r"\w{2,}[aei]r(?:é|á|ás|emos|án)|cita|viajo|viajamos|vence|nos vemos|quedamos|llega|celebramos"
    ),
    present=r"yo|nosotros|ella|él|ellos|\w{2,}[aei]mos|nos",
    habit=r"cada|todos|todas|siempre|normalmente|nunca|habitualmente|suelo",
    changes=(
        r"mud[éó]\w*|mudamos|mudado|empecé|empezó|empezamos|compré|compramos|vendí|vendimos|dejé|dejó|dejamos|cambié|cambiamos|cambió|"
        r"casé|casamos|casó|divorcié|renuncié|firmé|adopté|adoptamos|terminé|acabé|contrataron|despidieron|ascendieron|murió|falleció|"
        r"nació|abrí|abrimos|cerré|cerramos|pasé|pasamos|cancelé|me saqué|comencé|jubilé|jubiló"
    ),
    lasting=(
        r"vivía|vivíamos|viví|vivimos|trabajaba|trabajé|trabajábamos|era|estaba|tenía|estudiaba|estudié|jugaba|alquilaba|usaba|tuve|estuve"
    ),
    over=r"en aquel entonces|en aquella época|por aquel entonces|antiguamente|en esa época|allá por|en su día|solía",
    values=(
        r"cumpleaños|cumple|nací|nacimiento|plazo|cita|vuelo|reunión|examen|entrevista|boda|aniversario|vence|"
        r"caduca|fecha límite|"
        r"entrega|salida|llegada|concierto|operación|turno|mudanza prevista|estreno|revisión"
    ),
    asks_before=(
        r"antes|anteriormente|anterior\w*|antiguamente|antigu[oa]s?|solía\w*|en el pasado|originalmente|"
        r"previamente|ya no"
    ),
    asks_now=r"ahora|actualmente|actual|hoy en día|todavía|aún|en este momento|ahorita",
)
