"""A CUDA device that is none: streams that run what is queued as late as they may, and memory that is poisoned as soon
as it may be used for something else."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest.mock import patch

import torch

from kvcache.arena import Arena, PinnedMemory
from kvcache.copies import Lane

DEVICE = torch.device("cuda", 0)
POISON = 0xFF  # of floats: not a number
_HOST_BYTES = 1 << 20


def poison(data: torch.Tensor) -> None:
    data.view(torch.uint8).fill_(POISON)


@dataclass(eq=False)
class FakeEvent:
    world: World
    lane: Lane
    done: bool = False

    def query(self) -> bool:
        with self.world.lock:
            self.world.disturb()
            return self.done

    def synchronize(self) -> None:
        with self.world.lock:
            self.world.disturb()
            self.world.run_until(self)

    def elapsed_time(self, end_event: FakeEvent) -> float:
        assert self.done, "an event that has not come has no time"
        assert end_event.done, "an event that has not come has no time"
        return 1.0


@dataclass(eq=False)
class World:
    """The lanes of a device. ``random`` decides which of them run on by themselves whenever somebody waits."""

    random: Random
    lock: Any = field(default_factory=threading.RLock)
    lanes: dict[Lane, deque[Callable[[], object] | FakeEvent | tuple[FakeEvent]]] = field(
        default_factory=lambda: {"compute": deque(), "up": deque(), "down": deque()}
    )

    def queue(self, lane: Lane, work: Callable[[], object]) -> None:
        self.lanes[lane].append(work)

    def record(self, lane: Lane) -> FakeEvent:
        event = FakeEvent(self, lane)
        self.lanes[lane].append(event)
        return event

    def wait(self, lane: Lane, event: FakeEvent) -> None:
        self.lanes[lane].append((event,))

    def run_until(self, event: FakeEvent) -> None:
        while not event.done:
            head = self.lanes[event.lane][0]
            if isinstance(head, tuple):
                self.run_until(head[0])
            self._step(event.lane)

    def disturb(self) -> None:
        """Run some lanes on for a while, as far as they need not wait."""
        for lane in self.random.sample(["compute", "up", "down"], 3):
            for _ in range(self.random.choice([0, 0, 1, 100])):
                queued = self.lanes[lane]  # type: ignore[index]
                if not queued or (isinstance(queued[0], tuple) and not queued[0][0].done):
                    break
                self._step(lane)  # type: ignore[arg-type]

    def _step(self, lane: Lane) -> None:
        head = self.lanes[lane].popleft()
        if isinstance(head, FakeEvent):
            head.done = True
        elif not isinstance(head, tuple):
            head()

    def tensor(self, values: torch.Tensor) -> OnDevice:
        """A tensor on the device that is being computed."""
        tensor = OnDevice(torch.empty_like(values), self)
        data = tensor.data_
        self.queue("compute", lambda: data.copy_(values))
        return tensor

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """What a kernel that is launched now would find."""
        assert isinstance(tensor, OnDevice)
        with self.lock:
            self.disturb()
            self.run_until(self.record("compute"))
            return tensor.data_.clone()


class OnDevice(torch.Tensor):
    """A tensor that says it is on a GPU; all that can be done with it is to copy it."""

    data_: torch.Tensor
    world: World

    @staticmethod
    def __new__(cls, data: torch.Tensor, world: World) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=data.dtype, device=DEVICE)
        made.data_ = data
        made.world = world
        poison(data)
        # Freed memory belongs to what is computed next.
        weakref.finalize(made, world.queue, "compute", lambda: poison(data)).atexit = False
        return made

    def __init__(self, *_: Any) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> torch.Tensor:
        """Copies to the host that go past ``kvcache.copies``: as PyTorch makes them, on the stream that computes."""
        assert func is torch.ops.aten._to_copy.default, f"{func} on the device"
        assert kwargs["device"].type == "cpu"
        source: OnDevice = args[0]
        data, target = source.data_, torch.empty_like(source.data_)
        poison(target)
        source.world.queue("compute", lambda: target.copy_(data))
        if not kwargs.get("non_blocking"):
            source.world.record("compute").synchronize()
        return target


@dataclass(eq=False)
class FakeStreams:
    """``kvcache.copies.Streams`` of a world."""

    world: World

    def record(self, lane: Lane) -> FakeEvent:
        return self.world.record(lane)

    def wait(self, lane: Lane, event: FakeEvent) -> None:
        self.world.wait(lane, event)

    def copy(self, lane: Lane, source: torch.Tensor, target: torch.Tensor) -> None:
        a, b = (tensor.data_ if isinstance(tensor, OnDevice) else _unowned(tensor) for tensor in (source, target))
        self.world.queue(lane, lambda: b.copy_(a))

    def empty_like(self, tensor: torch.Tensor) -> OnDevice:
        return OnDevice(torch.empty(tensor.shape, dtype=tensor.dtype), self.world)


def _unowned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes, as a device has them: their owner may let go of them."""
    raw = (ctypes.c_uint8 * tensor.nbytes).from_address(tensor.data_ptr())
    return torch.frombuffer(raw, dtype=tensor.dtype).view(tensor.shape)


@contextmanager
def fake_device(seed: int) -> Iterator[World]:
    """Within the block ``TieredStore`` finds a GPU."""
    world = World(Random(seed))
    give_back = Arena.give_back

    def poisoned(arena: Arena, taken: torch.Tensor) -> None:
        taken.fill_(POISON)
        give_back(arena, taken)

    with (
        patch("kvcache.copies.CudaStreams", lambda device: FakeStreams(world)),
        patch("torch.cuda.set_device", lambda device: None),
        patch("torch.cuda.current_device", lambda: 0),
        patch("kvcache.arena._register", lambda address, nbytes: None),
        patch("kvcache.arena._unregister", lambda address: None),
        patch.object(Arena, "give_back", poisoned),
    ):
        # A block that outlives all that is queued: what is read too late is poison, and no error of the system.
        host = PinnedMemory(_HOST_BYTES, DEVICE)
        with patch("kvcache.transfer._host_memory", lambda device, nbytes: host.allocate):
            yield world
