"""From messages to memories in a cube."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memory.checks import checked_kind, checked_message, checked_metadata, checked_tags, checked_text
from memory.domain.discretion import Discretion
from memory.domain.erasing import Erasing
from memory.domain.judging import Draft, Judging, Ruling
from memory.domain.merging import LOOKED_AT, NEAR, AddOutcome, insert, insert_as_given, insert_or_merge, slot_of
from memory.domain.removals import delete, meant
from memory.judge.base import Patience
from memory.language.extract import Extractor, LocalExtractor, Unit
from memory.language.instructions import instruction_of
from memory.language.removals import Removal, without_removals
from memory.language.secrets import MASK
from memory.language.sentences import sentences_in
from memory.language.states import State, state_of
from memory.search.index import IndexChange, SearchIndex
from memory.storage.access import find_cube
from memory.storage.base import Storage, Transaction
from memory.types import Cube, Memory, Message, Vector

Finish = Callable[[Transaction, list[AddOutcome]], Sequence[IndexChange] | None]
"""Writes what goes with an addition, in its transaction; returns what that made findable or not."""


@dataclass(frozen=True)
class Said:
    """The context that all messages of one addition share. ``owner`` is the end user they belong to, ``session`` the
    conversation. ``expires_at`` in Unix seconds."""

    session: str | None = None
    owner: str | None = None
    agent: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    expires_at: float | None = None

    @property
    def app(self) -> str | None:
        """The application, which the other servers' clients name; it stands in the metadata."""
        app = (self.metadata or {}).get("app_id")
        return app if isinstance(app, str) else None


def new_message(
    text: str, role: Any = "user", sent_at: float | None = None, author: str | None = None, **fields: Any
) -> Message:
    """Make a message with a new id, sent now unless said otherwise."""
    return Message(
        "msg_" + secrets.token_hex(12), role, text, time.time() if sent_at is None else sent_at, author, **fields
    )


class Adding:
    """Adding memories: whole ones, and such as are found in messages."""

    def __init__(
        self,
        storage: Storage,
        index: SearchIndex,
        erasing: Erasing,
        judging: Judging,
        discretion: Discretion | None = None,
    ) -> None:
        self._storage = storage
        self._index = index
        self._erasing = erasing
        self._judging = judging
        self.discretion = discretion or Discretion()
        """What becomes of secrets."""

    def add(
        self,
        tenant: str,
        cube_id: str,
        text: str,
        *,
        kind: str | None = None,
        owner: str | None = None,
        pinned: bool = False,
        event_at: float | None = None,
        metadata: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Memory:
        """Store a memory as it is given; it is on disk when this returns. Without a kind, a single sentence that says
        how things stand is a state and takes the place of the one before; anything else is a fact. More ``fields`` are
        ``Memory``'s: author, agent, session, tags, importance, expires_at, event_until. Raises ``InvalidMemory``,
        ``NotFound`` (cube), ``Forbidden``, ``StorageFull``, ``EmbedderError``."""
        return self.add_noted(
            tenant, cube_id, text, kind=kind, owner=owner, pinned=pinned, event_at=event_at, metadata=metadata, **fields
        ).memory

    def add_noted(self, tenant: str, cube_id: str, text: str, *, kind: str | None = None, **fields: Any) -> AddOutcome:
        """Store a memory as ``add`` does; return also what that did to the memories that were there."""
        cube = find_cube(self._storage, tenant, cube_id, "write")
        memory, state = _given(cube.id, self.discretion.memory(text), kind, fields)
        (vector,) = self._index.embeddings.in_context([memory.text], [[]])
        self._index.cube(cube.id)
        (rulings,) = self._judging.rulings(cube.id, [Draft(memory, vector, memory.created_at, state is not None)])
        with self._index.writing() as (tx, changed):
            tx.cubes.find(tenant, cube.id, "write")  # embedding takes a while: it may be gone by now
            # What fills no slot stays as it was given.
            compares = state is not None or memory.kind == "instruction"
            done = insert_or_merge(tx, memory, memory.created_at, rulings) if compares else insert_as_given(tx, memory)
            if done.number is not None:
                changed.append(self._index.add(tx, done.number, done.outcome.memory, vector, context=""))
            changed += done.gone
        return replace(done.outcome, masked=memory.text != text.strip())

    def add_many(
        self, tenant: str, cube_id: str, texts: Sequence[str], *, kind: str = "fact", **fields: Any
    ) -> list[Memory]:
        """Store memories as they are given, all or none: for imports. ``fields`` are as for ``add``. Raises what
        ``add`` raises."""
        cube = find_cube(self._storage, tenant, cube_id, "write")
        memories = [_given(cube.id, self.discretion.memory(text), kind, dict(fields))[0] for text in texts]
        vectors = self._index.embeddings.in_context([memory.text for memory in memories], [[]] * len(memories))
        with self._index.writing() as (tx, changed):
            tx.cubes.find(tenant, cube.id, "write")
            for memory, vector in zip(memories, vectors, strict=True):
                changed.append(self._index.add(tx, insert(tx, memory), memory, vector, context=""))
        return memories

    def add_messages(
        self,
        tenant: str,
        cube_id: str,
        messages: Sequence[Message],
        said: Said | None = None,
        *,
        extractor: Extractor | None = None,
        finish: Finish | None = None,
        obey: bool = True,
        patience: Patience = "reply",
    ) -> list[AddOutcome]:
        """Keep messages, and what is worth remembering of them. All of it is on disk when this returns, or nothing.
        What a user wants forgotten is deleted (``obey`` false: only not remembered).

        Messages whose id is known are left out, so that doing it twice does it once. ``finish`` writes in the same
        transaction. ``patience``: what waits for it, which bounds how long a judge may take. Raises ``InvalidMemory``,
        ``NotFound`` (cube), ``Forbidden``, ``StorageFull``, ``EmbedderError``.
        """
        said = said or Said()
        cube, checked = self.check_messages(tenant, cube_id, messages, said)
        fresh = self._unknown(checked)
        readable, wishes = _wishes(self.discretion.readable(fresh))
        embeddings = self._index.embeddings
        while True:
            erasures = self._index.erasures
            before, earlier = self._before(cube.id, said)
            units = (extractor or LocalExtractor()).extract(readable, before)
            units = [unit for unit in units if not _is_unsaid(unit, wishes)]
            memories = _drafts(units, cube.id, said, earlier)
            texts = [memory.text for memory in memories]
            vectors = embeddings.in_a_row(texts, _in_order(earlier))
            said_at = [fresh[unit.sources[0]].sent_at for unit in units]
            drafts = [
                Draft(memory, vector, at, unit.asserted)
                for unit, memory, vector, at in zip(units, memories, vectors, said_at, strict=True)
            ]
            rulings = self._judging.rulings(cube.id, drafts, [id for id, _ in earlier], patience)
            with self._storage.read():  # from here on nobody adds, changes or forgets what is looked at
                now_before, now = self._before(cube.id, said)
                if erasures != self._index.erasures and (before, earlier) != (now_before, now):
                    continue  # what came before was deleted meanwhile
                near = self._alike(cube.id, vectors)
                if now != earlier:
                    memories = _following(memories, now)
                    vectors[:2] = embeddings.in_a_row(texts[:2], _in_order(now))
                contexts = _contexts(fresh, now_before)
                done = wishes if obey else ()
                addition = _Addition(fresh, contexts, units, memories, vectors, near, said_at, rulings, done)
                return self._write(tenant, cube, said, addition, finish)

    def _write(
        self, tenant: str, cube: Cube, said: Said, addition: _Addition, finish: Finish | None
    ) -> list[AddOutcome]:
        with self._index.writing() as (tx, changed):
            tx.cubes.find(tenant, cube.id, "write")  # finding and embedding take a while: it may be gone by now
            for message in addition.messages:
                tx.messages.insert(cube.id, said.session, message, owner=said.owner, agent=said.agent, app=said.app)
            outcomes = [
                item
                for wish in addition.wishes
                for item in self._forget(tx, changed, cube.id, addition.messages[wish.message], wish)
            ]
            outcomes += [self._write_unit(tx, changed, addition, i) for i in range(len(addition.units))]
            if finish is not None:
                changed += finish(tx, outcomes) or ()
        self._erasing.forget_at_once(tenant, [item.memory.id for item in outcomes if item.action == "deleted"])
        return outcomes

    def _forget(
        self, tx: Transaction, changed: list[IndexChange], cube_id: str, message: Message, wish: _Wish
    ) -> list[AddOutcome]:
        """Delete what a message wants forgotten, or say what it may mean."""
        found = meant(tx, cube_id, wish.removal)
        changed += delete(tx, self._index, found.memories, {"message": message.id})
        tx.sources.link((memory.id, message.id) for memory in found.memories)
        asked = [AddOutcome("asked", memory) for memory in found.asked]
        return [*(AddOutcome("deleted", memory, (memory,)) for memory in found.memories), *asked]

    def _write_unit(self, tx: Transaction, changed: list[IndexChange], addition: _Addition, i: int) -> AddOutcome:
        unit, memory, vector = addition.units[i], addition.memories[i], addition.vectors[i]
        said_now = [item.number for item in changed if self._near(item.vector, vector)]
        near = [*addition.near[i], *said_now]
        done = insert_or_merge(tx, memory, addition.said_at[i], addition.rulings[i], near)
        tx.sources.link((done.outcome.memory.id, addition.messages[n].id) for n in unit.sources)
        changed += done.gone
        if done.number is not None:
            # What takes the place of others is found by their words, too: "alarm code" finds "it's 1977 now".
            retires = any(old.status == "archived" for old in done.outcome.replaced)
            context = None if retires else addition.contexts[unit.sources[0]]
            changed.append(self._index.add(tx, done.number, memory, vector, context))
        return replace(done.outcome, masked=MASK in memory.text)

    def _near(self, one: Vector | None, other: Vector) -> bool:
        if one is None:
            return False
        return self._index.embeddings.calibration.scale(other).scaled(float(one @ other)) >= NEAR

    def _alike(self, cube_id: str, vectors: Sequence[Vector]) -> list[list[int]]:
        """Return for each vector the numbers of memories of the cube that may say the same."""
        with self._storage.read():
            found = self._index.cube(cube_id).nearest_to_each(vectors, LOOKED_AT, NEAR)
        return [[number for number, _ in pairs] for pairs in found]

    def check_messages(
        self, tenant: str, cube_id: str, messages: Sequence[Message], said: Said
    ) -> tuple[Cube, list[Message]]:
        """Return the cube and the messages as they would be kept. Raises ``InvalidMemory``, ``NotFound``,
        ``Forbidden``."""
        cube = find_cube(self._storage, tenant, cube_id, "write")
        checked_tags(said.tags)
        checked_metadata(said.metadata or {})
        return cube, [checked_message(message) for message in self.discretion.said(messages)]

    def _unknown(self, messages: Sequence[Message]) -> list[Message]:
        with self._storage.read() as tx:
            return [message for message in messages if not tx.messages.has(message.id)]

    def _before(self, cube_id: str, said: Said) -> tuple[list[Message], list[tuple[str, str]]]:
        """Return the last two messages of the conversation, and id and text of its last two memories, the last
        first."""
        with self._storage.read() as tx:
            return tx.messages.before(cube_id, said.session), tx.memories.last_of(cube_id, said.session)


@dataclass(frozen=True)
class _Addition:
    """An addition that is ready to be written: of each message its context, and of each unit its memory, its vector,
    the numbers of memories that may say the same, when it was said, and what it means for others."""

    messages: Sequence[Message]
    contexts: Sequence[str]
    units: Sequence[Unit]
    memories: Sequence[Memory]
    vectors: Sequence[Vector]
    near: Sequence[Sequence[int]]
    said_at: Sequence[float]
    rulings: Sequence[Sequence[Ruling]]
    wishes: Sequence[_Wish] = ()


@dataclass(frozen=True)
class _Wish:
    """A wish to forget, and the index of the message that it is in."""

    message: int
    removal: Removal


def _wishes(messages: Sequence[Message]) -> tuple[list[Message], list[_Wish]]:
    """Return messages without the users' wishes to forget, and those."""
    left: list[Message] = []
    wishes: list[_Wish] = []
    for i, message in enumerate(messages):
        if message.role == "user":
            text, removals = without_removals(message.text, sentences_in(message.text))
            wishes += [_Wish(i, removal) for removal in removals]
            message = message if text == message.text else replace(message, text=text)
        left.append(message)
    return left, wishes


def _is_unsaid(unit: Unit, wishes: Sequence[_Wish]) -> bool:
    """Tell if a later message of the same addition wants a unit forgotten."""
    return any(wish.message > max(unit.sources) and wish.removal.names(unit.text) for wish in wishes)


def _given(cube_id: str, text: str, kind: str | None, fields: dict[str, Any]) -> tuple[Memory, State | None]:
    text = checked_text(text)
    if kind is None and instruction_of(text) is not None:
        kind = "instruction"
    state = state_of(text) if kind is None and len(text) < 300 and text.count(". ") == 0 else None
    metadata = dict(fields.pop("metadata", None) or {})
    checked_metadata(metadata)
    tags = checked_tags(fields.pop("tags", ()))
    author = fields.pop("author", None)
    memory = Memory(
        id="mem_" + secrets.token_hex(12),
        cube_id=cube_id,
        owner=fields.pop("owner", None),
        kind=state.kind if state is not None else checked_kind(kind or "fact"),
        text=text,
        status="active",
        pinned=fields.pop("pinned", False),
        version=1,
        created_at=(now := time.time()),
        updated_at=now,
        metadata=metadata,
        tags=tags,
        author=author,
        slot=None if state is None else slot_of(state, author),
        value=None if state is None else state.value,
        **fields,
    )
    return memory, state


def _drafts(units: Sequence[Unit], cube_id: str, said: Said, earlier: Sequence[tuple[str, str]]) -> list[Memory]:
    follows = earlier[0][0] if earlier else None
    now = time.time()
    memories: list[Memory] = []
    for unit in units:
        details = {**unit.metadata, **(said.metadata or {})}
        memory = Memory(
            id="mem_" + secrets.token_hex(12),
            cube_id=cube_id,
            owner=said.owner,
            kind=checked_kind(unit.kind),
            text=checked_text(unit.text),
            status="active",
            pinned=False,
            version=1,
            created_at=now,
            updated_at=now,
            event_at=unit.event_at,
            event_until=unit.event_until,
            metadata=details,
            author=unit.author,
            agent=said.agent,
            session=said.session,
            tags=tuple(dict.fromkeys((*said.tags, *unit.tags))),
            importance=unit.importance,
            expires_at=said.expires_at,
            slot=None if unit.state is None else slot_of(unit.state, unit.author),
            value=None if unit.state is None else unit.state.value,
            follows=follows if said.session is not None else None,
        )
        memories.append(memory)
        follows = memory.id
    return memories


def _in_order(earlier: Sequence[tuple[str, str]]) -> list[str]:
    """Return the texts of the memories before, the last one last."""
    return [text for _, text in earlier[::-1]]


def _following(memories: list[Memory], earlier: Sequence[tuple[str, str]]) -> list[Memory]:
    """Let the memories follow these ones instead."""
    return [replace(m, follows=earlier[0][0] if earlier else None) if i == 0 else m for i, m in enumerate(memories)]


def _contexts(messages: Sequence[Message], before: Sequence[Message]) -> list[str]:
    """Return for each message the two that were sent before it."""
    all_ = [*before, *messages]
    n = len(before)
    return [" ".join(m.spoken for m in all_[max(0, n + i - 2) : n + i]) for i in range(len(messages))]
