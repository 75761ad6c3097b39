"""Events of the scheduler, as they happen: the last events, and streams of them. Ids and numbers only, no texts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

_KEPT = 256
_BEHIND = 256


class EventLog:
    """Lives in the event loop. A reader that falls too far behind misses events; it is told how many."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._readers: set[asyncio.Queue[dict[str, Any]]] = set()
        self._number = 0

    def publish(self, kind: str, **fields: Any) -> None:
        self._number += 1
        event = {"number": self._number, "at": round(time.time(), 3), "event": kind, **fields}
        self._kept.append(event)
        for reader in self._readers:
            if reader.full():
                reader.get_nowait()
            reader.put_nowait(event)

    def last(self, n: int, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return the last ``n`` events (of this tenant's and of nobody's), newest first."""
        own = [event for event in reversed(self._kept) if event.get("tenant") in (None, tenant)]
        return own[:n]

    async def follow(self, tenant: str) -> AsyncGenerator[dict[str, Any], None]:
        """Give out events from now on; numbers that are missing were another tenant's, or came too quickly."""
        reader: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_BEHIND)
        self._readers.add(reader)
        try:
            while True:
                event = await reader.get()
                if event.get("tenant") in (None, tenant):
                    yield event
        finally:
            self._readers.discard(reader)
