"""Text from elsewhere, made safe to print."""

from __future__ import annotations

from rich.text import Text


def plain(text: str) -> Text:
    """``text`` as it stands: no markup, no emoji names, and nothing that a terminal would obey (a memory may come
    from someone else)."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text))
