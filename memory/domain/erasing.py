"""The end of memories: forgotten one by one, with all of a user's, or when the time to bring them back is over."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from memory.domain.jobs import end_messages
from memory.domain.leaving import leave_out
from memory.domain.proof import Proof
from memory.errors import NotFound
from memory.search.index import IndexChange, SearchIndex
from memory.storage.access import check_revision
from memory.storage.base import Storage, Transaction
from memory.types import Memory, Subject

DAY_S = 86_400.0
_AT_ONCE = 1000


class Erasing:
    """Removing memories and messages so that nothing of them is left."""

    def __init__(self, storage: Storage, index: SearchIndex, undelete_s: float = DAY_S) -> None:
        self.undelete_s = undelete_s
        """The time in which a deleted memory can be brought back, in seconds."""
        self._storage = storage
        self._index = index

    def forget(self, tenant: str, memory_id: str, expected: Collection[int] | None = None) -> Proof:
        """Overwrite a memory, its history, what it is from and what was computed from it here; then look for what is
        left. Also for one that is deleted but can still be brought back. ``expected`` as for ``change``. Raises
        ``NotFound``, ``Forbidden``, ``Stale``."""
        with self._storage.read() as tx:  # until it is done, so that nothing is merged into it meanwhile
            stored = tx.memories.find(tenant, memory_id, with_deleted=True, need="write")
            memory = stored.memory
            if memory.status == "deleted" and stored.deleted_at is None:  # forgotten already
                raise NotFound("memory", memory_id)
            check_revision(memory, expected)
            texts = self.forget_memories(tx.memories.with_former([stored.number], ("merged",)))
        return self.prove(memory, texts)

    def prove(self, memory: Memory, texts: Sequence[str] = ()) -> Proof:
        """Scan for a forgotten memory. ``texts`` are its earlier texts and its messages'."""
        with self._storage.read() as tx:
            found = tx.removal.scan(memory, texts)
        return Proof(memory, found, time.time())

    def erase(self, tenant: str, subject: Subject, cubes: Sequence[str] | None = None) -> list[Memory]:
        """Remove all memories, messages, feedback, documents and open jobs of ``subject`` from the tenant's own cubes
        (from those of these names only), whatever their status: at once, for good, all or nothing. The memories are
        returned as they were. The cubes stay."""
        with self._index.writing() as (tx, changed):
            found = tx.lists.of_subject(tenant, subject, cubes)
            said = tx.messages.of_subject(tenant, subject, cubes)
            numbers = [item.number for item in found]
            touched = {*(item.memory.cube_id for item in found), *(message.cube_id for message in said)}
            end_messages(tx, tenant, lambda cube, ids: _is_of(tx, subject, cubes, cube, ids))
            changed += self._wipe(tx, numbers, [message.number for message in said])
            tx.removal.remove_memories(numbers)
            tx.removal.remove_messages(said)
            tx.documents.remove_empty(touched)
        if touched:
            self._index.overwrite_deleted()
        return [item.memory for item in found if item.memory.text]

    def purge(self, now: float | None = None) -> list[Memory]:
        """Forget what was deleted longer ago than it can be brought back; archive what has expired. The memories that
        went out of use by expiry are returned: what was computed from them is to be removed."""
        self.forget_late(now)
        return self.archive_expired(now)

    def forget_late(self, now: float | None = None) -> set[str]:
        """Forget what was deleted longer ago than it can be brought back, with the states that it had replaced and the
        messages that nothing else is from (see ``memory.domain.leaving``). Returns the tenants it was of."""
        before = (time.time() if now is None else now) - self.undelete_s
        tenants: set[str] = set()
        while True:
            with self._storage.read() as tx:
                late = tx.lists.late(before, _AT_ONCE)
                numbers = tx.memories.with_former([number for number, _ in late], ("merged", "archived"))
            if not late:
                return tenants
            self.forget_memories(numbers, alone=False)
            tenants |= {tenant for _, tenant in late}

    def archive_expired(self, now: float | None = None) -> list[Memory]:
        """Archive what has expired; the memories, as they were. Only a search for a time when they held finds them."""
        now = time.time() if now is None else now
        with self._index.writing() as (tx, changed):
            found = tx.lists.expired(now, _AT_ONCE)
            for item in found:
                expired = tx.memories.update(replace(item.memory, status="archived", updated_at=now))
                tx.history.add(expired, "expired")
                tx.texts.retire(item.number, expired.cube_id)
                changed.append(IndexChange(expired.cube_id, item.number, None))
        return [item.memory for item in found]

    def forget_at_once(self, tenant: str, ids: Sequence[str]) -> None:
        """Forget memories that were just deleted, where nothing can be brought back."""
        if self.undelete_s > 0 or not ids:
            return
        with self._storage.read() as tx:
            numbers = [tx.memories.find(tenant, id, with_deleted=True).number for id in ids]
        self.forget_memories(numbers)

    def forget_memories(self, numbers: Sequence[int], *, alone: bool = True) -> list[str]:
        """Wipe memories, with all messages that they are from, or (``alone`` false) with those that nothing else is
        from; return the texts that went, for a scan."""
        with self._index.writing() as (tx, changed):
            messages = tx.sources.messages_of(numbers) if alone else leave_out(tx, numbers)
            texts = tx.history.texts_of(numbers) + list(tx.messages.texts(messages).values())
            changed += self._wipe(tx, numbers, messages)
            tx.documents.remove_empty({item.cube_id for item in changed})
        self._index.overwrite_deleted()
        return texts

    # -- how -------------------------------------------------------------------------------------------------

    def _wipe(self, tx: Transaction, numbers: Sequence[int], messages: Sequence[int]) -> list[IndexChange]:
        """Wipe memories and messages. What follows them in a conversation is embedded again, without them. Additions
        that have read them and are not yet written start over. Returns what changes in the vectors in memory."""
        found = tx.memories.stored(numbers)
        changed = [IndexChange(item.memory.cube_id, item.number, None) for item in found]
        tx.removal.wipe_memories(numbers)
        tx.removal.wipe_messages(messages)
        self._index.embeddings.forget()
        cubes = {item.cube_id for item in changed}
        behind = [item.memory.id for item in found]
        for _ in range(2):  # as far as a memory's vector reaches back
            embedded = self._vectors_behind(tx, cubes, behind)
            changed += [change for _, change in embedded]
            behind = [id for id, _ in embedded]
        self._index.drop_files(cubes)
        self._index.erasures += 1
        return changed

    def _vectors_behind(
        self, tx: Transaction, cubes: Collection[str], ids: Collection[str]
    ) -> list[tuple[str, IndexChange]]:
        """Embed the memories right behind these again, without what was wiped; return their ids and new vectors."""
        found = []
        for item in tx.memories.behind(cubes, ids):
            vector = self._index.vector_in_place(tx, item.memory)
            tx.vectors.put(item.number, self._index.embeddings.name, vector)
            found.append((item.memory.id, IndexChange(item.memory.cube_id, item.number, vector)))
        return found


def _is_of(
    tx: Transaction, subject: Subject, cubes: Sequence[str] | None, cube_id: str, said: dict[str, str | None]
) -> bool:
    """Tell if messages that are to be added to a cube are a subject's."""
    name = tx.cubes.name_of(cube_id)
    if name is None:
        return True  # nobody's any more
    return subject.has(name, said) and (cubes is None or name in cubes)
