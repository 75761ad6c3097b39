"""Feedback: what is said of memories changes them, and is kept with what it changed."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from memory.checks import checked_text
from memory.domain.adding import IntakeMethods, Said
from memory.domain.lifecycle import KeepingMethods
from memory.domain.merging import Placed, restated, slot_of
from memory.errors import InvalidMemory, NotFound, Stale
from memory.language.dates import local_time, with_dates
from memory.language.extract import LocalExtractor, Unit
from memory.language.remarks import Remark, remarks_in
from memory.language.states import State, state_of
from memory.search.api import SearchMethods
from memory.search.index import Findable
from memory.search.vectors import Vector
from memory.storage.sqlite.fulltext import telling_words
from memory.storage.sqlite.rows import LIVE, find_row, mark_deleted, memories_of, memory_of, note_change, update_memory
from memory.types import Memory, Message

FeedbackAct = Literal["updated", "superseded", "reinforced", "archived", "deleted", "added", "nothing"]

MAX_MEMORIES = 100
_LOOKED_AT = 10
# What it is about may be changed while that is found out; the last time, nobody else changes anything.
_TRIES = 3
# Share of the telling words that a memory and a correction have in common, when nobody says that it is about it.
_ALIKE = 0.5


@dataclass(frozen=True)
class FeedbackAction:
    """What became of one memory; ``nothing`` has none."""

    action: FeedbackAct
    memory_id: str | None = None


@dataclass(frozen=True)
class FeedbackOutcome:
    """Feedback and what it did. ``replaced`` are the memories that are not as they were, as they were: what was
    computed from them is to be removed (not kept: empty when read back). Forgetting one of the memories forgets
    it."""

    id: str
    cube_id: str
    text: str
    at: float
    actions: tuple[FeedbackAction, ...]
    replaced: tuple[Memory, ...] = ()


@dataclass(frozen=True)
class _Step:
    """One memory's change; ``vector`` where it is to be found by a new text."""

    action: FeedbackAct
    before: Memory
    after: Memory
    vector: Vector | None = None


@dataclass
class _Plan:
    steps: list[_Step] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)

    @property
    def taken(self) -> set[str]:
        return {step.before.id for step in self.steps}


class _Statements:
    """The extractor of what is new in feedback: of a denial, only what holds instead. ``as_given``: kept even if it
    looks like nothing worth keeping."""

    def __init__(self, statements: Sequence[str], *, as_given: bool) -> None:
        self._text = "\n".join(statements)
        self._as_given = as_given

    @property
    def name(self) -> str:
        return "feedback"

    def extract(self, messages: Sequence[Message], before: Sequence[Message]) -> list[Unit]:
        units = LocalExtractor().extract([replace(message, text=self._text) for message in messages])
        if units or not messages or not (self._as_given and self._text):
            return units
        message = messages[0]
        return [Unit(self._text, "fact", (0,), event_at=message.sent_at, author=message.speaker)]


class FeedbackMethods(IntakeMethods, KeepingMethods, SearchMethods):
    """Taking feedback."""

    def feedback(
        self,
        tenant: str,
        cube_id: str,
        text: str,
        *,
        memory_ids: Sequence[str] = (),
        corrected: str | None = None,
        at: float | None = None,
    ) -> FeedbackOutcome:
        """Do what ``text`` says of the memories ``memory_ids``, or of those in the cube that it is about.

        ``corrected`` is the text that they should have had. Without it, a confirmation reinforces, a denial archives,
        a wish to forget deletes, a correction updates, and anything else is a new statement that goes the ordinary
        way. All of it is on disk when this returns, or nothing. Raises ``NotFound`` (also for memories of another
        cube), ``Forbidden``, ``InvalidMemory``, ``StorageFull``, ``EmbedderError``.
        """
        for _ in range(1, _TRIES):
            with suppress(Stale):
                return self._feedback(tenant, cube_id, text, memory_ids, corrected, at)
        with self._database.read():
            return self._feedback(tenant, cube_id, text, memory_ids, corrected, at)

    def _feedback(
        self,
        tenant: str,
        cube_id: str,
        text: str,
        memory_ids: Sequence[str],
        corrected: str | None,
        at: float | None,
    ) -> FeedbackOutcome:
        """Raises ``Stale`` when a memory that it is about was changed meanwhile."""
        cube = self.cube(tenant, cube_id, "write")
        text = checked_text(text)
        at = _checked_time(at)
        given = self._given(tenant, cube.id, memory_ids)
        if corrected is None:
            plan = self._plan(tenant, cube.id, remarks_in(text), given, at)
        else:
            plan = self._plan_corrected(tenant, cube.id, checked_text(corrected), given, at)
        steps = [self._with_vector(step) for step in plan.steps]
        token = secrets.token_hex(12)
        id = f"fb_{token}"
        author = given[0].author if given and given[0].author != "Assistant" else None
        message = Message(f"msg_{token}", "user", text, at, author, metadata={"feedback": id})
        owner = given[0].owner if given else None
        outcome = FeedbackOutcome(id, cube.id, text, at, ())

        def finish(db: sqlite3.Connection, placed: list[Placed]) -> list[Findable]:
            nonlocal outcome
            changed = [findable for step in steps for findable in self._take(db, tenant, step, id)]
            outcome = replace(outcome, actions=_actions(steps, placed), replaced=_replaced(steps, placed))
            _note(db, outcome, message.id, placed)
            return changed

        # A conversation of its own, so that it is nobody's context.
        self.add_messages(
            tenant,
            cube.id,
            [message],
            Said(session=id, owner=owner),
            extractor=_Statements(plan.statements, as_given=corrected is not None),
            finish=finish,
        )
        if self.undelete_s <= 0:
            gone = [step.before.id for step in steps if step.action == "deleted"]
            with self._database.read() as db:
                rows = [int(find_row(db, tenant, memory, with_deleted=True)["row"]) for memory in gone]
            if rows:
                self._forget_rows(rows)
        return outcome

    def feedback_list(self, tenant: str, cube_id: str, limit: int = 50) -> list[FeedbackOutcome]:
        """The last feedback on a cube, the newest first. Raises ``NotFound``."""
        cube = self.cube(tenant, cube_id)
        with self._database.read() as db:
            rows = db.execute(
                "SELECT f.id, f.at, f.actions, coalesce(s.text, '') AS said FROM feedback f"
                " LEFT JOIN messages s ON s.id = 'msg_' || substr(f.id, 4)"
                " WHERE f.cube_id = ? ORDER BY f.at DESC, f.id LIMIT ?",
                (cube.id, limit),
            ).fetchall()
        return [
            FeedbackOutcome(
                row["id"],
                cube.id,
                row["said"],
                row["at"],
                tuple(FeedbackAction(item["action"], item["memory"]) for item in json.loads(row["actions"])),
            )
            for row in rows
        ]

    # -- what is to be done ----------------------------------------------------------------------------------

    def _given(self, tenant: str, cube_id: str, memory_ids: Sequence[str]) -> list[Memory]:
        """The memories that feedback names, each once."""
        if len(memory_ids) > MAX_MEMORIES:
            raise InvalidMemory(f"Feedback is about at most {MAX_MEMORIES} memories.", "memory_ids")
        with self._database.read() as db:
            rows = [find_row(db, tenant, id) for id in dict.fromkeys(memory_ids)]
        for row in rows:
            if row["cube_id"] != cube_id:
                raise NotFound("memory", row["id"])
        return memories_of(rows)

    def _plan(self, tenant: str, cube_id: str, remarks: Sequence[Remark], given: list[Memory], at: float) -> _Plan:
        plan = _Plan()
        for remark in remarks:
            if remark.kind == "statement":
                plan.statements.append(remark.statement)
            elif remark.kind == "correction":
                self._plan_correction(plan, tenant, cube_id, remark, given, at)
            else:
                about = given
                if remark.kind == "removal" and remark.statement:
                    about = self._about(tenant, cube_id, remark, given, set())
                plan.steps += [_step(remark, memory, at) for memory in about if memory.status == "active"]
        return plan

    def _plan_correction(
        self, plan: _Plan, tenant: str, cube_id: str, remark: Remark, given: list[Memory], at: float
    ) -> None:
        """A correction of what it is about; where that is not known, what it says is new."""
        state = state_of(remark.statement)
        # "Actually, I moved to Lima" denies nothing: the new state takes the place of the old one, which did hold.
        changes = state is not None and not remark.firm
        about = [] if changes else self._about(tenant, cube_id, remark, given, plan.taken)
        if about:
            after = _resaid(about[0], _corrected_text(about[0], remark, at), at)
            plan.steps.append(_Step("updated", about[0], after))
        elif remark.statement:
            plan.statements.append(remark.statement)

    def _plan_corrected(self, tenant: str, cube_id: str, text: str, given: list[Memory], at: float) -> _Plan:
        """One memory gets the corrected text; the others that it stands for as well give way to it."""
        about = given or self._about(tenant, cube_id, Remark("correction", text, firm=True), [], set())
        if not about:
            return _Plan(statements=[text])
        first, *others = about
        steps = [_Step("updated", first, _resaid(first, text, at))]
        for other in others:
            if other.status == "active":
                steps.append(_Step("superseded", other, _retired(other, at, first.id)))
        return _Plan(steps)

    def _about(self, tenant: str, cube_id: str, remark: Remark, given: list[Memory], taken: set[str]) -> list[Memory]:
        """The memory that a remark is about: one of those given, or else one in the cube; none when unsure."""
        pool = given or self._near(tenant, cube_id, remark)
        pool = [memory for memory in pool if memory.status == "active" and memory.id not in taken]
        best = _best(remark, pool, given=bool(given))
        return [] if best is None else [best]

    def _near(self, tenant: str, cube_id: str, remark: Remark) -> list[Memory]:
        """Memories that fill the slot that a remark says something of, then those that a search finds."""
        state = state_of(remark.statement)
        found: list[Memory] = []
        if state is not None:
            with self._database.read() as db:
                rows = db.execute(
                    f"SELECT * FROM memories WHERE cube_id = ? AND slot = ? AND {LIVE} ORDER BY rowid DESC",
                    (cube_id, slot_of(state, None)),
                ).fetchall()
            found = memories_of(rows)
        if remark.statement or remark.wrong:
            query = f"{remark.statement} {remark.wrong or ''}".strip()[:10_000]
            hits = self.search(tenant, query, cube_ids=[cube_id], top_k=_LOOKED_AT)
            found += [hit.memory for hit in hits if hit.memory not in found]
        return found

    # -- doing it --------------------------------------------------------------------------------------------

    def _with_vector(self, step: _Step) -> _Step:
        if step.action != "updated" or step.after.status != "active":
            return step
        with self._database.read() as db:
            return replace(step, vector=self._vector_in_place(db, step.after))

    def _take(self, db: sqlite3.Connection, tenant: str, step: _Step, feedback: str) -> list[Findable]:
        """Write one change. Raises ``Stale`` when the memory is not what it was when that was decided on."""
        row = find_row(db, tenant, step.before.id, need="write")
        now = memory_of(row)
        # What else the feedback says may just have reinforced it.
        before = replace(step.before, uses=now.uses, updated_at=now.updated_at, revision=now.revision)
        if now != before:
            raise Stale(now.revision)
        after = replace(step.after, uses=now.uses + (step.action == "reinforced"), revision=now.revision)
        if step.action == "deleted":
            mark_deleted(db, row["row"])
        else:
            after = update_memory(db, after)
        text = step.before.text if step.action == "updated" else None
        note_change(db, after, step.action, text, {"feedback": feedback})
        if step.action == "reinforced":
            return []
        gone = self._make_unfindable(db, row["row"], after.cube_id)
        return [gone] if step.vector is None else [self._make_findable(db, row["row"], after, step.vector)]


def _checked_time(at: float | None) -> float:
    if at is None:
        return time.time()
    try:
        local_time(at, 0)
    except ValueError as error:
        raise InvalidMemory(str(error), "at") from error
    return at


def _step(remark: Remark, memory: Memory, at: float) -> _Step:
    if remark.kind == "confirmation":
        return _Step("reinforced", memory, replace(memory, updated_at=at))
    if remark.kind == "removal":
        return _Step("deleted", memory, memory)
    return _Step("archived", memory, _retired(memory, at))


def _retired(memory: Memory, at: float, by: str | None = None) -> Memory:
    """Out of use. What gave way to a correction does not become a former state: it never held."""
    retired = replace(memory, status="archived", pinned=False, updated_at=at)
    return retired if by is None else replace(retired, replaced_by=by, slot=None, value=None)


def _resaid(memory: Memory, text: str, at: float) -> Memory:
    """The memory with another text; a state says what its text now says."""
    text = checked_text(text)
    if text == memory.text:
        return replace(memory, updated_at=at)
    return restated(replace(memory, text=text, version=memory.version + 1, updated_at=at))


# -- which memory, and how it reads then -----------------------------------------------------------------------


def _best(remark: Remark, pool: Sequence[Memory], *, given: bool) -> Memory | None:
    """The memory that fills the slot, that holds what is said to be wrong, or that has most words in common."""
    state = state_of(remark.statement)
    if state is not None:
        same = [memory for memory in pool if _fills(memory, state)]
        if same:
            wrong = (remark.wrong or "").lower()
            return next((memory for memory in same if memory.value == wrong), same[0])
    if remark.wrong:
        pool = [memory for memory in pool if _holds(memory.text, remark.wrong)]
        return max(pool, key=lambda memory: _shared(memory, remark), default=None)
    if given and len(pool) == 1:
        return None if state is not None and pool[0].slot is not None else pool[0]
    best = max(pool, key=lambda memory: _shared(memory, remark), default=None)
    if best is None or state is not None:
        return None
    return best if _shared(best, remark) >= (1e-9 if given else _ALIKE) else None


def _fills(memory: Memory, state: State) -> bool:
    whose, _, slot = (memory.slot or "").partition("|")
    return slot == state.slot and (state.subject is None or state.subject.lower() == whose)


def _shared(memory: Memory, remark: Remark) -> float:
    ours, theirs = set(telling_words(memory.said)), set(telling_words(remark.statement))
    return len(ours & theirs) / max(1, len(ours | theirs))


def _holds(text: str, words: str) -> bool:
    return bool(words) and re.search(_whole(words), text, re.IGNORECASE) is not None


def _whole(words: str) -> str:
    return rf"(?<!\w){re.escape(words)}(?!\w)"


def _corrected_text(memory: Memory, remark: Remark, at: float) -> str:
    """The right value in the place of the wrong one; else the statement in the place of a sentence about the same;
    else the memory with the correction behind it, so that nothing else that it says is lost."""
    said = memory.said
    speaker = memory.text[: len(memory.text) - len(said)]
    wrong = next((words for words in (remark.wrong, memory.value) if words and _holds(said, words)), None)
    value = None if wrong is None else remark.value or _value_of(remark.statement, said, wrong)
    if wrong is not None and value is not None:
        replaced = re.sub(_whole(wrong), lambda _: value, said, flags=re.IGNORECASE)
        return speaker + replaced
    statement = with_dates(remark.statement, at)
    if statement and not re.search(r"[.!?]\s+\S", said) and _shared(memory, remark) > 0:
        return speaker + statement[0].upper() + statement[1:]
    return f"{memory.text} (corrected: {statement or remark.value})"


def _value_of(statement: str, said: str, wrong: str) -> str | None:
    """What a statement has where the memory has the wrong value: as a state has it, or behind the same words."""
    old, new = state_of(said), state_of(statement)
    if old is not None and new is not None and old.slot == new.slot:
        match = re.search(_whole(new.value), statement, re.IGNORECASE)
        return None if match is None else match.group()
    at = re.search(_whole(wrong), said, re.IGNORECASE)
    lead = said[: at.start()].split() if at is not None else []
    for n in (3, 2, 1):
        if len(lead) < n:
            continue
        match = re.search(rf"{_whole(' '.join(lead[-n:]))}\s+(?P<value>[^.,;!?]+)[\s.!]*$", statement, re.IGNORECASE)
        if match is not None and len(match["value"].split()) <= len(wrong.split()) + 2:
            return match["value"].strip()
    return None


# -- what is kept of it ----------------------------------------------------------------------------------------


def _actions(steps: Sequence[_Step], placed: Sequence[Placed]) -> tuple[FeedbackAction, ...]:
    actions = [FeedbackAction(step.action, step.before.id) for step in steps]
    for item in placed:
        if item.action == "superseded":
            actions += [FeedbackAction("superseded", old.id) for old in item.replaced]
        said_again = item.action in ("reinforced", "merged")
        actions.append(FeedbackAction("reinforced" if said_again else "added", item.memory.id))
    return tuple(actions) or (FeedbackAction("nothing"),)


def _replaced(steps: Sequence[_Step], placed: Sequence[Placed]) -> tuple[Memory, ...]:
    changed = [step.before for step in steps if step.action != "reinforced"]
    return (*changed, *(memory for item in placed for memory in item.replaced))


def _note(db: sqlite3.Connection, outcome: FeedbackOutcome, message_id: str, placed: Sequence[Placed]) -> None:
    """Keep what was done. The words stand as a message that the memories are from, and nowhere else: forgetting one of
    them overwrites it."""
    actions: list[dict[str, Any]] = [{"action": item.action, "memory": item.memory_id} for item in outcome.actions]
    db.execute(
        "INSERT INTO feedback (id, cube_id, text, at, actions) VALUES (?, ?, '', ?, ?)",
        (outcome.id, outcome.cube_id, outcome.at, json.dumps(actions)),
    )
    ids = {item.memory_id for item in outcome.actions if item.memory_id is not None}
    placed_ids = {memory.id for item in placed for memory in (item.memory, *item.replaced)}
    for id in sorted(ids | placed_ids):
        db.execute("INSERT OR IGNORE INTO provenance VALUES (?, ?)", (id, message_id))
    for id in sorted(placed_ids):  # the step that was just written
        db.execute(
            "UPDATE memory_changes SET detail = json_set(detail, '$.feedback', ?)"
            " WHERE seq = (SELECT max(seq) FROM memory_changes WHERE memory_id = ?)",
            (outcome.id, id),
        )
