"""The places of a conversation's memories, kept from one request to the next.

A client sends the whole conversation each time, so it is known again by what it begins with: the messages up to and
including the last user message of an earlier request. No name for it is needed, and a branch (an earlier message was
edited) falls back to what both branches have in common.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from engine.base import ChatMessage

SYSTEM = -1
"""The place of the memories in the system message; others stand at the head of the message with that index."""

_MAX_CONVERSATIONS = 4096


@dataclass(frozen=True)
class Placed:
    """A memory that was given a place. ``label`` names the text that stands there, ``why`` says how it came there."""

    memory_id: str
    label: str
    why: str


Places = Mapping[int, tuple[Placed, ...]]


@dataclass(frozen=True)
class Known:
    """A known conversation. ``last``: index of the last user message that it is known up to."""

    places: Places
    last: int


class Conversations:
    """The conversations seen lately, of one tenant and choice of cubes each. Not thread-safe."""

    def __init__(self, limit: int = _MAX_CONVERSATIONS) -> None:
        self._limit = limit
        self._known: OrderedDict[str, Places] = OrderedDict()

    def find(self, tenant: str, cube_ids: Sequence[str], messages: Sequence[ChatMessage]) -> Known | None:
        """Find what an earlier request has settled for the longest beginning of ``messages``. The newest user message
        is not settled before it was answered: while it stands last, what was found for it may be found anew."""
        keys = list(_keys(tenant, cube_ids, messages))
        if keys and keys[-1][0] == len(messages) - 1:
            keys.pop()
        for last, key in reversed(keys):
            if key in self._known:
                self._known.move_to_end(key)
                return Known(self._known[key], last)
        return None

    def note(self, tenant: str, cube_ids: Sequence[str], messages: Sequence[ChatMessage], places: Places) -> None:
        """Remember where the memories of this request stand."""
        keys = list(_keys(tenant, cube_ids, messages))
        if not keys:
            return
        _, key = keys[-1]
        self._known[key] = places
        self._known.move_to_end(key)
        if len(self._known) > self._limit:
            self._known.popitem(last=False)


def newest_user(messages: Sequence[ChatMessage]) -> int | None:
    """Return the index of the last message that a user wrote."""
    return next((i for i in reversed(range(len(messages))) if messages[i].role == "user"), None)


def last_words(messages: Sequence[ChatMessage]) -> str:
    """Return what a user wrote last; empty where none did."""
    index = newest_user(messages)
    return "" if index is None else messages[index].content


def _keys(tenant: str, cube_ids: Sequence[str], messages: Sequence[ChatMessage]) -> Iterator[tuple[int, str]]:
    """Give for each user message its index, and a hash of all up to it."""
    state = blake2b(repr((tenant, tuple(cube_ids))).encode(), digest_size=20)
    for i, message in enumerate(messages):
        state.update(repr((message.role, message.content, message.tool_calls, message.tool_call_id)).encode())
        if message.role == "user":
            yield i, state.hexdigest()
