from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvcache import (
    CODECS,
    Certificate,
    CodecName,
    FingerprintMismatch,
    Layout,
    Lead,
    Segment,
    SegmentCorrupt,
    TieredStore,
    read_segment,
)
from kvcache.files.format import hash_order, read_header
from kvcache.files.writer import write_segment
from tests.kvcache.conftest import FINGERPRINT, LAYOUT, ROOT, make_segment

dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
LOSSY: dict[CodecName, float] = {"fp8": 0.07, "int8": 0.02, "int4": 0.3}
"""The most error, relative to the tensor."""
SIZES: dict[CodecName, float] = {"fp8": 0.51, "int8": 0.53, "int4": 0.29}
"""The most bytes, relative to bfloat16's."""


def test_each_lossy_codec_has_its_bounds() -> None:
    lossy = {name for name, codec in CODECS.items() if not codec.lossless}
    assert set(LOSSY) == lossy
    assert set(SIZES) == lossy


def tensors(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys with channels of very different size, as they are, and plain values."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-1, 1.3, shape[-1])
    keys = torch.randn(shape, generator=generator) + sizes
    return keys.to(dtype), torch.randn(shape, generator=generator).to(dtype)


@given(st.sampled_from(sorted(CODECS)), dtypes, st.integers(1, 300), st.sampled_from([8, 12, 64]), st.integers(0, 99))
def test_round_trip(name: CodecName, dtype: torch.dtype, n_tokens: int, width: int, seed: int) -> None:
    codec = CODECS[name]
    keys, values = tensors((2, 2, n_tokens, width), dtype, seed)
    encoded = codec.encode(keys, values)
    for part, (expected, shape) in codec.spec(dtype, tuple(keys.shape)).items():
        assert encoded[part].dtype == expected
        assert tuple(encoded[part].shape) == shape or (shape == (-1,) and encoded[part].dim() == 1)
    got_keys, got_values = torch.empty_like(keys), torch.empty_like(values)
    codec.decode(encoded, got_keys, got_values)
    for got, wanted in ((got_keys, keys), (got_values, values)):
        if codec.lossless:
            assert torch.equal(got, wanted)
        else:
            error = (got.float() - wanted.float()).norm() / wanted.float().norm()
            assert error < LOSSY[name]


@pytest.mark.parametrize(("name", "share"), list(SIZES.items()))
def test_bytes_of_bfloat16(name: CodecName, share: float) -> None:
    keys, values = tensors((30, 3, 512, 64), torch.bfloat16, 0)
    stored = sum(tensor.nbytes for tensor in CODECS[name].encode(keys, values).values())
    assert stored <= share * (keys.nbytes + values.nbytes)


def test_zeros_and_constants_survive() -> None:
    for name, codec in CODECS.items():
        keys, values = torch.zeros(1, 1, 3, 8), torch.full((1, 1, 3, 8), 2.0)
        got_keys, got_values = torch.empty_like(keys), torch.empty_like(values)
        codec.decode(codec.encode(keys, values), got_keys, got_values)
        torch.testing.assert_close(got_keys, keys, atol=1e-5, rtol=0, msg=name)
        torch.testing.assert_close(got_values, values, atol=0.01, rtol=0, msg=name)


def make_page(n_tokens: int = 70, lead: tuple[int, ...] = (9, 9), label: str = "a@1") -> Segment:
    keys, values = tensors(LAYOUT.shape(n_tokens), torch.float32, n_tokens)
    parts = [(range(30), label), (range(30, n_tokens), "b@1")]
    certificate = Certificate({"high": 0.01, "fast": 0.05}, {"high": 1.0, "fast": 0.9})
    behind = Lead(lead, frozenset({"c@1"}))
    return Segment.standalone(ROOT, FINGERPRINT, 12, parts, keys, values, lead=behind).certified(certificate)


@pytest.mark.parametrize("name", CODECS)
def test_a_page_in_a_file(name: CodecName, tmp_path: Path) -> None:
    page = make_page()
    path = tmp_path / "x.safetensors"
    write_segment(path, page, codec=name)
    read = read_segment(path, FINGERPRINT)
    assert (read.key, read.root, read.parts, read.labels) == (page.key, page.root, page.parts, page.labels)
    assert read.certificate == page.certificate
    if CODECS[name].lossless:
        assert torch.equal(read.keys, page.keys)
    else:
        torch.testing.assert_close(read.values, page.values, atol=0.5, rtol=0.1)


@pytest.mark.parametrize("name", CODECS)
def test_numbers_are_the_same_in_every_tier(name: CodecName, tmp_path: Path) -> None:
    store = TieredStore(tmp_path, codec=name)
    page = store.as_read(make_page())
    chained = make_segment(range(5))
    store.put(page)
    store.put(chained)
    resident = store.load(page.key, FINGERPRINT).segment
    store.demote("disk")
    assert torch.equal(store.load(page.key, FINGERPRINT).segment.keys, resident.keys)
    exact = store.load(chained.key, FINGERPRINT)
    assert exact.tier == "disk"
    assert torch.equal(exact.segment.keys, chained.keys), "chained segments are exact whatever the codec"
    store.close()


@pytest.mark.parametrize("position", [3, 200, -40])
@pytest.mark.parametrize("name", ["zstd", "int8"])
def test_a_flipped_byte_is_found(name: CodecName, position: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_segment(path, make_page(), codec=name)
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)
    with pytest.raises((SegmentCorrupt, FingerprintMismatch)):
        read_segment(path, FINGERPRINT)


def test_a_frame_of_another_size_is_not_inflated() -> None:
    codec = CODECS["zstd"]
    encoded = codec.encode(torch.zeros(1, 1, 4000, 8), torch.zeros(1, 1, 4000, 8))
    with pytest.raises(SegmentCorrupt, match="another size"):
        codec.decode(encoded, torch.empty(1, 1, 4, 8), torch.empty(1, 1, 4, 8))


def test_layout_of_a_page_is_the_models() -> None:
    assert make_page().layout == Layout(2, 2, 4, "float32")


@pytest.mark.parametrize("name", CODECS)
def test_files_are_laid_out_as_they_are_hashed(name: CodecName, tmp_path: Path) -> None:
    """Otherwise reading is right but hashes only afterwards."""
    path = tmp_path / "x.safetensors"
    write_segment(path, make_page(), codec=name)
    header = read_header(path)
    laid_out = sorted(header.tensors, key=lambda part: header.tensors[part].begin)
    assert laid_out == hash_order({part: stored.dtype for part, stored in header.tensors.items()})


def test_a_large_file_is_hashed_while_it_is_read(tmp_path: Path) -> None:
    layout = Layout(8, 8, 64, "float32")
    shape = layout.shape(300)
    fingerprint = replace(FINGERPRINT, layout=layout)
    segment = Segment.chained(ROOT, fingerprint, 0, range(300), torch.randn(shape), torch.randn(shape))
    path = tmp_path / "x.safetensors"
    write_segment(path, segment)
    assert torch.equal(read_segment(path, fingerprint).values, segment.values)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SegmentCorrupt, match="checksum"):
        read_segment(path, fingerprint)
    path.write_bytes(data[:-4096])
    with pytest.raises(SegmentCorrupt):
        read_segment(path, fingerprint)
