"""Bodies of clients of MemOS's own server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from memory import Said
from server.dialects.common import ClientIds, PeerMessage, PeerMessages
from server.dialects.memos_chat import ChatFields
from server.http.bodies import Body
from server.http.schemas.fields import Name, Text, Time

Names = Annotated[list[Name], Field(max_length=100)]


class Add(Body):
    user_id: Name
    session_id: Name | None = None
    task_id: Name | None = None
    writable_cube_ids: Names | None = None
    mem_cube_id: Name | None = None
    async_mode: Literal["async", "sync"] = "async"
    custom_tags: list[Text] | None = None
    info: dict[str, Any] | None = None
    messages: PeerMessages | None = None
    memory_content: Text | None = None
    chat_history: PeerMessages | None = None
    is_feedback: bool = False

    @property
    def said(self) -> Said:
        return ClientIds(user=self.user_id, run=self.session_id).said(self.info, self.custom_tags or ())


class Search(Body):
    query: Annotated[Text, Field(min_length=1, max_length=10_000)]
    user_id: Name
    readable_cube_ids: Names | None = None
    mem_cube_id: Name | None = None
    top_k: Annotated[int, Field(ge=1)] = 10
    relativity: Annotated[float, Field(ge=0)] | None = None
    include_preference: bool = True
    pref_top_k: Annotated[int, Field(ge=0)] = 6
    search_tool_memory: bool = True
    tool_mem_top_k: Annotated[int, Field(ge=0)] = 6
    filter: dict[str, Any] | None = None
    reference_time: Time | None = None


class Chat(ChatFields):
    readable_cube_ids: Names | None = None
    writable_cube_ids: Names | None = None
    mem_cube_id: Name | None = None
    history: list[PeerMessage] | None = None
    top_k: Annotated[int, Field(ge=0)] = 10
    session_id: Name | None = None
    model_name_or_path: str | None = None


class GetMemory(Body):
    mem_cube_id: Name
    user_id: Name | None = None
    include_preference: bool = True
    include_tool_memory: bool = True
    filter: dict[str, Any] | None = None
    page: Annotated[int, Field(ge=1)] | None = None
    page_size: Annotated[int, Field(ge=1, le=1000)] | None = None


class GetAll(Body):
    user_id: Name
    memory_type: Literal["text_mem", "act_mem", "param_mem", "para_mem"]
    mem_cube_ids: Names | None = None
    search_query: Annotated[Text, Field(max_length=10_000)] | None = None


class Delete(Body):
    writable_cube_ids: Names | None = None
    memory_ids: Annotated[list[str], Field(max_length=1000)] | None = None
    file_ids: list[str] | None = None
    filter: dict[str, Any] | None = None
    user_id: Name | None = None
    session_id: Name | None = None
    conversation_id: Name | None = None


class Feedback(Body):
    user_id: Name
    feedback_content: Text
    retrieved_memory_ids: Annotated[list[str], Field(max_length=100)] | None = None
    feedback_time: Time | None = None
    writable_cube_ids: Names | None = None
    mem_cube_id: Name | None = None


class NewCube(Body):
    cube_name: Name
    owner_id: Name
    cube_id: Name | None = None


class CubeId(Body):
    mem_cube_id: Name


class Recover(CubeId):
    delete_record_id: str


def names_of(several: Sequence[str] | None, one: str | None, user: str) -> tuple[str, ...]:
    """Return the names of the cubes that are meant; the user's own if none is named."""
    return tuple(dict.fromkeys(several or ([user] if one is None else [one])))
