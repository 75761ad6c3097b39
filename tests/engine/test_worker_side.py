"""The vLLM connector's worker side, without vLLM, on a device that does everything as late as it may."""

from __future__ import annotations

import tempfile
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

from engine.vllm.paged import PagedCache
from engine.vllm.streams import Staging
from kvcache import Fingerprint, Layout, Rotation, root_key
from kvcache.arena import Arena
from kvcache.paths import files_of
from kvcache.read import read_shard
from kvcache.shard import Shard
from tests.engine.late import POISON, LateDevice
from tests.engine.vllm_stubs import vllm_or_stubs

with vllm_or_stubs():
    from engine.vllm import worker as worker_module
    from engine.vllm.plan import Keep, LoadOrder, Orders, SaveOrder, Source
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

    def forward(self, blocks: tuple[int, ...], n_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """vLLM's step writes keys and values that were never there before; returns what they will be."""
        shape = self.cache.shape(n_tokens)
        self.counter += 1
        data = torch.arange(2 * torch.Size(shape).numel(), dtype=torch.float32).view(2, *shape)
        keys, values = data + self.counter * 10_000
        with self.device.on(self.device.main):
            self.cache.write(blocks, 0, keys, values)
        return keys, values

    def save(self, keep: Keep, token_ids: tuple[int, ...], blocks: tuple[int, ...]) -> SaveOrder:
        order = SaveOrder(keep, token_ids, (), blocks)
        with self.device.on(self.device.main):
            self.worker.save(Orders(saves=[order]))
        return order

    def load(self, request: str, blocks: tuple[int, ...], *sources: Source) -> None:
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
    patch.setattr(worker_module, "_SAVED_AT_ONCE", staged)
    patch.setattr(worker_module, "_LOADED_AT_ONCE", 512)
    patch.setattr(Staging, "_fresh", lambda self, shape, dtype: device.staging(self, shape, dtype))
    patch.setattr(Arena, "give_back", _poisoning(Arena.give_back))
    shard = Shard.whole(LAYERS, HEADS)
    worker = WorkerSide(folder, FINGERPRINT, cache, shard, host_bytes=host_bytes, fsync=False, streams=device)
    device.owns(worker._host._arena._memory)
    worker._rotation = Rotation(torch.tensor([[0.5, 0.25]], dtype=torch.float64))
    try:
        yield Machine(worker, cache, device, folder)
    finally:
        worker.close()
        patch.undo()


def _layers() -> list[torch.Tensor]:
    """As vLLM places them: in one block of memory, tokens before heads."""
    whole = torch.zeros(LAYERS, BLOCKS, BLOCK, HEADS, 2 * DIM)
    return [whole[i].permute(0, 2, 1, 3) for i in range(LAYERS)]


def _poisoning(give_back: Any) -> Any:
    def poisoned(arena: Arena, taken: torch.Tensor) -> None:
        taken.fill_(171)
        give_back(arena, taken)

    return poisoned


TOKENS = 10


def keep_of(n_tokens: int = TOKENS) -> Keep:
    return Keep(ROOT, 0, n_tokens)


def ids_of(name: int, n_tokens: int = TOKENS) -> tuple[int, ...]:
    return tuple(range(name * 1000, name * 1000 + n_tokens))


class Step:
    """Names of what hypothesis strings together."""

    SAVE, OVERWRITE, LOAD, SPOILED, WORK = "save", "overwrite", "load", "spoiled", "work"


STEPS = st.lists(
    st.tuples(
        st.sampled_from([Step.SAVE, Step.SAVE, Step.OVERWRITE, Step.LOAD, Step.SPOILED, Step.WORK]),
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
            if kind == Step.SAVE:
                expected[where] = m.forward(blocks, TOKENS)
                saved[name] = (m.save(keep_of(), ids_of(name), blocks), *expected[where])
            elif kind == Step.OVERWRITE:
                expected[where] = m.forward(blocks, TOKENS)
            elif kind == Step.WORK:
                for _ in range(some):
                    m.device.do_next(m.device.streams[where % len(m.device.streams)])
            elif saved:
                chosen = sorted(saved)[some % len(saved)]
                order, keys, values = saved[chosen]
                if kind == Step.SPOILED:
                    m.until_saved(order)
                    spoil(m, order)
                    del saved[chosen]
                elif order.key not in m.worker._host._held:
                    m.until_saved(order)
                m.load(f"r{name}", blocks, Source(order.key, 0, TOKENS))
                invalid = m.until_received(f"r{name}")
                assert (kind == Step.SPOILED) == bool(invalid)
                # A load that failed is computed; one that did not may be gone on with, and overwritten.
                expected[where] = m.forward(blocks, TOKENS) if invalid else (keys, values)
        m.worker.drop_host_tier()
        m.device.do_all()
        for order, keys, values in saved.values():
            segment = read_shard(m.folder, order.key, FINGERPRINT, m.worker._shard)
            assert torch.equal(segment.keys, keys)
            assert torch.equal(segment.values, values)
        for where, (keys, values) in expected.items():
            found = m.held((where, where + 6, where + 12), TOKENS)
            assert torch.equal(found[0], keys)
            assert torch.equal(found[1], values)


def spoil(m: Machine, order: SaveOrder) -> None:
    """Change a bit of a segment's last byte on disk, and forget it elsewhere: it is found out after all layers but the
    last were placed."""
    m.worker.forget([order.key])
    (path,) = files_of(m.folder, order.key)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
