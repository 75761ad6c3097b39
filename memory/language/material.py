"""What stands in a message without being said by its sender: code, logs, quotations, the server's own memories.

Requests come with texts to work on. These are material: they are kept with the message, and tell nothing of its sender.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# As the server's prompts have it (engine/prompt.py); a client may send it back as a part of a message.
RECALLED_HEADING = "Memories of the user, in their own words:"
RECALLED_CLOSING = "Answer questions from these memories."
_RECALLED = re.compile(
    rf"^[ \t]*{re.escape(RECALLED_HEADING)}[ \t]*\n?(?:[ \t]*(?:-[^\n]*|  [^\n]*)?(?:\n|"
    rf"$))*?(?:[^\n]*{re.escape(RECALLED_CLOSING)}|(?=\n?[^-\s])|\Z)",
    re.MULTILINE,
)
_TAGGED = re.compile(
    r"<(?P<tag>memor(?:y|ies)|context|recalled?|relevant[_-]memories|retrieved|system[_-]?\w*|document|"
    r"documents|file|code|pre|log|quote|blockquote)\b[^>]*>.*?(?:</(?P=tag)>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_FENCED = re.compile(r"^[ \t]*(?P<fence>```+|~~~+).*?(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_FENCED_INLINE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)

_MACHINE = re.compile(
    r"""
    \s*(?:
      \d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d | \[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?\s+\S+[:\s\[] | \[\s*\d+\.\d+\]\s
      | \[\d{4}-\d\d-\d\d
      | (?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s+\w*\s*\d+\s+\d\d:\d\d:\d\d
      | \d{1,3}(?:\.\d{1,3}){3}\s+(?:-|\d|[A-Z]) | [IWEDF]/\w+ | [IWEF]\d{4}\s\d\d:
      | \[?(?:ERROR|WARN(?:ING)?|INFO|DEBUG|FATAL|CRITICAL|TRACE|NOTICE|SEVERE|PANIC|Warning|Error|error|warning
      |fatal|panic|FAILED|FAIL|PASSED)\]?\s*(?:[:\[(]|\s{2,}|\s-\s|\S+:\s)
      | (?:\w+\.)*[A-Z]\w*(?:Error|Exception|Warning|Failure|Interrupt|Fault)\b\s*(?::|\(|$) | (?:Uncaught
      |Unhandled|Caused\ by:?|During\ handling)\b
      | Traceback\ \(most\ recent | File\ "[^"]+",\ line\ \d+ | at\ [\w$.<>/]+(?:\(|\s\() | \s*\.{3}\ \d+\ more
      | goroutine\ \d+ | exit\ (?:status|code)\ \d+ | Process\ finished
      | npm\ (?:ERR!|WARN|error) | yarn\ (?:error|warn) | pip(?:3)?\ | pnpm\ | apt(?:-get)?\  | E:\ \w | W:\ \w
      | gyp\ ERR! | (?:\w+:\ )?command\ not\ found | \w*sh:\ (?:\d+:\ |line\ \d+:\ )?\S+: | make(?:\[\d+\])?:[ ]
      | cargo\ | error\[E\d+\]
      | [$%#>]\ \S | >>>\  | \w+@[\w.-]+:\S*[$\#] | (?:PS\ )?[A-Z]:\\\S* | sudo\  | git\ (?:rebase|push|pull
      |commit|clone|checkout|merge|stash|reset|log|status)\b | docker\ (?:run|build|ps|compose)\b | kubectl[ ]
      | curl\ -?\S | Segmentation\ fault | Killed$ | core\ dumped | Exit\ code | Collecting\ \S+$
      | Requirement\ already | Successfully\ installed | Normal\ +\w+\ + | Warning\ +\w+\ +
      | (?:def|class|import|from|return|async|await|func|fn|let|const|var|public|private|protected|static|void
      |package|using|namespace|elif|except|try|finally|switch|case|struct|enum|interface|typedef|template|export
      |yield|lambda|print|printf|raise|throw)\b[^.!?]*[(){};=:\[\]>]\s*(?:\#.*|//.*)?$
      | (?:from\ [\w.]+\ import|import\ [\w.{}*,\ ]+(?:;|$|\ from|\ as)) | (?:if|for|while|else|elif|with
      |switch)\b.*[:{]\s*$ | (?:if|for|while)\s*\(.*\) | \#include | \#!/ | @\w+(?:\(.*\))?$
      | (?:SELECT|INSERT\ INTO|UPDATE|DELETE\ FROM|CREATE\ (?:TABLE|INDEX|VIEW)|ALTER\ TABLE|DROP\ TABLE|FROM
      |WHERE|ORDER\ BY|GROUP\ BY|(?:LEFT|INNER|RIGHT|OUTER)\ JOIN|JOIN|LIMIT|HAVING|VALUES
      |WITH)\ (?=.*[\w,*;()='"\d])(?-i:(?=[^a-z]*\b[\w.*]+\b))
      | [{}()\[\];]+\s*,?\s*$ | [{\[]\s*["'{\[] | ["'][\w $-]+["']\s*:\s*\S | [\w.\[\]'"]+\s*(?:=|\+=|:=|<-|=>
      |==)\s*\S.* | [\w.]+\([^)]*\)\s*;?\s*(?:\#.*|//.*)?$ | </?\w+[^>]*> | <!DOCTYPE | //\s | /\*|\*/
      | --\s*\w+:?$ | \|.*\|\s*$ | [+-]{3}\s\S | @@\s | diff\ --git | index\ [0-9a-f]{7}
      | \d+\s+\| | \|\s | \s+\^+ | -->\s | ={3,} | -{3,}\s*$ | \w[\w.-]*/\S+:\d+ | \S+\.(?:py|js|ts|java|go|rs
      |cpp|c|h|rb|php|cs|kt|swift):\d+ | [0-9a-f]{8,}\s*$ | (?:\w+;){2,}\w* | (?:[\w.-]+,){4,}[\w.-]*$
      | [A-Z_]{3,}=\S+ | (?:GET|POST|PUT|DELETE|PATCH|HTTP/\d)\ ?\S* \ ?HTTP | HTTP/\d | (?:Host|User-Agent
      |Content-Type|Accept|Authorization):\s
      | [A-Za-z]+\s+\w+\s+\d+[smhd]\s+\(x\d+ | panic: | fatal: | remote: | hint: | CONFLICT\ \( | On\ branch[ ]
      | Your\ branch\ | Untracked\ files
    )
    """,
    re.VERBOSE,
)
_LINE_LOOKED_AT = 400
_INDENTED = re.compile(r"(?:\t| {4,})\S")
_SHELL_COMPLAINT = re.compile(
    r"\S+: (?:command not found|No such file or directory|Permission denied|not found)\b|^\S*sh: ", re.IGNORECASE
)
_LETTER = re.compile(r"[^\W\d_]")
# What a program complained of, in a line of the sender's: nothing is kept of it, nor of the few words before it.
_COMPLAINT = re.compile(
    r"(?:^[^.!?\n]{0,40}:\s*)?\b(?:\w{1,60}\.){0,6}[A-Z]\w{0,60}(?:Error|Exception): [^\n]*$", re.MULTILINE
)

_QUOTES = re.compile(
    r"\"[^\"\n]{2,}\"|“[^”]{2,}”|„[^“”\"]{2,}[“”\"]|«[^»]{2,}»|»[^«\n]{2,}«|「[^」]{2,}」|『[^』]{2,}』|"
    r"(?<![\w])‘[^’\n]{12,}’(?!\w)|(?<![\w'])'(?=\S)[^'\n]*(?:'\w[^'\n]*)*[^'\s]'(?!\w)|^>[^\n]*$",
    re.MULTILINE,
)
_QUOTE_WORDS = 4
_QUOTE_WIDE = 7
# Stands where a quotation was; no message has this character of the private use area.
QUOTED = "\ue000"
_PLACE = re.compile(f"{QUOTED}(\\d+){QUOTED}")
# The same for code that is to be remembered.
_CODE = "\ue001"
_CODE_PLACE = re.compile(f" ?{_CODE}(\\d+){_CODE}")
_SPOKEN = re.compile(
    r"\b(?:says?|said|saying|wrote|writes|written|claims?|claimed|told|tells|asked|asks|replied|answered|"
    r"shouted|yelled|whispered|texted|posted|tweeted|commented|quoted|quoting|reads?|sings?|sang|goes|"
    r"was like|screamed|mumbled|announced|declared|insists?|according to|"
    r"sagt\w*|schreibt|schrieb|meint\w*|behauptet\w*|steht|fragte|liest|dit|disait|a dit|écrit|écrivait|"
    r"prétend|répète|dice|dijo|decía|escribió|afirma|pone|repite|diz|disse|dizia|escreveu|"
    r"говорит|сказал\w*|написал\w*|пишет|утверждает|ответил\w*|повторяет|спросил\w*)\b|说|説|"
    r"写道|写着|喊|问道|回答|と言|って言|と書|と話|言って|라고|قال|قالت|يقول|تقول|كتب|كتبت",
    re.IGNORECASE,
)
# Words for texts of others, unless they are one's own: "my favourite line is ...".
_OF_OTHERS = re.compile(
    r"(?!(?:my|our|mein\w*|mon|ma|mi|meu|minha|мой|моя|我)\b)(?=.*(?:\b(?:quotes?|lyrics?|lines?|headline|"
    r"horoscope|sign|slogan|proverb|saying|review|comment|post|email|mail|message|article|caption|text|"
    r"poster|tweet|note|letter|ad|motto)\b|歌词|台词|歌詞|가사))",
    re.IGNORECASE,
)
_SPOKEN_COLON = re.compile(
    r"^[^:：\n]{0,60}\b(?:says|said|wrote|writes|claims|claimed|told me|replied|texted|posted|used to say|always says|"
    r"sagte|schrieb|meinte|a dit|a écrit|dijo|escribió|disse|escreveu|сказал\w*|написал\w*)\s*[:：]\s*\S|"
    r"^[^:：\n]{0,20}(?:说|写道|قال|قالت|كتب)\s*[:：]\s*\S",
    re.IGNORECASE,
)


def without_machine_text(text: str) -> str:
    """Return a message without the server's own memories, marked-up passages, code and logs."""
    text = _RECALLED.sub("", text) if RECALLED_HEADING in text else text
    if "<" in text:
        text = _TAGGED.sub("\n", text)
    if "```" in text or "~~~" in text:
        text = _FENCED_INLINE.sub("\n", _FENCED.sub("\n", text))
    text = _COMPLAINT.sub("", text)
    lines = text.split("\n")
    machine = [is_machine_line(line) for line in lines]
    if not any(machine):
        return text
    # What is indented or stands between such lines is of them.
    kept = [line for i, line in enumerate(lines) if not machine[i] and not _within(lines, machine, i)]
    return "\n".join(kept)


def with_code_marked(text: str, is_wanted: Callable[[str], bool]) -> tuple[str, list[str]]:
    """Return a text with its blocks of code replaced by marks where the line before one ``is_wanted``, and those
    blocks."""
    blocks: list[str] = []
    if "```" not in text and "~~~" not in text:
        return text, blocks

    def mark(match: re.Match[str]) -> str:
        before = match.string[: match.start()].rstrip().rpartition("\n")[2]
        if not is_wanted(before):
            return match.group()
        blocks.append(match.group().rstrip("\n"))
        return f"{_CODE}{len(blocks) - 1}{_CODE}\n"

    marked = _FENCED.sub(mark, text.replace(_CODE, ""))
    return re.sub(rf"\s*\n(?={_CODE}\d)", " ", marked), blocks


def with_code(sentence: str, blocks: list[str]) -> str:
    """Put blocks of code back where they were, on lines of their own."""
    return _CODE_PLACE.sub(lambda match: "\n" + blocks[int(match.group(1))], sentence)


def is_machine_line(line: str) -> bool:
    """Tell if a line is code, a line of a log, a command or what one printed."""
    line = line[:_LINE_LOOKED_AT]
    if not line.strip():
        return False
    return _MACHINE.match(line) is not None or _SHELL_COMPLAINT.search(line) is not None


def _within(lines: list[str], machine: list[bool], i: int) -> bool:
    near = machine[max(0, i - 2) : i] + machine[i + 1 : i + 3]
    if _INDENTED.match(lines[i]) or not _LETTER.search(lines[i]):
        return any(near)
    return any(machine[max(0, i - 1) : i]) and any(machine[i + 1 : i + 2])


def with_quotes_marked(text: str) -> tuple[str, list[str]]:
    """Return a text with its longer quotations replaced by marks, and the quotations."""
    quotes: list[str] = []

    def mark(match: re.Match[str]) -> str:
        quote = match.group()
        if quote.startswith(">"):
            return ""
        wide = re.search(r"[\u3040-\u9fff\uac00-\ud7af]", quote) is not None
        if len(quote) < _QUOTE_WIDE if wide else len(quote.split()) < _QUOTE_WORDS:
            return quote
        quotes.append(quote)
        end = quote[-2] if quote[-2] in ".!?…。！？" else ""
        rest = text[match.end() :].lstrip(" ")
        return f"{QUOTED}{len(quotes) - 1}{QUOTED}" + (end if not rest or rest[0].isupper() or rest[0] == "\n" else "")

    return _QUOTES.sub(mark, text.replace(QUOTED, "")), quotes


def with_quotes(sentence: str, quotes: list[str]) -> str:
    """Put quotations back where they were."""

    def back(match: re.Match[str]) -> str:
        quote = quotes[int(match.group(1))]
        after = sentence[match.end() : match.end() + 1]
        return quote[:-2] + quote[-1] if after and after == quote[-2] else quote

    return _PLACE.sub(back, sentence)


def is_quotation(sentence: str) -> bool:
    """Tell if a sentence, its quotations marked, gives the words of somebody else."""
    if _SPOKEN_COLON.match(sentence):
        return True
    if QUOTED not in sentence:
        return False
    frame = _PLACE.sub("", sentence)
    return _SPOKEN.search(frame) is not None or _OF_OTHERS.match(frame) is not None or not _LETTER.search(frame)
