"""Text from elsewhere, made safe to print: a memory may come from someone else."""

from __future__ import annotations

import re

from rich.text import Text

# Control characters but tab and newline, which a terminal would obey, and half characters, which cannot be printed.
_UNPRINTABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


def clean(text: str) -> str:
    """Return ``text`` with a replacement character for each that is not safe to print."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def plain(text: str) -> Text:
    """``clean`` a text for tables: brackets and :names: in it are neither markup nor emoji."""
    return Text(clean(text))
