"""What depends on how a device takes work: chunk sizes, and when background work can be given up."""

from __future__ import annotations

import pytest
import torch

from engine.config import BatchingConfig
from engine.transformers.attention.ragged import Interrupted
from engine.transformers.runner import PacedInterrupt


class Device:
    """Takes layers at once and does them one at a time, and only when somebody waits for it."""

    def __init__(self) -> None:
        self.launched = self.done = 0

    def event(self) -> Event:
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device
        self._after: int | None = None

    def record(self) -> None:
        self._after = self._device.launched

    def synchronize(self) -> None:
        assert self._after is not None, "waited for an event that was never recorded"
        self._device.done = max(self._device.done, self._after)


def _run(layers: int, urgent_from: int) -> Device:
    """A pass to which something urgent comes when the device has done ``urgent_from`` layers."""
    device = Device()
    interrupt = PacedInterrupt(lambda: device.done >= urgent_from, device.event)
    for _ in range(layers):
        if interrupt():
            raise Interrupted(device)
        device.launched += 1
    return device


@pytest.mark.parametrize("urgent_from", [2, 11, 40])
def test_a_pass_is_given_up_soon_after_the_device_came_there(urgent_from: int) -> None:
    with pytest.raises(Interrupted) as given_up:
        _run(80, urgent_from)
    device = given_up.value.args[0]
    assert device.launched <= device.done + 4
    assert device.done < urgent_from + 2


def test_a_pass_that_nobody_interrupts_runs_to_its_end() -> None:
    assert _run(36, 100).launched == 36


@pytest.mark.parametrize(
    ("config", "device", "expected"),
    [
        (BatchingConfig(), "cpu", (512, 64)),
        (BatchingConfig(), "cuda:0", (8192, 512)),
        (BatchingConfig(prefill_chunk=100), "cuda:0", (100, 512)),
        (BatchingConfig(16, 128, 32), "cpu", (128, 32)),
    ],
)
def test_chunks_by_device(config: BatchingConfig, device: str, expected: tuple[int, int]) -> None:
    assert config.chunks(torch.device(device)) == expected
