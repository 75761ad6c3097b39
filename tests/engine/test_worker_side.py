"""The vLLM connector's worker side, without vLLM, on a device that does everything as late as it may."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import _disable_current_modes

from engine.vllm.paged import PagedCache
from engine.vllm.streams import Staging, Streams
from kvcache import Fingerprint, Layout, Rotation, root_key
from kvcache.arena import Arena
from kvcache.files.folder import SegmentFolder
from kvcache.shard import Shard
from tests.engine.late import LateDevice, LateEvent
from tests.engine.vllm_stubs import vllm_or_stubs

with vllm_or_stubs():
    from engine.vllm import loader as loader_module
    from engine.vllm import saver as saver_module
    from engine.vllm.plan import Composition, LoadOrder, Orders, RepairOrder, SaveOrder, SaveSpan, StoredRun
    from engine.vllm.saver import Saver
    from engine.vllm.worker import WorkerSide

LAYERS, HEADS, DIM, BLOCK, BLOCKS = 3, 2, 8, 4, 24
FINGERPRINT = Fingerprint("w", "c", "t", "chat", "full-causal", Layout(LAYERS, HEADS, DIM, "float32"))
ROOT = root_key(FINGERPRINT)
SEGMENT = LAYERS * HEADS * DIM * 4 * 2  # bytes a token


@dataclass
class Machine:
    """A worker, its cache, and the device's side of it."""

    worker: WorkerSide
    cache: PagedCache
    device: LateDevice
    folder: Path
    counter: int = 0
    saved: dict[str, int] = field(default_factory=dict)
    writing: threading.Event = field(default_factory=threading.Event)
    """The writer waits for it before it waits for bytes: else it would have the device do all at once."""

    def forward(self, blocks: tuple[int, ...], n_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """vLLM's step writes keys and values that were never there before; returns what they will be."""
        shape = self.cache.shape(n_tokens)
        self.counter += 1
        data = torch.arange(2 * torch.Size(shape).numel(), dtype=torch.float32).view(2, *shape)
        keys, values = data + self.counter * 10_000
        with self.device.on(self.device.main):
            self.cache.write(blocks, 0, keys, values)
        return keys, values

    def save(self, keep: SaveSpan, token_ids: tuple[int, ...], blocks: tuple[int, ...]) -> SaveOrder:
        order = SaveOrder(keep, token_ids, (), blocks)
        with self.device.on(self.device.main):
            self.worker.save(Orders(saves=[order]))
        return order

    def load(self, request: str, blocks: tuple[int, ...], *sources: StoredRun) -> None:
        with self.device.on(self.device.main):
            self.worker.start(Orders(loads=[LoadOrder(request, blocks, sources, request)]))

    def until_received(self, request: str) -> set[int]:
        """Wait for a load's end; the blocks that could not be filled."""
        deadline = time.monotonic() + 20
        while request not in self.worker.received(idle=True):
            assert time.monotonic() < deadline, "the load never ends"
            time.sleep(0.001)
        return self.worker.invalid_blocks()

    def until_saved(self, order: SaveOrder) -> int:
        self.writing.set()
        deadline = time.monotonic() + 20
        while order.key not in self.saved:
            report = self.worker.report()
            if report is not None:
                self.saved.update(report.saved)
            assert time.monotonic() < deadline, "the save never ends"
            time.sleep(0.001)
        return self.saved[order.key]

    def held(self, blocks: tuple[int, ...], n_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cache.read(blocks, 0, n_tokens)


@contextmanager
def machine(folder: Path, *, host_bytes: int = 1 << 20, staged: int = 1 << 20) -> Iterator[Machine]:
    """One with an arena whose freed memory is poisoned at once."""
    device = LateDevice()
    cache = PagedCache(_layers(), "joined")
    device.owns(cache._layers[0])
    patch = pytest.MonkeyPatch()
    patch.setattr(saver_module, "_SAVED_AT_ONCE", staged)
    patch.setattr(loader_module, "_LOADED_AT_ONCE", 512)
    patch.setattr(Staging, "_fresh", lambda self, shape, dtype: device.staging(self, shape, dtype))
    patch.setattr(Arena, "give_back", _poisoning(Arena.give_back))
    writing, wait_for = threading.Event(), Saver._wait_for
    patch.setattr(Saver, "_wait_for", lambda *args: writing.wait(20) and wait_for(*args))
    shard = Shard.whole(LAYERS, HEADS)
    worker = WorkerSide(folder, FINGERPRINT, cache, shard, host_bytes=host_bytes, fsync=False, streams=device)
    device.owns(worker._host._arena._memory)
    worker._loader.rotation = Rotation(torch.tensor([[0.5, 0.25]], dtype=torch.float64))
    try:
        yield Machine(worker, cache, device, folder, writing=writing)
    finally:
        writing.set()
        worker.close()
        patch.undo()


def _layers() -> list[torch.Tensor]:
    """As vLLM places them: in one block of memory, tokens before heads."""
    whole = torch.zeros(LAYERS, BLOCKS, BLOCK, HEADS, 2 * DIM)
    return [whole[i].permute(0, 2, 1, 3) for i in range(LAYERS)]


def _poisoning(give_back: Any) -> Any:
    def poisoned(arena: Arena, taken: torch.Tensor) -> None:
        with _disable_current_modes():  # the host does this, and at once
            taken.fill_(171)
        give_back(arena, taken)

    return poisoned


TOKENS = 10


def keep_of(n_tokens: int = TOKENS) -> SaveSpan:
    return SaveSpan(ROOT, 0, n_tokens)


def ids_of(name: int, n_tokens: int = TOKENS) -> tuple[int, ...]:
    return tuple(range(name * 1000, name * 1000 + n_tokens))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["save", "save", "overwrite", "load", "load", "spoiled", "hold", "work"]),
        st.integers(0, 5),
        st.integers(0, 7),
    ),
    min_size=3,
    max_size=14,
)


@settings(max_examples=40)
@given(STEPS, st.sampled_from([3 * SEGMENT * TOKENS // 2, 1 << 20]), st.sampled_from([600, 1 << 20]))
def test_no_order_of_events_lets_bytes_be_read_too_early_or_land_too_late(
    steps: list[tuple[str, int, int]], host_bytes: int, staged: int
) -> None:
    """Saves, loads that end well or not, blocks that are used again at once, and a device that is behind: files and
    blocks hold in the end what they should."""
    with tempfile.TemporaryDirectory() as folder, machine(Path(folder), host_bytes=host_bytes, staged=staged) as m:
        saved: dict[int, tuple[SaveOrder, torch.Tensor, torch.Tensor]] = {}
        expected: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, (kind, where, some) in enumerate(steps):
            blocks = (where, where + 6, where + 12)  # six requests at a time
            if kind == "save":
                expected[where] = m.forward(blocks, TOKENS)
                saved[name] = (m.save(keep_of(), ids_of(name), blocks), *expected[where])
            elif kind == "overwrite":
                expected[where] = m.forward(blocks, TOKENS)
            elif kind == "hold":
                m.writing.clear()
            elif kind == "work":
                for _ in range(some):
                    m.device.do_next(m.device.streams[where % len(m.device.streams)])
            elif saved:
                chosen = sorted(saved)[some % len(saved)]
                order, keys, values = saved[chosen]
                if kind == "spoiled":
                    m.until_saved(order)
                    spoil(m, order)
                    del saved[chosen]
                elif order.key not in m.worker._host._held:
                    m.until_saved(order)
                m.load(f"r{name}", blocks, StoredRun(order.key, 0, TOKENS))
                invalid = m.until_received(f"r{name}")
                assert (kind == "spoiled") == bool(invalid)
                # A load that failed is computed; one that did not may be gone on with, and overwritten.
                expected[where] = m.forward(blocks, TOKENS) if invalid else (keys, values)
        m.writing.set()
        m.worker.drop_host_tier()
        m.device.do_all()
        for order, keys, values in saved.values():
            segment = SegmentFolder(m.folder).read(order.key, FINGERPRINT, Shard.whole(LAYERS, HEADS))
            assert torch.equal(segment.keys, keys)
            assert torch.equal(segment.values, values)
        for where, (keys, values) in expected.items():
            found = m.held((where, where + 6, where + 12), TOKENS)
            assert torch.equal(found[0], keys)
            assert torch.equal(found[1], values)


def test_a_load_waits_for_what_may_still_write_to_its_blocks(tmp_path: Path) -> None:
    """Blocks are handed out again while the last step that wrote to them is under way."""
    with machine(tmp_path) as m:
        keys, values = m.forward((0, 1, 2), TOKENS)
        order = m.save(keep_of(), ids_of(1), (0, 1, 2))
        m.until_saved(order)
        m.forward((6, 7, 8), TOKENS)
        m.load("r", (6, 7, 8), StoredRun(order.key, 0, TOKENS))
        assert m.until_received("r") == set()
        m.device.do_all()
        assert torch.equal(m.held((6, 7, 8), TOKENS)[0], keys)
        assert torch.equal(m.held((6, 7, 8), TOKENS)[1], values)


def test_a_segment_in_the_host_tier_is_placed_when_its_bytes_are_there(tmp_path: Path) -> None:
    with machine(tmp_path) as m:
        keys, values = m.forward((0, 1, 2), TOKENS)
        order = m.save(keep_of(), ids_of(1), (0, 1, 2))
        m.load("r", (6, 7, 8), StoredRun(order.key, 0, TOKENS))
        assert m.until_received("r") == set()
        assert torch.equal(m.held((6, 7, 8), TOKENS)[0], keys)
        assert torch.equal(m.held((6, 7, 8), TOKENS)[1], values)
        assert order.key not in m.saved


def test_staging_is_used_again_behind_the_copies_from_it(tmp_path: Path) -> None:
    """Two layers of a segment have room, and there are three."""
    with machine(tmp_path, staged=1) as m:
        saves = []
        for name in range(4):
            expected = m.forward((0, 1, 2), TOKENS)
            saves.append((m.save(keep_of(), ids_of(name), (0, 1, 2)), *expected))
        for order, keys, values in saves:
            assert m.until_saved(order) > 0
            segment = SegmentFolder(m.folder).read(order.key, FINGERPRINT, Shard.whole(LAYERS, HEADS))
            assert torch.equal(segment.keys, keys)
            assert torch.equal(segment.values, values)


def test_nothing_lands_in_blocks_and_memory_that_a_failed_load_gave_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error between two copies: the first one is waited for before anybody else gets the blocks."""
    with machine(tmp_path) as m:
        m.forward((0, 1, 2), TOKENS)
        order = m.save(keep_of(), ids_of(1), (0, 1, 2))
        m.until_saved(order)
        m.worker.drop_host_tier()
        write_layers = m.cache.write_layers

        def failing(run: Any, half: str, first: int, data: torch.Tensor) -> None:
            if half == "values" and first:
                raise RuntimeError("out of memory")
            write_layers(run, half, first, data)  # type: ignore[arg-type]

        monkeypatch.setattr(m.cache, "write_layers", failing)
        m.load("r", (6, 7, 8), StoredRun(order.key, 0, TOKENS))
        assert m.until_received("r") == {6, 7, 8}
        monkeypatch.undo()
        keys, values = m.cache.shape(TOKENS), 5.0
        m.cache.write((6, 7, 8), 0, torch.full(keys, values), torch.full(keys, values))  # at once: vLLM computes them
        m.device.do_all()
        assert all(torch.equal(half, torch.full(keys, values)) for half in m.held((6, 7, 8), TOKENS))


def test_a_save_that_fails_is_reported_and_its_memory_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine(tmp_path, staged=1) as m:
        m.forward((0, 1, 2), TOKENS)
        read_layers = m.cache.read_layers

        def failing(run: Any, first: int, keys: torch.Tensor, values: torch.Tensor) -> None:
            if first == 2:
                raise RuntimeError("out of memory")
            read_layers(run, first, keys, values)

        monkeypatch.setattr(m.cache, "read_layers", failing)
        order = m.save(keep_of(), ids_of(1), (0, 1, 2))
        assert m.until_saved(order) == 0
        monkeypatch.undo()
        whole = m.worker._host.allocate(1 << 20)
        whole.fill_(3)  # somebody else has all of it now
        m.device.do_all()
        assert whole.eq(3).all()


def test_moved_parts_of_a_segment_lie_where_they_should(tmp_path: Path) -> None:
    """Keys turned, values not, from the host tier and from a file, as many layers at once as there is room for."""
    with machine(tmp_path) as m:
        keys, values = m.forward((0, 1, 2), TOKENS)
        order = m.save(keep_of(), ids_of(1), (0, 1, 2))
        m.until_saved(order)
        assert m.worker._loader.rotation is not None
        for drop in (False, True):
            if drop:
                m.worker.drop_host_tier()
            m.load("r", (6, 7, 8), StoredRun(order.key, 3, 5, begin=2, shift=1))
            assert m.until_received("r") == set()
            found = m.cache.read((6, 7, 8), 3, 8)
            assert torch.equal(found[0], m.worker._loader.rotation.turned(keys[:, :, 2:7], 1))
            assert torch.equal(found[1], values[:, :, 2:7])


# -- the model's thread --------------------------------------------------------------------------------------------


def test_nothing_in_a_save_waits_in_the_models_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step before is still under way when its segments are copied out; waiting would undo vLLM's scheduling ahead
    of the device."""
    waited: list[str] = []
    with machine(tmp_path) as m:
        synchronize = LateEvent.synchronize

        def noted(event: LateEvent) -> None:
            waited.append(threading.current_thread().name)
            synchronize(event)

        monkeypatch.setattr(LateEvent, "synchronize", noted)
        m.forward((0, 1, 2), TOKENS)
        order = m.save(keep_of(), ids_of(1), (0, 1, 2))
        m.load("r", (6, 7, 8))
        assert waited == []
        m.until_saved(order)
        assert set(waited) == {"segment-writer"}


class SlowRepairer:
    """Passes that fail in their second turn."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def steps(self, order: RepairOrder) -> Iterator[None]:
        yield
        raise RuntimeError("more sequences than the back end has room for")

    def forget_score(self, name: str) -> None:
        self.forgotten.append(name)


def test_a_pass_that_fails_leaves_the_request_to_be_computed_and_the_engine_alive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with machine(tmp_path) as m:
        repairer = SlowRepairer()
        m.worker.can_compose(m.worker._loader.rotation, repairer)  # type: ignore[arg-type]
        composition = Composition(((6, 9, True), (9, 10, False)), "first", 0.5)
        order = RepairOrder("r", "plan", (3, 4, 5), tuple(range(10)), composition, after=((10, 11),))
        m.worker.repair(Orders(repairs=[order]))
        assert m.worker.received(idle=True) == set()
        m.worker.repair(Orders())
        assert m.worker.received(idle=True) == {"r"}
        assert m.worker.invalid_blocks() == {4, 5}, "position 6 lies in the second block"
        report = m.worker.report()
        assert report is not None
        assert report.unrepaired == [("r", "plan", 6)]
        assert report.repaired == []
        assert repairer.forgotten == ["plan"], "half a score is none"
        assert "could not be repaired" in caplog.text
        m.worker.repair(Orders(repairs=[RepairOrder("next")]))  # one with nothing to do
        assert m.worker.received(idle=True) == {"next"}


@pytest.mark.parametrize(("late", "idle", "quick"), [(True, False, False), (True, True, True), (False, False, True)])
def test_the_thread_that_launches_kernels_is_not_asked_for_the_interpreter_more_often(
    tmp_path: Path, late: bool, idle: bool, quick: bool
) -> None:
    before = sys.getswitchinterval()
    streams = LateDevice() if late else Streams()
    cache = PagedCache(_layers(), "joined")
    worker = WorkerSide(
        tmp_path, FINGERPRINT, cache, Shard.whole(LAYERS, HEADS), host_bytes=1 << 16, fsync=False, streams=streams
    )
    gate = threading.Event()
    worker._loader._bring = lambda *args: gate.wait(20) and 1 / 0  # type: ignore[method-assign, assignment]
    try:
        worker.start(Orders(loads=[LoadOrder("r", (1,), (StoredRun("k" * 64, 0, 2),))], idle=idle))
        assert (sys.getswitchinterval() < before) == quick
        begin = time.monotonic()
        worker.received(idle=True)
        assert (time.monotonic() - begin >= 0.005) != late, "on a GPU nothing waits for loads in the model's thread"
    finally:
        gate.set()
        worker.close()
    assert sys.getswitchinterval() == before


def spoil(m: Machine, order: SaveOrder) -> None:
    """Change a bit of a segment's last byte on disk, and forget it elsewhere: it is found out after all layers but the
    last were placed."""
    m.worker.forget([order.key])
    (path,) = SegmentFolder(m.folder).paths(order.key)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
