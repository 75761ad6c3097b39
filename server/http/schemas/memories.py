"""Bodies of our own routes: memories, cubes, feedback, and what the scheduler is told. They refuse what they do not
know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from engine.base import Fidelity
from server.http.bodies import Body, Strict
from server.http.schemas.fields import Name, Seconds, Text, Time
from server.http.schemas.generation import Message


class MemoryFields(Strict):
    """Fields of a memory beside its text."""

    pinned: bool | None = None
    event_at: Seconds | None = None
    event_until: Seconds | None = None
    metadata: dict[str, Any] | None = None
    tags: list[Text] | None = None
    importance: Annotated[float, Field(ge=0, le=1)] | None = None
    expires_at: Seconds | None = None


class MemoryAdd(MemoryFields):
    text: str
    cube: str | None = None
    kind: str | None = None
    owner: Name | None = None
    author: Name | None = None
    agent: Name | None = None
    session: Name | None = None


class Spoken(Body):
    """Content of a message that is kept: text, OpenAI's parts, or nothing."""

    content: Text | list[dict[str, Any]] | dict[str, Any] | None = None

    @property
    def said(self) -> str:
        """Return the text of it; images and files are left out."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        parts = self.content if isinstance(self.content, list) else [self.content]
        return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


class SaidMessage(Strict, Spoken):
    """One message of a conversation, as OpenAI has it, with its time and speaker where they are known. Calls of tools
    are no text: a turn of nothing else says nothing."""

    role: Literal["user", "assistant", "tool", "system", "developer"] = "user"
    name: Name | None = None
    time: Time | None = None
    metadata: dict[str, Any] = {}
    tool_calls: list[dict[str, Any]] = []
    tool_call_id: Text | None = None
    refusal: Text | None = None


class MessagesAdd(Strict):
    messages: Annotated[list[SaidMessage], Field(min_length=1, max_length=10_000)]
    cube: str | None = None
    session: Name | None = None
    owner: Name | None = None
    agent: Name | None = None
    tags: list[Text] = []
    metadata: dict[str, Any] = {}
    expires_at: Seconds | None = None
    extractor: str | None = None
    wait: bool = True


class FeedbackAdd(Strict):
    text: Annotated[Text, Field(min_length=1, max_length=10_000)]
    cube: str | None = None
    memory_ids: Annotated[list[Name], Field(max_length=100)] = []
    corrected: Text | None = None
    at: Time | None = None


class MemoryChange(MemoryFields):
    text: str | None = None
    kind: str | None = None
    status: str | None = None
    replace_metadata: bool = False
    """``metadata`` is all of it; else it is overlaid (RFC 7396)."""


class MemorySearch(Strict):
    query: Annotated[Text, Field(min_length=1, max_length=10_000)]
    cube: str | list[str] | None = None
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    kinds: list[str] | None = None
    filter: dict[str, Any] | None = None
    at: Time | None = None
    hops: Annotated[int, Field(ge=0, le=2)] = 1
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    relevant: bool = False
    """Leave out what has nothing to do with the query, as a chat does."""
    explain: bool = False


class MemoryList(Strict):
    cube: str | None = None
    kind: str | None = None
    status: str = "active"
    filter: dict[str, Any] | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    after: str | None = None


class GrantAdd(Strict):
    principal: Name
    access: Literal["read", "write"] = "read"


class GroupSet(Strict):
    members: Annotated[list[Name], Field(max_length=10_000)]


class CubeAdd(Strict):
    name: str
    fidelity: Fidelity | None = None


class CubeChange(Strict):
    fidelity: Fidelity | None


class SceneHint(Strict):
    """A hint of an application at what is coming."""

    text: Annotated[Text, Field(min_length=1, max_length=2000)]
    cube: str | None = None


class Prefetch(Strict):
    """A message that is being typed, and the conversation before it."""

    text: Annotated[Text, Field(min_length=1, max_length=8000)]
    messages: Annotated[list[Message], Field(max_length=2000)] = []
    cube: str | None = None
    top_k: Annotated[int, Field(ge=0, le=64)] | None = None
