"""What a peer does, and what it is given. Standard library only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Answer:
    """The first token of a prompt, chosen greedily, and the seconds from having the prompt's ids to having it."""

    seconds: float
    token_id: int


@dataclass(frozen=True)
class Job:
    """A peer's settings at its start. ``context`` is the most tokens a prompt may have, ``folder`` is for its files and
    is deleted after it."""

    model: Path
    threads: int
    context: int
    folder: Path


class Peer(Protocol):
    """One piece of software that keeps the KV of a context. Times are its own work only, in seconds."""

    notes: str
    """What its figures depend on: precisions, and which of its ways was taken."""

    def versions(self) -> dict[str, str]: ...

    def build(self, context: Sequence[int]) -> float:
        """Seconds until the context is cached, computed anew; an earlier context may be forgotten."""

    def direct(self, tokens: Sequence[int]) -> Answer:
        """The first token with nothing of the prompt cached."""

    def cached(self, context: Sequence[int], query: Sequence[int]) -> Answer:
        """The first token of context and query, the context being the one that was built last."""

    def close(self) -> None: ...


class NotCached(Exception):
    """A peer was to answer over a cached context, and computed the context again."""


def warm_up_tokens(n: int) -> list[int]:
    """Token ids that no prompt begins with by chance: every library does something once, at the first prompt."""
    rng = random.Random(0)
    return [rng.randrange(3, 200) for _ in range(n)]
