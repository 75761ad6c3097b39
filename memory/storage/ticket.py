"""The request that is being worked on, where it has a key of its own (see ``memory.domain.retries``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from memory.storage.base import Storage


@dataclass
class Ticket:
    """A request with a key of its own, while it is worked on: the number that it is kept under, and the cubes that it
    has looked into."""

    storage: Storage
    number: int
    cubes: set[str] = field(default_factory=set)


ticket: ContextVar[Ticket | None] = ContextVar("ticket", default=None)


def note_cube(cube_id: str) -> None:
    """Say that the request that is worked on, if it has a key, looks into a cube."""
    now = ticket.get()
    if now is not None:
        now.cubes.add(cube_id)


@contextmanager
def uncounted() -> Iterator[None]:
    """Leave writes in here unmarked: they do no harm when they are done again, and are no reason to refuse a retry."""
    token = ticket.set(None)
    try:
        yield
    finally:
        ticket.reset(token)
