"""Dates in German."""

from __future__ import annotations

from memory.language.dates.words.base import Words, forms

_LEAD = "(?:im|in|seit|bis|vor|nach|ab|anfang|mitte|von|für|vom)"


def _adjective(stem: str) -> str:
    return " ".join(stem + ending for ending in ("e", "en", "er", "es", "em"))


GERMAN = Words(
    code="de",
    months=forms(
        {
            "januar jänner jan": 1,
            "februar feber feb": 2,
            "märz maerz mär": 3,
            "april apr": 4,
            "mai": 5,
            "juni jun": 6,
            "juli jul": 7,
            "august aug": 8,
            "september sept sep": 9,
            "oktober okt": 10,
            "november nov": 11,
            "dezember dez": 12,
        }
    ),
    weekdays=forms(
        {"montag": 0, "dienstag": 1, "mittwoch": 2, "donnerstag": 3, "freitag": 4, "samstag sonnabend": 5, "sonntag": 6}
    ),
    near={
        "vorgestern": -2,
        "gestern": -1,
        "gestern abend": -1,
        "gestern morgen": -1,
        "gestern früh": -1,
        "letzte nacht": -1,
        "heute": 0,
        "heut": 0,
        "heute abend": 0,
        "heute morgen": 0,
        "heute früh": 0,
        "heute nacht": 0,
        "morgen": 1,
        "morgen früh": 1,
        "morgen abend": 1,
        "übermorgen": 2,
        "uebermorgen": 2,
        "vorvorgestern": -3,
    },
    units={
        "tag": "day",
        "tage": "day",
        "tagen": "day",
        "woche": "week",
        "wochen": "week",
        "monat": "month",
        "monate": "month",
        "monaten": "month",
        "monats": "month",
        "jahr": "year",
        "jahre": "year",
        "jahren": "year",
        "jahres": "year",
        "wochenende": "weekend",
    },
    steps=forms(
        {
            f"{_adjective('letzt')} {_adjective('vergangen')} {_adjective('vorig')}": -1,
            f"{_adjective('dies')} dies": 0,
            f"{_adjective('nächst')} {_adjective('naechst')} {_adjective('kommend')}": 1,
            _adjective("vorletzt"): -2,
            _adjective("übernächst"): 2,
        }
    ),
    numbers={
        **forms({"ein eine einem einer einen nem ner": 1, "zwei": 2, "drei": 3, "vier": 4, "fünf": 5, "sechs": 6}),
        **forms({"sieben": 7, "acht": 8, "neun": 9, "zehn": 10, "elf": 11, "zwölf": 12}),
        "ein paar": 3,
        "paar": 3,
    },
    lengths={"einem halben jahr": (6, "month"), "nem halben jahr": (6, "month"), "vierzehn tagen": (2, "week")},
    seasons={"frühling": 1, "frühjahr": 1, "sommer": 2, "herbst": 3, "winter": 0},
    feasts={
        "weihnachten": "christmas",
        "heiligabend": "christmas eve",
        "heilig abend": "christmas eve",
        "silvester": "new year's eve",
        "neujahr": "new year",
        "ostern": "easter",
        "ostersonntag": "easter",
        "ostermontag": "easter monday",
        "karfreitag": "good friday",
        "pfingsten": "pentecost",
        "valentinstag": "valentine",
        "halloween": "halloween",
        "dreikönig": "epiphany",
        "allerheiligen": "all saints",
    },
    templates=(
        r"(?:<dayname>,? (?:de[nmr] )?)?<day>\. ?<month>\.?,? <year>",
        r"(?P<late>ende) <month> <year>",
        r"<month> <year>",
        r"(?:<dayname>,? (?:de[nmr] )?)?<day>\. ?<month>",
        r"(?:<dayname>,? (?:de[nmr] )?)?(?<=am |em |en |is |um |er )<day>\. ?<mm>\.",
        r"<day>\. <step> <unit>",
        r"(?<!guten )(?<!schönen )(?<!am )(?<!jeden )(?<!tag )(?<!woch )(?<!der )<near>",
        r"(?P<ago>vor) (?:<n> <unit>|<length>)",
        r"(?P<ahead>in) (?:<n> <unit>|<length>)",
        r"(?P<ago>heute vor) (?:<n> <unit>)",
        r"<weekday> (?P<weeks>)<step> woche",
        r"(?P<weeks>)<step> woche(?: am)? <weekday>",
        r"(?P<yearly>)<step> jahr(?: im)? <month>",
        r"<month> (?P<yearly>)<step> jahres",
        r"<step> <weekday>(?:abend|morgen|nachmittag|mittag|vormittag|nacht)?",
        r"(?P<late>ende) (?:des |<step> )?<unit>",
        r"(?P<late>ende) <year>",
        r"(?P<late>ende) <month>",
        r"(?:im )?<season> <year>",
        r"<step> <season>",
        r"<step> <unit>",
        r"<step> <month>",
        r"(?:an|zu|über|nach|vor|seit|bis|ab|am|zum|nächste|letzte|dieses jahr) <feast>(?: <year>)?",
        r"(?:am|bis|ab|seit|vor|nach|zum|vom|kommt|auf|für|ist|de[nm]) <weekday>(?:abend|morgen|nachmittag|"
        r"mittag|vormittag|früh|nacht)?",
        r"<weekday> (?:früh|abend|morgen|nachmittag|mittag|vormittag|nacht)",
        r"<weekday>(?=\s+(?:um|ab|\d{1,2} uhr)(?!\w))",
        r"(?:^|(?<=[,;:.!?] ))<weekday>(?=,| (?:hab|habe|bin|war|geht|gehen|kommt|ist|muss|fahr|fahre|fahren)(?!\w))",
        rf"{_LEAD} <month>(?!\w)",
        rf"(?:{_LEAD}|im jahre?|damals|jahr) <year>(?!\s*(?:[€$%]|euro|stück|leute|km|kg)|[.,:]\d)",
        r"<year>(?=\s+(?:habe?n?|bin|war|waren|wohnte|lebte|sind|wurde|zog|kam|ging)(?!\w))",
        r"(?<=war |ich |bin |hab |abe |ren |ind |wir |rde )<year>(?!\s*(?:[€$%]|euro|stück|leute|km|kg|mal|uhr)|"
        r"[.,:]\d)",
        r"(?:am|zum|vom|ab dem|bis zum|seit dem|de[mn]|auf den|der) <day>\.(?!\s?\d)(?=\s*(?:$|[,;!?)]|"
        r"(?-i:[a-zäöü])))",
    ),
    letters="äöüß",
    triggers=frozenset(
        "im in seit bis vor nach ab am zum vom dem den der ende jahr jahre damals auf für von "
        "habe haben hab bin war waren sind ich wir wurde wohnte lebte zog kam ging".split()
    ),
    next_weekday_is_of_next_week=True,
    common=frozenset(
        "der die das und ich ist nicht ein eine mit auf für von am im zu den dem wir hab habe mein meine was "
        "wann wie er sie "
        "es bei auch noch war bin hat dass uns mir mich wo um aber zum ab hier".split()
    ),
    since="seit|seit dem|ab|ab dem|vom|beginnend",
    already="seit",
    until="bis|bis zum|bis ende|bis einschließlich",
    before="vor|vorm|vor dem",
    after="nach|nach dem",
    towards="auf|auf den|zum|für den|fällig am",
    past=(
        r"war|waren|warst|hatte|hatten|wurde|wurden|ging|gingen|kam|kamen|fuhr|fuhren|traf|sah|gab|fand|bekam|wohnte|lebte|"
        r"arbeitete|studierte|machte|kaufte|zog|gewesen|geworden|umgezogen|ausgezogen|eingezogen|angefangen|aufgehört|"
        r"gestartet|bekommen|verkauft|verloren|bestanden|besucht|passiert|erhalten|begonnen|ge\w{2,}(?<!hör)t|"
        r"(?:ab|an|auf|aus|ein|mit|um|weg|zu)ge\w{2,}(?:t|en)|"
        r"ge(?!nieß|fallen|winnen|hören|trennte|nau|ben|hen)\w{3,}en"
    ),
    future=(
        r"werde|werden|wird|wirst|ist|sind|muss|müssen|will|wollen|soll|sollen|kommt|kommen|geht|gehen|beginnt|beginnen|startet|fahre|"
        r"fahren|fliege|fliegen|treffe|treffen|steht|fällig|findet|habe? (?:ich )?(?:ein|einen|eine|nen|ne)|"
        r"haben wir (?:ein|einen|eine)|vor"
    ),
    present="ich|wir|er|sie|man|hab|habe|haben|hat",
    habit=r"jede[nrsm]?|immer|meistens|normalerweise|wöchentlich|üblicherweise|nie",
    changes=(
        r"umgezogen|gezogen|zog|angefangen|begonnen|gekauft|verkauft|gewechselt|gekündigt|geworden|geheiratet|getrennt|"
        r"aufgehört|eingezogen|ausgezogen|gestorben|gegründet|abgeschlossen|bestanden|eröffnet|beendet|bekommen|angenommen|"
        r"abgegeben|umgestiegen|abgemeldet|angemeldet|verlobt|geschieden|adoptiert"
    ),
    lasting=(
        r"wohnte|lebte|arbeitete|war|waren|hatte|hatten|studierte|gewohnt|gelebt|gearbeitet|studiert|gefahren|besaß|mietete|"
        r"spielte|gespielt"
    ),
    over=r"damals|früher|seinerzeit|ehemals|zu der zeit|in der zeit",
    values=(
        r"geburtstag|geboren|frist|abgabe|termin|flug|prüfung|klausur|hochzeit|hochzeitstag|treffen|fällig|"
        r"läuft ab|gültig|"
        r"vorstellungsgespräch|besprechung|arzttermin|operation|abflug|ankunft|konzert|deadline|verschoben|abgabetermin"
    ),
    asks_before=(
        r"früher\w*|vorher|zuvor|ehemals|ehemalige\w*|damals|ursprünglich|nicht mehr|vorige\w*|vormals|bisher|"
        r"alte[rsn]? "
        r"(?:adresse|nummer|job|arbeit)"
    ),
    asks_now=(
        r"jetzt|derzeit|aktuell\w*|momentan|zurzeit|zur zeit|heutzutage|im moment|gegenwärtig|noch immer|"
        r"immer noch"
    ),
)
