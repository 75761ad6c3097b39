"""Cubes as files, with their pages: the side store's bundles and the segment store's files, joined and signed.

A page goes along when it is on disk, of the loaded model and of the tenant who asks, and all memories that it depends
on are in the bundle and in use. With it goes a *note*: a digest of its file, its certificate, and a signature over
both, its key, the model, the tenant and the texts of its memories. So neither its numbers nor what they stand for can
be changed by whoever has not the server's key, and nobody else can make one.

A page is taken when the signature is right, for this tenant and this model, with the texts that were loaded. It then
belongs to the loaded memories: deleting one of them removes it. All other pages are left and counted, and computed from
text when the server has time.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.base import Engine
from kvcache import (
    Catalogue,
    Certificate,
    Entry,
    Exchange,
    Fingerprint,
    IndexUnwritable,
    KVCacheError,
    ModelView,
    NoRoom,
    SegmentMissing,
)
from memory import Attached, Loaded, MemoryStore, Stored
from memory.domain.bundle_file import MAX_ATTACHED, MAX_MEMBER_BYTES, AttachedFiles
from memory.errors import InvalidMemory
from scheduler import Upkeep
from server.core.signing import BundleKey, BundleKeyError

log = logging.getLogger(__name__)

_FORMAT = "recallkv.page/1"
_READERS = 2

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Reason = Literal["key", "model", "tenant", "signature", "damaged", "refused", "room", "storage"]
"""Why a page was left: there is no usable key here; it is of another model; of another tenant; not signed, with this
key, for these memories; its file is not the one that was signed, or cannot be read; a memory of it was deleted
meanwhile; the bundle's pages are more than the disk's budget; the disk is full."""


class _Note(BaseModel):
    """A bundle's statement about a page. ``tenant`` and ``file`` are digests."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    tenant: Digest
    file: Digest
    kl: dict[str, float]
    top1: dict[str, float]
    signature: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    @property
    def certificate(self) -> Certificate:
        return Certificate(self.kl, self.top1)


@dataclass
class Taken:
    """The outcome for a bundle's pages: how many were taken, and how many left, by reason."""

    taken: int = 0
    nbytes: int = 0
    left: Counter[Reason] = field(default_factory=Counter)


class _Left(Exception):
    """A page is not taken."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


class Bundles:
    """Dumps and loads cubes. Async, for the event loop; reading and writing are done in threads. ``max_packed_bytes``
    limits everything in a bundle except segments."""

    def __init__(
        self,
        memories: MemoryStore,
        engine: Engine,
        catalogue: Catalogue,
        upkeep: Upkeep,
        key: BundleKey,
        max_packed_bytes: int,
    ) -> None:
        self._memories = memories
        self._engine = engine
        self._catalogue = catalogue
        self._exchange = Exchange(catalogue)
        self._upkeep = upkeep
        self._key = key
        self._max_packed_bytes = max_packed_bytes
        # Reading a bundle may take a minute: at most this many at once, in threads that nothing else waits for.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="bundle-reader")

    def close(self) -> None:
        """Begin nothing more."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    # -- dumping ---------------------------------------------------------------------------------------------

    async def dump(self, tenant: str, cube_id: str, into: BinaryIO, *, segments: bool = False) -> None:
        """Write a cube to a file, with the pages of its memories where ``segments``. Raises ``NotFound``,
        ``Forbidden``, ``EmbedderError``, ``BundleKeyError``."""
        header = self._upkeep.plain_header() if segments else None

        def pages(texts: Mapping[str, str]) -> Iterator[Stored]:
            return self._pages(tenant, header, texts)

        labels = {label for entry in self._catalogue.entries() for label in entry.labels}
        await asyncio.to_thread(
            self._memories.bundles.dump,
            tenant,
            cube_id,
            into,
            fingerprint=self._engine.fingerprint.digest,
            computed=labels,
            attach=pages if segments else None,
        )

    def _pages(self, tenant: str, header: tuple[int, ...] | None, texts: Mapping[str, str]) -> Iterator[Stored]:
        """The tenant's pages of memories with these texts, by label, and of no others."""
        pages = ModelView(self._catalogue, self._engine.fingerprint).pages(tenant, header)
        wanted = [entry for entry in pages if _goes_along(entry)]
        for entry in [entry for entry in wanted if any(part.label in texts for part in entry.parts)][:MAX_ATTACHED]:
            stored = self._stored(tenant, entry, texts)
            if stored is not None:
                yield stored

    def _stored(self, tenant: str, entry: Entry, texts: Mapping[str, str]) -> Stored | None:
        try:
            file = self._exchange.read_file(entry.key, self._engine.fingerprint)
        except SegmentMissing:  # removed or evicted meanwhile, or of several files: whoever loads computes it
            return None
        # Not those of the index: it adds the labels of the same texts in other cubes, which are not its own.
        if not file.labels <= texts.keys() or file.nbytes > MAX_MEMBER_BYTES:
            return None
        assert entry.certificate is not None, "it would not have been chosen"
        note = _Note(tenant=_digest(tenant), file=file.digest, **asdict(entry.certificate))
        own = {label: _digest(texts[label]) for label in file.labels}
        signature = self._key.sign(_statement(entry.key, self._engine.fingerprint, tenant, note, own))
        signed = note.model_copy(update={"signature": signature})
        return Stored(entry.key, file.labels, signed.model_dump(), file.content)

    # -- loading ---------------------------------------------------------------------------------------------

    async def load(self, tenant: str, name: str, source: BinaryIO) -> tuple[Loaded, Taken]:
        """Make a new cube from a bundle, and take the pages in it that are this server's own. Memories that had keys
        and values where the bundle comes from, and have none here then, get theirs in idle time. Raises
        ``InvalidMemory``, ``Conflict``, ``StorageFull``, ``EmbedderError``; nothing is kept then."""
        loop = asyncio.get_running_loop()
        load = copy_context().run
        loaded, taken = await loop.run_in_executor(self._readers, load, self._load, tenant, name, source)
        if taken.left:
            log.info("a bundle's pages: %d taken, left for these reasons: %s", taken.taken, dict(taken.left))
        self._upkeep.prepare(tenant, loaded.computed)
        return loaded, taken

    def _load(self, tenant: str, name: str, source: BinaryIO) -> tuple[Loaded, Taken]:
        loaded = self._memories.bundles.load(tenant, name, source, max_packed_bytes=self._max_packed_bytes)
        taken = Taken()
        if loaded.attached:
            # Once a memory, however many pages say that they are of it: they may be lies.
            of_pages = {m.id: m for attached in loaded.attached for m in attached.memories.values()}
            digests = {id: _digest(memory.text) for id, memory in of_pages.items()}
            with closing(AttachedFiles(source)) as files:
                for attached in loaded.attached:
                    try:
                        self._take(tenant, loaded, attached, digests, files, taken)
                    except _Left as left:
                        taken.left[left.reason] += 1
        return loaded, taken

    def _take(
        self,
        tenant: str,
        loaded: Loaded,
        attached: Attached,
        digests: Mapping[str, str],
        files: AttachedFiles,
        taken: Taken,
    ) -> None:
        """Take a page. Raises ``_Left``."""
        note = self._believed(tenant, loaded, attached, digests)
        if taken.nbytes + files.size(attached.name) > self._catalogue.stats().budgets["disk"]:
            raise _Left("room")
        labels = {label: memory.label for label, memory in attached.memories.items()}
        content, fingerprint = files.content(attached.name), self._engine.fingerprint
        try:
            kept = self._exchange.take_in(attached.name, content, note.file, fingerprint, labels, note.certificate)
        except NoRoom as error:
            raise _Left("room") from error
        except (OSError, IndexUnwritable) as error:
            log.warning("a page of a bundle cannot be written: %s", error)
            raise _Left("storage") from error
        except (InvalidMemory, KVCacheError) as error:
            raise _Left("damaged") from error
        if not kept:
            raise _Left("refused")
        taken.taken += 1
        taken.nbytes += files.size(attached.name)

    def _believed(self, tenant: str, loaded: Loaded, attached: Attached, digests: Mapping[str, str]) -> _Note:
        """Return the note of a page, if it is this server's own and true of the loaded memories. Nothing of the page
        itself is read for that. ``digests``: of the memories' texts, by id. Raises ``_Left``."""
        fingerprint = self._engine.fingerprint
        if loaded.fingerprint != fingerprint.digest:
            raise _Left("model")
        try:
            note = _Note.model_validate(attached.note)
        except ValidationError as error:
            raise _Left("damaged") from error
        if note.tenant != _digest(tenant):
            raise _Left("tenant")
        texts = {label: digests[memory.id] for label, memory in attached.memories.items()}
        if not note.signature:
            raise _Left("signature")
        in_use = all(memory.status == "active" for memory in attached.memories.values())
        statement = _statement(attached.name, fingerprint, tenant, note, texts)
        try:
            if not in_use or not self._key.signed(statement, note.signature):
                raise _Left("signature")
        except BundleKeyError as error:
            log.error("no page of a bundle can be believed: %s", error)
            raise _Left("key") from error
        return note


def _goes_along(entry: Entry) -> bool:
    """Tell if a page is on disk and can be of use elsewhere."""
    certificate = entry.certificate
    if certificate is None or not entry.on_disk or not entry.labels:
        return False
    return all(math.isfinite(value) for value in (*certificate.kl.values(), *certificate.top1.values()))


def _statement(
    key: str, fingerprint: Fingerprint, tenant: str, note: _Note, texts: Mapping[str, str]
) -> dict[str, Any]:
    """Make the statement that is signed: all that makes a page what it is. ``texts``: digests of its memories' texts,
    by label."""
    return {
        "format": _FORMAT,
        "key": key,
        "model": fingerprint.digest,
        "tenant": tenant,
        "file": note.file,
        "certificate": asdict(note.certificate),
        "texts": dict(texts),
    }


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=32).hexdigest()
