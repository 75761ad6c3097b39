"""Scripts: which texts are written without spaces between words, and lists of phrases."""

from __future__ import annotations

import re

# Han, Hiragana, Katakana and their full-width signs.
WIDE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9f"
_WIDE = re.compile(f"[{WIDE}]")


def is_wide(text: str) -> bool:
    """Tell if a text has characters of a script without spaces between words."""
    return _WIDE.search(text) is not None


def joined(table: str) -> list[str]:
    """Return the phrases of a table: one per line or between bars."""
    return [phrase.strip() for line in table.splitlines() for phrase in line.split("|") if phrase.strip()]


def any_of(table: str) -> str:
    """Return a group that matches any of the expressions of a table (one per line), the first that does. A line that
    begins with "+ " goes on with the one before."""
    lines: list[str] = []
    for line in map(str.strip, table.splitlines()):
        if line.startswith("+ "):
            lines[-1] += line[2:]
        elif line:
            lines.append(line)
    return f"(?:{'|'.join(lines)})"
