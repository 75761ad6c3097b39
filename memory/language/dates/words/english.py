"""Dates in English."""

from __future__ import annotations

from memory.language.dates.words.base import Words, forms

MONTHS = "january february march april may june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()

_MONTHS = {month: i for i, month in enumerate(MONTHS, start=1)}
_MONTHS |= forms({"jan": 1, "feb": 2, "mar": 3, "apr": 4, "jun": 6, "jul": 7, "aug": 8, "sep sept": 9, "oct": 10})
_MONTHS |= forms({"nov": 11, "dec": 12})
_WEEKDAYS = {day: i for i, day in enumerate(DAYS)}
_WEEKDAYS |= forms({"mon": 0, "tue tues": 1, "wed weds": 2, "thu thur thurs": 3, "fri": 4})
_ORDINAL = "(?:st|nd|rd|th)"
# What follows a number that is no day: "we march 20 km".
_NO_UNIT = (
    r"(?!\s*(?:km|kms|k|kg|g|m|mm|cm|mi|miles?|kilomet\w+|met\w+|feet|ft|steps?|people|times|minutes?|mins?|hours?|hrs?|"
    r"days|weeks|months|years|percent|pages|euros?|dollars?|pounds?|more|of them|other|or|to|men|women)(?!\w)|"
    r"\s*[%€$£]|"
    r"[-–.,:]?\d)"
)
# "march" and "may" are verbs too, where they have no capital and nothing beside them makes a month of them.
_NO_VERB = r"(?!(?-i:ma(?:y|rch))(?!\w))"
_NO_VERB_BEHIND = r"(?<!(?-i:march))(?<!(?-i:may))"
_LEAD = "(?:in|since|during|until|till|before|after|of|by|from|for|late|early|mid)"
_AT = "(?:at|on|over|for|by|until|till|before|after|since|around|during|this|come)"
_THE_DAY = (
    rf"(?<!\w)(?:so|on|by|until|till|before|after|since|from|to|for|it's|is|it’s|be) the (?P<day>\d{{1,2}}){_ORDINAL}"
    r"(?=\s*(?:$|[.,;:!?)]|(?:is|was|at|and|or|instead|then|because|i|we|for|to|that|if|works|it|he|she|they|my|our|"
    r"from|with|as|not|the \d+)(?!\w)))"
)

ENGLISH = Words(
    code="en",
    months=_MONTHS,
    weekdays=_WEEKDAYS,
    near={
        "the day before yesterday": -2,
        "day before yesterday": -2,
        "the day after tomorrow": 2,
        "day after tomorrow": 2,
        "yesterday": -1,
        "last night": -1,
        "today": 0,
        "tonight": 0,
        "this morning": 0,
        "this afternoon": 0,
        "this evening": 0,
        "tomorrow": 1,
        **{f"yesterday {part}": -1 for part in ("morning", "afternoon", "evening", "lunchtime")},
        **{f"tomorrow {part}": 1 for part in ("morning", "afternoon", "evening", "night", "lunchtime")},
        "tmrw": 1,
        "tmr": 1,
    },
    units={
        "day": "day",
        "days": "day",
        "week": "week",
        "weeks": "week",
        "month": "month",
        "months": "month",
        "year": "year",
        "years": "year",
        "yr": "year",
        "yrs": "year",
        "wk": "week",
        "wks": "week",
        "weekend": "weekend",
        "fortnights": "week",
    },
    steps={
        "last": -1,
        "past": -1,
        "this past": -1,
        "this": 0,
        "this coming": 1,
        "coming": 1,
        "next": 1,
        "previous": -1,
    },
    numbers={
        **{word: n for n, word in enumerate("one two three four five six seven eight nine ten".split(), start=1)},
        "eleven": 11,
        "twelve": 12,
        "a": 1,
        "an": 1,
        "a couple of": 2,
        "couple of": 2,
        "a couple": 2,
        "a few": 3,
        "few": 3,
    },
    lengths={
        "a fortnight": (2, "week"),
        "fortnight": (2, "week"),
        "half a year": (6, "month"),
        "a decade": (10, "year"),
    },
    seasons={"spring": 1, "summer": 2, "autumn": 3, "fall": 3, "winter": 0},
    feasts={
        "christmas day": "christmas",
        "christmas": "christmas",
        "xmas": "christmas",
        "christmas eve": "christmas eve",
        "boxing day": "boxing day",
        "new year's eve": "new year's eve",
        "new year’s eve": "new year's eve",
        "new years eve": "new year's eve",
        "nye": "new year's eve",
        "new year's day": "new year",
        "new year’s day": "new year",
        "new years day": "new year",
        "halloween": "halloween",
        "valentine's day": "valentine",
        "valentine’s day": "valentine",
        "valentines day": "valentine",
        "good friday": "good friday",
        "easter monday": "easter monday",
        "easter sunday": "easter",
        "easter": "easter",
        "whitsun": "pentecost",
        "pentecost": "pentecost",
        "thanksgiving": "thanksgiving",
        "all saints' day": "all saints",
        "epiphany": "epiphany",
    },
    templates=(
        rf"(?:<dayname>,? (?:the )?)?<day>{_ORDINAL}? (?:of )?<month>\.?,? (?:of )?<year>",
        rf"(?:<dayname>,? )?<month>\.? (?:the )?<day>{_ORDINAL}?,? <year>",
        r"(?:the )?(?P<late>end) of <month>,? (?:of )?<year>",
        r"<month>\.?,? (?:of )?<year>",
        rf"(?:<dayname>,? )?(?:the )?<day>{_ORDINAL}? (?:of )?<month>",
        rf"(?:<dayname>,? )?(?:the )?<day>{_ORDINAL} of (?:the )?<step> month",
        rf"(?:<dayname>,? )?<month>{_NO_VERB_BEHIND}\.? (?:the )?<day>{_ORDINAL}?{_NO_UNIT}",
        rf"(?:<dayname>,? )?(?<=on )<month> <day>{_ORDINAL}?{_NO_UNIT}",
        rf"<month> (?:the )?<day>{_ORDINAL}",
        r"<near>",
        r"(?:<n> <unit>|<length>) (?P<ago>ago|back|earlier)(?! to| on| at)",
        r"(?P<ahead>in|within) (?:<n> <unit>|<length>)(?:[’']?s?[’'] time)?(?! of| or)",
        r"(?:<n> <unit>|<length>) (?P<ahead>from now|from today|hence)",
        r"(?P<plus>a week) (?:on|from) <weekday>",
        r"<weekday> (?P<plus>week)(?!\w|\s?end)",
        r"<weekday>(?: of)? (?P<weeks>)<step> week",
        r"(?P<weeks>)<step> week(?: on)? <weekday>",
        r"(?:the )?(?P<late>end) of (?:the |<step> )?<unit>",
        r"(?:the )?(?P<late>end) of <year>",
        r"<month> (?P<yearly>)<step> year",
        rf"<step> (?:<unit>|<weekday>|{_NO_VERB}<month>)",
        r"(?P<step>last|next) <month>(?! (?:be|have|not|well|come|to)(?!\w))",
        r"<season> (?:of )?<year>",
        r"<season> (?P<yearly>)<step> year",
        r"<step> <season>",
        r"(?:(?P<next_day>the day after|day after)|(?P<eve>the day before|day before)) <feast>(?: <year>)?",
        r"<feast> <year>",
        r"(?:^|(?<=[,;:.!?] ))<feast>(?= (?:i|we|he|she|they|my|our)(?:['’]\w+)?(?!\w))",
        r"<step> <feast>",
        rf"(?<!\w){_AT} <feast>(?! (?:day|party|dinner|present|presents|gift|gifts|card|cards|tree|market|songs?|"
        rf"lights))",
        r"(?:on|by|until|till|before|after|since|from|for|come|to|due) (?:the )?<weekday>",
        r"<weekday> (?:morning|afternoon|evening|night|lunchtime|noon)",
        r"<weekday>(?=\s+(?:at|the \d{1,2}(?:st|nd|rd|th)|\d{1,2}\s?[ap]m)(?!\w))",
        r"(?:^|(?<=[,;:.!?] ))<weekday>(?=,| (?:i|we|it|he|she|they|my|our|is|works)(?!\w))",
        r"(?:is|was|it['’]s) <weekday>",
        rf"{_LEAD} <month>(?!\w)",
        rf"(?:{_LEAD}|back in|since the end of) <year>(?!\s*(?:[€$£%]|euros?|dollars?|pieces|people|km|kg|"
        rf"m(?!\w))|[.,:]\d)",
        _THE_DAY,
    ),
    triggers=frozenset("in since during until till before after of by from for st nd rd th back end".split()),
    month_first=True,
    next_weekday_is_of_next_week=True,
    common=frozenset(
        "the i a to and is in it my you of for that on with was we at have do me this be are what did not so can t s m "
        "re ve ll our they she he when where who how will had an as but if from your".split()
    ),
    since="ever since|since|starting|starting on|starting from|as of|from",
    already="since",
    until="until the end of|until|till|til|up to|up until",
    before="before|prior to|by",
    after="after|later than",
    towards="to|for|due|due on|due by|scheduled on|booked on",
    past=(
        r"was|were|did|didn['’]?t|wasn['’]?t|weren['’]?t|had(?! to)|went|met|saw|came|took|made|gave|said|told|"
        r"thought|knew|felt|found|"
        r"left|lost|paid|sold|bought|brought|taught|caught|fell|flew|drove|rode|ran|swam|sang|wrote|read it|ate|"
        r"drank|slept|"
        r"woke|spoke|broke|chose|grew|threw|began|became|built|sent|spent|kept|held|stood|understood|won|wore|quit|hurt|"
        r"cut my|put|froze|hid|bit|blew|dug|drew|fed|fought|forgot|hung|laid|led|lent|lit|meant|rang|rose|sank|"
        r"shook|shot|stole|"
        r"struck|stuck|swore|tore|beat|hit|let|set|shut|split|lay|slid|spun|sat|(?<!ve )(?<!to )got|born|"
        r"used to|back (?:in|on)|"
        r"(?!(?:book|schedul|plan|arrang|reserv|invit|mov|postpon|reschedul|expect|suppos)\w*ed)"
        r"(?<!be )(?<!is )(?<!are )(?<!am )(?<!'m )(?<!’m )(?<!'s )(?<!get )(?<!getting )[a-z]{2,}(?<!e)(?<!ne)ed"
    ),
    future=(
        r"will|won['’]?t|(?:i|we|you|he|she|they|it|that|there)['’]ll|going to|gonna|shall|am|are|is|i['’]?m|"
        r"we['’]re|it['’]s|"
        r"(?:have|has|need|got|gotta|want) to|have (?:a|an|my|the)|has (?:a|an|his|her|the)|plans?|due|starts|"
        r"begins|ends|leaves|"
        r"comes|arrives|tbd|see you|can|could you|gets|getting|should|must|remind|let['’]?s|moved to|moved from|"
        r"expires|appointment is"
    ),
    present="i|we|they|he|she|you|who",
    habit=r"every|each|always|usually|normally|never|mostly|weekly|typically|generally",
    changes=(
        r"moved(?! to (?:mon|tues|wednes|thurs|fri|satur|sun)day)|started|began|joined|bought|sold|switched|"
        r"quit|got|became|married|"
        r"changed|adopted|left|retired|graduated|divorced|engaged|hired|fired|promoted|split up|broke up|"
        r"cancelled|canceled|"
        r"stopped|gave up|signed|opened|closed|founded|replaced|upgraded|migrated|passed|died|turned|settled|"
        r"bought|swapped|"
        r"traded|finished|ended|born|took over|took up|dropped|enrolled|registered|subscribed|unsubscribed|renamed"
    ),
    lasting=(
        r"lived|worked|was|were|had|studied|owned|drove|stayed|rented|used to|played|attended|taught|dated|"
        r"weighed|earned|"
        r"belonged|loved|liked|hated|preferred|used|kept|shared|wore|spoke|practised|practiced|trained|ran a|served"
    ),
    over=r"back in|back then|back when|used to|formerly|in those days|at the time|at that time|previously",
    values=(
        r"birthday|birthdate|b-day|bday|born|deadline|due|appointment|flight|meeting|exam|interview|wedding|anniversary|"
        r"expires|expiry|expiration|valid|start date|end date|date of birth|arrival|departure|check-in|concert|surgery|"
        r"booked|scheduled|reserved|rescheduled|postponed|release date|delivery|reservation|launch|party is|"
        r"is on|is for"
    ),
    asks_before=(
        r"before|previous(?:ly)?|former(?:ly)?|used? to|earlier|originally|in the past|no longer|back then|"
        r"beforehand|once had"
    ),
    asks_now=r"now|nowadays|current(?:ly)?|at the moment|these days|right now|still|at present|presently",
)
