"""Feedback: what is said of memories changes them, and is kept with what it changed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from memory.checks import checked_text
from memory.domain.adding import Adding, Said
from memory.domain.corrections import best_match, corrected_text
from memory.domain.erasing import Erasing
from memory.domain.merging import AddOutcome, restated, slot_of
from memory.domain.removals import meant
from memory.errors import InvalidMemory, NotFound, Stale
from memory.judge.base import Patience
from memory.language.dates import local_time
from memory.language.extract import LocalExtractor, Unit
from memory.language.remarks import Remark, remarks_in
from memory.language.removals import Removal
from memory.language.states import state_of
from memory.search.api import MemorySearch
from memory.search.index import IndexChange, SearchIndex
from memory.storage.access import find_cube
from memory.storage.base import Storage, Transaction
from memory.types import FeedbackAct, FeedbackAction, FeedbackOutcome, Memory, Message, Vector

MAX_MEMORIES = 100
_LOOKED_AT = 10
_LAST = 5
# What it is about may be changed while that is found out; the last time, nobody else changes anything.
_TRIES = 3


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
    asked: list[Memory] = field(default_factory=list)

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


class FeedbackStore:
    """Taking feedback."""

    def __init__(
        self, storage: Storage, index: SearchIndex, adding: Adding, search: MemorySearch, erasing: Erasing
    ) -> None:
        self._storage = storage
        self._index = index
        self._adding = adding
        self._search = search
        self._erasing = erasing

    def take(
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
                return self._take(tenant, cube_id, text, memory_ids, corrected, at)
        with self._storage.read():
            return self._take(tenant, cube_id, text, memory_ids, corrected, at, patience="none")

    def _take(
        self,
        tenant: str,
        cube_id: str,
        text: str,
        memory_ids: Sequence[str],
        corrected: str | None,
        at: float | None,
        *,
        patience: Patience = "reply",
    ) -> FeedbackOutcome:
        """Take feedback once. Raises ``Stale`` when a memory that it is about was changed meanwhile."""
        cube = find_cube(self._storage, tenant, cube_id, "write")
        discretion = self._adding.discretion
        text = checked_text(discretion.without(checked_text(text)) or discretion.memory(text))
        corrected = None if corrected is None else discretion.memory(corrected)
        at = _checked_time(at)
        given = self._given(tenant, cube.id, memory_ids)
        if corrected is None:
            plan = self._plan(tenant, cube.id, remarks_in(text), given, at)
        else:
            plan = self._plan_corrected(tenant, cube.id, checked_text(corrected), given, at)
        plan.steps = [self._with_vector(step) for step in plan.steps]
        outcome = FeedbackOutcome(f"fb_{secrets.token_hex(12)}", cube.id, text, at, ())
        outcome = self._carry_out(tenant, outcome, plan, given, patience, as_given=corrected is not None)
        self._erasing.forget_at_once(tenant, [step.before.id for step in plan.steps if step.action == "deleted"])
        return outcome

    def _carry_out(
        self,
        tenant: str,
        outcome: FeedbackOutcome,
        plan: _Plan,
        given: Sequence[Memory],
        patience: Patience,
        *,
        as_given: bool,
    ) -> FeedbackOutcome:
        """Write the changes, and what the feedback says that is new."""
        author = given[0].author if given and given[0].author != "Assistant" else None
        message_id = f"msg_{outcome.id.removeprefix('fb_')}"
        metadata = {"feedback": outcome.id}
        message = Message(message_id, "user", outcome.text, outcome.at, author, metadata=metadata)

        def finish(tx: Transaction, added: list[AddOutcome]) -> list[IndexChange]:
            nonlocal outcome
            changed = [change for step in plan.steps for change in self._write(tx, tenant, step, outcome.id)]
            outcome = replace(outcome, actions=_actions(plan, added), replaced=_replaced(plan.steps, added))
            _note(tx, outcome, message.id, added)
            return changed

        # A conversation of its own, so that it is nobody's context.
        self._adding.add_messages(
            tenant,
            outcome.cube_id,
            [message],
            Said(session=outcome.id, owner=given[0].owner if given else None),
            extractor=_Statements(plan.statements, as_given=as_given),
            finish=finish,
            obey=False,
            patience=patience,
        )
        return outcome

    def all(self, tenant: str, cube_id: str, limit: int = 50) -> list[FeedbackOutcome]:
        """Return the last feedback on a cube, the newest first. Raises ``NotFound``."""
        cube = find_cube(self._storage, tenant, cube_id)
        with self._storage.read() as tx:
            return tx.feedback.of_cube(cube.id, limit)

    # -- what is to be done ----------------------------------------------------------------------------------

    def _given(self, tenant: str, cube_id: str, memory_ids: Sequence[str]) -> list[Memory]:
        """Return the memories that feedback names, each once."""
        if len(memory_ids) > MAX_MEMORIES:
            raise InvalidMemory(f"Feedback is about at most {MAX_MEMORIES} memories.", "memory_ids")
        with self._storage.read() as tx:
            given = [tx.memories.find(tenant, id).memory for id in dict.fromkeys(memory_ids)]
        for memory in given:
            if memory.cube_id != cube_id:
                raise NotFound("memory", memory.id)
        return given

    def _plan(self, tenant: str, cube_id: str, remarks: Sequence[Remark], given: list[Memory], at: float) -> _Plan:
        plan = _Plan()
        for remark in remarks:
            if remark.kind == "statement":
                plan.statements.append(remark.statement)
            elif remark.kind == "correction":
                self._plan_correction(plan, tenant, cube_id, remark, given, at)
            elif remark.removal is not None:
                self._plan_removal(plan, cube_id, remark, remark.removal, given, at)
            else:
                about = given
                if remark.kind == "removal" and remark.statement:
                    about = self._about(tenant, cube_id, remark, given, set())
                plan.steps += [_step(remark, memory, at) for memory in about if memory.status == "active"]
        return plan

    def _plan_removal(
        self, plan: _Plan, cube_id: str, remark: Remark, removal: Removal, given: list[Memory], at: float
    ) -> None:
        """Plan that what somebody wants forgotten is deleted; where it is one of several, they are asked which."""
        with self._storage.read() as tx:
            found = meant(tx, cube_id, removal, given)
        plan.steps += [_step(remark, memory, at) for memory in found.memories if memory.id not in plan.taken]
        plan.asked += found.asked

    def _plan_correction(
        self, plan: _Plan, tenant: str, cube_id: str, remark: Remark, given: list[Memory], at: float
    ) -> None:
        """Plan a correction of what it is about; where that is not known, what it says is new."""
        state = state_of(remark.statement)
        # "Actually, I moved to Lima" denies nothing: the new state takes the place of the old one, which did hold.
        changes = state is not None and not remark.firm
        about = [] if changes else self._about(tenant, cube_id, remark, given, plan.taken)
        if about:
            after = _resaid(about[0], corrected_text(about[0], remark, at), at)
            plan.steps.append(_Step("updated", about[0], after))
        elif remark.statement:
            plan.statements.append(remark.statement)

    def _plan_corrected(self, tenant: str, cube_id: str, text: str, given: list[Memory], at: float) -> _Plan:
        """Plan that one memory gets the corrected text, and the others that it stands for as well give way to it."""
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
        """Return the memory that a remark is about: one of those given, or else one in the cube; none when unsure."""
        pool = given or self._near(tenant, cube_id, remark)
        pool = [memory for memory in pool if memory.status == "active" and memory.id not in taken]
        best = best_match(remark, pool, given=bool(given))
        return [] if best is None else [best]

    def _near(self, tenant: str, cube_id: str, remark: Remark) -> list[Memory]:
        """Return memories that fill the slot that a remark says something of, then those that a search finds."""
        state = state_of(remark.statement)
        found: list[Memory] = []
        if state is not None:
            with self._storage.read() as tx:
                found = tx.memories.by_slot_of_anyone(cube_id, slot_of(state, None))
        if not remark.statement and not remark.wrong:  # "it's Friday": of what was said last
            with self._storage.read() as tx:
                active = [memory for memory in tx.lists.of_cube(cube_id) if memory.status == "active"]
            return sorted(active, key=lambda memory: memory.created_at)[-_LAST:]
        query = f"{remark.statement} {remark.wrong or ''}".strip()[:10_000]
        hits = self._search.search(tenant, query, cube_ids=[cube_id], top_k=_LOOKED_AT)
        return found + [hit.memory for hit in hits if hit.memory not in found]

    # -- doing it --------------------------------------------------------------------------------------------

    def _with_vector(self, step: _Step) -> _Step:
        if step.action != "updated" or step.after.status != "active":
            return step
        with self._storage.read() as tx:
            return replace(step, vector=self._index.vector_in_place(tx, step.after))

    def _write(self, tx: Transaction, tenant: str, step: _Step, feedback: str) -> list[IndexChange]:
        """Write one change. Raises ``Stale`` when the memory is not what it was when that was decided on."""
        stored = tx.memories.find(tenant, step.before.id, need="write")
        now = stored.memory
        # What else the feedback says may just have reinforced it.
        before = replace(step.before, uses=now.uses, updated_at=now.updated_at, revision=now.revision)
        if now != before:
            raise Stale(now.revision)
        after = replace(step.after, uses=now.uses + (step.action == "reinforced"), revision=now.revision)
        if step.action == "deleted":
            tx.memories.mark_deleted(stored.number)
        else:
            after = tx.memories.update(after)
        text = step.before.text if step.action == "updated" else None
        tx.history.add(after, step.action, text, {"feedback": feedback})
        if step.action == "reinforced":
            return []
        gone = self._index.remove(tx, stored.number, after.cube_id)
        return [gone] if step.vector is None else [self._index.add(tx, stored.number, after, step.vector)]


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
    """Take a memory out of use. What gave way to a correction does not become a former state: it never held."""
    retired = replace(memory, status="archived", pinned=False, updated_at=at)
    return retired if by is None else replace(retired, replaced_by=by, slot=None, value=None)


def _resaid(memory: Memory, text: str, at: float) -> Memory:
    """Give a memory another text; a state says what its text now says."""
    text = checked_text(text)
    if text == memory.text:
        return replace(memory, updated_at=at)
    return restated(replace(memory, text=text, version=memory.version + 1, updated_at=at))


# -- what is kept of it ----------------------------------------------------------------------------------------


def _actions(plan: _Plan, added: Sequence[AddOutcome]) -> tuple[FeedbackAction, ...]:
    actions = [FeedbackAction(step.action, step.before.id) for step in plan.steps]
    actions += [FeedbackAction("asked", memory.id) for memory in plan.asked]
    for item in added:
        if item.action == "superseded":
            actions += [FeedbackAction("superseded", old.id) for old in item.replaced]
        said_again = item.action in ("reinforced", "merged")
        actions.append(FeedbackAction("reinforced" if said_again else "added", item.memory.id))
    return tuple(actions) or (FeedbackAction("nothing"),)


def _replaced(steps: Sequence[_Step], added: Sequence[AddOutcome]) -> tuple[Memory, ...]:
    changed = [step.before for step in steps if step.action != "reinforced"]
    return (*changed, *(memory for item in added for memory in item.replaced))


def _note(tx: Transaction, outcome: FeedbackOutcome, message_id: str, added: Sequence[AddOutcome]) -> None:
    """Keep what was done. The words stand as a message that the memories are from, and nowhere else: forgetting one of
    them overwrites it."""
    tx.feedback.insert(outcome)
    ids = {item.memory_id for item in outcome.actions if item.memory_id is not None}
    added_ids = {memory.id for item in added for memory in (item.memory, *item.replaced)}
    tx.sources.link((id, message_id) for id in sorted(ids | added_ids))
    for id in sorted(added_ids):  # the step that was just written
        tx.history.note_feedback(id, outcome.id)
