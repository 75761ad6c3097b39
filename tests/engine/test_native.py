"""The compiled attention: against attention written out in float64, and through a whole model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.transformers import LoadedModel, ModelRunner, SequenceKV, Work, prepare
from engine.transformers.attention import choose
from engine.transformers.attention.kernels.base import Way
from engine.transformers.attention.kernels.flash import Flash
from engine.transformers.attention.kernels.native import NativeAttention, NotCompiled, compiled, native_attention
from engine.transformers.attention.kernels.native.attention import _SOURCE, _is_right
from engine.transformers.attention.one_by_one import OneByOne
from tests.engine.test_products import SCALE, written_out
from tests.tiny import tiny_network, tiny_tokenizer

needs_compiler = pytest.mark.skipif(
    not (shutil.which("c++") or shutil.which("g++")), reason="needs a C++ compiler, and PyTorch's GNU OpenMP"
)


@pytest.fixture(scope="module")
def kernel() -> NativeAttention:
    found = native_attention()
    assert not isinstance(found, str), found
    return found


@pytest.fixture
def chosen(model: LoadedModel) -> Iterator[None]:
    before = choose.attention_of(model.model)
    yield
    choose.use(model.model, before)


def drawn(heads: int, n: int, width: int, seed: int) -> torch.Tensor:
    """[1, heads, n, width], as projections lie: a token's heads side by side."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(1, n, heads, width, generator=generator) * 2).transpose(1, 2)


def expected(
    query: torch.Tensor, parts: list[tuple[torch.Tensor, torch.Tensor]], mask: torch.Tensor | None
) -> torch.Tensor:
    keys, values = (torch.cat([part[i] for part in parts], 2) for i in (0, 1))
    new, n = query.shape[2], keys.shape[2]
    if mask is None:
        mask = torch.full((new, new), float("-inf")).triu_(1)
    whole = torch.zeros(new, n)
    whole[:, n - mask.shape[1] :] = mask
    return written_out(query, keys, values, whole)[0]


@needs_compiler
@settings(deadline=None, max_examples=60)
@given(
    kv_heads=st.sampled_from([1, 2, 3, 5]),
    group=st.sampled_from([1, 3, 4, 7]),
    new=st.sampled_from([1, 2, 5, 31, 64, 130, 300]),
    lengths=st.lists(st.sampled_from([1, 3, 63, 64, 65, 200]), max_size=4),
    width=st.sampled_from([4, 16, 64, 80, 128, 256]),
    threads=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 1000),
)
def test_over_any_parts_and_the_new_tokens_themselves(
    kernel: NativeAttention,
    kv_heads: int,
    group: int,
    new: int,
    lengths: list[int],
    width: int,
    threads: int,
    seed: int,
) -> None:
    query = drawn(kv_heads * group, new, width, seed)
    sizes = [*lengths, new]
    parts = [(drawn(kv_heads, n, width, seed + i), drawn(kv_heads, n, width, -1 - i)) for i, n in enumerate(sizes)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = kernel.attend(query, parts, SCALE)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found.double(), expected(query, parts, None), atol=1e-4, rtol=1e-4)


@needs_compiler
@settings(deadline=None, max_examples=40)
@given(
    new=st.sampled_from([1, 3, 40, 200]),
    masked=st.sampled_from([1, 64, 90, 300]),
    before=st.sampled_from([0, 10, 64]),
    seed=st.integers(0, 1000),
)
def test_masked_in_any_way(kernel: NativeAttention, new: int, masked: int, before: int, seed: int) -> None:
    """As tokens in slots have it: what each sees of the last keys has no pattern. All see one of them."""
    generator = torch.Generator().manual_seed(seed)
    visible = torch.rand(new, masked, generator=generator) < 0.4
    visible[:, int(torch.randint(masked, (1,), generator=generator))] = True
    mask = torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))
    query = drawn(6, new, 32, seed)
    parts = [(drawn(2, n, 32, n), drawn(2, n, 32, -n)) for n in (before, masked) if n]
    found = kernel.attend(query, parts, SCALE, mask)
    torch.testing.assert_close(found.double(), expected(query, parts, mask), atol=1e-4, rtol=1e-4)


@needs_compiler
def test_a_row_that_sees_nothing_at_first(kernel: NativeAttention) -> None:
    """Whole tiles of keys that a row does not see leave no trace, whatever is in them."""
    query, key, value = drawn(2, 4, 16, 0), drawn(1, 200, 16, 1), drawn(1, 200, 16, 2)
    mask = torch.full((4, 200), float("-inf"))
    mask[:, 190:] = 0.0
    value[:, :, :190] = 1e30
    found = kernel.attend(query, [(key, value)], SCALE, mask)
    torch.testing.assert_close(found.double(), expected(query, [(key, value)], mask), atol=1e-4, rtol=1e-4)


@needs_compiler
def test_large_scores(kernel: NativeAttention) -> None:
    """Differences that float32's exponential cannot hold: the largest takes all."""
    query, key, value = drawn(2, 8, 64, 0) * 60, drawn(1, 100, 64, 1), drawn(1, 100, 64, 2)
    parts = [(key, value), (drawn(1, 8, 64, 3), drawn(1, 8, 64, 4))]
    found = kernel.attend(query, parts, 1.0)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), expected(query / SCALE, parts, None), atol=1e-3, rtol=1e-3)


@needs_compiler
def test_slices_of_larger_buffers(kernel: NativeAttention) -> None:
    """As the engine has them: spans and the tail are slices of [layers, kv_heads, capacity, width]."""
    keys, values = torch.randn(3, 2, 500, 64), torch.randn(3, 2, 500, 64)
    parts = [(keys[1, :, 17:333][None], values[2, :, 100:416][None]), (drawn(2, 9, 64, 1), drawn(2, 9, 64, 2))]
    query = drawn(8, 9, 64, 0)
    found = kernel.attend(query, parts, SCALE)
    torch.testing.assert_close(found.double(), expected(query, parts, None), atol=1e-4, rtol=1e-4)


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_so(kernel: NativeAttention, bad: float) -> None:
    """Numbers that a damaged or overflowing model gives must not look like an answer."""
    query, parts = drawn(2, 4, 16, 0).abs(), [(drawn(1, 70, 16, 1), drawn(1, 70, 16, 2)), (drawn(1, 4, 16, 3),) * 2]
    parts[0][0][0, 0, 33] = bad
    assert not kernel.attend(query, parts, SCALE).isfinite().any()


@needs_compiler
def test_workers_with_small_stacks() -> None:
    code = (
        "from engine.transformers.attention.kernels.native import native_attention, NativeAttention;"
        "assert isinstance(native_attention(), NativeAttention), native_attention()"
    )
    environment = {**os.environ, "OMP_STACKSIZE": "128K", "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


def test_what_does_not_fit() -> None:
    for width, dtype in ((6, torch.float32), (260, torch.float32), (64, torch.bfloat16)):
        query = torch.zeros(1, 2, 3, width, dtype=dtype)
        assert not NativeAttention.fits(query, [(query, query)])
    assert not NativeAttention.fits(torch.zeros(1, 2, 3, 64), [(torch.zeros(1, 2, 3, 64), torch.zeros(1, 2, 3, 32))])


@needs_compiler
@torch.inference_mode()
def test_the_model_says_the_same_by_both_paths(model: LoadedModel, chosen: None) -> None:
    """Over a past of two spans and a tail, and in slots."""
    found = []
    for kernel in (native_attention(), None):
        assert not isinstance(kernel, str)
        choose.use(model.model, choose.for_cpu(kernel))
        runner, kv = ModelRunner(model.model), SequenceKV(model.fingerprint.layout, model.device, 64)
        runner.forward([Work(kv, [(i * 7) % 250 for i in range(30)])])
        fork = kv.fork(40)
        logits = [runner.forward([Work(fork, [(i * 5) % 250 for i in range(20)], 20)])]
        fork.open_region(12)
        logits.append(runner.forward([Work(fork, [9, 8, 7], 3, range(50 + 4, 50 + 7))]))
        found.append(torch.cat(logits))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


@needs_compiler
def test_it_can_be_turned_off() -> None:
    def compiled_ways(native: bool) -> list[Way]:
        attention = choose.attention_of(prepare(tiny_network(), tiny_tokenizer(), native=native).model)
        assert isinstance(attention, OneByOne)
        return [way for way in attention.ways if isinstance(way, NativeAttention)]

    assert compiled_ways(False) == []
    assert compiled_ways(True) in ([], [native_attention()])


@needs_compiler
def test_the_first_way_that_fits_computes(kernel: NativeAttention) -> None:
    """The compiled one comes first, and leaves single tokens and other numbers to PyTorch's, which comes last."""
    ways = choose.for_cpu(kernel).ways
    assert ways[0] is kernel
    assert isinstance(ways[-1], Flash)
    several, single = drawn(2, 3, 64, 0), drawn(2, 1, 64, 0)
    found = []
    for query in (several, single, several.bfloat16()):
        parts = [(query, query)]
        found.append(next(way for way in ways if way.fits(query, parts)))
    assert [type(way) for way in found] == [NativeAttention, Flash, Flash]


def test_each_model_has_its_own() -> None:
    first, second = (prepare(tiny_network(), tiny_tokenizer(), native=False).model for _ in range(2))
    choose.use(first, other := choose.for_cpu())
    assert choose.attention_of(first) is other
    assert choose.attention_of(second) is not other


# -- compiling -----------------------------------------------------------------------------------------------


@needs_compiler
def test_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }')
    first = compiled(source, tmp_path / "kept")
    made = first.stat().st_mtime_ns
    assert compiled(source, tmp_path / "kept") == first
    assert first.stat().st_mtime_ns == made
    source.write_text('extern "C" int one() { return 2; }')
    assert compiled(source, tmp_path / "kept") != first
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == [".so", ".so"]


@needs_compiler
def test_a_source_that_is_none(tmp_path: Path) -> None:
    source = tmp_path / "bad.cpp"
    source.write_text("this is no C++")
    with pytest.raises(NotCompiled, match="fails"):
        compiled(source, tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


@needs_compiler
def test_the_next_compiler_may_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 0\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    source = tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }')
    assert compiled(source, tmp_path / "kept").exists()


@needs_compiler
def test_one_that_is_slower_is_not_used(kernel: NativeAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_SLOWER", 0.0)
    choose.quick_native.cache_clear()
    try:
        assert "quicker" in str(choose.quick_native())
    finally:
        choose.quick_native.cache_clear()


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NotCompiled, match="no C\\+\\+ compiler"):
        compiled(_SOURCE, tmp_path / "kept")


@needs_compiler
def test_nothing_is_run_that_others_may_have_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    os.chmod(folder, 0o777)
    with pytest.raises(NotCompiled, match="others may write"):
        compiled(_SOURCE, folder)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotCompiled):
        compiled(_SOURCE, tmp_path / "file" / "kept")


@needs_compiler
def test_what_computes_something_else_is_not_used(kernel: NativeAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _is_right(kernel)
    right = NativeAttention.attend

    def wrong(self: NativeAttention, *arguments: object) -> torch.Tensor:
        return right(self, *arguments) * 1.001  # type: ignore[arg-type]

    monkeypatch.setattr(NativeAttention, "attend", wrong)
    assert not _is_right(kernel)
