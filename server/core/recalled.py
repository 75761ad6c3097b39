"""Recalled memories in what is said: they are known already, and are not remembered again."""

from __future__ import annotations

import json
import re

from engine.prompt import CLOSING, HEADING

_BEGIN, _END = HEADING.strip(), CLOSING
_QUOTE = r"[ \t]*(?:>[ \t]?)*"
# A block from its heading to its closing line, also where its lines were joined; no other one begins in it.
_INSIDE = rf"(?:[^{_BEGIN[0]}{_END[0]}]++|(?!{re.escape(_BEGIN)}|{re.escape(_END)}).)*+"
_WHOLE = re.compile(rf"(?:^{_QUOTE})?{re.escape(_BEGIN)}{_INSIDE}{re.escape(_END)}", re.DOTALL | re.MULTILINE)
_QUOTED = re.compile(rf"^{_QUOTE}")
_ITEM = re.compile(rf"{_QUOTE}- ")
_FURTHER = re.compile(rf"{_QUOTE}  \S")
# The frames that plugins of mem0 and MemOS put recalled memories into, with what MemOS's writes before the question.
_FRAMES = re.compile(
    r"<(relevant[-_]memories|recalled[-_]memories)>(?:[^<]++|<(?!/?\1>))*+</\1>"
    r"|<memories>\s*<facts>(?:[^<]++|<(?!/?memories>))*+</memories>"
    r"(?:\s*```)?(?:\s*user\u200b原\u200b始\u200bquery\u200b：\u200b*)?"
)


def without_recalled(text: str, role: str = "user") -> str:
    """Give what a message says beside memories that were recalled for it: blocks as prompts have them, whole or cut,
    frames of plugins, and (``role`` tool) replies of this project's own tools."""
    if role == "tool" and _is_reply(text):
        return ""
    if "emories" not in text:
        return text
    rest = _without_cut_blocks(_WHOLE.sub("", _FRAMES.sub("", text)))
    return text if rest == text else rest.strip()


def _without_cut_blocks(text: str) -> str:
    """Take out blocks that lack their beginning or their end, as far as lines are their items."""
    if _BEGIN not in text and _END not in text:
        return text
    kept: list[str] = []
    in_block = after_blank = False
    for line in text.splitlines():
        bare = _QUOTED.sub("", line)
        if _BEGIN in line:
            before, rest = bare.split(_BEGIN, 1)
            in_block, after_blank = True, False
            kept.append(before if not rest.strip() or _is_part(rest) else before + rest)
            continue
        if _END in line and (bare.startswith(_END) or _is_part(line)):
            in_block = False
            while kept and _is_part(kept[-1]):
                kept.pop()
            kept.append(bare.split(_END, 1)[1])
            continue
        blank = not bare.strip()
        in_block = in_block and (blank or _is_part(line, item=not after_blank))
        after_blank = blank
        if not in_block:
            kept.append(line)
    return "\n".join(kept)


def _is_part(line: str, *, item: bool = True) -> bool:
    return bool(_FURTHER.match(line) or (item and _ITEM.match(line)))


def _is_reply(text: str) -> bool:
    """Say whether a tool's result is what the tools of ``recallkv mcp`` return of memories."""
    try:
        reply = json.loads(text)
        memories = reply.get("memories", [reply])
        return all(memory["id"].startswith("mem_") and "text" in memory for memory in memories)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
