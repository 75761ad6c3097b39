"""The checks of ``recallkv bench gpu`` hold on this machine's device, and fail where the engine is made wrong.

Nothing of the server is imported, and all weights are random: on a machine with a GPU and torch, transformers and
pytest these run with ``python -m pytest --noconftest -c tests/gpu/pytest.ini tests/gpu``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.checks import CHECKS, Finding, Site, attention, networks, segments
from benchmarks.gpu.plan import full, rehearsal
from engine.transformers import SequenceKV
from engine.transformers.loading import choose_device
from kvcache import Segment, write_segment
from kvcache.files import disk as disk_module

DEVICE = choose_device("auto")
IS_CUDA = DEVICE.type == "cuda"


def site(folder: Path) -> Site:
    """The rehearsal's sizes on a CPU, the run's on a GPU."""
    plan = full("auto") if IS_CUDA else rehearsal("auto")
    return Site(plan, DEVICE, folder)


@pytest.mark.parametrize("name", CHECKS)
def test_the_check_passes(name: str, tmp_path: Path) -> None:
    found = CHECKS[name](site(tmp_path))
    if found.passed is None:
        assert not IS_CUDA, found.note
        pytest.skip(found.note)
    assert found.passed, f"{found.note} {found.figures}"


def _fails(found: Finding) -> None:
    assert found.passed is False
    assert found.note


def _shifting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inject keys that are one token off."""
    inject = SequenceKV.inject

    def shifted(self: SequenceKV, segment: Segment, min_span: int, limit: int | None = None) -> None:
        inject(self, replace(segment, keys=segment.keys.roll(1, dims=2)), min_span, limit)

    monkeypatch.setattr(SequenceKV, "inject", shifted)


def test_attention_over_shifted_keys_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _shifting(monkeypatch)
    here = site(tmp_path)
    _fails(attention.attention_bfloat16(replace(here, plan=replace(here.plan, lengths=(9, 64, 65)))))


def test_a_network_over_shifted_keys_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _shifting(monkeypatch)
    for check in (networks.networks_float32, networks.networks_bfloat16):
        found = check(site(tmp_path))
        _fails(found)
        assert "injected" in found.note
        assert "chunked" not in found.note


def test_what_is_never_written_is_found() -> None:
    expected = torch.ones(3, 4, dtype=torch.float64)
    found = torch.full((3, 4), float("nan"))
    error = attention.off(found, expected)
    assert error != error
    from benchmarks.gpu.checks.base import within

    assert within({"square": error}, {"square": 1.0}).passed is False


def test_a_file_with_other_numbers_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when a segment is written before its numbers have come from the device."""
    write = write_segment

    def too_early(path: Path, segment: Segment, **options: Any) -> Any:
        return write(path, replace(segment, values=torch.zeros_like(segment.values)), **options)

    monkeypatch.setattr(disk_module, "write_segment", too_early)
    _fails(segments.evictions(site(tmp_path)))
