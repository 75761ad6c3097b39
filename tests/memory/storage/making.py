"""Cubes, memories and messages for the contract tests."""

from __future__ import annotations

from itertools import count
from typing import Any

from memory.storage.base import Storage, Transaction
from memory.types import Cube, Memory, Message

T = "tenant"
_NUMBERS = count(1)


def new_id(kind: str) -> str:
    return f"{kind}_{next(_NUMBERS):024x}"


def a_cube(storage: Storage, tenant: str = T, name: str | None = None) -> str:
    id = new_id("cube")
    with storage.write() as tx:
        tx.cubes.insert(Cube(id, tenant, name or id, 1.0))
    return id


def a_memory(cube_id: str, text: str = "a text", **fields: Any) -> Memory:
    given: dict[str, Any] = {"owner": None, "kind": "fact", "status": "active", "pinned": False, "version": 1}
    given |= {"created_at": 1.0, "updated_at": 1.0, **fields}
    return Memory(id=new_id("mem"), cube_id=cube_id, text=text, **given)


def a_message(text: str, **fields: Any) -> Message:
    return Message(new_id("msg"), "user", text, 1.0, **fields)


def kept(tx: Transaction, *memories: Memory) -> list[int]:
    """Insert memories; their numbers."""
    return [tx.memories.insert(memory) for memory in memories]


def said(tx: Transaction, memory: Memory, *messages: Message, conversation: str | None = "c") -> None:
    """Keep messages, and say that a memory is from them."""
    for message in messages:
        tx.messages.insert(memory.cube_id, conversation, message)
    tx.sources.link((memory.id, message.id) for message in messages)
