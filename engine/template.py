"""A model's chat template, which is shown of what people say only what cannot pass for a mark of its own."""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from engine.base import ChatMessage, ToolCall, Tools
from engine.control import ControlTokens, Run, any_of

# Whatever a template does to contents, beside cutting them at their ends, would show in this one.
_PROBE = 'aZ <x y="1">&amp; it\'s `q` \\ |p|\n\n  - b\tü≠ﬁ {{ 1 }} {% x %} 0'
_CUTS = re.compile(r"""(?:split|replace|partition)\(\s*(?:'([^']+)'|"([^"]+)")""")
_LINE = r"(?:^|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029])[ \t]*"
_BRACKETS = re.compile(r"[<\[{(|].*[>\]})|]")

Turn = dict[str, Any]
Show = Callable[[str], str]


class Hidden:
    """Texts of one prompt that its template is not shown. It is given digits for them, which nobody can guess and which
    templates leave as they are."""

    _SECRET = f"{secrets.randbelow(10**24):024d}"
    PLACE = re.compile(_SECRET + r"(\d{9})")

    def __init__(self) -> None:
        self.texts: list[str] = []

    def put(self, text: str) -> str:
        """Hide a text; the digits that stand for it."""
        self.texts.append(text)
        return f"{self._SECRET}{len(self.texts) - 1:09d}"

    def split(self, text: str) -> list[str | int]:
        """Split a template's text into strings, and indices of hidden texts where they stand."""
        parts: list[str | int] = list(self.PLACE.split(text))
        parts[1::2] = [int(index) for index in parts[1::2]]
        return parts

    def run(self, part: str | int) -> Run:
        """One of those parts, as it is to be tokenised."""
        return Run(self.texts[part], said=True) if isinstance(part, int) else Run(part)


class ChatTemplate:
    """The chat template of a tokenizer, and what it does to contents, learnt from its source and by trying it."""

    def __init__(self, tokenizer: Any, control: ControlTokens) -> None:
        self._tokenizer = tokenizer
        self._control = control
        cuts = {one or other for one, other in _CUTS.findall(str(tokenizer.chat_template))}
        self._cuts = any_of(cuts) if (cuts := {cut for cut in cuts if cut.strip()}) else None
        self._thoughts = any_of(cut for cut in cuts if cut in control.ids)
        self._rewrites = self._tried([_PROBE] * 3).count(_PROBE) < 3
        self._text_marks = self._find_text_marks()
        # Then a content that is harmless needs no second look.
        unseen = any(not control.may_begin_in(cut) for cut in cuts)
        self._is_plain = not (self._rewrites or unseen or self._text_marks or control.normalizes)

    def shown(
        self, messages: Sequence[ChatMessage], tools: Tools | None, hidden: Hidden
    ) -> tuple[list[Turn], list[Any] | None]:
        """The messages and functions as the template may see them: what could pass for marks is ``hidden``. Raises
        ``ValueError`` for JSON that is nested too deeply."""
        try:
            functions = None if tools is None else self._shown_json(tools.functions, hidden)
            show = self._shower(hidden)
            show_answer = show
            thinks = any(m.role == "assistant" and self._thoughts.search(m.content) for m in messages)
            if thinks and self._takes_out_thoughts(messages, functions):
                show_answer = functools.partial(self._around_thoughts, show=show)
            turns = [self._turn(m, hidden, show_answer if m.role == "assistant" else show) for m in messages]
        except RecursionError as error:
            raise ValueError("the functions or their arguments are nested too deeply") from error
        return turns, functions

    def text(self, turns: Sequence[Turn], functions: list[Any] | None = None) -> str:
        """The template's text, ready for generation. Raises ``ValueError`` when it refuses the messages."""
        try:
            return self._apply(turns, functions)
        except (TemplateError, TypeError, KeyError, RecursionError) as error:
            if not turns or turns[0]["role"] != "system":
                raise _refusal(error) from error
        try:  # templates without a system role take its text at the head of the first turn
            return self._apply(_without_system(turns), functions)
        except (TemplateError, TypeError, KeyError, RecursionError) as error:
            raise _refusal(error) from error

    def with_broken_marks(self, text: str) -> str:
        """Break up marks of the template that are plain text (``### Response:``), by a space before their last
        character."""
        if self._text_marks is None:
            return text
        return self._text_marks.sub(lambda mark: f"{mark[0][:-1]} {mark[0][-1]}", text)

    # -- what is shown ---------------------------------------------------------------------------------------

    def _turn(self, message: ChatMessage, hidden: Hidden, show: Show) -> Turn:
        turn: Turn = {"role": message.role, "content": show(message.content)}
        if message.tool_call_id is not None:
            turn["tool_call_id"] = self._shown_json(message.tool_call_id, hidden)
        if message.tool_calls:
            turn["tool_calls"] = [self._call(call, hidden) for call in message.tool_calls]
        return turn

    def _call(self, call: ToolCall, hidden: Hidden) -> Turn:
        name, arguments = self._shown_json([call.name, _arguments(call)], hidden)
        return {
            "id": self._shown_json(call.id, hidden),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }

    def _shower(self, hidden: Hidden) -> Show:
        """Hide what could pass for a mark in a message's content."""

        def show(text: str) -> str:
            if self._is_plain and self._control.harmless(text):
                return text
            text = self.with_broken_marks(text)
            if self._rewrites or self._makes_names(text):
                return _around_body(text, hidden.put)
            parts = self._control.parts_in(text)
            return _with_hidden(text, parts, hidden) if parts else text

        return show

    def _shown_json(self, value: Any, hidden: Hidden) -> Any:
        """A JSON value, whose strings the template may print as JSON. What it may look for in functions (the names of
        their fields, say) it finds."""
        if isinstance(value, dict):
            return {self._shown_json(name, hidden): self._shown_json(field, hidden) for name, field in value.items()}
        if isinstance(value, list | tuple):
            return [self._shown_json(item, hidden) for item in value]
        if not isinstance(value, str):
            return value
        text = self.with_broken_marks(value)
        if self._makes_names(text) or (self._rewrites and self._control.may_begin_in(text)):
            return _around_body(text, lambda body: hidden.put(json.dumps(body, ensure_ascii=False)[1:-1]))
        parts = self._control.parts_in(text, within=False)
        return _with_hidden(text, parts, hidden) if parts else text

    def _makes_names(self, text: str) -> bool:
        """Names may come out of a text when the tokenizer normalises it, or the template takes something out."""
        if self._control.named_when_normalized(text):
            return True
        cuts = self._cuts
        return cuts is not None and bool(cuts.search(text)) and bool(self._control.pattern.search(cuts.sub("", text)))

    # -- thoughts --------------------------------------------------------------------------------------------

    def _around_thoughts(self, text: str, show: Show) -> str:
        """Leave the marks of thoughts (``</think>``) as they are, for a template that takes them out itself."""
        marks = self._thoughts.findall(text)
        first, *parts = [show(part) if part else "" for part in self._thoughts.split(text)]
        return first + "".join(mark + part for mark, part in zip(marks, parts, strict=True))

    def _takes_out_thoughts(self, messages: Sequence[ChatMessage], functions: list[Any] | None) -> bool:
        """Try whether the template leaves no mark of thoughts in what the assistant said: seen or not, they make the
        same control tokens, or no mark is where it was."""
        hidden = Hidden()

        def rendered(show: Show) -> str:
            turns = [self._turn(m, hidden, show if m.role == "assistant" else hidden.put) for m in messages]
            return self.text(turns, functions)

        seen = rendered(functools.partial(self._around_thoughts, show=hidden.put))
        if self._control.pattern.findall(seen) == self._control.pattern.findall(rendered(hidden.put)):
            return True
        mark, place = self._thoughts.pattern, hidden.PLACE.pattern
        return re.search(f"(?:{place})(?:{mark})|(?:{mark})(?:{place})", seen) is None

    # -- learning about the template -------------------------------------------------------------------------

    def _tried(self, contents: Sequence[str]) -> str:
        """The text of a conversation, the user's message first; empty where the template refuses it."""
        roles = ["system", "user", "assistant", "user"][-len(contents) :]
        try:
            return self.text([{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)])
        except ValueError:
            return ""

    def _find_text_marks(self) -> re.Pattern[str] | None:
        """Marks of turns that are text: what stands last before a content, in its line and after all control tokens,
        and looks like a mark."""
        hidden = Hidden()
        text = self._tried([hidden.put("") for _ in range(4)])
        lines = set()
        for part in hidden.split(text)[::2]:
            assert isinstance(part, str)
            after = self._control.pattern.split(part)[-1].strip()
            lines.add(after.splitlines()[-1].strip() if after else "")
        marks = {line for line in lines if 3 <= len(line) <= 64 and any(char.isalnum() for char in line)}
        anywhere = {mark for mark in marks if _BRACKETS.fullmatch(mark)}
        in_front = {mark for mark in marks - anywhere if mark.startswith("#") or mark.endswith(":")}
        patterns = [any_of(anywhere).pattern] if anywhere else []
        patterns += [_LINE + any_of(in_front).pattern] if in_front else []
        return re.compile("|".join(patterns)) if patterns else None

    def _apply(self, turns: Sequence[Turn], functions: list[Any] | None) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(turns), tools=functions, tokenize=False, add_generation_prompt=True
        )
        return text


def _arguments(call: ToolCall) -> Any:
    """Templates write arguments out as JSON themselves."""
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments


def _around_body(text: str, hide: Show) -> str:
    """Hide a text but for the white space around it, which templates cut off."""
    body = text.strip()
    if not body:
        return text
    before, after = text.split(body, 1)
    return before + hide(body) + after


def _with_hidden(text: str, parts: Sequence[tuple[int, int]], hidden: Hidden) -> str:
    shown, at = "", 0
    for begin, end in parts:
        shown, at = shown + text[at:begin] + hidden.put(text[begin:end]), end
    return shown + text[at:]


def _without_system(turns: Sequence[Turn]) -> list[Turn]:
    system, *rest = turns
    if not rest:
        return [system | {"role": "user"}]
    return [rest[0] | {"content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


def _refusal(error: Exception) -> ValueError:
    return ValueError(f"the model's chat template refuses these messages: {Hidden.PLACE.sub('...', str(error))}")
