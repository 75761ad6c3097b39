"""Jobs, keys and requests with keys, as every storage backend keeps them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import Conflict
from memory.storage.base import Storage
from memory.storage.ticket import Ticket, note_cube, ticket, uncounted
from memory.types import Job, KeyInfo
from tests.memory.storage.making import T, a_cube, a_memory, a_message, kept, new_id, said


def a_job(at: float = 1.0, tenant: str = T, **payload: Any) -> Job:
    return Job(new_id("job"), tenant, "messages", payload, "waiting", 0, at)


# -- jobs ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["put", "lease", "release", "end", "fail", "cancel", "retry"]), max_size=25))
def test_jobs_are_leased_in_order_and_end_once(shared: Storage, steps: list[str]) -> None:
    """Against a list of what each job is, however they are mixed."""
    tenant = new_id("tenant")
    known: dict[str, str] = {}
    with shared.write() as tx:
        while (left := tx.jobs.first(9e9)) is not None:
            tx.jobs.end(left.id, "failed")
        for step in steps:
            waiting = [id for id, status in known.items() if status == "waiting"]
            running = [id for id, status in known.items() if status == "running"]
            if step == "put":
                job = a_job(tenant=tenant)
                tx.jobs.insert(job)
                known[job.id] = "waiting"
            elif step == "lease":
                first = tx.jobs.first(1000.0)
                assert (None if first is None else first.id) == next(iter(waiting), None)
                if first is not None:
                    tx.jobs.lease(first.id, 2000.0)
                    known[first.id] = "running"
            elif step == "release":
                assert tx.jobs.release_all() == len(running)
                known.update(dict.fromkeys(running, "waiting"))
            elif step in ("end", "fail") and known:
                id, status = next(reversed(known.items()))
                to = "completed" if step == "end" else "failed"
                assert tx.jobs.end(id, "completed" if step == "end" else "failed") == (status in ("waiting", "running"))
                known[id] = to if status in ("waiting", "running") else status
            elif step == "cancel" and known:
                id = next(iter(known))
                tx.jobs.cancel(tenant, id)
                known[id] = "cancelled" if known[id] == "waiting" else known[id]
            elif step == "retry" and running:
                tx.jobs.retry(running[0], 5.0, "again")
                known[running[0]] = "waiting"
            found = tx.jobs.of_tenant(tenant, open_only=False, limit=999)
            assert {job.id: job.status for job in found} == known


def test_a_job_comes_back_with_what_became_of_it(storage: Storage) -> None:
    job = a_job(n=1)
    with storage.write() as tx:
        tx.jobs.insert(job)
        assert tx.jobs.get(job.id) == tx.jobs.get(job.id, T) == job
        assert tx.jobs.get(job.id, "other") is tx.jobs.get("job_x") is None
        assert tx.jobs.open_payloads(T, "messages") == [(job.id, {"n": 1})]
        assert tx.jobs.open_payloads(T, "else") == []
        tx.jobs.lease(job.id, 10.0)
        assert tx.jobs.first(10.0) is None
        again = tx.jobs.first(10.5)  # the lease has ended
        assert again is not None
        assert (again.status, again.attempts) == ("running", 1)
        tx.jobs.lease(job.id, 20.0)
        assert tx.jobs.first(15.0) is None
        tx.jobs.retry(job.id, 30.0, "no room")
        assert tx.jobs.first(29.0) is None
        waiting = tx.jobs.first(30.0)
        assert waiting is not None
        assert waiting.error == "no room"
        assert tx.jobs.end(job.id, "completed", result={"ids": [1]})
        done = tx.jobs.get(job.id)
        assert done is not None
        assert (done.status, done.result, done.payload, done.error) == ("completed", {"ids": [1]}, {}, None)
        assert done.finished_at is not None
        assert tx.jobs.counts() == {"completed": 1}
        assert tx.jobs.of_tenant(T, open_only=True, limit=9) == []
        assert tx.jobs.remove_ended(done.finished_at) == 0
        assert tx.jobs.remove_ended(done.finished_at + 1) == 1


# -- keys ------------------------------------------------------------------------------------------------------


def test_keys_are_known_by_their_hashes(storage: Storage) -> None:
    laptop, phone = KeyInfo("laptop", "anna", 2.0), KeyInfo("phone", "boris", 1.0)
    with storage.write() as tx:
        tx.keys.insert("a", laptop)
        tx.keys.insert("b", phone)
        assert tx.keys.all() == [phone, laptop]
        assert (tx.keys.tenant_of("a"), tx.keys.tenant_of("c")) == ("anna", None)
    with pytest.raises(Conflict), storage.write() as tx:
        tx.keys.insert("c", KeyInfo("laptop", "boris", 3.0))
    with storage.write() as tx:
        assert tx.keys.remove("laptop")
        assert not tx.keys.remove("laptop")
        assert tx.keys.tenant_of("a") is None


# -- requests with keys ----------------------------------------------------------------------------------------


def _request(storage: Storage, key: str = "k", at: float = 1.0, *, quotes: bool = True) -> Ticket:
    with storage.write() as tx:
        return Ticket(storage, tx.requests.insert(T, key, "r", at, quotes=quotes))


def test_a_request_and_its_reply(storage: Storage) -> None:
    own = _request(storage)
    with storage.write() as tx:
        known = tx.requests.find(T, "k")
        assert known == tx.requests.get(own.number)
        assert known is not None
        assert (known.request, known.status, known.body, known.wrote, known.gone) == ("r", None, None, False, False)
        assert tx.requests.find("other", "k") is tx.requests.find(T, "l") is None
        tx.requests.answer(own.number, 201, {"etag": "1"}, b"body")
        known = tx.requests.get(own.number)
        assert known is not None
        assert (known.status, known.headers, known.body) == (201, {"etag": "1"}, b"body")
        tx.requests.empty([own.number])
        known = tx.requests.get(own.number)
        assert known is not None
        assert (known.status, known.gone, known.body) == (201, True, None)
        tx.requests.remove([own.number])
        assert tx.requests.get(own.number) is None


def test_a_transaction_of_a_request_marks_it(storage: Storage) -> None:
    own = _request(storage)
    token = ticket.set(own)
    try:
        with uncounted():
            cube = a_cube(storage)
        assert _wrote(storage, own) is False
        with storage.read() as tx:
            tx.cubes.find(T, cube)
        assert (own.cubes, _wrote(storage, own)) == ({cube}, False)
        note_cube("cube_x")
        assert own.cubes == {cube, "cube_x"}
        with pytest.raises(RuntimeError), storage.write():
            raise RuntimeError
        assert _wrote(storage, own) is False
        a_cube(storage)
        assert _wrote(storage, own) is True
    finally:
        ticket.reset(token)


def _wrote(storage: Storage, own: Ticket) -> bool:
    with storage.read() as tx:
        known = tx.requests.get(own.number)
        assert known is not None
        return known.wrote


@pytest.mark.parametrize("how", ["memory", "message", "shortened", "cube"])
@pytest.mark.parametrize("open_", [False, True])
def test_a_reply_goes_with_the_first_text_that_goes(storage: Storage, how: str, open_: bool) -> None:
    cube, other = a_cube(storage), a_cube(storage)
    memory, message = a_memory(cube), a_message("said")
    with storage.write() as tx:
        numbers = kept(tx, memory)
        said(tx, memory, message)
        messages = tx.sources.messages_of(numbers)
    own, elsewhere, plain = _request(storage), _request(storage, "e"), _request(storage, "p", quotes=False)
    with storage.write() as tx:
        for request, looked_into in ((own, cube), (elsewhere, other), (plain, cube)):
            if request is not own or not open_:  # what is being worked on may look into any cube
                tx.requests.answer(request.number, 200, {}, b"said")
                tx.requests.note_cubes(request.number, [looked_into])
    with storage.write() as tx:
        if how == "memory":
            tx.removal.wipe_memories(numbers)
        elif how == "message":
            tx.removal.wipe_messages(messages)
        elif how == "shortened":
            tx.messages.set_text(messages[0], "sa")
        else:
            tx.cubes.remove(cube)
        gone = [tx.requests.get(request.number) for request in (own, elsewhere, plain)]
    assert [known is not None and known.gone for known in gone] == [True, False, False]


def test_which_requests_are_too_old_too_many_or_too_large(storage: Storage) -> None:
    numbers = [_request(storage, f"k{i}", float(i)).number for i in range(5)]
    with storage.write() as tx:
        for number in numbers:
            tx.requests.answer(number, 200, {}, b"x" * 10)
        assert tx.requests.older(2.0) == numbers[:2]
        assert tx.requests.sizes() == [(T, 5, 50)]
        assert sorted(tx.requests.beyond_count(T, 2)) == numbers[:3]
        assert sorted(tx.requests.beyond_bytes(T, 25)) == numbers[:3]
        assert tx.requests.beyond_count("other", 0) == []
