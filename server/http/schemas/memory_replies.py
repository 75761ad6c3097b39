"""Replies of our own routes about memories, cubes, documents, feedback and jobs. Times are Unix seconds."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from memory import Access, MemoryKind, MemoryStatus
from server.core.bundles import Reason
from server.core.messages import PlacedUnit


class ErrorDetail(TypedDict):
    """An error. ``param`` names the field at fault, ``revision`` the present one of what has changed."""

    message: str
    type: str
    param: str | None
    code: str
    revision: NotRequired[int]


class ErrorReply(TypedDict):
    """An error, in OpenAI's shape."""

    error: ErrorDetail


class MemoryReply(TypedDict):
    """A memory."""

    object: Literal["memory"]
    id: str
    cube: str
    owner: str | None
    author: str | None
    agent: str | None
    session: str | None
    kind: MemoryKind
    text: str
    status: MemoryStatus
    pinned: bool
    version: int
    revision: int
    created_at: float
    updated_at: float
    event_at: float | None
    event_until: float | None
    expires_at: float | None
    valid_until: float | None
    replaced_by: str | None
    importance: float
    uses: int
    tags: list[str]
    metadata: dict[str, Any]


class MemoryAdded(MemoryReply):
    """A memory, what became of it, and the ids of those that it took the place of. ``masked``: a secret was taken
    out."""

    action: str
    replaced: list[str]
    masked: NotRequired[bool]


class MemoryPage(TypedDict):
    """Memories in order of creation; ``next`` is the ``after`` of the page that follows."""

    object: Literal["list"]
    data: list[MemoryReply]
    next: str | None


class MemoryDeleted(TypedDict):
    """The number of segments removed with a memory, and the seconds for which it can be brought back, or the proof that
    nothing is left."""

    object: Literal["memory.deleted"]
    id: str
    deleted: bool
    segments_removed: int
    undelete_s: NotRequired[int | float]
    proof: NotRequired[ProofReply]


class ProofReply(TypedDict):
    """The result of a search for a forgotten memory, by place: 0 everywhere if it is ``clean``; ``digest`` is of its
    text."""

    memory: str
    digest: str
    found: dict[str, int]
    clean: bool
    covers: str
    at: float


class HitReply(TypedDict):
    """A search's result: ``why`` says which searches found it, ``parts`` what each signal added to the score."""

    memory: MemoryReply
    score: float
    why: str
    parts: NotRequired[dict[str, float]]


class HitList(TypedDict):
    """A search's results, best first."""

    object: Literal["list"]
    data: list[HitReply]


class MessageReply(TypedDict):
    """A message that was kept."""

    object: Literal["message"]
    id: str
    role: str
    name: str | None
    content: str
    time: float
    metadata: dict[str, Any]


class MessageList(TypedDict):
    """Messages, oldest first."""

    object: Literal["list"]
    data: list[MessageReply]


class ChangeReply(TypedDict):
    """One step of a memory's history; ``text_before`` is null where the text did not change."""

    at: float
    action: str
    version: int
    text_before: str | None
    detail: dict[str, Any]


class HistoryReply(TypedDict):
    """The changes of a memory, oldest first, and the messages that it was extracted from."""

    object: Literal["list"]
    data: list[ChangeReply]
    sources: list[MessageReply]


class PlacedList(TypedDict):
    """The outcome for messages."""

    object: Literal["list"]
    data: list[PlacedUnit]


class JobReply(TypedDict):
    """A durable job: ``result`` once completed, ``error`` once failed."""

    object: Literal["job"]
    id: str
    kind: str
    status: Literal["waiting", "running", "completed", "failed", "cancelled"]
    attempts: int
    created_at: float
    finished_at: float | None
    result: Any
    error: str | None


class JobList(TypedDict):
    """Jobs, the newest first."""

    object: Literal["list"]
    data: list[JobReply]


class CubeReply(TypedDict):
    """A cube. ``shared``: it is another tenant's; ``fidelity`` null: as the server's setting says."""

    object: Literal["cube"]
    id: str
    name: str
    shared: bool
    fidelity: str | None
    revision: int
    created_at: float


class CubeList(TypedDict):
    """Cubes."""

    object: Literal["list"]
    data: list[CubeReply]


class CubeDeleted(TypedDict):
    """The numbers of memories and segments removed with a cube."""

    object: Literal["cube.deleted"]
    id: str
    deleted: bool
    memories_removed: int
    segments_removed: int


class CubeReindexed(TypedDict):
    """The number of memories that were indexed again."""

    object: Literal["cube.reindexed"]
    id: str
    memories: int


class GrantReply(TypedDict):
    """A permission to use a cube: ``principal`` is a tenant, or the id of a group."""

    object: Literal["grant"]
    cube: str
    principal: str
    access: Access


class GrantList(TypedDict):
    """Grants of a cube."""

    object: Literal["list"]
    data: list[GrantReply]


class GrantDeleted(TypedDict):
    """A grant that was taken back."""

    object: Literal["grant.deleted"]
    principal: str
    deleted: bool


class GroupReply(TypedDict):
    """A set of tenants that cubes can be shared with at once."""

    object: Literal["group"]
    id: str
    name: str
    members: list[str]


class DocumentReply(TypedDict):
    """A file that a cube knows; ``digest`` is of its bytes, ``n_chunks`` the number of its memories."""

    object: Literal["document"]
    id: str
    cube: str
    name: str
    digest: str
    n_chunks: int
    created_at: float


class DocumentAdded(DocumentReply):
    """A file, what became of it, and what was removed with the file in whose place it is."""

    action: Literal["added", "replaced", "unchanged"]
    memories_removed: int
    segments_removed: int


class DocumentList(TypedDict):
    """Documents of a cube, by name."""

    object: Literal["list"]
    data: list[DocumentReply]


class DocumentDeleted(TypedDict):
    """The numbers of memories and segments removed with a document."""

    object: Literal["document.deleted"]
    id: str
    deleted: bool
    memories_removed: int
    segments_removed: int


class PagesTaken(TypedDict):
    """The number of a bundle's pages that were taken, and of those left, by reason."""

    taken: int
    left: int
    reasons: dict[Reason, int]


class CubeLoaded(CubeReply):
    """A cube made from a dump, with the number of its memories."""

    memories: int
    segments: PagesTaken


class FeedbackDone(TypedDict):
    """One thing that feedback did: to which memory, if to any."""

    action: str
    memory: str | None


class FeedbackReply(TypedDict):
    """Feedback in somebody's words, and what it changed."""

    object: Literal["feedback"]
    id: str
    cube: str
    text: str
    at: float
    actions: list[FeedbackDone]


class FeedbackList(TypedDict):
    """Feedback on a cube, the newest first."""

    object: Literal["list"]
    data: list[FeedbackReply]
