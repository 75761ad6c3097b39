"""Nobody reads bytes that are not there yet, and nothing is written over that somebody still reads."""

from __future__ import annotations

import ast
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kvcache import Segment, SegmentMissing, TieredStore, read_segment
from kvcache.arena import PinnedMemory
from kvcache.copies import Copies
from kvcache.files.folder import SegmentFolder
from tests.kvcache.conftest import FINGERPRINT, make_segment
from tests.kvcache.fake_device import DEVICE, FakeStreams, World, fake_device

N = 5
SEGMENTS = [make_segment([i] * 8) for i in range(N)]
BY_KEY = {segment.key: segment for segment in SEGMENTS}
ONE = SEGMENTS[0].nbytes

Step = tuple[str, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "hold", "load", "use", "use", "demote", "preload", "persist", "free", "forget"]),
        st.integers(0, N - 1),
    ),
    min_size=1,
    max_size=14,
)


@contextmanager
def opened(world: World, device: int, host: int) -> Iterator[tuple[TieredStore, Path]]:
    folder = Path(tempfile.mkdtemp())
    store = TieredStore(folder, device=DEVICE, device_bytes=device * ONE, host_bytes=host * ONE, fsync=False)
    try:
        yield store, folder
    finally:
        store.close()
        shutil.rmtree(folder)


def put(store: TieredStore, world: World, i: int, *, durable: bool) -> None:
    segment = SEGMENTS[i]
    store.put(replace(segment, keys=world.tensor(segment.keys), values=world.tensor(segment.values)), durable=durable)


def check(found: Segment, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
    expected = BY_KEY[found.key]
    assert torch.equal(read(found.keys), expected.keys), "keys are not what was put"
    assert torch.equal(read(found.values), expected.values), "values are not what was put"


def act(store: TieredStore, world: World, step: Step, in_use: list[Segment]) -> None:
    what, i = step
    key = SEGMENTS[i].key
    if what in ("put", "hold"):
        put(store, world, i, durable=what == "put")
    elif what in ("load", "use"):
        try:
            loaded = store.load(key, FINGERPRINT)
        except SegmentMissing:
            return
        in_use.append(loaded.segment)
        if what == "load":
            assert loaded.load_ms >= 0.0
            look(world, in_use)
    elif what == "demote":
        store.demote("host" if i % 2 else "disk")
    elif what == "preload":
        store.preload(key, FINGERPRINT, "device" if i % 2 else "host")
    elif what == "persist":
        store.persist([key])
    elif what == "free":
        store.free_device()
    else:
        store.catalogue.clear()


def look(world: World, in_use: list[Segment]) -> None:
    """Compute with what was loaded, late."""
    while in_use:
        check(in_use.pop(), world.read)


def live(seed: int, script: Sequence[Step], device: int, host: int) -> None:
    """Do all of it, and look at what is in every tier and in every file."""
    with fake_device(seed) as world, opened(world, device, host) as (store, folder):
        in_use: list[Segment] = []
        for step in script:
            act(store, world, step, in_use)
        look(world, in_use)
        for i in range(N):
            act(store, world, ("load", i), in_use)
        store.close()
        for path in SegmentFolder(folder).files():
            check(read_segment(path, FINGERPRINT), lambda tensor: tensor)


scenario = given(seed=st.integers(0, 1 << 16), script=steps, device=st.integers(0, 3), host=st.integers(0, 3))
checks = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=60, deadline=None, suppress_health_check=checks)
@scenario
def test_whatever_runs_when_everybody_finds_what_was_put(seed: int, script: list[Step], device: int, host: int) -> None:
    live(seed, script, device, host)


def _as_before(self: Copies, tensors: Sequence[torch.Tensor], *_: Any) -> tuple[torch.Tensor, ...]:
    """As segments were moved once: the call returns before a byte has moved."""
    return tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)


def _in_no_order(self: FakeStreams, lane: str, event: Any) -> None:
    """Streams that know nothing of each other."""


FAULTS: dict[str, Any] = {
    "a copy to the host that nobody waits for": patch.object(Copies, "to_host", _as_before),
    "streams without order": patch.object(FakeStreams, "wait", _in_no_order),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_test_finds(fault: str) -> None:
    @settings(max_examples=400, deadline=None, suppress_health_check=checks, phases=[Phase.generate], database=None)
    @scenario
    def run(seed: int, script: list[Step], device: int, host: int) -> None:
        live(seed, script, device, host)

    with FAULTS[fault], pytest.raises((AssertionError, ExceptionGroup)):
        run()


def _uploaded_after_its_source_was_let_go(seed: int) -> bool:
    """Whether the device has the right bytes although nobody else keeps what they are copied from."""
    with fake_device(seed) as world:
        memory = PinnedMemory(1 << 16, DEVICE)
        source = memory.allocate(512).fill_(7)
        copies = Copies(DEVICE)
        (there,), copied = copies.to_device([source], wait=False)
        del source
        memory.allocate(512)  # whatever has come back is used again
        assert copied is not None
        right = bool((world.read(there) == 7).all())
        copies.settle()
        return right


def test_what_is_copied_from_is_held_until_the_copy_has_ended() -> None:
    assert all(_uploaded_after_its_source_was_let_go(seed) for seed in range(20))
    with patch.object(Copies, "_hold", lambda self, until, sources: None):
        assert not all(_uploaded_after_its_source_was_let_go(seed) for seed in range(20))


def test_copies_are_made_in_one_module() -> None:
    """Calls with ``non_blocking`` return before a byte has moved: ``kvcache.copies`` alone knows how to wait. A pass's
    small tables go one way only, to be read by what is queued behind them."""
    root = Path(__file__).parents[2]
    found = []
    for folder in ("kvcache", "engine/transformers", "server", "scheduler"):
        for path in sorted((root / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.keyword) and node.arg in ("non_blocking", "pin_memory"):
                    found.append(str(path.relative_to(root)))
    assert "kvcache/copies.py" in found
    assert set(found) <= {"kvcache/copies.py", "engine/transformers/upload.py"}
