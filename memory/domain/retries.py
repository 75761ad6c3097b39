"""Requests that carry a key of their client's, so that a retry does nothing twice: what became of the first of them.

A request is one of these, by its key:

    new                     a row is made for it (``KeyedRequests.claim``); every transaction it makes marks its row
    answered                its reply is kept, and given again
    failed, wrote nothing   its row is gone: it may be tried again
    cut off, wrote nothing  so it may, at the next start
    failed or cut off, wrote something   refused (``CutOff``): nobody can tell what is missing

Of key and request there are digests only. Replies may hold text of memories, and so they go when anything in a cube
that the request looked into is forgotten (the storage backend sees to that), and after a day.
"""

from __future__ import annotations

import time

from memory.errors import CutOff, KeyReused, ReplyGone, StillRunning
from memory.storage.base import Storage
from memory.storage.records import KeyedRequest
from memory.storage.ticket import Ticket
from memory.types import Reply

KEPT_S = 86_400.0
MAX_KEYS = 50_000
MAX_REPLY_BYTES = 256 * 1024
MAX_TENANT_BYTES = 16 << 20
_SWEEP_EVERY = 256


class KeyedRequests:
    """The requests with keys in one side store's database. Of a tenant, the last ``MAX_KEYS`` are kept for ``KEPT_S``
    seconds, and ``MAX_TENANT_BYTES`` of their replies, none of which has more than ``MAX_REPLY_BYTES``."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._open: set[int] = set()
        self._claims = 0

    def claim(
        self, tenant: str, key: str, request: str, *, quotes: bool = True, repeatable: bool = False
    ) -> Ticket | Reply:
        """Return the right to do a request, or the reply that it got. ``key`` and ``request`` are digests; ``quotes``:
        the reply may hold text of memories; ``repeatable``: doing it again after it was cut off does nothing twice.
        Raises ``KeyReused``, ``StillRunning``, ``CutOff``, ``ReplyGone``, ``StorageFull``."""
        self._claims += 1
        if self._claims % _SWEEP_EVERY == 0:
            self.sweep()
        now = time.time()
        with self._storage.write() as tx:
            known = tx.requests.find(tenant, key)
            if known is not None and (known.at < now - KEPT_S or self._is_free(known, request, repeatable)):
                tx.requests.remove([known.number])
                known = None
            if known is None:
                number = tx.requests.insert(tenant, key, request, now, quotes=quotes)
                self._open.add(number)
                return Ticket(self._storage, number)
        return self._answered(known, request)

    def _is_free(self, known: KeyedRequest, request: str, repeatable: bool) -> bool:
        """Tell if the request has failed or was cut off, and the key may be used again."""
        if known.status is not None or known.number in self._open:
            return False
        return not known.wrote or (repeatable and known.request == request)

    def _answered(self, known: KeyedRequest, request: str) -> Reply:
        if known.request != request:
            raise KeyReused
        if known.status is None:
            raise StillRunning if known.number in self._open else CutOff
        if known.body is None:
            raise ReplyGone(known.status)
        return Reply(known.status, known.headers or {}, known.body)

    def finish(self, given: Ticket, reply: Reply) -> None:
        """Keep the reply to a request; of a failed one that wrote nothing, nothing is kept. Raises ``StorageFull``."""
        self._open.discard(given.number)
        with self._storage.write() as tx:
            known = tx.requests.get(given.number)
            if known is None:  # it took longer than keys are kept
                return
            if reply.status >= 400 and not known.wrote:
                tx.requests.remove([given.number])
                return
            if reply.status >= 500:  # it stays without one: ``CutOff``
                return
            kept = None if known.gone or len(reply.body) > MAX_REPLY_BYTES else reply.body
            tx.requests.answer(given.number, reply.status, reply.headers, kept)
            if kept is not None:
                tx.requests.note_cubes(given.number, given.cubes)

    def fail(self, given: Ticket) -> None:
        """Say that a request has failed without a reply."""
        self.finish(given, Reply(500, {}, b""))

    def sweep(self, now: float | None = None) -> None:
        """Remove what is older than a day, and of each tenant's what is beyond the bounds, the oldest first."""
        limit = (time.time() if now is None else now) - KEPT_S
        with self._storage.write() as tx:
            tx.requests.remove(tx.requests.older(limit))
            for tenant, count, nbytes in tx.requests.sizes():
                if count > MAX_KEYS:
                    tx.requests.remove(tx.requests.beyond_count(tenant, MAX_KEYS))
                if nbytes > MAX_TENANT_BYTES:
                    tx.requests.empty(tx.requests.beyond_bytes(tenant, MAX_TENANT_BYTES))
