"""Dates in French."""

from __future__ import annotations

from memory.language.dates.words.base import Words, forms

_DAY = r"<day>(?:er)?"
_LEAD = "(?:en|depuis|avant|après|dès|début|fin|mi|jusqu['’]en|courant|de|pour)"
_PART = "(?:matin|soir|midi|après-midi)"

FRENCH = Words(
    code="fr",
    months=forms(
        {
            "janvier janv": 1,
            "février fevrier févr": 2,
            "mars": 3,
            "avril avr": 4,
            "mai": 5,
            "juin": 6,
            "juillet juil": 7,
            "août aout": 8,
            "septembre sept": 9,
            "octobre oct": 10,
            "novembre nov": 11,
            "décembre decembre déc": 12,
        }
    ),
    weekdays=forms({"lundi": 0, "mardi": 1, "mercredi": 2, "jeudi": 3, "vendredi": 4, "samedi": 5, "dimanche": 6}),
    near={
        "avant-hier": -2,
        "avant hier": -2,
        "hier": -1,
        "hier soir": -1,
        "cette nuit": 0,
        "aujourd'hui": 0,
        "aujourd’hui": 0,
        "ce soir": 0,
        "ce matin": 0,
        "cet après-midi": 0,
        "demain": 1,
        "demain soir": 1,
        "demain matin": 1,
        "après-demain": 2,
        "après demain": 2,
        "apres demain": 2,
    },
    units={
        "jour": "day",
        "jours": "day",
        "semaine": "week",
        "semaines": "week",
        "mois": "month",
        "an": "year",
        "ans": "year",
        "année": "year",
        "années": "year",
        "week-end": "weekend",
        "weekend": "weekend",
    },
    steps=forms(
        {
            "dernier dernière derniere passé passée": -1,
            "ce cet cette": 0,
            "prochain prochaine suivant suivante": 1,
        }
    )
    | {"qui vient": 1},
    numbers={
        **forms(
            {"un une": 1, "deux": 2, "trois": 3, "quatre": 4, "cinq": 5, "six": 6, "sept": 7, "huit": 8, "neuf": 9}
        ),
        "dix": 10,
        "onze": 11,
        "douze": 12,
        "quelques": 3,
    },
    lengths={
        "quinze jours": (2, "week"),
        "une quinzaine": (2, "week"),
        "huit jours": (1, "week"),
        "six mois": (6, "month"),
        "une quinzaine de jours": (2, "week"),
        "une dizaine de jours": (10, "day"),
    },
    seasons={"printemps": 1, "été": 2, "automne": 3, "hiver": 0},
    feasts={
        "noël": "christmas",
        "noel": "christmas",
        "la veille de noël": "christmas eve",
        "pâques": "easter",
        "paques": "easter",
        "le lundi de pâques": "easter monday",
        "la pentecôte": "pentecost",
        "pentecôte": "pentecost",
        "la saint-sylvestre": "new year's eve",
        "le réveillon": "new year's eve",
        "le nouvel an": "new year",
        "nouvel an": "new year",
        "la saint-valentin": "valentine",
        "la toussaint": "all saints",
        "halloween": "halloween",
    },
    templates=(
        rf"(?:<dayname> )?{_DAY} <month>\.? <year>",
        r"(?P<late>fin) <month> <year>",
        r"<month> <year>",
        rf"(?:<dayname> )?{_DAY} <month>(?: <step>)?",
        rf"<dayname> {_DAY}(?! heures?|h\d| ans| euros)(?=\W|$)",
        r"<near>",
        r"(?P<ago>il y a) (?:<n> <unit>|<length>)",
        r"(?P<ahead>dans) (?:<n> <unit>|<length>)",
        r"d['’](?P<ahead>ici) (?:<n> <unit>|<length>)",
        r"<weekday> de la semaine (?P<weeks>)<step>",
        r"<month> (?:de )?l['’](?P<yearly>)(?:an|année) <step>",
        rf"(?:<weekday>|(?:le |l['’]|la )?<unit>|<month>)(?: {_PART})? <step>",
        r"(?P<late>fin) <year>",
        r"(?P<late>fin) <month>",
        r"(?P<late>(?:à la |la )?fin) (?:de l['’]|du |de la )<unit>",
        r"<step> (?:<unit>|<weekday>)(?:-ci)?",
        r"(?:l['’]|le |au |à l['’]|en |du |de l['’]|cet |ce |cette )?<season> (?:de )?<year>",
        r"(?:l['’]|le |au |à l['’])?<season> <step>",
        r"<season> de (?P<yearly>)l['’]an(?:née)? <step>",
        r"<step> <season>",
        r"(?:à|a|pour|avant|après|depuis|dès|au|vers) (?:la |le )?<feast>(?: <year>)?",
        r"(?<!le )(?<!les )(?<!chaque )(?<!tous les )(?<!un )<weekday>(?: (?:matin|soir|midi|après-midi))?",
        rf"{_LEAD} <month>(?!\w)",
        rf"(?:{_LEAD}|en l['’]an|l['’]année) <year>(?!\s*(?:[€$%]|euros?|km|kg|personnes)|[.,:]\d)",
        rf"(?:le|au|du|c['’]est le|dès le|avant le|après le|jusqu['’]au) {_DAY}(?=\s*(?:$|[.,;:!?)]|(?:à|et|au|"
        rf"j['’]|je|on|c['’]|pour|"
        r"il|elle|nous|chez|avec|mon|ma|finalement|du mois)))",
    ),
    letters="èêàùçœ",
    triggers=frozenset("en depuis avant après dès le au du début fin jusqu de pour année".split()),
    common=frozenset(
        "le la les et je j est un une des du en dans pour pas que qui ce c il elle on nous vous mon ma mes au "
        "avec sur ai suis "
        "a à chez quand qu l d sont ont été fait".split()
    ),
    since="depuis|à partir|depuis que|à partir d[ue]|dès|à compter d[ue]",
    already="depuis",
    until="jusqu['’]au|jusqu['’]à|jusqu['’]en|jusqu['’]à la fin de|jusque",
    before="avant|avant la fin de",
    after="après",
    towards="au|pour le|pour|prévu le|prévue le|reporté au|décalé au",
    past=(
        r"(?:ai|as|a|avons|avez|ont|m['’]a|j['’]ai|l['’]a|t['’]a) (?:\w+ )?(?!rendez)\w+(?:é|ée|és|ées|is|it|u|"
        r"us|ue|ert|aint|oint)|"
        r"(?:suis|es|est|sommes|êtes|sont) (?:\w+ )?(?:allé|venu|parti|arrivé|né|mort|tombé|sorti|entré|rentré|"
        r"resté|passé|devenu|"
        r"retourné|descendu|monté|revenu)\w{0,2}|étais|était|étaient|étions|avais|avait|avaient|avions|allais|allait|"
        r"(?!souhait|parfait|portrait|retrait|extrait|contrait)\w{4,}(?:ait|aient)|fus|fut|me suis \w+|"
        r"s['’]est \w+|on s['’]est \w+"
    ),
    future=(
        r"vais|vas|va|allons|allez|vont|dois|doit|devons|faut|prévu|prévue|aura|aurai|sera|serai|serons|\w{2,}(?:erai|irai|erons|irons|"
        r"eront|iront|era|ira)|ai rendez-vous|ai rdv|commence|commençons|pars|part|partons|c['’]est|est|passe|"
        r"arrive|on a|j['’]ai un|j['’]ai une|fête|déjeune|dîne"
    ),
    present="je|j|on|nous|il|elle|ils|elles|tu|vous",
    habit=r"chaque|tous|toutes|toujours|d['’]habitude|généralement|jamais",
    changes=(
        r"déménagé|emménagé|commencé|acheté|vendu|changé|quitté|arrêté|marié|mariée|divorcé|signé|adopté|pris|résilié|reçu|obtenu|"
        r"devenu|devenue|rompu|fiancé|inscrit|inscrite|embauché|embauchée|démissionné|remplacé|ouvert|fermé|lancé|terminé|fini|passé|né|née|mort|morte"
    ),
    lasting=(
        r"habitais|habitait|vivais|vivait|travaillais|travaillait|étais|était|étions|avais|avait|avions|habité|vécu|travaillé|étudiais|"
        r"étudié|louais|jouais|possédais"
    ),
    over=r"à l['’]époque|autrefois|jadis|à ce moment-là|auparavant|dans le temps",
    values=(
        r"anniversaire|née?(?! le bébé)|échéance|rendez-vous|rdv|vol|réunion|examen|entretien|mariage|expire|"
        r"valable|date limite|départ|"
        r"arrivée|concert|opération|prévue?|décalée?|reportée?|avancée?|rendre|partiel|oral|livraison"
    ),
    asks_before=(
        r"avant|auparavant|autrefois|jadis|précédemment|précédent\w*|ancien\w*|à l['’]origine|"
        r"dans le passé|ne plus|d['’]avant"
    ),
    asks_now=r"maintenant|actuellement|actuel\w*|en ce moment|de nos jours|toujours|encore|à présent",
)
