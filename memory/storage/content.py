"""The groups of a storage backend for its content: cubes, memories, messages, documents, feedback."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from memory.storage.conditions import Condition
from memory.storage.records import Listing, StoredMemory, StoredMessage, Text
from memory.types import Access, Change, Cube, Document, FeedbackOutcome, Grant, Group, Memory, Message, Scan, Subject


class Cubes(Protocol):
    """Cubes, and who may use them: a tenant its own, and those shared with it or with a group that it is in."""

    def find(self, tenant: str, cube: str, need: Access = "read") -> Cube:
        """Return a cube by id, or one's own by name, and note it (``note_cube``). Raises ``NotFound``, ``Forbidden``
        (may be read, not written)."""
        ...

    def named(self, tenant: str, name: str) -> Cube | None:
        """Return the tenant's own cube of that name."""
        ...

    def name_of(self, cube_id: str) -> str | None:
        """Return a cube's name, whoever owns it."""
        ...

    def visible(self, tenant: str) -> list[Cube]:
        """Return the tenant's own cubes, then those shared with it, each in order of creation."""
        ...

    def insert(self, cube: Cube) -> None:
        """Write a new cube, and note it. Raises ``Conflict`` when the tenant has one of that name."""
        ...

    def set_fidelity(self, cube_id: str, fidelity: str | None) -> None:
        """Change a cube's fidelity, as its next revision."""
        ...

    def remove(self, cube_id: str) -> None:
        """Remove a cube with everything in it."""
        ...

    def share(self, grant: Grant) -> None:
        """Write a grant, in the place of one for the same cube and principal."""
        ...

    def unshare(self, cube_id: str, principal: str) -> bool:
        """Remove a grant; tell if there was one."""
        ...

    def grants(self, cube_id: str) -> list[Grant]:
        """Return a cube's grants, by principal."""
        ...

    def set_group(self, id: str, tenant: str, name: str, members: Iterable[str]) -> None:
        """Make a group with this id, or, where the tenant has one of that name, change its members."""
        ...

    def group(self, tenant: str, name: str) -> Group | None:
        """Return a tenant's group, by name or id."""
        ...


class Memories(Protocol):
    """Memories one by one. A *live* memory is active and has not expired."""

    def find(self, tenant: str, memory_id: str, *, with_deleted: bool = False, need: Access = "read") -> StoredMemory:
        """Return a memory, and note its cube. Raises ``NotFound`` (also for what the tenant may not see, and, unless
        ``with_deleted``, what is deleted), ``Forbidden``."""
        ...

    def stored(self, numbers: Collection[int]) -> list[StoredMemory]:
        """Return those of these memories that there are, in no order."""
        ...

    def insert(self, memory: Memory) -> int:
        """Write a new memory, which no search finds yet; return its number."""
        ...

    def update(self, memory: Memory) -> Memory:
        """Write all of a memory's fields, as its next revision, which is returned. ``memory`` is as it is in this
        transaction: what was read before it could undo what others have done since."""
        ...

    def mark_deleted(self, number: int) -> None:
        """Say that a memory is deleted, as its next revision, so that it can be brought back."""
        ...

    def unmark_deleted(self, number: int) -> None:
        """Say that a memory is no longer deleted; its status is the caller's to write."""
        ...

    def by_slot(self, cube_id: str, slot: str, owner: str | None) -> list[StoredMemory]:
        """Return an owner's live memories that fill a slot, in order."""
        ...

    def by_slot_of_anyone(self, cube_id: str, slot: str) -> list[Memory]:
        """Return live memories that fill a slot, the latest first."""
        ...

    def same_words(self, memory: Memory) -> StoredMemory | None:
        """Return a live memory of the same cube, author and owner with the same words (``digest_of``)."""
        ...

    def same_kind(self, number: int, memory: Memory) -> StoredMemory | None:
        """Return the memory of this number if it is live and has the same cube, kind, author and owner."""
        ...

    def texts_before(self, memory: Memory) -> list[str]:
        """Return the texts of up to two memories before one in its conversation, the nearest first."""
        ...

    def last_of(self, cube_id: str, session: str | None) -> list[tuple[str, str]]:
        """Return id and text of a conversation's last two memories that are not deleted, the last first."""
        ...

    def of_document(self, cube_id: str, document_id: str) -> list[StoredMemory]:
        """Return a document's chunks that are not deleted, in order."""
        ...

    def behind(self, cube_ids: Collection[str], memory_ids: Collection[str]) -> list[StoredMemory]:
        """Return active memories that follow one of these."""
        ...

    def with_former(self, numbers: Sequence[int], statuses: Sequence[str]) -> list[int]:
        """Return these memories, and those of these statuses that they have taken the place of, directly or not."""
        ...


class Lists(Protocol):
    """Many memories at once."""

    def page(self, listing: Listing, condition: Condition, limit: int) -> list[Memory]:
        """Return up to ``limit`` memories in order of creation."""
        ...

    def standing(self, cube_id: str) -> list[Memory]:
        """Return live memories that are pinned or of kind ``profile`` or ``instruction``, in order."""
        ...

    def of_cube(self, cube_id: str) -> list[Memory]:
        """Return all memories of a cube, whatever their status, in order."""
        ...

    def active(self, cube_id: str) -> list[StoredMemory]:
        """Return a cube's active memories, expired or not."""
        ...

    def newest(self, limit: int, cube_id: str | None = None) -> list[Text]:
        """Return the texts of up to ``limit`` active memories, newest first, of one cube or of all."""
        ...

    def count(self, tenant: str) -> int:
        """Count live memories in the tenant's own cubes."""
        ...

    def labels_of(self, tenant: str) -> set[str]:
        """Return the labels of live memories that the tenant may read."""
        ...

    def all_labels(self) -> set[str]:
        """Return the labels of all live memories."""
        ...

    def expired(self, now: float, limit: int) -> list[StoredMemory]:
        """Return up to ``limit`` active memories that have expired."""
        ...

    def late(self, before: float, limit: int) -> list[tuple[int, str]]:
        """Return number and tenant of up to ``limit`` memories that were deleted before this time."""
        ...

    def of_subject(self, tenant: str, subject: Subject, cubes: Sequence[str] | None) -> list[StoredMemory]:
        """Return a subject's memories, of any status, in the tenant's own cubes (None: all; else of these names)."""
        ...


class History(Protocol):
    """The steps of each memory's history."""

    def add(self, memory: Memory, action: str, text: str | None = None, detail: dict[str, Any] | None = None) -> None:
        """Add a step, now; ``text`` is the one before it, where that changed."""
        ...

    def add_all(self, changes: Iterable[tuple[str, Change]]) -> None:
        """Add steps as they are, each with its memory's id."""
        ...

    def of(self, memory_id: str) -> list[Change]:
        """Return a memory's history, oldest first."""
        ...

    def texts_of(self, numbers: Sequence[int]) -> list[str]:
        """Return the earlier texts of these memories."""
        ...

    def note_feedback(self, memory_id: str, feedback_id: str) -> None:
        """Write into the detail of a memory's last step which feedback it is from."""
        ...


class Messages(Protocol):
    """Messages, in the order in which they were kept."""

    def insert(
        self,
        cube_id: str,
        conversation: str | None,
        message: Message,
        *,
        owner: str | None = None,
        agent: str | None = None,
        app: str | None = None,
    ) -> bool:
        """Keep a message, with the ids that it was added for, unless there is one of its id; tell if it was kept."""
        ...

    def has(self, id: str) -> bool:
        """Tell if there is a message of this id."""
        ...

    def last(self, cube_id: str, conversation: str | None, limit: int) -> list[Message]:
        """Return the last messages of a cube, or of one conversation in it, that have a text, in order."""
        ...

    def before(self, cube_id: str, conversation: str | None) -> list[Message]:
        """Return the last two messages of a conversation, in order."""
        ...

    def of_cube(self, cube_id: str) -> list[tuple[str | None, Message]]:
        """Return a cube's messages that have a text, each with its conversation, in order, without those that only
        deleted memories are from."""
        ...

    def infer_ids(self, cube_id: str) -> None:
        """Give a cube's messages without owner, agent and app those of the memories that are from them, else those that
        all the others of their conversation have."""
        ...

    def of_subject(self, tenant: str, subject: Subject, cubes: Sequence[str] | None) -> list[StoredMessage]:
        """Return a subject's messages in the tenant's own cubes (None: all; else of these names)."""
        ...

    def texts(self, numbers: Collection[int]) -> dict[int, str]:
        """Return the texts of messages by number."""
        ...

    def set_text(self, number: int, text: str) -> None:
        """Change a message's text, also in the context of its conversation's memories."""
        ...


class Sources(Protocol):
    """The messages that each memory is from."""

    def link(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Say that memories are from messages, by ids (memory, message)."""
        ...

    def of(self, memory_id: str) -> list[Message]:
        """Return the messages that a memory is from, in order."""
        ...

    def of_cube(self, cube_id: str) -> dict[str, list[str]]:
        """Return the ids of the messages that have a text, by the memories of a cube that are from them."""
        ...

    def said_at(self, numbers: Collection[int]) -> dict[int, float]:
        """Return when the last of the messages was sent that each of these memories is from (Unix seconds), feedback
        aside where there are others; memories from no message are left out."""
        ...

    def context(self, memory_id: str) -> str:
        """Return what was said just before a memory: the two messages before the first that it is from."""
        ...

    def messages_of(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers of the messages that these memories are from."""
        ...

    def memories_of(self, message: int) -> list[tuple[int, str]]:
        """Return number and text of the memories with a text that are from a message."""
        ...

    def emptied(self, messages: Collection[int], gone: Collection[int]) -> set[int]:
        """Return the messages of those conversations of ``messages`` that are left without any memory when the memories
        ``gone`` go."""
        ...


class Removal(Protocol):
    """The end of memories and messages. What is wiped is overwritten and stays as an empty row, so that its id is known
    as deleted."""

    def wipe_memories(self, numbers: Sequence[int]) -> None:
        """Overwrite memories with their histories, search entries and feedback; their messages are the caller's."""
        ...

    def wipe_messages(self, numbers: Collection[int]) -> None:
        """Overwrite messages, also in the context of the memories that are left of their conversations."""
        ...

    def remove_memories(self, numbers: Sequence[int]) -> None:
        """Remove wiped memories."""
        ...

    def remove_messages(self, messages: Sequence[StoredMessage]) -> None:
        """Remove wiped messages, the links to them, and feedback whose words they were."""
        ...

    def scan(self, memory: Memory, texts: Sequence[str]) -> Scan:
        """Count what is left of a wiped memory. ``texts`` are others that went with it."""
        ...


class Documents(Protocol):
    """Documents; their chunks are memories whose metadata names them."""

    def insert(self, document: Document) -> None:
        """Write a new document."""
        ...

    def find(self, cube_id: str, *, id: str | None = None, name: str | None = None) -> Document | None:
        """Return a cube's document by id or name."""
        ...

    def of_cube(self, cube_id: str) -> list[Document]:
        """Return a cube's documents by name."""
        ...

    def remove(self, document_id: str) -> None:
        """Remove a document; its chunks are the caller's."""
        ...

    def remove_empty(self, cube_ids: Collection[str]) -> None:
        """Remove documents of these cubes that no memory is a chunk of any more."""
        ...


class Feedback(Protocol):
    """Feedback: what it did. Its words are a message's, of the same id but for the prefix (``fb_``, ``msg_``)."""

    def insert(self, outcome: FeedbackOutcome) -> None:
        """Write what feedback did, without its words."""
        ...

    def of_cube(self, cube_id: str, limit: int) -> list[FeedbackOutcome]:
        """Return the last feedback on a cube, the newest first."""
        ...
