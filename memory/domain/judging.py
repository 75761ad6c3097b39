"""Which older memories a new statement may concern, and what it means for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from memory.judge.base import Case, Judge, Older, Patience, Statement, Verdict
from memory.judge.local import LocalJudge
from memory.language.names import names_in
from memory.language.talk import may_be_outdated, may_outdate
from memory.search.index import SearchIndex
from memory.storage.base import Storage, Transaction
from memory.storage.records import StoredMemory
from memory.types import Memory, Vector

# Candidates: so many by vectors and by words each, and those that share a name that few others have.
_BY_VECTOR = 8
_BY_WORDS = 6
_MIN_COSINE = 0.15
_PER_NAME = 12
_AT_MOST = 24
_NEVER = frozenset({"document", "tool"})
_ANYBODY = frozenset({None, "Assistant"})


@dataclass(frozen=True)
class Draft:
    """A memory to be, and when it was said (Unix seconds). What nobody asserted is compared with nothing."""

    memory: Memory
    vector: Vector
    """In context, as it is searched by."""
    said_at: float
    asserted: bool = True


@dataclass(frozen=True)
class Ruling:
    """A verdict on an older memory, by its label: of a text that was changed since, it says nothing. ``late``: the
    other one was said later, so that the new one is what no longer holds."""

    label: str
    verdict: Verdict
    late: bool = False


@dataclass
class _Pool:
    """The older statements of one addition, by number."""

    stored: dict[int, StoredMemory] = field(default_factory=dict)
    said_at: dict[int, float] = field(default_factory=dict)


class Judging:
    """Finds the few older memories that a statement may concern and has them judged."""

    def __init__(self, storage: Storage, index: SearchIndex, judge: Judge | None = None) -> None:
        self._storage = storage
        self._index = index
        self.given = judge
        """Another judge than the local one."""

    @property
    def judge(self) -> Judge:
        """The judge: the one that was given, or the local one."""
        return self.local if self.given is None else self.given

    @cached_property
    def local(self) -> LocalJudge:
        """The judge that asks nobody. Raises ``EmbedderError``."""
        return LocalJudge.for_embedder(lambda text: self._index.embeddings.of([text])[0])

    def rulings(
        self, cube_id: str, drafts: Sequence[Draft], earlier: Sequence[str] = (), patience: Patience = "reply"
    ) -> list[list[Ruling]]:
        """Return for each draft the rulings on what it retires, or is retired by. ``earlier`` are the ids of the last
        memories of the conversation, the last first. Not to be called in a transaction: judging may take a while.
        Raises ``EmbedderError``."""
        judged = [i for i, draft in enumerate(drafts) if _judged(draft)]
        if not judged:
            return [[] for _ in drafts]
        self._index.cube(cube_id)
        with self._storage.read() as tx:
            numbers, before = self._candidates(tx, cube_id, [drafts[i] for i in judged], earlier)
            pool = _pool(tx, {number for group in numbers for number in group})
        vectors: dict[str, Vector] = {}
        if self.local.reads_vectors and (pool.stored or len(judged) > 1):
            texts = [draft.memory.text for draft in drafts] + [item.memory.text for item in pool.stored.values()]
            vectors = dict(zip(texts, self._index.embeddings.of(texts), strict=True))
        known: list[list[_Known]] = []
        for i, group in zip(judged, numbers, strict=True):
            olds = [_Known(pool.stored[n].memory, pool.said_at[n], n in before) for n in group if n in pool.stored]
            olds += [_Known(drafts[j].memory, drafts[j].said_at, j >= i - 2) for j in judged if i - _AT_MOST <= j < i]
            known.append([old for old in olds if _comparable(old.memory, drafts[i].memory)])
        cases = [_case(drafts[i], olds, vectors) for i, olds in zip(judged, known, strict=True)]
        found: list[list[Ruling]] = [[] for _ in drafts]
        for i, olds, verdicts in zip(judged, known, self.judge.judge_all(cases, patience), strict=True):
            found[i] = [
                # Of one that is told late, what was said since may have ended it.
                Ruling(old.memory.label, verdict, late=old.said_at > drafts[i].said_at)
                for old, verdict in zip(olds, verdicts, strict=True)
                if _retires(verdict, old, drafts[i])
            ]
        return found

    def _candidates(
        self, tx: Transaction, cube_id: str, drafts: Sequence[Draft], earlier: Sequence[str]
    ) -> tuple[list[list[int]], set[int]]:
        near = self._index.cube(cube_id).nearest_to_each([d.vector for d in drafts], _BY_VECTOR, _MIN_COSINE)
        before = set(tx.candidates.numbers(cube_id, earlier)) if earlier else set()
        groups = []
        for draft, pairs in zip(drafts, near, strict=True):
            said = draft.memory.said
            group = dict.fromkeys([*before, *(number for number, _ in pairs)])
            if draft.memory.slot is not None:  # they say how the same thing stands, perhaps in quite other words
                slot = tx.memories.by_slot(cube_id, draft.memory.slot, draft.memory.owner)
                group |= dict.fromkeys(item.number for item in slot[-_BY_WORDS:])
            group |= dict.fromkeys(tx.texts.scores(said[:500], [cube_id], _BY_WORDS))
            names = tx.names.known([cube_id], names_in(said))
            for mentions in tx.names.mentions(names, _PER_NAME) if names else ():
                group |= dict.fromkeys(mentions)
            groups.append(list(group)[:_AT_MOST])
        return groups, before


@dataclass(frozen=True)
class _Known:
    memory: Memory
    said_at: float
    previous: bool


def _case(draft: Draft, olds: Sequence[_Known], vectors: dict[str, Vector]) -> Case:
    def statement(memory: Memory, said_at: float) -> Statement:
        happened = memory.kind == "event" and memory.event_at is not None and memory.event_at < said_at
        vector = vectors.get(memory.text)
        return Statement(memory.said, said_at, memory.author, vector, happened)

    olders = [Older(statement(old.memory, old.said_at), old.previous) for old in olds]
    return Case(statement(draft.memory, draft.said_at), olders)


def _judged(draft: Draft) -> bool:
    return draft.asserted and draft.memory.kind not in _NEVER and draft.memory.author != "Assistant"


def _comparable(old: Memory, new: Memory) -> bool:
    """Tell if one may take the place of the other: both active and of one cube and user. An assistant's words retire
    nothing, but may be retired; of two people who talk to each other, nobody retires what the other said."""
    same_owner = old.cube_id == new.cube_id and old.owner == new.owner
    same_author = old.author == new.author or old.author in _ANYBODY or new.author in _ANYBODY
    return same_owner and same_author and old.status == "active" and old.kind not in _NEVER and old.id != new.id


def _retires(verdict: Verdict, known: _Known, draft: Draft) -> bool:
    """Tell if the earlier said of two is to be retired. The local judge, which knows sentences and no talk between
    people, is believed on sentences that say how something stands only."""
    if not verdict.retires or verdict.judge != "local":
        return verdict.retires
    old, new = known.memory.said, draft.memory.said
    if known.said_at > draft.said_at:
        old, new = new, old
    return may_be_outdated(old) and may_outdate(new)


def _pool(tx: Transaction, numbers: set[int]) -> _Pool:
    stored = {item.number: item for item in tx.memories.stored(numbers)}
    said = tx.sources.said_at(list(stored))
    return _Pool(stored, {n: said.get(n, item.memory.created_at) for n, item in stored.items()})
